//! How answers look: OpenAI's objects for chats and for completions, whole and in chunks.

use super::ask::{Ask, Usage, Way};
use super::choice::{Call, Choice, Reason};
use super::offers::{self, Renamed};
use super::queue::Ended;
use super::talk::{Calling, Part};
use crate::engine::sampler::Logprobs;
use crate::engine::text::TextStream;
use crate::engine::{Engine, Piece, Stats, Token};
use serde_json::{Map, Value, json};

/// OpenAI's stand-in for minus infinity, which JSON has not.
const LEAST_LOGPROB: f32 = -9999.0;

/// What every response says of itself.
pub struct Head {
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
}

/// What all parts of one response have in common.
pub struct Shape {
    way: Way,
    engine: Engine,
    id: String,
    created: u64,
    model: String,
    /// Every chunk names `usage`, null but in the last.
    include_usage: bool,
    /// Probabilities are those of prompts too, of whose first token nothing is said.
    judges: bool,
    choices: Vec<Choice>,
    /// For each choice of completions: the characters of its tokens so far, since their offsets are told.
    offsets: Vec<(TextStream, usize)>,
    calls: Calling,
    /// For each choice, what is still to be said before its text.
    before: Vec<String>,
    /// Tools the model knows as others.
    renamed: Vec<Renamed>,
}

impl Shape {
    pub fn new(way: Way, engine: Engine, head: Head, ask: &Ask) -> Shape {
        let (choices, n) = (ask.jobs(), ask.batch.n);
        let before = (0..choices).map(|choice| ask.before.get(choice / n).cloned().unwrap_or_default()).collect();
        let prefix = if way == Way::Chat { "chatcmpl" } else { "cmpl" };
        let id = format!("{prefix}-{}", super::unique());
        let Head { created, model } = head;
        let offsets = (0..choices).map(|_| Default::default()).collect();
        let choices = (0..choices).map(|_| Choice::new(ask.calls)).collect();
        let (include_usage, judges, calls) = (ask.include_usage, ask.batch.limits.judge_prompt, ask.calls);
        let renamed = ask.renamed.clone();
        Shape { way, engine, id, created, model, include_usage, judges, choices, offsets, calls, before, renamed }
    }

