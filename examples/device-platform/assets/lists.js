// Alerts, dead letters and recent readings.

import { $, QUANTITIES, amount, el, exact, long, measure, traceButton } from "./dom.js";

const SHOWN = 30;
const KEPT_ALERTS = 1000;

/** Something that came; the newest `kept` of it, each id once. */
class Newest {
  #ids = new Set();
  items = [];

  constructor(kept, idOf) {
    this.kept = kept;
    this.idOf = idOf;
  }

  /** Whether it is new. */
  add(item) {
    const id = this.idOf(item);
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    this.items.unshift(item);
    while (this.items.length > this.kept) this.#ids.delete(this.idOf(this.items.pop()));
    return true;
  }

  /** Takes a list, newest first. */
  load(items) {
    for (const item of [...items].reverse()) this.add(item);
  }
}

export class Alerts {
  #events = new Newest(KEPT_ALERTS, (alert) => alert.id);
  #active = new Map();

  add(alert) {
    if (!this.#events.add(alert)) return false;
    this.#settle(alert);
    return true;
  }

  load(alerts) {
    for (const alert of [...alerts].reverse()) this.add(alert);
  }

  /** What is up is what the latest event of a device and rule says, by event time. */
  #settle(alert) {
    const key = JSON.stringify([alert.device_id, alert.rule]);
    const known = this.#active.get(key);
    if (!known || Date.parse(known.at) <= Date.parse(alert.at)) this.#active.set(key, alert);
  }

  active(device) {
    return [...this.#active.values()].filter((a) => a.state === "raised" && (device === undefined || a.device_id === device));
  }

  render() {
    const active = this.active();
    const up = new Set(active.map((alert) => alert.id));
    const rest = this.#events.items.filter((alert) => !up.has(alert.id));
    const shown = [...active, ...rest].slice(0, Math.max(SHOWN, active.length));
    reconcile($("alert-list"), shown, (a) => `${a.id} ${up.has(a.id)}`, (a) => this.#row(a, up.has(a.id)));
    $("no-alerts").hidden = shown.length > 0;
  }

  #row(alert, active) {
    const { name } = QUANTITIES[alert.quantity] ?? { name: alert.quantity };
    const raised = alert.state === "raised";
    const [tone, word] = active ? ["alert", "Active"] : raised ? ["calm", "Raised"] : ["good", "Cleared"];
    return el("li", {},
      el("div", { class: "row-head" },
        el("span", { class: `badge ${tone}` }, word),
        el("strong", {}, alert.rule),
        el("span", { class: "muted" }, alert.device_id),
        traceButton(alert.trace_id, `${alert.rule} on ${alert.device_id}`)),
      el("p", { class: "row-text" },
        el("b", {}, `${name} ${measure(alert.quantity, alert.value)}`),
        `, limit ${measure(alert.quantity, alert.threshold)} · `,
        el("time", { datetime: alert.at }, long(alert.at))));
  }
}

export class DeadLetters {
  #letters = new Newest(500, (letter) => `${letter.id} ${letter.group}`);

  get count() {
    return this.#letters.items.length;
  }

  add(letter) {
    return this.#letters.add(letter);
  }

  load(letters) {
    this.#letters.load(letters);
  }

  render() {
    const shown = this.#letters.items.slice(0, SHOWN);
    reconcile($("dead-list"), shown, (l) => `${l.id} ${l.group}`, (l) => this.#row(l));
    $("no-dead").hidden = shown.length > 0;
  }

  #row(letter) {
    const attempts = letter.attempts === 1 ? "1 attempt" : `${letter.attempts} attempts`;
    return el("li", {},
      el("div", { class: "row-head" },
        el("span", { class: "badge dead" }, letter.kind),
        el("strong", {}, letter.topic),
        traceButton(letter.trace_id, `the dead letter on ${letter.topic}`)),
      el("p", { class: "row-text" }, el("b", {}, letter.error)),
      el("p", { class: "row-text" },
        `${letter.type} · group ${letter.group} · ${attempts} · `, el("time", { datetime: letter.time }, long(letter.time))),
      el("details", {}, el("summary", {}, "Payload"),
        el("pre", { tabindex: "0", "aria-label": "Payload" }, el("code", {}, letter.payload))));
  }
}

export class Readings {
  #newest = new Newest(SHOWN, (reading) => reading.id);
  #paused = false;

  constructor() {
    const button = $("pause");
    button.addEventListener("click", () => {
      this.#paused = !this.#paused;
      button.setAttribute("aria-pressed", String(this.#paused));
      this.render();
    });
  }

  add(reading) {
    return this.#newest.add(reading);
  }

  load(readings) {
    this.#newest.load(readings);
  }

  render() {
    const list = $("reading-list");
    // What somebody is working with must not move away, nor must the button to which the focus returns from a trace.
    const inUse = this.#paused || list.contains(document.activeElement) || $("trace").open;
    if (list.childElementCount > 0 && inUse) return;
    reconcile(list, this.#newest.items, (r) => r.id, (r) => this.#row(r));
    $("no-readings").hidden = this.#newest.items.length > 0;
  }

  #row(reading) {
    const cell = (quantity, name) =>
      el("td", { class: "number", "data-name": name }, amount(quantity, reading[quantity]));
    return el("tr", {},
      el("td", { class: "time" }, el("time", { datetime: reading.at }, long(reading.at))),
      el("td", { class: "device-id" }, reading.device_id),
      cell("temperature", "°C"), cell("humidity", "% RH"), cell("co2", "ppm CO₂"), cell("light", "lux"),
      cell("humidity_ratio", "g/kg water"),
      el("td", { class: "trace" }, traceButton(reading.trace_id, `the reading of ${reading.device_id} at ${exact(reading.at)}`)));
  }
}

/** Makes the children those of the items, keeping the elements that are there already: focus and open details stay. */
export function reconcile(parent, items, keyOf, make) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let previous = null;
  for (const item of items) {
    const key = keyOf(item);
    const child = old.get(key) ?? make(item);
    old.delete(key);
    child.dataset.key = key;
    const wanted = previous ? previous.nextSibling : parent.firstChild;
    if (child !== wanted) parent.insertBefore(child, wanted);
    previous = child;
  }
  for (const child of old.values()) child.remove();
}
