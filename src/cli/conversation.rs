//! A conversation with a model, as one-shot answers and chats both have it: messages in, streamed text out, and what it cost.

use super::Done;
use super::expected::Foresight;
use super::interrupt::Interrupts;
use super::memory;
use super::terminal::{Passing, bytes, dim, grouped, say, say_note};
use crate::engine::grammar::Grammar;
use crate::engine::sampler::Sampling;
use crate::engine::text::Message;
use crate::engine::{Engine, Finish, Limits, Session, Stats, StoreStats};
use crate::error::Result;
use crate::planner::replan::Seen;

/// What stays the same from answer to answer.
pub struct Settings {
    /// No template: the messages' texts follow each other as they are.
    pub raw: bool,
    pub system: Option<String>,
    pub sampling: Sampling,
    pub max_tokens: Option<usize>,
    pub stop: Vec<String>,
    /// What every answer is held to.
    pub grammar: Option<Grammar>,
    /// Print speeds after an answer.
    pub perf: bool,
    pub rewind: usize,
}

pub struct Conversation {
    pub engine: Engine,
    session: Session,
    pub settings: Settings,
    /// Without the system prompt, which stands in the settings.
    pub messages: Vec<Message>,
    /// Answers begun: moves the seed, so that an answer made again is another one.
    answers: u64,
    last: Option<Ended>,
    /// What answers are expected to take; `None` for small models, and where nobody asks how fast they were.
    foresight: Option<Foresight>,
}

/// How the last answer came out.
struct Ended {
    stats: Stats,
    finish: Finish,
    /// What was read from the disk for the prompt and for the answer; `None` where every expert is in memory.
    disk: Option<(StoreStats, StoreStats)>,
    /// Tokens a second that prompt and answer were expected to have.
    expected: Option<(Option<f64>, f64)>,
}

impl Conversation {
    pub fn new(engine: Engine, settings: Settings, foresight: Option<Foresight>) -> Conversation {
        let session = engine.session();
        Conversation { engine, session, settings, messages: Vec::new(), answers: 0, last: None, foresight }
    }

    /// Answers the messages so far, piece by piece, and adds the answer to them, also one that was cut short. With an error
    /// of the engine the messages are as before.
    pub fn answer(&mut self, interrupts: &Interrupts, show: &mut dyn FnMut(&str) -> Done) -> Done<Finish> {
        let prompt = self.prompt()?;
        self.adjust();
        let mut passing = Passing::show(&format!("reading {} tokens", grouped(prompt.len() as u64)));
        let seed = self.settings.sampling.seed.wrapping_add(self.answers);
        let sampling = Sampling { seed, ..self.settings.sampling.clone() };
        let answering = interrupts.answer();
        let limits = Limits {
            max_tokens: self.settings.max_tokens,
            stop: self.settings.stop.clone(),
            grammar: self.settings.grammar.clone(),
            interrupt: Some(answering.flag()),
            ..Limits::default()
        };
        self.answers += 1;
        let mut text = String::new();
        let mut shown = Ok(());
        let at_start = self.engine.store_stats();
        let mut generation = self.session.generate(&prompt, &sampling, &limits)?;
        let at_answer = self.engine.store_stats();
        for piece in generation.by_ref() {
            passing.clear();
            let piece = piece?;
            text.push_str(&piece);
            shown = show(&piece);
            if shown.is_err() {
                break;
            }
        }
        passing.clear();
        drop(answering);
        // An answer nobody could see is not over by itself.
        let finish = generation.finish().unwrap_or(Finish::Interrupted);
        let stats = generation.stats();
        let disk = match (at_start, at_answer, self.engine.store_stats()) {
            (Some(start), Some(answer), Some(end)) => Some((answer.since(&start), end.since(&answer))),
            _ => None,
        };
        let expected = None; // foreseen when somebody looks
        self.last = Some(Ended { stats, finish, disk, expected });
        self.messages.push(Message::assistant(text));
        shown.map(|()| finish)
    }

    /// Between turns, memory that others took or gave back moves experts, and so does what routers have come to choose.
    fn adjust(&self) {
        let adjusted = self.engine.adjust(&Seen::now()).map(|adjusted| adjusted.to_string());
        let rearranged = self.engine.rearrange().map(|rearranged| rearranged.to_string());
        adjusted.iter().chain(&rearranged).for_each(|said| say_note(said));
    }

    /// The whole conversation as tokens.
    fn prompt(&self) -> Result<Vec<u32>> {
        let text = self.engine.text();
        if self.settings.raw {
            let system = self.settings.system.as_deref().unwrap_or_default();
            let whole: String =
                std::iter::once(system).chain(self.messages.iter().map(|m| m.content.as_str())).collect();
            let mut tokens: Vec<u32> = text.leading().into_iter().collect();
            tokens.extend(text.encode(&whole, true)?);
            return Ok(tokens);
        }
        let system = self.settings.system.iter().map(Message::system);
        let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        text.encode(&text.render(&messages, true)?, true)
    }

    /// Forgets the conversation; the system prompt stays.
    pub fn reset(&mut self) {
        self.messages.clear();
        self.last = None;
    }

