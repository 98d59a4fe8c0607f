// One small chart: a line over time, with a band from least to most where the points are aggregates.

import { QUANTITIES, amount, day, el, hour, measure, setText } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 100;

function shape(name, className) {
  const element = document.createElementNS(SVG, name);
  element.setAttribute("class", className);
  return element;
}

/** A point is `{ at (ms), value, min?, max? }`; points are in the order of time. */
export class Chart {
  #points = [];
  #scale = null;
  #selected = null;

  constructor(device, quantity) {
    this.quantity = quantity;
    const { name, short = name, unit } = QUANTITIES[quantity];
    this.area = shape("path", "area");
    this.band = shape("path", "band");
    this.line = shape("path", "line");
    this.threshold = shape("line", "threshold");
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.append(this.area, this.band, this.threshold, this.line);

    this.mark = el("span", { class: "mark", hidden: true });
    this.tip = el("span", { class: "tip", hidden: true, "aria-hidden": "true" });
    // A slider over time: with the arrow keys a value can be read off as with the pointer.
    this.plot = el("div", {
      class: "plot", role: "slider", tabindex: "0", "aria-label": `${name} of ${device} over time`,
      "aria-orientation": "horizontal", "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0",
      onkeydown: (e) => this.#key(e),
      onfocus: () => this.#select(this.#points.length - 1),
      onblur: () => this.#select(null),
      onpointermove: (e) => this.#point(e),
      onpointerdown: (e) => this.#point(e),
      onpointerleave: () => this.#select(null),
    }, svg, this.mark, this.tip);
    this.value = el("span", {}, "–");
    this.least = el("span");
    this.most = el("span");
    this.element = el("div", { class: "chart", "data-quantity": quantity },
      el("div", { class: "chart-head" },
        el("span", { class: "name" }, short),
        el("span", { class: "now" }, this.value, " ", el("small", {}, unit))),
      this.plot,
      el("div", { class: "chart-foot" }, this.least, this.most));
  }

  /** Draws points; `limit` is the threshold of an alert that is up; a longer silence than `gap` (ms) interrupts the line. */
  draw(points, limit, gap) {
    this.#points = points;
    if (points.length === 0) return;
    const last = points[points.length - 1];
    const least = Math.min(...points.map((p) => p.min ?? p.value));
    const most = Math.max(...points.map((p) => p.max ?? p.value));
    const low = Math.min(least, limit ?? least);
    const high = Math.max(most, limit ?? most);
    const spare = Math.max(0, QUANTITIES[this.quantity].span - (high - low)) / 2 + (high - low) * 0.06;
    const from = points[0].at;
    const time = Math.max(last.at - from, 1);
    const x = (at) => (points.length === 1 ? WIDTH : ((at - from) / time) * WIDTH);
    const y = (value) => HEIGHT - ((value - low + spare) / (high - low + 2 * spare)) * HEIGHT;
    this.#scale = { x, y };

    let line = "";
    let area = "";
    let band = "";
    for (const run of runs(points, gap)) {
      const path = run.map((p) => `${x(p.at).toFixed(1)} ${y(p.value).toFixed(1)}`);
      if (path.length === 1) path.push(path[0]);
      line += `M${path.join("L")}`;
      area += `M${x(run[0].at).toFixed(1)} ${HEIGHT}L${path.join("L")}V${HEIGHT}Z`;
      if (run[0].min !== undefined) {
        const upper = run.map((p) => `${x(p.at).toFixed(1)} ${y(p.max).toFixed(1)}`);
        const lower = run.map((p) => `${x(p.at).toFixed(1)} ${y(p.min).toFixed(1)}`).reverse();
        band += `M${upper.join("L")}L${lower.join("L")}Z`;
      }
    }
    this.line.setAttribute("d", line);
    this.line.classList.toggle("single", points.length === 1);
    this.area.setAttribute("d", area);
    this.band.setAttribute("d", band);
    this.threshold.toggleAttribute("hidden", limit === undefined);
    const at = limit === undefined ? -10 : y(limit);
    for (const [key, value] of [["x1", 0], ["x2", WIDTH], ["y1", at], ["y2", at]]) this.threshold.setAttribute(key, value);

    setText(this.value, amount(this.quantity, last.value));
    setText(this.least, `min ${amount(this.quantity, least)}`);
    setText(this.most, `max ${amount(this.quantity, most)}`);
    this.plot.setAttribute("aria-valuemax", points.length - 1);
    if (this.#selected === null) this.#describe(points.length - 1);
    else this.#select(Math.min(this.#selected, points.length - 1));
  }

  #describe(index) {
    const point = this.#points[index];
    if (!point) return "";
    const text = `${measure(this.quantity, point.value)}, ${day(point.at)} ${hour(point.at)}`;
    this.plot.setAttribute("aria-valuenow", index);
    this.plot.setAttribute("aria-valuetext", text);
    return text;
  }

  #select(index) {
    const point = index === null ? undefined : this.#points[index];
    this.#selected = point ? index : null;
    this.mark.hidden = this.tip.hidden = !point;
    if (!point) return;
    const share = this.#scale.x(point.at) / WIDTH;
    this.mark.style.left = `${share * 100}%`;
    this.tip.style.left = `${share * 100}%`;
    this.tip.style.translate = `${-share * 100}%`;
    setText(this.tip, this.#describe(index));
  }

  #point(event) {
    if (!this.#scale || this.#points.length === 0) return;
    const box = this.plot.getBoundingClientRect();
    const wanted = ((event.clientX - box.left) / box.width) * WIDTH;
    let best = 0;
    this.#points.forEach((point, index) => {
      const { x } = this.#scale;
      if (Math.abs(x(point.at) - wanted) < Math.abs(x(this.#points[best].at) - wanted)) best = index;
    });
    this.#select(best);
  }

  #key(event) {
    const end = this.#points.length - 1;
    const now = this.#selected ?? end;
    const steps = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageDown: now - 10, PageUp: now + 10, Home: 0, End: end };
    if (!(event.key in steps) || end < 0) return;
    event.preventDefault();
    this.#select(Math.max(0, Math.min(end, steps[event.key])));
  }
}

function runs(points, gap) {
  const found = [[points[0]]];
  for (let index = 1; index < points.length; index += 1) {
    if (points[index].at - points[index - 1].at > gap) found.push([]);
    found[found.length - 1].push(points[index]);
  }
  return found;
}
