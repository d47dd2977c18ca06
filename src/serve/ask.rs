//! What a request for an answer asks: every field read, or refused by name.

use super::failure::{Failure, Names, Outcome};
use super::fields::Fields;
use super::offers::Renamed;
use super::queue::Batch;
use super::talk::Calling;
use super::{Served, Settings, conversation, form, hold, tools};
use crate::engine::sampler::{Sampler, Sampling};
use crate::engine::stops::Stops;
use crate::engine::{Limits, Stats};
use serde_json::Value;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

/// Answers to one prompt, prompts in one request, and alternatives named with each token.
const MOST_CHOICES: usize = 16;
const MOST_PROMPTS: usize = 64;
const MOST_LOGPROBS: usize = 20;
/// Probabilities of prompts that one request may ask for: a few hundred bytes of JSON each.
const MOST_JUDGED: usize = 1 << 19;
/// OpenAI's default for plain completions.
const COMPLETION_TOKENS: usize = 16;

/// Fields that say nothing about the answer: beginnings are kept for whoever has the same, and samplers that are off have
/// nothing to be tuned.
const HARMLESS: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "cache_prompt",
    "mirostat_tau",
    "mirostat_eta",
    "dynatemp_exponent",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "xtc_threshold",
];

/// Features of other servers that are not there, and what turns them off.
const OFF: &[(&str, &str)] = &[
    ("id_slot", "-1"),
    ("timings_per_token", "false"),
    ("return_progress", "false"),
    ("return_tokens", "false"),
    ("typical_p", "1"),
    ("tfs_z", "1"),
    ("top_a", "0"),
    ("top_n_sigma", "-1"),
    ("mirostat", "0"),
    ("dynatemp_range", "0"),
    ("dry_multiplier", "0"),
    ("xtc_probability", "0"),
    ("min_tokens", "0"),
    ("min_keep", "0"),
    ("n_keep", "0"),
    ("n_probs", "0"),
    ("post_sampling_probs", "false"),
    ("t_max_predict_ms", "0"),
    ("lora", "[]"),
    ("length_penalty", "1"),
    ("use_beam_search", "false"),
    ("skip_special_tokens", "true"),
    ("spaces_between_special_tokens", "true"),
    ("include_stop_str_in_output", "false"),
    ("stop_token_ids", "[]"),
    ("add_generation_prompt", "true"),
    ("enable_thinking", "false"),
    ("function_call", "\"none\""),
];

/// How much to think beforehand, and how many words to make: this model does not think, and is as it is.
pub const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];
pub const VERBOSITIES: &[&str] = &["low", "medium", "high"];

const TOOLS: &str = "tools are called by tools and tool_choice";
pub const WORDS_ONLY: &str = "this model reads and writes text only";

/// Features of the API that are not there.
const MISSING: &[(&str, &str)] = &[
    ("functions", TOOLS),
    ("structured_outputs", "response_format is"),
    ("audio", WORDS_ONLY),
    ("prediction", "predicted outputs are not built"),
];

/// The same, of which an empty object asks for something too.
const EVEN_EMPTY: &[(&str, &str)] =
    &[("guided_json", "response_format is"), ("web_search_options", "there is no web search")];

/// A request that made sense.
pub struct Ask {
    pub batch: Batch,
    pub stream: bool,
    /// The last chunk of a stream says what it cost.
    pub include_usage: bool,
    /// Where the answer may hold calls of functions.
    pub calls: Calling,
    /// What the response repeats of the request, where it does.
    pub echo: Value,
    /// What comes before the answers to each prompt: the prompt, where it is to be repeated.
    pub before: Vec<String>,
    /// Tools that agents offer of themselves and nobody here could run: the model was not told of them.
    pub left_out: Vec<&'static str>,
    /// Those that the model knows by another name.
    pub renamed: Vec<Renamed>,
}

/// A request of another API as a chat.
pub struct Translated {
    pub fields: Fields,
    /// What its fields are called in that API.
    pub names: Names,
    pub left_out: Vec<&'static str>,
    pub renamed: Vec<Renamed>,
}

/// Which of the two ways to ask.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Chat,
    Completion,
}

