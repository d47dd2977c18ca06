// The page in headless Chromium: a conversation, a stop, an edit, a reload, the keyboard, dark and light, a phone's width.
//
//     thermocline serve --port 8080 &
//     npm install playwright-core && node scripts/page/check.mjs http://127.0.0.1:8080 [folder for screenshots]
//
// CHROMIUM names the browser (/usr/bin/chromium).
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const found = createRequire(process.cwd() + "/").resolve("playwright-core");
const { default: { chromium } } = await import(pathToFileURL(found));

const url = process.argv[2] ?? "http://127.0.0.1:8080";
const shots = process.argv[3];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const problems = [];

async function open(options) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 760 }, colorScheme: "light", ...options });
  const page = await context.newPage();
  page.on("pageerror", (e) => problems.push(String(e)));
  page.on("console", (m) => m.type() === "error" && problems.push(m.text()));
  page.on("request", (r) => new URL(r.url()).origin === url || r.url().startsWith("data:") || problems.push("fetched " + r.url()));
  await page.goto(url);
  return page;
}
const shot = (page, name) => shots && page.screenshot({ path: `${shots}/${name}.png` });
const answers = (page) => page.locator(".turn.assistant .said").allInnerTexts();
const idle = (page) => page.waitForFunction(() => !document.querySelector(".writing") && document.querySelector(".figures"));
async function zero(page) {
  await page.keyboard.press("Alt+s");
  await page.getByLabel("Temperature").fill("0");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => !document.querySelector("dialog").open);
}