    fn object(&self, kind: &str, choices: Vec<Value>) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("id".into(), json!(self.id));
        object.insert("object".into(), json!(kind));
        object.insert("created".into(), json!(self.created));
        object.insert("model".into(), json!(self.model));
        object.insert("system_fingerprint".into(), json!(super::FINGERPRINT));
        object.insert("choices".into(), Value::Array(choices));
        object
    }

    fn chunk(&self, choice: Value) -> Map<String, Value> {
        let kind = if self.way == Way::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = self.object(kind, vec![choice]);
        if self.include_usage {
            chunk.insert("usage".into(), Value::Null);
        }
        chunk
    }

    /// What a stream says before anything is written.
    pub fn opening(&self) -> Vec<Value> {
        let open = |index: usize| json!({ "index": index, "delta": { "role": "assistant", "content": "" }, "logprobs": null, "finish_reason": null });
        match self.way {
            Way::Chat => (0..self.choices.len()).map(|index| Value::Object(self.chunk(open(index)))).collect(),
            Way::Completion => Vec::new(),
        }
    }

    /// One piece of a stream.
    pub fn piece(&mut self, index: usize, piece: &Piece) -> Vec<Value> {
        let mut logprobs = self.logprobs(index, &piece.tokens);
        let parts = self.choices[index].take(&piece.text);
        if self.way == Way::Completion {
            let text = std::mem::take(&mut self.before[index]) + &piece.text;
            let choice = json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": null });
            return vec![Value::Object(self.chunk(choice))];
        }
        let mut deltas = self.deltas(index, &parts);
        if deltas.is_empty() && (self.calls == Calling::No || !logprobs.is_null()) {
            deltas.push(json!({ "content": "" }));
        }
        let chunk = |delta: Value| {
            let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs.take(), "finish_reason": null });
            Value::Object(self.chunk(choice))
        };
        deltas.into_iter().map(chunk).collect()
    }

    /// Whether it is a tool that takes free text, which the model knows as a function.
    fn takes_text(&self, call: &Call) -> bool {
        offers::behind(&self.renamed, &call.name).is_some_and(|tool| tool.custom)
    }

    /// A call, with as much of its arguments as is there.
    fn called(&self, call: &Call, arguments: &str) -> Value {
        let (id, tool) = (&call.id, offers::behind(&self.renamed, &call.name));
        let name = tool.map_or(&call.name, |tool| &tool.name);
        match tool.is_some_and(|tool| tool.custom) {
            true => {
                json!({ "id": id, "type": "custom", "custom": { "name": name, "input": offers::input(arguments) } })
            }
            false => json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }),
        }
    }

    /// The text of a call in a stream.
    fn text_delta(&self, at: usize, call: &Call) -> Value {
        json!({ "tool_calls": [{ "index": at, "custom": { "input": offers::input(&call.arguments) } }] })
    }

    /// What parts of a choice, the last it took, are in a stream.
    fn deltas(&self, index: usize, parts: &[Part]) -> Vec<Value> {
        let begun = parts.iter().filter(|part| matches!(part, Part::Call(_))).count();
        let calls = &self.choices[index].calls;
        let mut next = calls.len() - begun;
        let mut delta = |part: &Part| match part {
            Part::Text(text) => Some(json!({ "content": text })),
            Part::Call(_) => {
                next += 1;
                let mut call = self.called(&calls[next - 1], "");
                call["index"] = json!(next - 1);
                Some(json!({ "tool_calls": [call] }))
            }
            Part::Arguments(more) if !self.takes_text(&calls[next - 1]) => {
                Some(json!({ "tool_calls": [{ "index": next - 1, "function": { "arguments": more } }] }))
            }
            // Told when it is whole: it is JSON, and the text is not.
            Part::Called if self.takes_text(&calls[next - 1]) => Some(self.text_delta(next - 1, &calls[next - 1])),
            Part::Arguments(_) | Part::Called => None,
        };
        parts.iter().filter_map(&mut delta).collect()
    }

    /// The last chunks of a choice.
    pub fn ended(&mut self, index: usize, ended: Ended) -> Vec<Value> {
        let parts = self.choices[index].end(ended);
        let reason = reason(self.choices[index].reason());
        let rest = |delta: Value| json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null });
        let mut choices: Vec<Value> = Vec::new();
        match self.way {
            Way::Chat => {
                let cut = self.choices[index].cut().filter(|call| self.takes_text(call));
                let cut = cut.map(|call| self.text_delta(self.choices[index].calls.len() - 1, call));
                choices.extend(self.deltas(index, &parts).into_iter().chain(cut).map(rest));
                choices.push(json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": reason }));
            }
            Way::Completion => {
                let text = std::mem::take(&mut self.before[index]);
                choices.push(json!({ "index": index, "text": text, "logprobs": null, "finish_reason": reason }))
            }
        }
        let mut chunks: Vec<Value> = choices.into_iter().map(|choice| Value::Object(self.chunk(choice))).collect();
        if let Some(last) = chunks.last_mut() {
            last["timings"] = timings(&ended.stats);
            last["id_slot"] = json!(ended.slot);
        }
        chunks
    }

    /// The chunk after all others, if it was asked for. `n`: choices of one prompt.
    pub fn closing(&self, n: usize) -> Option<Value> {
        self.include_usage.then(|| {
            let kind = if self.way == Way::Chat { "chat.completion.chunk" } else { "text_completion" };
            let mut chunk = self.object(kind, Vec::new());
            chunk.insert("usage".into(), self.usage(n));
            Value::Object(chunk)
        })
    }

    /// Keeps a piece for [`whole`](Shape::whole).
    pub fn keep(&mut self, index: usize, piece: Piece) {
        let choice = &mut self.choices[index];
        choice.take(&piece.text);
        choice.tokens.extend(piece.tokens);
    }

    pub fn keep_end(&mut self, index: usize, ended: Ended) {
        self.choices[index].end(ended);
    }

    /// The response to a request that did not ask for a stream. `n`: choices of one prompt.
    pub fn whole(&mut self, n: usize) -> Value {
        let choices = (0..self.choices.len()).map(|index| self.whole_choice(index)).collect();
        let kind = if self.way == Way::Chat { "chat.completion" } else { "text_completion" };
        let mut object = self.object(kind, choices);
        object.insert("usage".into(), self.usage(n));
        let mut total = Stats::default();
        for ended in self.choices.iter().filter_map(|choice| choice.ended.as_ref()) {
            add(&mut total, &ended.stats);
        }
        object.insert("timings".into(), timings(&total));
        let slot = self.choices.first().and_then(|choice| choice.ended.as_ref()).map(|ended| ended.slot);
        object.insert("id_slot".into(), json!(slot));
        Value::Object(object)
    }

    fn whole_choice(&mut self, index: usize) -> Value {
        let tokens = std::mem::take(&mut self.choices[index].tokens);
        let logprobs = self.logprobs(index, &tokens);
        let choice = &self.choices[index];
        let text = std::mem::take(&mut self.before[index]) + &choice.text;
        let reason = reason(choice.reason());
        if self.way == Way::Completion {
            return json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason });
        }
        let mut message = json!({ "role": "assistant", "content": text, "refusal": null });
        if !choice.calls.is_empty() {
            if text.is_empty() {
                message["content"] = Value::Null;
            }
            message["tool_calls"] = choice.calls.iter().map(|call| self.called(call, &call.arguments)).collect();
        }
        json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": reason })
    }

    fn usage(&self, n: usize) -> Value {
        let mut usage = Usage::default();
        for (index, choice) in self.choices.iter().enumerate() {
            if let Some(ended) = &choice.ended {
                usage.add(&ended.stats, index % n == 0);
            }
        }
        json!({
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
            "prompt_tokens_details": { "cached_tokens": usage.cached },
        })
    }

    /// Null unless they were asked for.
    fn logprobs(&mut self, index: usize, tokens: &[Token]) -> Value {
        if tokens.is_empty() || !self.judges && tokens.iter().all(|token| token.logprobs.is_none()) {
            return Value::Null;
        }
        match self.way {
            Way::Chat => {
                let content: Vec<Value> = tokens.iter().map(|token| logprob(&self.engine, token)).collect();
                json!({ "content": content, "refusal": null })
            }
            Way::Completion => self.completion_logprobs(index, tokens),
        }
    }

    fn completion_logprobs(&mut self, index: usize, tokens: &[Token]) -> Value {
        let (mut texts, mut chosen, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for token in tokens {
            let (stream, characters) = &mut self.offsets[index];
            offsets.push(*characters);
            *characters += stream.push(self.engine.text().piece(token.id)).chars().count();
            texts.push(spelt(&self.engine, token.id).0);
            // Nothing is said of a prompt's first token, which nothing came before.
            let said = token.logprobs.as_ref();
            let log = |logprob: f32| json!(logprob.max(LEAST_LOGPROB));
            chosen.push(said.map_or(Value::Null, |said| log(said.chosen)));
            let top =
                |said: &Logprobs| said.top.iter().map(|(id, one)| (spelt(&self.engine, *id).0, log(*one))).collect();
            tops.push(said.map_or(Value::Null, |said| Value::Object(top(said))));
        }
        json!({ "tokens": texts, "token_logprobs": chosen, "top_logprobs": tops, "text_offset": offsets })
    }
}

