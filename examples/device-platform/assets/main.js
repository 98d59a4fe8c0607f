// The page: loads what is known, follows what happens, draws four times a second.

import { NotFound, Unauthorized, ask, follow, setToken } from "./api.js";
import { Chart } from "./chart.js";
import { $, day, el, hour, long, setText, whole } from "./dom.js";
import { Alerts, DeadLetters, Readings, reconcile } from "./lists.js";
import { openTrace } from "./trace.js";

const MINUTE = 60_000;
/** Short ranges show readings, long ones aggregates: at most some hundred points either way. */
const RANGES = {
  "3h": { length: 180 * MINUTE, gap: 15 * MINUTE },
  "24h": { length: 24 * 60 * MINUTE, gap: 25 * MINUTE, windows: 144 },
  "7d": { length: 7 * 24 * 60 * MINUTE, gap: 25 * MINUTE, windows: 1000 },
};
const CHARTS = ["temperature", "humidity", "co2", "light"];
const KEPT_READINGS = 600;
const SHOWN_DEVICES = 24;

const alerts = new Alerts();
const deadLetters = new DeadLetters();
const readings = new Readings();
const devices = new Map();
let range = "3h";
let loaded = false;

/** What is known of one device, and its card. */
class Device {
  readings = new Map();
  windows = new Map();
  count = 0;
  newest = null;
  dirty = true;

  constructor(id) {
    this.id = id;
    this.charts = CHARTS.map((quantity) => new Chart(id, quantity));
    this.time = el("time");
    this.badges = el("ul", { class: "badges", "aria-label": `Active alerts of ${id}` });
    this.from = el("span");
    this.to = el("span");
    this.card = el("article", { class: "device panel", "aria-label": id },
      el("div", { class: "device-head" }, el("h3", {}, id), this.time),
      this.badges,
      el("div", { class: "charts" }, ...this.charts.map((chart) => chart.element)));
  }

  add(reading) {
    const at = Date.parse(reading.at);
    this.readings.set(reading.id, { at, reading });
    if (!this.newest || at >= Date.parse(this.newest.at)) this.newest = reading;
    this.dirty = true;
  }

  addWindow(window) {
    const known = this.windows.get(window.start);
    if (!known || known.count <= window.count) this.windows.set(window.start, window);
    this.dirty = true;
  }

  /** The points of a range, ending with the newest reading. */
  points(quantity) {
    const { length, windows } = RANGES[range];
    const end = this.newest ? Date.parse(this.newest.at) : 0;
    const points = windows
      ? [...this.windows.values()].map(({ start, [quantity]: s }) => ({ at: Date.parse(start), value: s.mean, min: s.min, max: s.max }))
      : [...this.readings.values()].map(({ at, reading }) => ({ at, value: reading[quantity] }));
    return points.filter((p) => p.at > end - length && p.at <= end).sort((a, b) => a.at - b.at);
  }

  forget() {
    const oldest = (map, key, kept) => {
      if (map.size <= kept) return;
      const entries = [...map.entries()].sort((a, b) => key(a) - key(b));
      for (const [id] of entries.slice(0, map.size - kept)) map.delete(id);
    };
    oldest(this.readings, ([, { at }]) => at, KEPT_READINGS);
    oldest(this.windows, ([start]) => Date.parse(start), 1010);
  }

  render() {
    const active = alerts.active(this.id);
    reconcile(this.badges, active, (a) => a.id, (a) => el("li", { class: "badge alert" }, a.rule));
    this.badges.hidden = false;
    if (active.length === 0) reconcile(this.badges, [""], () => "none", () => el("li", { class: "badge calm" }, "no alert"));
    if (!this.dirty) return;
    this.dirty = false;
    this.forget();
    if (this.newest) {
      setText(this.time, `${day(this.newest.at)}, ${hour(this.newest.at)}`);
      this.time.dateTime = this.newest.at;
      this.time.title = `${long(this.newest.at)} UTC`;
    }
    for (const chart of this.charts) {
      const limit = active.find((a) => a.quantity === chart.quantity)?.threshold;
      chart.draw(this.points(chart.quantity), limit, RANGES[range].gap);
    }
  }
}

function device(id) {
  if (!devices.has(id)) devices.set(id, new Device(id));
  return devices.get(id);
}

// What happens

const seen = new Set();
/** Whether a reading was not counted yet. Only the last ones are remembered: a repetition follows soon or never. */
function isNew(id) {
  if (seen.has(id)) return false;
  seen.add(id);
  if (seen.size > 5_000) seen.delete(seen.values().next().value);
  return true;
}

const EVENTS = {
  reading(reading) {
    const of = device(reading.device_id);
    if (isNew(reading.id)) of.count += 1;
    of.add(reading);
    readings.add(reading);
  },
  aggregate(window) {
    if (window.window === "10m") device(window.device_id).addWindow(window);
  },
  alert(alert) {
    if (!alerts.add(alert)) return;
    device(alert.device_id).dirty = true;
    announce(`${alert.rule} on ${alert.device_id} ${alert.state}`);
  },
  dead_letter(letter) {
    if (deadLetters.add(letter)) announce(`Dead letter on ${letter.topic}`);
  },
};

// Loading

