//! How answers look: OpenAI's objects for chats and for completions, whole and in chunks.

use super::ask::{Usage, Way};
use super::queue::Ended;
use crate::engine::text::TextStream;
use crate::engine::{Engine, Finish, Piece, Stats, Token};
use serde_json::{Map, Value, json};

/// OpenAI's stand-in for minus infinity, which JSON has not.
const LEAST_LOGPROB: f32 = -9999.0;

/// What all parts of one response have in common.
pub struct Shape {
    pub way: Way,
    engine: Engine,
    id: String,
    created: u64,
    model: String,
    /// Every chunk names `usage`, null but in the last.
    include_usage: bool,
    choices: Vec<Choice>,
}

/// One choice as far as it has come.
#[derive(Default)]
struct Choice {
    text: String,
    tokens: Vec<Token>,
    ended: Option<Ended>,
    /// Characters of the tokens so far, for the offsets of completions.
    stream: TextStream,
    characters: usize,
}

impl Shape {
    pub fn new(way: Way, engine: Engine, model: &str, created: u64, choices: usize, include_usage: bool) -> Shape {
        let prefix = if way == Way::Chat { "chatcmpl" } else { "cmpl" };
        let choices = (0..choices).map(|_| Choice::default()).collect();
        let id = format!("{prefix}-{}", super::unique());
        Shape { way, engine, id, created, model: model.to_string(), include_usage, choices }
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
    pub fn piece(&mut self, index: usize, piece: &Piece) -> Value {
        let logprobs = self.logprobs(index, &piece.tokens);
        let choice = match self.way {
            Way::Chat => {
                json!({ "index": index, "delta": { "content": piece.text }, "logprobs": logprobs, "finish_reason": null })
            }
            Way::Completion => {
                json!({ "index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": null })
            }
        };
        Value::Object(self.chunk(choice))
    }

    /// The last chunk of a choice.
    pub fn ended(&mut self, index: usize, ended: Ended) -> Value {
        self.choices[index].ended = Some(ended);
        let reason = reason(ended.finish);
        let choice = match self.way {
            Way::Chat => json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": reason }),
            Way::Completion => json!({ "index": index, "text": "", "logprobs": null, "finish_reason": reason }),
        };
        let mut chunk = self.chunk(choice);
        chunk.insert("timings".into(), timings(&ended.stats));
        Value::Object(chunk)
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
        choice.text.push_str(&piece.text);
        choice.tokens.extend(piece.tokens);
    }

    pub fn keep_end(&mut self, index: usize, ended: Ended) {
        self.choices[index].ended = Some(ended);
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
        Value::Object(object)
    }

    fn whole_choice(&mut self, index: usize) -> Value {
        let tokens = std::mem::take(&mut self.choices[index].tokens);
        let logprobs = self.logprobs(index, &tokens);
        let choice = &mut self.choices[index];
        let text = std::mem::take(&mut choice.text);
        let reason = reason(choice.ended.map_or(Finish::Interrupted, |ended| ended.finish));
        match self.way {
            Way::Chat => {
                let message = json!({ "role": "assistant", "content": text, "refusal": null });
                json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": reason })
            }
            Way::Completion => json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason }),
        }
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
        if tokens.iter().all(|token| token.logprobs.is_none()) {
            return Value::Null;
        }
        match self.way {
            Way::Chat => {
                let content: Vec<Value> = tokens.iter().map(|token| self.chat_logprob(token)).collect();
                json!({ "content": content, "refusal": null })
            }
            Way::Completion => self.completion_logprobs(index, tokens),
        }
    }

    /// A token as text: what is no character by itself shows as U+FFFD, its bytes say what it is.
    fn token(&self, id: u32) -> (String, &[u8]) {
        let bytes = self.engine.text().spelling(id);
        (String::from_utf8_lossy(bytes).into_owned(), bytes)
    }

    fn chat_logprob(&self, token: &Token) -> Value {
        let one = |id: u32, logprob: f32| {
            let (text, bytes) = self.token(id);
            json!({ "token": text, "logprob": logprob.max(LEAST_LOGPROB), "bytes": bytes })
        };
        let Some(said) = &token.logprobs else { return Value::Null };
        let mut value = one(token.id, said.chosen);
        value["top_logprobs"] = said.top.iter().map(|(id, logprob)| one(*id, *logprob)).collect();
        value
    }

    fn completion_logprobs(&mut self, index: usize, tokens: &[Token]) -> Value {
        let (mut texts, mut chosen, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for token in tokens {
            let Some(said) = &token.logprobs else { continue };
            let choice = &mut self.choices[index];
            offsets.push(choice.characters);
            choice.characters += choice.stream.push(self.engine.text().piece(token.id)).chars().count();
            texts.push(self.token(token.id).0);
            chosen.push(said.chosen.max(LEAST_LOGPROB));
            let top = said.top.iter().map(|(id, logprob)| (self.token(*id).0, json!(logprob.max(LEAST_LOGPROB))));
            tops.push(Value::Object(top.collect()));
        }
        json!({ "tokens": texts, "token_logprobs": chosen, "top_logprobs": tops, "text_offset": offsets })
    }
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop | Finish::Complete => "stop",
        Finish::Length | Finish::ContextFull | Finish::Interrupted => "length",
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
