// Looks at a running dashboard with a headless Chromium, as a person would: charts, keyboard, traces, dead letters, phone, dark, axe.
//
//   node dashboard.mjs http://127.0.0.1:8080 OUTPUT_DIRECTORY
//
// Needs the platform to run with some replayed readings, and `npm install` in this directory. The environment may name another
// browser (CHROMIUM) and the platform's token (DEVICE_PLATFORM_TOKEN). Screenshots go to the output directory. Exits with 1 where a
// check failed.

import assert from "node:assert/strict";
import { readFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [url, output] = process.argv.slice(2);
if (!url || !output) {
  console.error("usage: node dashboard.mjs URL OUTPUT_DIRECTORY");
  process.exit(2);
}
mkdirSync(output, { recursive: true });

const token = process.env.DEVICE_PLATFORM_TOKEN;
const authorization = token ? { authorization: `Bearer ${token}` } : {};
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
// Without motion a screenshot does not depend on when it is taken.
const desktop = { viewport: { width: 1280, height: 900 }, reducedMotion: "reduce" };
const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, reducedMotion: "reduce" };

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});

/** A new browser window with the dashboard, live and drawn. Whatever the page complains about fails the check. */
async function open(options, path = "/") {
  // The page's Content-Security-Policy stays in force: scripts of this file run beside the page, not in it.
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  page.on("console", (message) => {
    // A busy machine may not answer in time, and the page asks again.
    const busy = /status of 503/.test(message.text());
    if (message.type() === "error" && !busy) page.complaints.push(message.text());
  });
  await page.goto(new URL(path, url).href);
  if (token) {
    await page.getByRole("textbox", { name: "Token", exact: true }).fill(token);
    page.complaints.length = 0; // The browser tells of the 401 that made the page ask.
    await page.keyboard.press("Enter");
  }
  await page.waitForSelector('#connection[data-state="live"]');
  // Attached, not visible: a line without ups and downs has no height, which Playwright takes for invisible.
  await page.waitForSelector(".device .plot .line[d]", { state: "attached" });
  return page;
}

async function close(page) {
  assert.deepEqual(page.complaints, [], "the page complained");
  await page.context().close();
}

/** Reports a reading, and waits until the platform knows of its trace. */
async function report(device, reading) {
  const sent = await post(device, reading);
  await hopsOf(sent.trace_id, 1);
  return sent;
}

