//! One conversation: its cache, its tokens, and the loop that turns logits into pieces of text.

use super::sampler::{Sampler, Sampling};
use super::stops::Stops;
use super::text::TextStream;
use super::{Engine, Shared};
use crate::error::{Error, Result};
use crate::model::KvCache;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// When an answer ends, besides at an end-of-sequence id.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Most tokens to generate; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Set from elsewhere (Ctrl-C) to end the answer, in the middle of a step too.
    pub interrupt: Option<Arc<AtomicBool>>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-sequence id.
    Eos,
    /// A stop text.
    Stop,
    /// `max_tokens` reached.
    Length,
    /// No position left in the context.
    ContextFull,
    Interrupted,
}

/// What one answer cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Prompt tokens computed now, and those found in the cache.
    pub prompt_tokens: usize,
    pub reused_tokens: usize,
    /// Tokens that were in the cache but had to be computed again, since a sliding window had moved past them.
    pub lost_tokens: usize,
    pub prompt_seconds: f64,
    /// Tokens of the answer, and steps they took: one fewer or none, for the first comes out of the prompt's last step.
    pub decode_tokens: usize,
    pub decode_steps: usize,
    pub decode_seconds: f64,
    /// Bytes of weights and cache read, counted as they are read.
    pub prompt_bytes: u64,
    pub decode_bytes: u64,
}

pub struct Session {
    engine: Engine,
    kv: KvCache,
    tokens: Vec<u32>,
}

impl Session {
    pub(super) fn new(engine: Engine) -> Session {
        let kv = KvCache::new(&engine.shared.kv);
        Session { engine, kv, tokens: Vec::new() }
    }

    fn shared(&self) -> &Shared {
        &self.engine.shared
    }

    /// Tokens whose positions are in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Most positions this session can hold.
    pub fn capacity(&self) -> usize {
        self.shared().kv.context
    }

    /// Forgets everything after the first `len` tokens. False when a sliding window has already overwritten what would
    /// be needed; the session is then empty.
    pub fn truncate(&mut self, len: usize) -> bool {
        if len >= self.tokens.len() {
            return true;
        }
        let kept = self.kv.truncate(len);
        self.tokens.truncate(if kept { len } else { 0 });
        kept
    }

    /// Appends `tokens` and hands over the logits (f32, one per vocabulary row) of those whose index in `tokens` lies in
    /// `want`, in order. Errors when they do not fit in the context or are no ids of this vocabulary.
    pub fn feed(&mut self, tokens: &[u32], want: Range<usize>, sink: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        self.feed_until(tokens, want, None, sink).map(|_| ())
    }

    /// `feed` that looks at `interrupt`, in the middle of steps too. False when it ended early; the cache holds the steps
    /// before.
    fn feed_until(
        &mut self,
        tokens: &[u32],
        want: Range<usize>,
        interrupt: Option<&AtomicBool>,
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<bool> {
        self.check(self.tokens.len(), tokens)?;
        let shared = self.engine.shared.clone();
        let chunk = shared.kv.chunk;
        for (i, part) in tokens.chunks(chunk).enumerate() {
            let start = i * chunk;
            let inside = |at: usize| at.clamp(start, start + part.len()) - start;
            let wanted = inside(want.start)..inside(want.end);
            let (decode, batch) = shared.threads;
            shared.host.pool.set_width(if part.len() == 1 { decode } else { batch });
            let logits = match shared.model.forward(part, &mut self.kv, wanted.clone(), interrupt) {
                Err(Error::Interrupted) => return Ok(false),
                logits => logits?,
            };
            self.tokens.extend_from_slice(part);
            for (index, row) in wanted.zip(logits.chunks_exact(shared.config.vocab)) {
                sink(start + index, row);
            }
        }
        Ok(true)
    }

    /// Whether `tokens` may come after the first `len`.
    fn check(&self, len: usize, tokens: &[u32]) -> Result<()> {
        let (vocab, context) = (self.shared().config.vocab, self.capacity());
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::Usage(format!("token id {id} is outside this model's vocabulary of {vocab}")));
        }
        let total = len + tokens.len();
        if total > context {
            return Err(Error::Usage(format!(
                "{total} tokens do not fit in a context of {context}; a larger one is set with -c (this model was made for {})",
                self.shared().config.context
            )));
        }
        Ok(())
    }

    /// Answers `prompt` (the whole conversation as tokens; what is already in the cache is not computed again).
    pub fn generate(&mut self, prompt: &[u32], sampling: &Sampling, limits: &Limits) -> Result<Generation<'_>> {
        let Some(last) = prompt.len().checked_sub(1) else {
            return Err(Error::Usage("an empty prompt has no next token".into()));
        };
        self.check(0, prompt)?; // before anything of the cache is given up
        let text = &self.shared().text;
        let sampler = Sampler::new(sampling, text.limit())?.forbid(&text.holes());
        let stops = Stops::new(&limits.stop)?;

        let started = Instant::now();
        let before = self.shared().host.touched();
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count().min(last);
        let mut stats = Stats::default();
        if self.truncate(common) {
            stats.reused_tokens = common
        } else {
            stats.lost_tokens = common
        }
        let fresh = &prompt[stats.reused_tokens..];

        let mut logits = Vec::new();
        let want = fresh.len() - 1..fresh.len();
        let whole = self.feed_until(fresh, want, limits.interrupt.as_deref(), &mut |_, row| logits = row.to_vec())?;
        stats.prompt_tokens = self.tokens.len() - stats.reused_tokens;
        stats.prompt_seconds = started.elapsed().as_secs_f64();
        stats.prompt_bytes = self.shared().host.touched() - before;
        let finish = if whole { None } else { Some(Finish::Interrupted) };
        let limits = limits.clone();
        let stream = TextStream::new();
        Ok(Generation {
            session: self,
            sampler,
            stops,
            stream,
            limits,
            logits,
            pending: None,
            stats,
            finish,
            flushed: false,
        })
    }
}

