// A question, answered word by word, with OpenAI's package: npm install openai.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: (process.env.THERMOCLINE_URL ?? "http://127.0.0.1:8080") + "/v1",
  apiKey: process.env.THERMOCLINE_KEY ?? "none",
});
const model = (await client.models.list()).data[0].id;
const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "Tell me a story about a fox." }],
  stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0].delta.content ?? "");
console.log();