impl Ask {
    /// Reads a body to its last field, renders and tokenises. Takes a while for a long prompt.
    pub fn read(settings: &Settings, served: &Served, way: Way, mut fields: Fields, arrived: Instant) -> Outcome<Ask> {
        model(&mut fields, served)?;
        fields.ignore(HARMLESS);
        fields.refuse(MISSING)?;
        for (field, why) in EVEN_EMPTY {
            if fields.take(field).is_some() {
                return Err(Failure::field(*field, format!("is not supported: {why}")));
            }
        }
        fields.off(OFF)?;
        fields.wish("reasoning_effort", EFFORTS)?;
        fields.wish("verbosity", VERBOSITIES)?;
        if let Some(mut more) = fields.object("chat_template_kwargs")? {
            more.off(&[("enable_thinking", "false"), ("thinking", "false")])?;
            more.end()?;
        }
        match fields.text("reasoning_format")?.as_deref() {
            None | Some("auto" | "none") => {}
            Some(_) => {
                return Err(Failure::field("reasoning_format", "is neither \"auto\" nor \"none\": nothing is thought"));
            }
        }
        let mut asked = form::asked(&mut fields)?;
        let stream = fields.flag("stream")?.unwrap_or(false);
        let include_usage = stream_options(&mut fields, stream)?;
        let n = fields.whole("n", 1..=MOST_CHOICES)?.unwrap_or(1);
        let max_tokens = max_tokens(&mut fields, way)?;
        let mut stop = stop(&mut fields)?;
        Stops::new(&stop).map_err(|e| Failure::from(e).of("stop"))?;
        let logprobs = logprobs(&mut fields, way)?;
        let guesses = fields.whole("speculative.n_max", 0..=usize::MAX)?;
        let on = fields.flag("ignore_eos")?.unwrap_or(false);
        let mut sampling = sampling(&mut fields, settings, served)?;
        if on {
            sampling.logit_bias.extend(served.engine.text().eos().iter().map(|&id| (id, f32::NEG_INFINITY)));
        }
        let mut calls = Calling::No;
        let mut grammar = None;
        let (mut repeat, mut renamed) = (false, Vec::new());
        let prompts = match way {
            Way::Chat => {
                modalities(&mut fields)?;
                let tools = tools::read(&mut fields)?;
                renamed = tools.renamed;
                let messages = conversation::messages(&mut fields)?;
                let goes_on = if conversation::goes_on(&messages) { "true" } else { "false" };
                fields.off(&[("best_of", "1"), ("continue_final_message", goes_on)])?;
                fields.end()?;
                if let Some(mut wanted) = tools.calls {
                    calls = if asked.is_some() { Calling::Instead } else { Calling::Anywhere };
                    wanted.otherwise = asked.take().map(form::json).transpose()?;
                    if wanted.required {
                        stop.clear(); // they are for text, and there will be none
                    }
                    grammar = Some(hold::calls(wanted, &tools.strict, served)?);
                }
                vec![conversation::rendered(served, &messages, &tools.shown)?]
            }
            Way::Completion => {
                if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
                    let why = "is not supported: filling a gap is nothing this model was trained for";
                    return Err(Failure::field("suffix", why));
                }
                repeat = fields.flag("echo")?.unwrap_or(false);
                if fields.whole("best_of", 1..=MOST_CHOICES)?.is_some_and(|best| best != n) {
                    return Err(Failure::field("best_of", "other than n is not supported"));
                }
                let prompts = prompts(&mut fields, served)?;
                fields.end()?;
                prompts
            }
        };
        if let Some(asked) = asked {
            grammar = Some(form::compile(&asked, served)?);
        }
        if on && grammar.is_some() {
            return Err(Failure::field(
                "ignore_eos",
                "makes no sense with a form or with tools: where they end, all ends",
            ));
        }
        let context = served.engine.context();
        if let Some(long) = prompts.iter().find(|prompt| prompt.len() > context) {
            return Err(Failure::too_long(long.len(), context));
        }
        let judge_prompt = repeat && logprobs.is_some();
        let judged = prompts.iter().map(Vec::len).sum::<usize>() * n * (1 + logprobs.unwrap_or(0));
        if judge_prompt && judged > MOST_JUDGED {
            let problem =
                format!("asks for {judged} probabilities of prompts; at most {MOST_JUDGED} are given at a time");
            return Err(Failure::field("logprobs", problem));
        }
        let limits = Limits { max_tokens, stop, grammar, guesses, judge_prompt, interrupt: None };
        let text = served.engine.text();
        let led = |prompt: &[u32]| usize::from(text.leading().is_some_and(|id| prompt.first() == Some(&id)));
        let before = match repeat {
            true => prompts.iter().map(|prompt| text.decode(&prompt[led(prompt)..])).collect(),
            false => Vec::new(),
        };
        // What the engine would refuse later is refused before a stream begins, as stops were above.
        Sampler::new(&sampling, text.limit())?;
        let prompts = prompts.into_iter().map(Arc::from).collect();
        Ok(Ask {
            batch: Batch { prompts, n, sampling, limits, logprobs, arrived },
            stream,
            include_usage,
            calls,
            echo: Value::Null,
            before,
            left_out: Vec::new(),
            renamed,
        })
    }

    /// Answers it needs.
    pub fn jobs(&self) -> usize {
        self.batch.prompts.len() * self.batch.n
    }
}

