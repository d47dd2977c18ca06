//! One conversation's cache and tokens: what has been computed and need not be computed again.

use super::answer::{Answer, Generation, Limits};
use super::sampler::Sampling;
use super::{Engine, Shared};
use crate::error::{Error, Result};
use crate::model::{KvCache, Step};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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

    pub(super) fn shared(&self) -> &Shared {
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
    pub(super) fn feed_until(
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
            let step = Step { tokens: part, kv: &mut self.kv, want: wanted.clone() };
            let logits = match shared.model.forward(&mut [step], interrupt) {
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

    /// Appends tokens to each of several sessions of one engine, at least one and no more than a step holds, in one step of
    /// the model that reads what several need once. Hands back the logits of all of them, `[tokens, vocab]`, session after
    /// session. After an error, `Error::Interrupted` among them, sessions are as they were.
    pub fn feed_together(fed: &mut [(&mut Session, &[u32])], interrupt: Option<&AtomicBool>) -> Result<Vec<f32>> {
        let Some((first, _)) = fed.first() else { return Ok(Vec::new()) };
        let shared = first.engine.shared.clone();
        shared.host.pool.set_width(shared.threads.0);
        let mut steps = Vec::with_capacity(fed.len());
        for (session, tokens) in fed.iter_mut() {
            assert!(Arc::ptr_eq(&session.engine.shared, &shared), "sessions of one engine");
            assert!((1..=shared.kv.chunk).contains(&tokens.len()), "{} tokens in one step", tokens.len());
            session.check(session.tokens.len(), tokens)?;
            steps.push(Step { tokens, kv: &mut session.kv, want: 0..tokens.len() });
        }
        let logits = shared.model.forward(&mut steps, interrupt)?;
        fed.iter_mut().for_each(|(session, tokens)| session.tokens.extend_from_slice(tokens));
        Ok(logits)
    }

    /// Whether `tokens` may come after the first `len`.
    pub(super) fn check(&self, len: usize, tokens: &[u32]) -> Result<()> {
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

    /// How many of the first `tokens` need not be computed again, were they asked for now: 0 too where a sliding window
    /// has moved past what the next one would see.
    pub fn shares(&self, tokens: &[u32]) -> usize {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        if common == self.tokens.len() || self.kv.holds(common) { common } else { 0 }
    }

    /// Becomes a copy of the first `len` tokens of `other`, a session of the same engine. Call only where
    /// [`shares`](Session::shares) allows it: otherwise this session is empty afterwards.
    pub fn copy(&mut self, other: &Session, len: usize) {
        assert!(Arc::ptr_eq(&self.engine.shared, &other.engine.shared), "sessions of one engine");
        self.kv.copy(&other.kv);
        self.tokens.clone_from(&other.tokens);
        self.truncate(len);
    }

    /// Begins to answer `prompt` (the whole conversation as tokens; what is already in the cache is not computed again).
    /// Nothing is computed yet: [`Answer::advance`] does that, step by step, with this session.
    pub fn begin(&mut self, prompt: &[u32], sampling: &Sampling, limits: &Limits) -> Result<Answer> {
        Answer::begin(self, prompt, sampling, limits)
    }

    /// Answers `prompt`, which is read before this returns.
    pub fn generate(&mut self, prompt: &[u32], sampling: &Sampling, limits: &Limits) -> Result<Generation<'_>> {
        let mut answer = self.begin(prompt, sampling, limits)?;
        while answer.is_reading() {
            answer.read(self)?;
        }
        Ok(Generation::new(self, answer))
    }
}