async function load() {
  const [known, recent, alertEvents, letters] = await Promise.all([
    ask("/api/v1/devices", { limit: 100 }),
    ask("/api/v1/readings", { limit: 30 }),
    ask("/api/v1/alerts", { limit: 1000 }),
    ask("/api/v1/dead-letters", { limit: 100 }),
  ]);
  readings.load(recent);
  alerts.load(alertEvents);
  deadLetters.load(letters);
  for (const { device_id, readings: count, newest } of known) {
    const of = device(device_id);
    of.count = count;
    of.add(newest);
  }
  loaded = true;
  await loadCharts();
}

async function loadCharts() {
  const { windows } = RANGES[range];
  await Promise.all([...devices.values()].slice(0, SHOWN_DEVICES).map(async (of) => {
    if (windows) {
      const found = await ask("/api/v1/aggregates", { device_id: of.id, window: "10m", limit: windows });
      found.forEach((window) => of.addWindow(window));
    } else {
      const found = await ask("/api/v1/readings", { device_id: of.id, limit: 190 });
      found.forEach((reading) => of.add(reading));
    }
    of.dirty = true;
  }));
  schedule();
}

// Drawing

let scheduled = false;
function schedule() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(() => requestAnimationFrame(() => {
    scheduled = false;
    render();
  }), 250);
}

function render() {
  if (!loaded) return;
  const all = [...devices.values()].sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
  const shown = all.slice(0, SHOWN_DEVICES);
  reconcile($("device-list"), shown, (d) => d.id, (d) => d.card);
  shown.forEach((d) => d.render());
  $("no-devices").hidden = all.length > 0;
  alerts.render();
  deadLetters.render();
  readings.render();

  const count = (id, number, suffix = "") => {
    setText($(id), whole(number) + suffix);
    $(id).parentElement.classList.toggle("some", number > 0);
  };
  count("count-devices", all.length);
  count("count-readings", all.reduce((sum, d) => sum + d.count, 0));
  count("count-alerts", alerts.active().length);
  count("count-dead", deadLetters.count, deadLetters.count >= 500 ? "+" : "");
}

let silentUntil = 0;
/** Tells a screen reader, at most every five seconds: with a fast replay it would never stop talking. */
function announce(text) {
  if (performance.now() < silentUntil) return;
  silentUntil = performance.now() + 5_000;
  $("announce").textContent = text;
}

function connection(state, text) {
  $("connection").dataset.state = state;
  setText($("connection-text"), text);
}

// What the user does

function traceError(text) {
  setText($("trace-error"), text);
}

/** How often a trace that nothing is known of is asked for, a second apart: what was sent a moment ago may still be under way. */
const LOOKS = 10;

const traceOfAddress = () => new URLSearchParams(location.hash.slice(1)).get("trace");

async function showTrace() {
  const id = traceOfAddress();
  if (!id) {
    if ($("trace").open) $("trace").close();
    return;
  }
  traceError("");
  for (let look = 1; traceOfAddress() === id; look += 1) {
    try {
      await openTrace(id);
      return traceError("");
    } catch (error) {
      if (traceOfAddress() !== id) return;
      if (!(error instanceof NotFound) || look === LOOKS) {
        traceError(error instanceof Unauthorized ? "" : `Trace ${id}: ${error.message}.`);
        return forgetHash();
      }
      traceError(`Trace ${id}: ${error.message} yet; looking again.`);
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
  }
}

const forgetHash = () => history.replaceState(null, "", location.pathname);

document.addEventListener("click", (event) => {
  const id = event.target.closest?.("[data-trace]")?.dataset.trace;
  if (id) location.hash = new URLSearchParams({ trace: id }).toString();
});
$("trace").addEventListener("close", () => {
  if (location.hash.startsWith("#trace=")) forgetHash();
});
$("trace").addEventListener("click", (event) => {
  if (event.target === $("trace")) $("trace").close();
});
$("trace-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = $("trace-id").value.trim();
  if (!id) return traceError("Give the trace id that the platform answered with.");
  const hash = `#${new URLSearchParams({ trace: id })}`;
  if (location.hash === hash) showTrace();
  else location.hash = hash;
});
window.addEventListener("hashchange", showTrace);

$("range").addEventListener("change", (event) => {
  range = event.target.value;
  devices.forEach((of) => { of.dirty = true; });
  loadCharts().catch(() => {});
  schedule();
});

function askForToken() {
  const dialog = $("login");
  setText($("login-error"), dialog.dataset.tried ? "This token was not accepted." : "");
  dialog.dataset.tried = "yes";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    $("login-form").addEventListener("submit", (event) => {
      event.preventDefault();
      setToken($("token").value.trim());
      $("token").value = "";
      dialog.close();
      resolve();
    }, { once: true });
  });
}

setText($("try"), `curl ${location.origin}/api/v1/devices/attic/readings -d '{"temperature":21,"humidity":130,"light":0,"co2":420}'`);

follow({
  async opened(first) {
    if (first || !loaded) {
      await load();
      await showTrace();
    }
    connection("live", "Live");
    schedule();
  },
  event(name, data) {
    if (name === "reset") {
      load().catch(() => {});
      return;
    }
    EVENTS[name]?.(JSON.parse(data));
    schedule();
  },
  lost: () => connection("lost", "Reconnecting…"),
  unauthorized: askForToken,
});