/// A token as text: what is no character by itself shows as U+FFFD, its bytes say what it is.
fn spelt(engine: &Engine, id: u32) -> (String, &[u8]) {
    let bytes = engine.text().spelling(id);
    (String::from_utf8_lossy(bytes).into_owned(), bytes)
}

/// A token of a chat with what the model thought of it; null where nobody asked.
pub fn logprob(engine: &Engine, token: &Token) -> Value {
    let one = |id: u32, logprob: f32| {
        let (text, bytes) = spelt(engine, id);
        json!({ "token": text, "logprob": logprob.max(LEAST_LOGPROB), "bytes": bytes })
    };
    let Some(said) = &token.logprobs else { return Value::Null };
    let mut value = one(token.id, said.chosen);
    value["top_logprobs"] = said.top.iter().map(|(id, logprob)| one(*id, *logprob)).collect();
    value
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::End | Reason::Stop(_) => "stop",
        Reason::Calls => "tool_calls",
        Reason::Length => "length",
    }
}

fn add(total: &mut Stats, stats: &Stats) {
    total.prompt_tokens += stats.prompt_tokens;
    total.reused_tokens += stats.reused_tokens;
    total.prompt_seconds += stats.prompt_seconds;
    total.decode_tokens += stats.decode_tokens;
    total.decode_steps += stats.decode_steps;
    total.step_tokens += stats.step_tokens;
    total.drafted += stats.drafted;
    total.accepted += stats.accepted;
    total.decode_seconds += stats.decode_seconds;
    total.landed_tokens += stats.landed_tokens;
}

/// llama.cpp's object. The first token of an answer comes out of the prompt's last step, so speeds count what came after.
fn timings(stats: &Stats) -> Value {
    let each = |seconds: f64, count: usize| if count == 0 { 0.0 } else { seconds * 1e3 / count as f64 };
    let speed = |seconds: f64, count: usize| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    json!({
        "cache_n": stats.reused_tokens,
        "prompt_n": stats.prompt_tokens,
        "prompt_ms": stats.prompt_seconds * 1e3,
        "prompt_per_token_ms": each(stats.prompt_seconds, stats.prompt_tokens),
        "prompt_per_second": speed(stats.prompt_seconds, stats.prompt_tokens),
        "predicted_n": stats.decode_tokens,
        "landed_n": stats.landed_tokens,
        "predicted_ms": stats.decode_seconds * 1e3,
        "predicted_per_token_ms": each(stats.decode_seconds, stats.step_tokens),
        "predicted_per_second": speed(stats.decode_seconds, stats.step_tokens),
        "draft_n": stats.drafted,
        "draft_n_accepted": stats.accepted,
    })
}
