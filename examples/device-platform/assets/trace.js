// A trace: what became of a message and of all that it caused, as a flow.

import { ask } from "./api.js";
import { $, el, exact, long, setText } from "./dom.js";

const OUTCOMES = {
  published: ["calm", "published"],
  done: ["good", "done"],
  retried: ["alert", "retried"],
  dead_lettered: ["dead", "dead letter"],
  discarded: ["calm", "discarded"],
};

let shown = 0;

/** Opens a trace. Throws where nothing is known of it. */
export async function openTrace(traceId) {
  const request = ++shown;
  const hops = await ask(`/api/v1/traces/${encodeURIComponent(traceId)}`);
  if (request !== shown) return;
  setText($("trace-name"), traceId);
  const messages = group(hops);
  const components = new Set(hops.map((hop) => hop.component));
  const start = hops.reduce((least, hop) => Math.min(least, Date.parse(hop.time)), Infinity);
  setText($("trace-summary"),
    `${plural(hops.length, "hop")}: ${plural(messages.length, "message")} through ${plural(components.size, "component")}, from ${long(start)} UTC`);
  $("hops").replaceChildren(...messages.map((message) => item(message, start)));
  const dialog = $("trace");
  if (!dialog.open) dialog.showModal();
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** One entry a message, in the order in which the hops came: a cause before its effects. */
function group(hops) {
  const messages = new Map();
  for (const hop of hops) {
    if (!messages.has(hop.id)) messages.set(hop.id, { ...hop, hops: [] });
    messages.get(hop.id).hops.push(hop);
  }
  for (const message of messages.values()) {
    message.depth = (messages.get(message.causation_id)?.depth ?? -1) + 1;
  }
  return [...messages.values()];
}

function item(message, start) {
  const dead = message.hops.some((hop) => hop.outcome === "dead_lettered");
  const retried = message.hops.some((hop) => hop.attempts > 1);
  const entry = el("li", { "data-tone": dead ? "dead" : retried ? "alert" : "calm" },
    el("p", { class: "type" }, message.type),
    el("p", { class: "muted mono" }, message.topic),
    el("ul", { class: "handled" }, ...message.hops.map((hop) => handled(hop, start))),
    el("details", {}, el("summary", {}, "Ids"),
      el("p", { class: "mono muted" }, `id ${message.id}`),
      message.causation_id ? el("p", { class: "mono muted" }, `caused by ${message.causation_id}`) : null));
  entry.style.setProperty("--depth", message.depth);
  return entry;
}

function handled(hop, start) {
  const [tone, word] = OUTCOMES[hop.outcome] ?? ["calm", hop.outcome];
  const after = Date.parse(hop.time) - start;
  return el("li", {},
    el("span", { class: `badge ${tone}` }, word),
    el("span", { class: "component" }, hop.component),
    hop.attempts > 1 ? el("span", { class: "muted" }, `attempt ${hop.attempts}`) : null,
    el("span", { class: "end" }, el("time", { datetime: hop.time, title: exact(hop.time) }, `+${Number.isFinite(after) ? after : 0} ms`)));
}
