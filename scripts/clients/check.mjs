// What OpenAI's Node package makes of the server, case by case, on the bundled model.
//
//     thermocline serve --port 8080 &
//     npm install openai && node scripts/clients/check.mjs http://127.0.0.1:8080
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The package of the folder this is run in.
const found = createRequire(process.cwd() + "/").resolve("openai");
const { default: OpenAI } = await import(pathToFileURL(found));

const URL = (process.argv[2] ?? "http://127.0.0.1:8080") + "/v1";
const client = new OpenAI({ baseURL: URL, apiKey: "none", maxRetries: 0 });
const MODEL = (await client.models.list()).data[0].id;
const SUM = "What is 7 + 5?";
const ANSWER = "7 + 5 = 12.";
const STORY = "Tell me a story about a fox.";

const user = (words) => [{ role: "user", content: words }];
const chat = (words = SUM, more = {}) =>
  client.chat.completions.create({ model: MODEL, messages: user(words), temperature: 0, ...more });
const complete = (prompt = "Once upon a", more = {}) =>
  client.completions.create({ model: MODEL, prompt, temperature: 0, max_tokens: 8, ...more });
const text = (answer) => answer.choices[0].message.content;
const all = async (stream) => {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
};
const said = (chunks, index = 0) =>
  chunks.flatMap((chunk) => chunk.choices).filter((c) => c.index === index).map((c) => c.delta.content ?? "").join("");
const tokens = async (content) => {
  const asked = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ content }) };
  return (await (await fetch(URL.replace(/v1$/, "tokenize"), asked)).json()).tokens;
};
const refused = async (status, words, ask) => {
  const error = await ask().then(() => assert.fail("expected an error"), (e) => e);
  assert.equal(error.status, status, String(error));
  assert.ok(String(error.message).includes(words), error.message);
  return error;
};

