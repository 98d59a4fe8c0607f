// Talking to the gateway: questions, and the stream of events.

const STORED = "device-platform-token";

/** The gateway wants a (better) token. */
export class Unauthorized extends Error {}

/** What was asked for is not there, or not yet. */
export class NotFound extends Error {}

/** How long the stream may be silent. The gateway sends a sign of life every 15 seconds. */
const SILENCE = 40_000;

/** Waits, but no longer than until the browser is online again. */
const sleep = (milliseconds) => new Promise((resolve) => {
  setTimeout(resolve, milliseconds);
  window.addEventListener("online", resolve, { once: true });
});

export const setToken = (token) => sessionStorage.setItem(STORED, token);

function headers(more = {}) {
  const token = sessionStorage.getItem(STORED);
  return token ? { authorization: `Bearer ${token}`, ...more } : more;
}

/** Asks a question; an error carries the gateway's own words. */
export async function ask(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const response = await fetch(query ? `${path}?${query}` : path, { headers: headers() });
  if (response.status === 401) throw new Unauthorized();
  const body = await response.json().catch(() => null);
  if (response.ok) return body;
  const text = body?.error?.message ?? `the platform answered ${response.status}`;
  throw response.status === 404 ? new NotFound(text) : new Error(text);
}

/**
 * Follows the events for as long as the page lives. Not an EventSource, since that cannot send a token.
 *
 * `opened` is awaited after each connection and told whether anything may have been missed; `event(name, data)` is each event;
 * `lost()` says that the connection is gone and will be tried again; `unauthorized()` is awaited for a better token.
 */
export async function follow({ opened, event, lost, unauthorized }) {
  let last = null;
  let pause = 500;
  for (;;) {
    const abort = new AbortController();
    // The browser knows at once what silence tells only later.
    const cut = () => abort.abort();
    window.addEventListener("offline", cut);
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), SILENCE);
    };
    try {
      alive();
      const more = { accept: "text/event-stream", ...(last === null ? {} : { "last-event-id": last }) };
      const response = await fetch("/api/v1/events", { headers: headers(more), signal: abort.signal, cache: "no-store" });
      if (response.status === 401) throw new Unauthorized();
      if (!response.ok) throw new Error(`status ${response.status}`);
      const parse = parser((name, data, id) => {
        if (id !== null) last = id;
        event(name, data);
      });
      await opened(last === null);
      pause = 500;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        alive();
        parse(value);
      }
      lost();
    } catch (error) {
      if (error instanceof Unauthorized) {
        await unauthorized();
        continue;
      }
      lost();
    } finally {
      clearTimeout(watchdog);
      window.removeEventListener("offline", cut);
      abort.abort();
    }
    await sleep(pause * (0.75 + Math.random() / 2));
    pause = Math.min(pause * 2, 10_000);
  }
}

/** Server-sent events out of chunks of text (WHATWG HTML, section 9.2.6). */
export function parser(dispatch) {
  let rest = "";
  let name = "message";
  let data = [];
  let id = null;
  return (chunk) => {
    const lines = (rest + chunk).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length > 0) dispatch(name, data.join("\n"), id);
        name = "message";
        data = [];
        id = null;
        continue;
      }
      const colon = line.indexOf(":");
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "event") name = value;
      else if (field === "data") data.push(value);
      else if (field === "id" && !value.includes("\0")) id = value;
    }
  };
}