/// The model named is the one served, or none is named.
pub fn model(fields: &mut Fields, served: &Served) -> Outcome<()> {
    match fields.text("model")? {
        Some(asked) if !served.answers_to(&asked) => {
            let shown: String = asked.chars().take(128).collect();
            Err(Failure::no_model(&shown, &served.id))
        }
        _ => Ok(()),
    }
}

fn stream_options(fields: &mut Fields, stream: bool) -> Outcome<bool> {
    let Some(mut options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(Failure::field("stream_options", "makes sense only with \"stream\": true"));
    }
    let usage = options.flag("include_usage")?.unwrap_or(false);
    options.ignore(&["include_obfuscation"]);
    options.end().map(|()| usage)
}

/// `max_completion_tokens` is what `max_tokens` is called now, `n_predict` what llama.cpp calls it, where -1 has no bound; of all
/// the smallest counts.
fn max_tokens(fields: &mut Fields, way: Way) -> Outcome<Option<usize>> {
    let mut said = None;
    for name in ["max_completion_tokens", "max_tokens", "n_predict"] {
        // A completion of no tokens reads its prompt, which may be all that is wanted of it.
        let least = usize::from(way == Way::Chat);
        said = said.into_iter().chain(fields.whole_or(name, least..=usize::MAX, usize::MAX)?).min();
    }
    Ok(said.or((way == Way::Completion).then_some(COMPLETION_TOKENS)).filter(|most| *most < usize::MAX))
}

fn stop(fields: &mut Fields) -> Outcome<Vec<String>> {
    let expected = "is neither a string nor a list of strings";
    match fields.take("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(list)) => {
            let text = |value: Value| match value {
                Value::String(text) => Ok(text),
                _ => Err(Failure::field("stop", expected)),
            };
            list.into_iter().map(text).collect()
        }
        Some(_) => Err(Failure::field("stop", expected)),
    }
}

/// Chats say `logprobs: true` and how many alternatives apart; completions say one number for both.
fn logprobs(fields: &mut Fields, way: Way) -> Outcome<Option<usize>> {
    if way == Way::Completion {
        return fields.whole("logprobs", 0..=MOST_LOGPROBS);
    }
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.whole("top_logprobs", 0..=MOST_LOGPROBS)?;
    match (wanted, top) {
        (false, Some(1..)) => Err(Failure::field("top_logprobs", "makes sense only with \"logprobs\": true")),
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, _) => Ok(None),
    }
}

/// What is not said is as the server was started.
fn sampling(fields: &mut Fields, settings: &Settings, served: &Served) -> Outcome<Sampling> {
    let base = &settings.sampling;
    let number = |fields: &mut Fields, name: &str, from: f64, to: f64| fields.number(name, from..=to);
    let repeat = number(fields, "repeat_penalty", 0.01, 100.0)?;
    let repeat = match (repeat, number(fields, "repetition_penalty", 0.01, 100.0)?) {
        (Some(_), Some(_)) => {
            return Err(Failure::field(
                "repetition_penalty",
                "is another name of repeat_penalty: one of them is expected",
            ));
        }
        (repeat, repetition) => repeat.or(repetition),
    };
    Ok(Sampling {
        temperature: number(fields, "temperature", 0.0, 100.0)?.unwrap_or(base.temperature),
        top_k: fields.whole_or("top_k", 0..=usize::MAX, 0)?.unwrap_or(base.top_k),
        top_p: number(fields, "top_p", 0.0, 1.0)?.unwrap_or(base.top_p),
        min_p: number(fields, "min_p", 0.0, 1.0)?.unwrap_or(base.min_p),
        repeat_penalty: repeat.unwrap_or(base.repeat_penalty),
        presence_penalty: number(fields, "presence_penalty", -2.0, 2.0)?.unwrap_or(base.presence_penalty),
        frequency_penalty: number(fields, "frequency_penalty", -2.0, 2.0)?.unwrap_or(base.frequency_penalty),
        repeat_last_n: fields.whole_or("repeat_last_n", 0..=usize::MAX, usize::MAX)?.unwrap_or(base.repeat_last_n),
        seed: seed(fields)?.or(settings.seed).unwrap_or_else(new_seed),
        logit_bias: logit_bias(fields, served)?.unwrap_or_else(|| base.logit_bias.clone()),
    })
}