const CITY = { type: "string", enum: ["Oslo", "Rome"] };
const RAIN = { type: "object", properties: { city: CITY }, required: ["city"], additionalProperties: false };
const TOOLS = [{ type: "function", function: { name: "rain", parameters: RAIN } }];
const cases = {
  "models are listed": async () => assert.equal((await client.models.list()).data[0].id, MODEL),
  "a model is found": async () => assert.equal((await client.models.retrieve(MODEL)).object, "model"),
  "an unknown model is not found": () => refused(404, "no model", () => client.models.retrieve("other")),
  "a sum": async () => assert.equal(text(await chat()), ANSWER),
  "it ends by itself": async () => assert.equal((await chat()).choices[0].finish_reason, "stop"),
  "usage adds up": async () => {
    const { usage } = await chat();
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  },
  "cached tokens are said": async () => {
    await chat("How much is 92 minus 58?");
    const { usage } = await chat("How much is 92 minus 58?");
    assert.equal(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens - 1);
  },
  "a system prompt is read": async () => {
    const more = await chat(SUM, { messages: [{ role: "system", content: "Be brief." }, ...user(SUM)] });
    assert.ok(more.usage.prompt_tokens > (await chat()).usage.prompt_tokens);
  },
  "content in parts": async () => {
    const parts = [{ type: "text", text: "What is " }, { type: "text", text: "7 + 5?" }];
    assert.equal(text(await chat(SUM, { messages: [{ role: "user", content: parts }] })), ANSWER);
  },
  "a conversation goes on": async () => {
    const messages = [...user(SUM), { role: "assistant", content: ANSWER }, ...user("What is 48 + 37?")];
    assert.ok(text(await chat(SUM, { messages })).includes("85"));
  },
  "a stream": async () => assert.equal(said(await all(chat(SUM, { stream: true }))), ANSWER),
  "a stream begins with a role": async () =>
    assert.equal((await all(chat(SUM, { stream: true })))[0].choices[0].delta.role, "assistant"),
  "a stream ends with a reason": async () =>
    assert.equal((await all(chat(SUM, { stream: true }))).at(-1).choices[0].finish_reason, "stop"),
  "a stream with usage": async () => {
    const last = (await all(chat(SUM, { stream: true, stream_options: { include_usage: true } }))).at(-1);
    assert.deepEqual(last.choices, []);
    assert.ok(last.usage.total_tokens > 10);
  },
  "a stream with the helper": async () => {
    const runner = client.chat.completions.stream({ model: MODEL, messages: user(SUM), temperature: 0 });
    assert.equal(await runner.finalContent(), ANSWER);
  },
  "timings come with the end": async () =>
    assert.ok((await all(chat(SUM, { stream: true }))).at(-1).timings.predicted_per_second > 0),
  "a stream left early": async () => {
    const stream = await chat(STORY, { stream: true, logit_bias: { 1021: -100, 1023: -100 } });
    for await (const _ of stream) break;
    assert.equal(text(await chat()), ANSWER);
  },
  "a request aborted": async () => {
    const abort = new AbortController();
    const asked = client.chat.completions.create(
      { model: MODEL, messages: user(STORY), n: 16, logit_bias: { 1021: -100, 1023: -100 } }, { signal: abort.signal });
    setTimeout(() => abort.abort(), 20);
    await assert.rejects(asked);
    assert.equal(text(await chat()), ANSWER);
  },
  "max_tokens": async () => {
    const answer = await chat(STORY, { max_tokens: 5 });
    assert.equal(answer.usage.completion_tokens, 5);
    assert.equal(answer.choices[0].finish_reason, "length");
  },
  "max_completion_tokens": async () =>
    assert.equal((await chat(STORY, { max_completion_tokens: 6 })).usage.completion_tokens, 6),
  "one stop": async () => assert.equal(text(await chat(STORY, { stop: "learn to" })), text(await chat(STORY)).split("learn to")[0]),
  "several stops": async () =>
    assert.equal(text(await chat(STORY, { stop: ["nowhere", "learn to"] })), text(await chat(STORY)).split("learn to")[0]),
  "stops in a stream": async () =>
    assert.equal(said(await all(chat(STORY, { stop: "learn to", stream: true }))), text(await chat(STORY, { stop: "learn to" }))),
  "several choices": async () =>
    assert.deepEqual((await chat(SUM, { n: 3 })).choices.map((c) => c.message.content), [ANSWER, ANSWER, ANSWER]),
  "several choices in a stream": async () => {
    const chunks = await all(chat(SUM, { n: 2, stream: true }));
    assert.deepEqual([said(chunks, 0), said(chunks, 1)], [ANSWER, ANSWER]);
  },
  "a seed repeats": async () => {
    const ask = async () => text(await chat(STORY, { temperature: 1.5, seed: 7, max_tokens: 30 }));
    assert.equal(await ask(), await ask());
  },
  "choices are seeds in a row": async () => {
    const hot = { temperature: 1.5, max_tokens: 20 };
    const many = await chat(STORY, { seed: 11, n: 2, ...hot });
    assert.equal(many.choices[1].message.content, text(await chat(STORY, { seed: 12, ...hot })));
  },
  "top_p of zero is the best": async () => assert.equal(text(await chat(SUM, { temperature: 2, top_p: 0 })), ANSWER),
  "fields beyond OpenAI": async () => assert.equal(text(await chat(SUM, { temperature: 2, top_k: 1 })), ANSWER),
  "penalties change answers": async () =>
    assert.notEqual(text(await chat(SUM, { presence_penalty: 2, frequency_penalty: 2, repeat_penalty: 3 })), ANSWER),
  "a bias forbids": async () => {
    const [seven] = await tokens("7");
    assert.ok(!text(await chat(SUM, { logit_bias: { [seven]: -100 } })).includes("7"));
  },
  "logprobs": async () => {
    const { content } = (await chat(SUM, { logprobs: true, top_logprobs: 2 })).choices[0].logprobs;
    assert.equal(Buffer.from(content.flatMap((t) => t.bytes)).toString(), ANSWER);
    assert.ok(content.every((t) => t.logprob <= 0 && t.top_logprobs.length === 2));
  },
  "logprobs in a stream": async () => {
    const chunks = await all(chat(SUM, { logprobs: true, stream: true }));
    assert.equal(chunks.flatMap((k) => k.choices[0]?.logprobs?.content ?? []).map((t) => t.token).join(""), ANSWER);
  },
  "a completion": async () => assert.equal((await complete()).object, "text_completion"),
  "a completion of tokens": async () =>
    assert.equal((await complete(await tokens("Once upon a"))).choices[0].text, (await complete()).choices[0].text),
  "completions of several prompts": async () => {
    const both = await complete(["Once upon a", "def add"]);
    assert.equal(both.choices[1].text, (await complete("def add")).choices[0].text);
  },
  "a completion in a stream": async () => {
    const chunks = await all(complete("Once upon a", { stream: true }));
    assert.equal(chunks.map((k) => k.choices[0].text).join(""), (await complete()).choices[0].text);
  },
  "a completion with logprobs": async () => {
    const [choice] = (await complete("Once upon a", { logprobs: 3 })).choices;
    assert.equal(choice.logprobs.tokens.join(""), choice.text);
  },
  "another model is 404": () => refused(404, "no model", () => chat(SUM, { model: "gpt-4o" })),
  "a wrong temperature is 400": async () =>
    assert.equal((await refused(400, "temperature", () => chat(SUM, { temperature: -1 }))).param, "temperature"),
  "an unknown field is 400": () => refused(400, "tempo", () => chat(SUM, { tempo: 1 })),
  "json": async () => {
    const answer = await chat("An example?", { response_format: { type: "json_object" }, seed: 1 });
    assert.equal(typeof JSON.parse(text(answer)), "object");
  },
  "a schema": async () => {
    const schema = { type: "object", properties: { age: { type: "integer", maximum: 99 } }, required: ["age"], additionalProperties: false };
    const format = { type: "json_schema", json_schema: { name: "x", schema, strict: true } };
    assert.ok(JSON.parse(text(await chat("An example?", { response_format: format }))).age <= 99);
  },
  "a schema not supported is 400": () => {
    const format = { type: "json_schema", json_schema: { name: "x", schema: { type: "array", uniqueItems: true } } };
    return refused(400, "uniqueItems", () => chat(SUM, { response_format: format }));
  },
  "a grammar": async () => assert.equal(text(await chat(SUM, { grammar: 'root ::= "z"' })), "z"),
  "a tool": async () => {
    const answer = await chat("Rain?", { tools: TOOLS, tool_choice: "required", parallel_tool_calls: false });
    const [choice] = answer.choices;
    assert.equal(choice.finish_reason, "tool_calls");
    assert.ok(["Oslo", "Rome"].includes(JSON.parse(choice.message.tool_calls[0].function.arguments).city));
  },
  "a tool in a stream": async () => {
    const asked = { model: MODEL, messages: user("Rain?"), tools: TOOLS, tool_choice: "required", temperature: 0 };
    const whole = await client.chat.completions.stream({ ...asked, parallel_tool_calls: false }).finalChatCompletion();
    const [call] = whole.choices[0].message.tool_calls;
    assert.ok(["Oslo", "Rome"].includes(JSON.parse(call.function.arguments).city));
  },
  "too long is 400": async () =>
    assert.equal((await refused(400, "context", () => chat("word ".repeat(3000)))).code, "context_length_exceeded"),
  "a response": async () => {
    const response = await client.responses.create({ model: MODEL, input: SUM, temperature: 0 });
    assert.equal(response.output_text, ANSWER);
  },
  "a response in a stream": async () => {
    const events = await all(client.responses.create({ model: MODEL, input: SUM, temperature: 0, stream: true }));
    assert.equal(events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join(""), ANSWER);
    assert.equal(events.at(-1).type, "response.completed");
  },
  "a response of before is 400": () =>
    refused(400, "previous_response_id", () =>
      client.responses.create({ model: MODEL, input: SUM, previous_response_id: "resp_1" })),
  "many at once": async () => {
    const answers = await Promise.all(Array.from({ length: 32 }, (_, i) => chat(i % 2 ? SUM : "What is 48 + 37?")));
    answers.forEach((answer, i) => assert.equal(text(answer), i % 2 ? ANSWER : "48 + 37 = 85."));
  },
};

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  const started = performance.now();
  let verdict = "ok";
  try { await run(); } catch (e) { failed += 1; verdict = "FAILED " + e; }
  console.log(`${name.padEnd(34)} ${((performance.now() - started) / 1000).toFixed(2).padStart(6)} s  ${verdict}`);
}
const { version } = createRequire(found)("./package.json");
console.log(`${Object.keys(cases).length} cases with openai ${version} (Node), ${failed} failed`);
process.exit(failed ? 1 : 0);