    /// Takes the last answer back, so that the question before it can be answered again. False if there is none.
    pub fn take_back_answer(&mut self) -> bool {
        let answered = self.messages.last().is_some_and(|m| m.role == "assistant");
        if answered {
            self.messages.pop();
        }
        answered
    }

    /// Positions used and positions there are.
    pub fn room(&self) -> (usize, usize) {
        (self.session.tokens().len(), self.session.capacity())
    }

    /// Why the last answer ended where it did, if that needs saying, and how fast it was.
    pub fn say_how_it_ended(&mut self) {
        self.foresee();
        let Some(ended) = &self.last else { return };
        let capacity = self.session.capacity();
        match ended.finish {
            Finish::ContextFull => say_note(&format!(
                "the context of {} positions is full, so the answer ends here; --ctx-size makes room",
                grouped(capacity as u64)
            )),
            Finish::Eos | Finish::Stop | Finish::Complete | Finish::Length | Finish::Interrupted => {}
        }
        if ended.stats.lost_tokens > 0 {
            say_note(&format!(
                "{} tokens of the conversation were read again, because a window had moved on further than --rewind {} keeps",
                grouped(ended.stats.lost_tokens as u64),
                self.settings.rewind
            ));
        }
        if self.settings.perf {
            say(&dim(&speeds(ended)));
            if let Some(sources) = sources(ended) {
                say(&dim(&sources));
            }
        }
    }

    /// What the last answer was to be expected to take. A forecast that fails is none: the answer is there.
    fn foresee(&mut self) {
        let (Some(ended), Some(foresight)) = (&mut self.last, &mut self.foresight) else { return };
        if self.settings.perf && ended.stats.decode_steps > 0 {
            let middle = self.session.tokens().len().saturating_sub(ended.stats.decode_steps / 2);
            let rates = foresight.rates(ended.stats.prompt_tokens, middle);
            ended.expected = rates.unwrap_or_else(|e| {
                say_note(&format!("no speed can be foretold: {e}"));
                None
            });
        }
    }

    /// The speeds of the last answer and where its experts came from, for `/stats`.
    pub fn last_speeds(&self) -> Option<String> {
        let lines = |ended| std::iter::once(speeds(ended)).chain(sources(ended)).collect::<Vec<_>>().join("\n");
        self.last.as_ref().map(lines)
    }
}

/// Where the experts of the last answer came from, if some had to be read.
fn sources(Ended { stats, disk, .. }: &Ended) -> Option<String> {
    let (prompt, answer) = disk.as_ref()?;
    let before = format!("prompt read {} from the disk; ", bytes(prompt.bytes_read));
    Some(match stats.step_tokens {
        0 => format!("{before}{}", memory::disk(prompt)),
        steps => format!("{before}{}", memory::sources(answer, steps, stats.decode_bytes)),
    })
}

/// Tokens of a prompt whose speed is foretold.
const LONG: usize = 32;

fn speeds(Ended { stats, finish, expected, .. }: &Ended) -> String {
    // A short prompt is over before a speed means anything, and so is one that goes on from the middle.
    let of_prompt =
        expected.filter(|_| stats.prompt_tokens >= LONG && stats.reused_tokens == 0).and_then(|rates| rates.0);
    // What guesses of the answer's next words save is not foretold.
    let of_answer = expected.filter(|_| stats.step_tokens == stats.decode_steps).map(|rates| rates.1);
    let part = |name: &str, tokens: usize, computed: usize, (seconds, bytes): (f64, u64), expected: Option<f64>| {
        let tokens = format!("{name} {} tokens", grouped(tokens as u64));
        if computed == 0 || seconds == 0.0 {
            return tokens; // the first token of an answer is the prompt's work: no speed of its own
        }
        let expected = expected.map_or(String::new(), |rate| format!(" ({rate:.1} expected)"));
        let rate = computed as f64 / seconds;
        // What an accelerator reads is not counted, so where it does everything there is no speed to name.
        let speed = match bytes {
            0 => String::new(),
            bytes => format!(", {:.1} GB/s", bytes as f64 / seconds / 1e9),
        };
        format!("{tokens}, {rate:.1} tok/s{expected}{speed}")
    };
    let reused = match stats.reused_tokens {
        0 => String::new(),
        n => format!(" (and {} from before)", grouped(n as u64)),
    };
    let guesses = match stats.drafted {
        0 => String::new(),
        drafted => format!(", {} of {} guesses right", grouped(stats.accepted as u64), grouped(drafted as u64)),
    };
    let cut = if *finish == Finish::Length { " (all that --predict allows)" } else { "" };
    let landed = match stats.landed_tokens {
        0 => String::new(),
        n => format!(" (the last {} bring it to an end in time)", grouped(n as u64)),
    };
    format!(
        "{}{reused} | {}{cut}{landed}",
        part("prompt", stats.prompt_tokens, stats.prompt_tokens, (stats.prompt_seconds, stats.prompt_bytes), of_prompt),
        part("answer", stats.decode_tokens, stats.step_tokens, (stats.decode_seconds, stats.decode_bytes), of_answer)
    ) + &guesses
}