/// An answer being written: an iterator over pieces of text, each valid UTF-8.
pub struct Generation<'s> {
    session: &'s mut Session,
    sampler: Sampler,
    stops: Stops,
    stream: TextStream,
    limits: Limits,
    logits: Vec<f32>,
    /// Sampled and shown, not yet in the cache.
    pending: Option<u32>,
    stats: Stats,
    finish: Option<Finish>,
    flushed: bool,
}

impl Generation<'_> {
    /// What it cost so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// `Some` once the iterator has ended.
    pub fn finish(&self) -> Option<Finish> {
        if self.flushed { self.finish } else { None }
    }

    /// One token further: text to show, maybe none yet. Sets `finish` when there will be no more.
    fn step(&mut self) -> Result<String> {
        if self.limits.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            self.finish = Some(Finish::Interrupted);
            return Ok(String::new());
        }
        if self.limits.max_tokens.is_some_and(|most| self.stats.decode_tokens >= most) {
            self.finish = Some(Finish::Length);
            return Ok(String::new());
        }
        if let Some(token) = self.pending.take() {
            if self.session.tokens.len() == self.session.capacity() {
                self.finish = Some(Finish::ContextFull);
                return Ok(String::new());
            }
            let (logits, interrupt) = (&mut self.logits, self.limits.interrupt.as_deref());
            if !self.session.feed_until(&[token], 0..1, interrupt, &mut |_, row| logits.copy_from_slice(row))? {
                self.finish = Some(Finish::Interrupted);
                return Ok(String::new());
            }
            self.stats.decode_steps += 1;
        }
        let token = self.sampler.sample(&mut self.logits, &self.session.tokens)?;
        self.stats.decode_tokens += 1;
        let text = &self.session.engine.shared.text;
        if text.is_eos(token) {
            self.finish = Some(Finish::Eos);
            return Ok(String::new());
        }
        self.pending = Some(token);
        let shown = self.stops.push(&self.stream.push(text.piece(token)));
        if self.stops.found().is_some() {
            self.finish = Some(Finish::Stop);
        }
        Ok(shown)
    }

    /// What stream and stops held back, once the answer is over for another reason than a stop text.
    fn flush(&mut self) -> String {
        self.flushed = true;
        let mut rest = self.stops.push(&self.stream.finish());
        rest.push_str(&self.stops.finish());
        rest
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let started = Instant::now();
        let before = self.session.shared().host.touched();
        let mut shown = Ok(String::new());
        while self.finish.is_none() && matches!(&shown, Ok(text) if text.is_empty()) {
            shown = self.step();
        }
        self.stats.decode_seconds += started.elapsed().as_secs_f64();
        self.stats.decode_bytes += self.session.shared().host.touched() - before;
        if shown.is_err() {
            (self.finish, self.flushed) = (Some(Finish::Interrupted), true);
            return Some(shown);
        }
        match shown {
            Ok(text) if !text.is_empty() => Some(Ok(text)),
            _ if self.flushed => None,
            _ => Some(self.flush()).filter(|rest| !rest.is_empty()).map(Ok),
        }
    }
}