/** Waits until the platform knows of so many hops of a trace. */
async function hopsOf(traceId, count) {
  const trace = new URL(`/api/v1/traces/${traceId}`, url);
  for (;;) {
    const response = await fetch(trace, { headers: authorization });
    if (response.ok && (await response.json()).length >= count) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function post(device, reading) {
  const response = await fetch(new URL(`/api/v1/devices/${encodeURIComponent(device)}/readings`, url), {
    method: "POST",
    headers: { "content-type": "application/json", ...authorization },
    body: JSON.stringify(reading),
  });
  assert.equal(response.status, 202);
  return response.json();
}

const good = { temperature: 21.5, humidity: 40, light: 120, co2: 612 };

/** No violation that keeps somebody out. */
async function accessible(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const found = violations.map((v) => `${v.impact}: ${v.id}: ${v.help} (${v.nodes.map((n) => n.target).join(", ")})`);
  for (const line of found) console.log(`      axe, ${where}: ${line}`);
  assert.deepEqual(violations.filter((v) => ["serious", "critical"].includes(v.impact)).map((v) => v.id), [], where);
}

const noSidewaysScroll = async (page) => {
  const { scroll, width } = await page.evaluate(() => ({ scroll: document.documentElement.scrollWidth, width: innerWidth }));
  assert.ok(scroll <= width, `the page is ${scroll} wide on a screen of ${width}`);
};

const shot = (page, name, fullPage = true) => page.screenshot({ path: join(output, `${name}.png`), fullPage });

const checks = {
  async "each replayed device has four drawn charts"() {
    const page = await open(desktop);
    for (const device of ["office-a", "office-b", "office-c"]) {
      const card = page.getByRole("article", { name: device, exact: true });
      await card.waitFor();
      const lines = await card.locator(".plot .line").evaluateAll((all) => all.map((l) => l.getAttribute("d") ?? ""));
      assert.equal(lines.length, 4);
      assert.ok(lines.every((d) => d.startsWith("M") && d.includes("L") && !d.includes("NaN")), `${device}: ${lines}`);
    }
    await shot(page, "desktop");
    await page.getByLabel("1 week").check();
    await page.waitForFunction(() => document.querySelector(".plot .band")?.getAttribute("d")?.split("L").length > 10);
    await shot(page, "desktop-week");
    await close(page);
  },

  async "a posted reading appears without reloading, and its trace opens by keyboard"() {
    const page = await open(desktop);
    // Replayed readings push the row out again within a moment; the table holds back while it has the focus.
    await page.evaluate(() => {
      const list = document.getElementById("reading-list");
      const look = (_, observer) => {
        const row = [...list.rows].find((row) => row.querySelector(".device-id").textContent === "attic");
        if (!row) return;
        observer.disconnect();
        const button = row.querySelector("[data-trace]");
        button.focus();
        globalThis.attic = button.dataset.trace;
      };
      new MutationObserver(look).observe(list, { childList: true });
    });
    // On a busy machine it may be out again before anything is drawn.
    const sent = [];
    let trace_id;
    while (!trace_id && sent.length < 30) {
      sent.push((await post("attic", good)).trace_id);
      const shown = await page.waitForFunction(() => globalThis.attic, null, { timeout: 1000 }).catch(() => null);
      trace_id = await shown?.jsonValue();
    }
    assert.ok(sent.includes(trace_id), `shown is ${trace_id}, posted were ${sent}`);
    await hopsOf(trace_id, 4);
    await page.keyboard.press("Enter");
    const dialog = page.getByRole("dialog", { name: "Trace" });
    await dialog.waitFor();
    await dialog.locator("#trace-name", { hasText: trace_id }).waitFor();
    assert.ok((await dialog.locator(".handled > li").count()) >= 4, "at least four hops");
    await shot(page, "desktop-trace", false);
    await accessible(page, "trace");
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "hidden" });
    const button = page.locator(`#reading-list [data-trace="${trace_id}"]`);
    assert.ok(await button.evaluate((b) => b === document.activeElement), "the focus is back where it was");
    await close(page);
  },

  async "a trace opens by its address and by its id"() {
    const { trace_id } = await report("attic", good);
    const page = await open(desktop, `/#trace=${trace_id}`);
    await page.locator("#trace-name", { hasText: trace_id }).waitFor();
    await page.keyboard.press("Escape");
    await page.getByLabel("Trace id").fill(trace_id);
    await page.keyboard.press("Enter");
    await page.locator("#trace-name", { hasText: trace_id }).waitFor();
    await page.keyboard.press("Escape");
    await page.getByLabel("Trace id").fill("nonsense");
    await page.keyboard.press("Enter");
    await page.locator("#trace-error", { hasText: "32 hexadecimal digits" }).waitFor();
    page.complaints.length = 0; // The browser tells of the 400 that was asked for.
    await close(page);
  },

  async "a trace of which nothing is known yet is asked for again"() {
    const { trace_id } = await report("attic", good);
    const page = await open(desktop);
    let asked = 0;
    await page.route("**/api/v1/traces/*", async (route) => {
      asked += 1;
      if (asked > 1) return route.continue();
      await route.fulfill({ status: 404, json: { error: { code: "unknown_trace", message: "nothing is known of this trace" } } });
    });
    await page.getByLabel("Trace id").fill(trace_id);
    await page.keyboard.press("Enter");
    await page.locator("#trace-error", { hasText: "looking again" }).waitFor();
    await page.locator("#trace-name", { hasText: trace_id }).waitFor();
    assert.ok(asked > 1);
    page.complaints.length = 0; // The browser tells of the 404.
    await close(page);
  },

  async "a reading out of range becomes a dead letter with reason and payload"() {
    const page = await open(desktop);
    const { trace_id } = await post("attic", { ...good, humidity: 130.25 });
    const letter = page.locator("#dead-list > li", { has: page.locator(`[data-trace="${trace_id}"]`) });
    await letter.waitFor();
    await letter.getByText("humidity").first().waitFor();
    await letter.getByText("Payload").click();
    await letter.locator("pre", { hasText: "130.25" }).waitFor();
    await letter.scrollIntoViewIfNeeded();
    await shot(page, "desktop-dead-letter", false);
    await close(page);
  },

  async "what comes from outside stays text"() {
    const page = await open(desktop);
    const device = '<img src=x onerror="window.broken=1">&amp;';
    await post(device, { ...good, co2: -1 });
    const row = page.locator("#reading-list .device-id", { hasText: device }).first();
    // Replayed readings push it out again within a second: it is posted until it was seen.
    for (let tries = 1; ; tries += 1) {
      await post(device, good);
      if (await row.waitFor({ timeout: 1000 }).then(() => true, () => false)) break;
      assert.ok(tries < 30, "the row was never seen");
    }
    await page.getByRole("article", { name: device, exact: true }).waitFor();
    assert.equal(await page.evaluate(() => window.broken), undefined);
    assert.equal(await page.locator("main img").count(), 0);
    await close(page);
  },

  async "the keyboard reaches everything in order"() {
    const page = await open(desktop);
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.name), "range");
    await page.keyboard.press("Tab");
    const value = (name) => page.evaluate((n) => document.activeElement.getAttribute(`aria-value${n}`), name);
    const role = await page.evaluate(() => document.activeElement.getAttribute("role"));
    assert.equal(role, "slider");
    await page.getByRole("slider", { name: "Temperature of office-a over time" }).focus();
    await page.keyboard.press("Home");
    assert.equal(await value("now"), "0");
    await page.keyboard.press("ArrowRight");
    assert.equal(await value("now"), "1");
    assert.match(await value("text"), /^[\d.,]+ °C, \d+ \w+ \d\d:\d\d$/);
    assert.ok(await page.locator(".tip:visible").count(), "the value is shown as well");
    await close(page);
  },

  async "nothing moves while paused"() {
    const page = await open(desktop);
    await page.getByRole("button", { name: "Pause" }).click();
    const rows = () => page.locator("#reading-list").innerText();
    const before = await rows();
    const { trace_id } = await post("attic", { ...good, humidity: 131 });
    await page.locator(`#dead-list [data-trace="${trace_id}"]`).waitFor();
    assert.equal(await rows(), before);
    await close(page);
  },

  async "a lost connection is shown and repaired"() {
    const page = await open(desktop);
    await page.context().setOffline(true);
    await page.waitForSelector('#connection[data-state="lost"]');
    await page.context().setOffline(false);
    const { trace_id } = await post("attic", { ...good, humidity: 132 });
    await page.waitForSelector('#connection[data-state="live"]');
    await page.locator(`#dead-list [data-trace="${trace_id}"]`).waitFor();
    page.complaints.length = 0; // The browser tells of the requests that failed.
    await close(page);
  },

  async "light and dark, on a desk and on a phone, nobody is kept out"() {
    for (const [where, size] of Object.entries({ desktop, phone })) {
      for (const colorScheme of ["light", "dark"]) {
        const page = await open({ ...size, colorScheme });
        await page.locator("#dead-list > li").first().waitFor();
        await noSidewaysScroll(page);
        await accessible(page, `${where}, ${colorScheme}`);
        await shot(page, `${where}-${colorScheme}`);
        if (where === "phone") await shot(page, `${where}-${colorScheme}-top`, false);
        await close(page);
      }
    }
  },

  async "a trace fits on a phone"() {
    const { trace_id } = await report("attic", good);
    const page = await open(phone, `/#trace=${trace_id}`);
    await page.locator("#trace-name", { hasText: trace_id }).waitFor();
    await noSidewaysScroll(page);
    await shot(page, "phone-trace", false);
    await close(page);
  },

  async "at twice the text size nothing is cut off"() {
    const page = await open({ viewport: { width: 640, height: 700 } });
    await page.evaluate(() => { document.documentElement.style.fontSize = "200%"; });
    await noSidewaysScroll(page);
    await close(page);
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${String(error.stack ?? error).replaceAll("\n", "\n      ")}`);
  }
}
await browser.close();
console.log(failed === 0 ? "all checks passed" : `${failed} of ${Object.keys(checks).length} checks failed`);
process.exit(failed === 0 ? 0 : 1);
