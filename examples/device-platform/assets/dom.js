// Making elements, and writing numbers and times. Text from outside only ever becomes text: there is no innerHTML on this page.

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children. A child that is not a node becomes text; `on…` attributes are listeners. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets text only where it differs, so that nothing is announced or repainted without need. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const QUANTITIES = {
  temperature: { name: "Temperature", short: "Temp.", unit: "°C", digits: 1, span: 2 },
  humidity: { name: "Humidity", unit: "%", digits: 1, span: 5 },
  co2: { name: "CO₂", unit: "ppm", digits: 0, span: 200 },
  light: { name: "Light", unit: "lux", digits: 0, span: 100 },
  humidity_ratio: { name: "Water in air", unit: "g/kg", digits: 2, span: 1, factor: 1000 },
};

const formats = new Map();
function decimals(digits) {
  if (!formats.has(digits)) {
    formats.set(digits, new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }
  return formats.get(digits);
}

export const whole = (number) => decimals(0).format(number);

/** A value of a quantity, without its unit. */
export function amount(quantity, value) {
  const { digits = 2, factor = 1 } = QUANTITIES[quantity] ?? {};
  return decimals(digits).format(value * factor);
}

/** A value of a quantity, with its unit. */
export const measure = (quantity, value) => `${amount(quantity, value)} ${QUANTITIES[quantity]?.unit ?? ""}`.trim();

const utc = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...options });
const HOUR = utc({ hour: "2-digit", minute: "2-digit" });
const DAY = utc({ day: "numeric", month: "short" });
const LONG = utc({ day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
const EXACT = utc({ hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });

const format = (formatter, at) => {
  const date = new Date(at);
  return Number.isNaN(date.valueOf()) ? String(at) : formatter.format(date);
};
export const hour = (at) => format(HOUR, at);
export const day = (at) => format(DAY, at);
export const long = (at) => format(LONG, at);
export const exact = (at) => format(EXACT, at);

/** A button that opens a trace. */
export function traceButton(traceId, about) {
  const short = String(traceId).slice(0, 8);
  return el("button", { type: "button", class: "link", "data-trace": traceId, "aria-label": `Trace ${short} of ${about}` }, short);
}