/// Any whole number of 64 bits; -1 is none, as in llama.cpp, other negative ones are seeds like others.
fn seed(fields: &mut Fields) -> Outcome<Option<u64>> {
    let Some(value) = fields.take("seed").filter(|value| value.as_f64() != Some(-1.0)) else { return Ok(None) };
    // With a point or an exponent it is whole too; at the lower end stands what was rounded from below it.
    let (below, above) = (-(2f64.powi(63)), 2f64.powi(64));
    let exact = || match value.as_f64().filter(|x| x.fract() == 0.0)? {
        x if x > below && x < 0.0 => Some((x as i64).cast_unsigned()),
        x if (0.0..above).contains(&x) => Some(x as u64),
        _ => None,
    };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)).or_else(exact);
    seed.map(Some).ok_or_else(|| Failure::field("seed", "is no whole number of 64 bits"))
}

fn new_seed() -> u64 {
    RandomState::new().hash_one(Instant::now()) >> 32
}

/// `{"token id": bias}` with biases from -100, which forbids, to 100.
fn logit_bias(fields: &mut Fields, served: &Served) -> Outcome<Option<Vec<(u32, f32)>>> {
    let Some(value) = fields.take("logit_bias") else { return Ok(None) };
    let Value::Object(map) = value else {
        return Err(Failure::field("logit_bias", "is no object of token ids and numbers"));
    };
    let limit = served.engine.text().limit();
    let one = |(id, bias): (&String, &Value)| {
        let id: Option<u32> = id.parse().ok().filter(|id| (*id as usize) < limit);
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        match (id, bias) {
            (Some(id), Some(-100.0)) => Ok((id, f32::NEG_INFINITY)),
            (Some(id), Some(bias)) => Ok((id, bias as f32)),
            (None, _) => {
                Err(Failure::field("logit_bias", format!("names an id that is no token; there are 0 to {}", limit - 1)))
            }
            (_, None) => Err(Failure::field("logit_bias", "holds something else than numbers from -100 to 100")),
        }
    };
    map.iter().map(one).collect::<Outcome<Vec<_>>>().map(Some)
}

fn modalities(fields: &mut Fields) -> Outcome<()> {
    let list = fields.list("modalities")?.unwrap_or_default();
    match list.iter().all(|modality| modality == "text") {
        true => Ok(()),
        false => Err(Failure::field("modalities", format!("asks for more than text: {WORDS_ONLY}"))),
    }
}

/// A string, a list of strings, a list of tokens, or a list of such lists.
fn prompts(fields: &mut Fields, served: &Served) -> Outcome<Vec<Vec<u32>>> {
    let list = match fields.take("prompt") {
        None => return Err(Failure::field("prompt", "is missing")),
        Some(Value::String(text)) => vec![Value::String(text)],
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => vec![Value::Array(list)],
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Failure::field("prompt", "is neither a string nor a list")),
    };
    if list.is_empty() || list.len() > MOST_PROMPTS {
        return Err(Failure::field(
            "prompt",
            format!("holds {} prompts; 1 to {MOST_PROMPTS} are expected", list.len()),
        ));
    }
    list.into_iter().map(|value| prompt(value, served)).collect()
}

fn prompt(value: Value, served: &Served) -> Outcome<Vec<u32>> {
    let text = served.engine.text();
    let tokens = match value {
        Value::String(words) => {
            let mut tokens: Vec<u32> = text.leading().into_iter().collect();
            tokens.extend(text.encode(&words, true)?);
            tokens
        }
        Value::Array(ids) => tokens(&ids, served, "prompt")?,
        _ => return Err(Failure::field("prompt", "holds something that is neither a string nor a list of tokens")),
    };
    match tokens.is_empty() {
        true => Err(Failure::field("prompt", "is empty, so there is nothing to go on from")),
        false => Ok(tokens),
    }
}

/// Token ids of this vocabulary.
pub fn tokens(ids: &[Value], served: &Served, field: &str) -> Outcome<Vec<u32>> {
    let vocab = served.engine.config().vocab;
    // `5.0` is a whole number too.
    let whole = |id: &Value| {
        id.as_u64().or_else(|| id.as_f64().filter(|id| *id >= 0.0 && id.fract() == 0.0).map(|id| id as u64))
    };
    let token = |id: &Value| whole(id).filter(|id| *id < vocab as u64).map(|id| id as u32);
    let wrong = || Failure::field(field, format!("holds something that is no token id from 0 to {}", vocab - 1));
    ids.iter().map(|id| token(id).ok_or_else(wrong)).collect()
}

/// OpenAI's count of what answers cost; the prompt of several choices counts once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub prompt: usize,
    pub cached: usize,
    pub completion: usize,
}

impl Usage {
    /// Adds one choice. `first` is true for the first of its prompt.
    pub fn add(&mut self, stats: &Stats, first: bool) {
        if first {
            self.prompt += stats.prompt_tokens + stats.reused_tokens;
            self.cached += stats.reused_tokens;
        }
        self.completion += stats.decode_tokens;
    }
}