const steps = {
  async "the page greets and names the model"() {
    const page = await open();
    await page.waitForFunction(() => document.querySelector("#model").textContent.includes("positions"));
    await shot(page, "welcome");
    await page.context().close();
  },
  async "a conversation, by keyboard alone"() {
    const page = await open();
    await zero(page);
    assert.equal(await page.evaluate(() => document.activeElement.id === "words" || document.activeElement.id === "open"), true);
    await page.locator("#words").focus();
    await page.keyboard.type("What is 7 + 5?");
    await page.keyboard.press("Enter");
    await idle(page);
    assert.deepEqual(await answers(page), ["7 + 5 = 12."]);
    await page.keyboard.type("Tell me a story about a fox.");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll(".figures").length === 2);
    assert.match((await answers(page))[1], /^Once upon a time/);
    assert.match(await page.locator(".figures").first().innerText(), /tok\/s/);
    await shot(page, "light");

    await page.reload();
    assert.equal((await answers(page)).length, 2, "a reload keeps the conversation");
    await page.locator("#theme").click();
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
    await shot(page, "dark");
    await page.reload();
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");

    await page.locator("#words").focus();
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Control+a");
    await page.keyboard.type("What is 48 + 37?");
    await page.keyboard.press("Enter");
    await idle(page);
    await page.waitForFunction(() => document.querySelectorAll(".figures").length === 2);
    assert.deepEqual((await answers(page))[1], "48 + 37 = 85.", "an edited question is answered anew");
    await page.getByRole("button", { name: "Again" }).last().click();
    await page.waitForFunction(() => document.querySelectorAll(".figures").length === 2);
    assert.deepEqual(await answers(page), ["7 + 5 = 12.", "48 + 37 = 85."]);
    await page.keyboard.press("Alt+n");
    await page.waitForSelector(".welcome");
    await page.context().close();
  },
  async "a stop keeps what was written"() {
    const page = await open();
    // The model is quick, so its stream is held back: one event in 40 ms.
    await page.addInitScript(() => {
      const fetched = window.fetch;
      window.fetch = async (...all) => {
        const response = await fetched(...all);
        if (!String(all[0]).includes("completions")) return response;
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        const encoder = new TextEncoder();
        const body = new ReadableStream({
          async start(out) {
            for (;;) {
              const { done, value } = await reader.read();
              if (done) break;
              for (const event of value.split(/(?<=\n\n)/)) {
                await new Promise((r) => setTimeout(r, 40));
                if (all[1].signal.aborted) return out.error(new DOMException("stopped", "AbortError"));
                out.enqueue(encoder.encode(event));
              }
            }
            out.close();
          },
        });
        return new Response(body, { status: response.status, headers: response.headers });
      };
    });
    await page.reload();
    await page.locator("#words").fill("Tell me a story about a fox.");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector(".writing .said")?.textContent.length > 20);
    await shot(page, "writing");
    await page.keyboard.press("Escape");
    await idle(page);
    assert.equal(await page.locator(".figures").innerText(), "stopped");
    const [kept] = await answers(page);
    assert.ok(kept.length > 20 && kept.length < 200, kept);
    await page.context().close();
  },
  async "settings reach the model"() {
    const page = await open();
    await page.locator("#open").click();
    await shot(page, "settings");
    await page.getByLabel("Most tokens").fill("3");
    await page.getByRole("button", { name: "Done" }).click();
    await page.locator("#words").fill("Tell me a story.");
    await page.keyboard.press("Enter");
    await idle(page);
    assert.match(await page.locator(".figures").innerText(), /^3 tokens.*cut off/);
    await page.locator("#open").click();
    await page.getByLabel("Top-p").fill("");
    await page.getByLabel("System prompt").fill("Answer in Russian.");
    await page.getByRole("button", { name: "Done" }).click();
    const sent = page.waitForRequest("**/v1/chat/completions");
    await page.locator("#words").fill("Hi");
    await page.keyboard.press("Enter");
    assert.equal((await sent).postDataJSON().messages[0].role, "system");
    await page.context().close();
  },
  async "the map opens, lights up and is asked by keyboard"() {
    const page = await open();
    assert.equal(await page.locator("#sea").isVisible(), false);
    const asked = page.waitForRequest("**/thermocline/stream");
    await page.keyboard.press("Alt+m");
    await asked;
    await page.waitForFunction(() => sea.picture);
    await page.locator("#words").fill("Tell me a story about a fox.");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => sea.picture.slots.busy > 0 || sea.picture.written > 0);
    await idle(page);
    await page.waitForFunction(() => sea.picture.tokens > 20 && sea.picture.slots.busy === 0);
    const lit = await page.evaluate(() => sea.picture.now.every((layer) => layer.length === sea.picture.active));
    assert.ok(lit, "the last token's experts are known");
    // Pixels: the map is not blank, and the hottest expert is drawn in the hottest colour.
    const colours = await page.evaluate(() => {
      const canvas = document.querySelector("#sea-map");
      const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      const seen = new Set();
      for (let i = 0; i < all.length; i += 4) if (all[i + 3] === 255) seen.add(`${all[i]} ${all[i + 1]} ${all[i + 2]}`);
      return seen.size;
    });
    assert.ok(colours > 10, `${colours} colours`);
    await page.locator("#sea-map").focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowDown");
    assert.match(await page.locator("#sea-cell").innerText(), /^layer 1, expert \d+: .*in memory$/);
    assert.match(await page.locator("#sea-figures").innerText(), /written since the start|were predicted/);
    assert.match(await page.locator("#sea-memory").innerText(), /held now .* MiB/);
    await page.getByLabel("by number").check();
    await page.keyboard.press("Tab");
    await shot(page, "map-light");
    await page.locator("#theme").click();
    await shot(page, "map-dark");
    await page.reload();
    await page.waitForFunction(() => sea.picture);
    assert.equal(await page.locator("#sea").isVisible(), true, "a reload keeps the map open");
    await page.getByRole("button", { name: "Map" }).click();
    await page.waitForFunction(() => sea.watching === null, null, { timeout: 15000 });
    await page.context().close();
  },
  async "Markdown is set, and stays text"() {
    const page = await open();
    const content = [
      "## A heading", "Some *slanted*, **bold and `code`** words, 2 * 3 * 4, snake_case_name.", "", "1. one", "2. two", "   - inside",
      "   - also", "", "- [x] a task", "", "> quoted", "", "| a | b |", "|---|--:|", "| 1 | `x` |", "", "---", "```rust", "fn main() {}", "",
      "// <b>", "```", "an open end", "```", "never closed",
    ].join("\n");
    await page.evaluate((content) => {
      localStorage.thermocline = JSON.stringify({ turns: [{ role: "user", content: "Show me" }, { role: "assistant", content }] });
    }, content);
    await page.reload();
    const count = (what) => page.locator("#talk " + what).count();
    const found = {};
    for (const what of ["h4", "em", "strong > code", "ol > li", "ol ul > li", "blockquote > p", "th", "td > code", "hr", "pre"]) found[what] = await count(what);
    assert.deepEqual(found, { h4: 1, em: 1, "strong > code": 1, "ol > li": 2, "ol ul > li": 2, "blockquote > p": 1, th: 2, "td > code": 1, hr: 1, pre: 2 });
    assert.equal(await page.locator("#talk pre").first().innerText(), "fn main() {}\n\n// <b>");
    assert.match(await page.locator("#talk .said > p").first().innerText(), /2 \* 3 \* 4, snake_case_name/);
    await shot(page, "markdown");
    await page.context().close();
  },
  async "words stay words"() {
    const page = await open();
    await page.evaluate(() => {
      const content = "<img src=x onerror=alert(1)> **bold** `code`\n\n```html\n<b>no</b>\n```\nend";
      localStorage.thermocline = JSON.stringify({ turns: [{ role: "user", content: "<i>hi</i>" }, { role: "assistant", content }] });
    });
    await page.reload();
    assert.equal(await page.locator("#talk img, #talk i, #talk b").count(), 0);
    assert.equal(await page.locator("#talk pre").innerText(), "<b>no</b>");
    assert.equal(await page.locator("#talk strong").innerText(), "bold");
    await page.context().close();
  },
  async "an error is said"() {
    const page = await open();
    await page.locator("#words").fill("word ".repeat(3000));
    await page.keyboard.press("Enter");
    await page.waitForSelector(".problem");
    assert.match(await page.locator(".problem").innerText(), /> 512 maximum/);
    problems.splice(0, problems.length, ...problems.filter((p) => !p.includes("400")));
    await page.context().close();
  },
  async "it fits a phone"() {
    const page = await open({ viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true, colorScheme: "dark" });
    await page.locator("#words").fill("Write a Python function that adds two numbers.");
    await page.locator("#send").tap();
    await idle(page);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 360, `it is ${wide} wide`);
    await shot(page, "phone");
    await page.locator("#open").tap();
    await shot(page, "phone-settings");
    await page.keyboard.press("Escape");
    await page.locator("#map").tap();
    await page.waitForFunction(() => sea.picture);
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360, "with the map too");
    await shot(page, "phone-map");
    await page.context().close();
  },
};

let failed = 0;
for (const [name, step] of Object.entries(steps)) {
  try { await step(); console.log("ok     ", name); } catch (e) { failed += 1; console.log("FAILED ", name, "\n", e); }
}
problems.forEach((problem) => console.log("PROBLEM", problem));
await browser.close();
process.exit(failed || problems.length ? 1 : 0);
