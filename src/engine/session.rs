//! One conversation's cache and tokens: what has been computed and need not be computed again.

use super::answer::{Answer, Generation, Limits};
use super::sampler::Sampling;
use super::{Engine, Shared};
use crate::error::{Error, Result};
use crate::model::{KvCache, Step};
use kernels::Isa;
use kernels::norm::exp_all;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub struct Session {
    engine: Engine,
    kv: KvCache,
    tokens: Vec<u32>,
    /// The same conversation in the smaller model that guesses, as far as it has followed.
    draft: Option<Box<Session>>,
}

/// What [`Session::feed_together`] computed. Its memory serves the next step.
pub struct Logits {
    values: Vec<f32>,
    shared: Arc<Shared>,
}

impl Deref for Logits {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl Drop for Logits {
    fn drop(&mut self) {
        self.shared.model.give_back(std::mem::take(&mut self.values));
    }
}

impl Session {
    pub(super) fn new(engine: Engine) -> Session {
        let kv = KvCache::new(&engine.shared.kv);
        let draft = engine.shared.draft.as_ref().map(|draft| Box::new(draft.session()));
        Session { engine, kv, tokens: Vec::new(), draft }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.engine.shared
    }

    pub(super) fn kv(&self) -> &KvCache {
        &self.kv
    }

    pub(super) fn kv_mut(&mut self) -> &mut KvCache {
        &mut self.kv
    }

    /// Says that the cache was filled with what it held when `tokens` were in it.
    pub(super) fn restored(&mut self, tokens: Vec<u32>, written: usize) {
        self.kv.filled(tokens.len(), written);
        self.tokens = tokens;
    }

    pub(super) fn shared_arc(&self) -> Arc<Shared> {
        self.engine.shared.clone()
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
            let mut index = start + wanted.start;
            let mut rows = |logits: Vec<f32>| {
                for row in logits.chunks_exact(shared.config.vocab) {
                    sink(index, row);
                    index += 1;
                }
            };
            match shared.model.forward(&mut [step], interrupt, shared.most_logits, &mut rows) {
                Err(Error::Interrupted) => return Ok(false),
                done => done?,
            }
            self.tokens.extend_from_slice(part);
        }
        Ok(true)
    }

    /// Appends tokens to each of several sessions of one engine, at least one and no more than a step holds, in one step of
    /// the model that reads what several need once. Hands back the logits of all of them, `[tokens, vocab]`, session after
    /// session. After an error, `Error::Interrupted` among them, sessions are as they were.
    pub fn feed_together(fed: &mut [(&mut Session, &[u32])], interrupt: Option<&AtomicBool>) -> Result<Logits> {
        let shared = fed.first().expect("at least one session").0.engine.shared.clone();
        shared.host.pool.set_width(shared.threads.0);
        let mut steps = Vec::with_capacity(fed.len());
        for (session, tokens) in fed.iter_mut() {
            assert!(Arc::ptr_eq(&session.engine.shared, &shared), "sessions of one engine");
            assert!((1..=shared.kv.chunk).contains(&tokens.len()), "{} tokens in one step", tokens.len());
            session.check(session.tokens.len(), tokens)?;
            steps.push(Step { tokens, kv: &mut session.kv, want: 0..tokens.len() });
        }
        let mut logits = Vec::new();
        shared.model.forward(&mut steps, interrupt, usize::MAX, &mut |all| logits = all)?;
        fed.iter_mut().for_each(|(session, tokens)| session.tokens.extend_from_slice(tokens));
        Ok(Logits { values: logits, shared })
    }

    /// How the smaller model goes on after `text`: its likeliest tokens, `count` at most, as long as each has a chance of
    /// `p_min`. Nothing without such a model, where `text` does not fit in it, and when interrupted.
    pub(super) fn draft(
        &mut self,
        text: &[u32],
        count: usize,
        p_min: f32,
        interrupt: Option<&AtomicBool>,
    ) -> Result<Vec<u32>> {
        let Some(draft) = &mut self.draft else { return Ok(Vec::new()) };
        if text.len() + count > draft.capacity() {
            return Ok(Vec::new());
        }
        let common = draft.tokens.iter().zip(text).take_while(|(a, b)| a == b).count();
        draft.truncate(common.min(text.len() - 1)); // empty where that is not held
        let mut guesses: Vec<u32> = Vec::new();
        let mut row = Vec::new();
        while guesses.len() < count {
            let unread = match guesses.last() {
                Some(last) => vec![*last],
                None => text[draft.tokens.len()..].to_vec(),
            };
            let want = unread.len() - 1..unread.len();
            if !draft.feed_until(&unread, want, interrupt, &mut |_, logits| row = logits.to_vec())? {
                break;
            }
            let (id, chance) = likeliest(draft.shared().host.isa, &mut row);
            if chance < p_min || chance.is_nan() {
                break;
            }
            guesses.push(id);
        }
        Ok(guesses)
    }

    pub(super) fn has_draft(&self) -> bool {
        self.draft.is_some()
    }

    /// Whether nothing that is guessed may come from this id on.
    pub(super) fn is_end(&self, id: u32) -> bool {
        let text = &self.shared().text;
        id as usize >= text.limit() || text.is_eos(id)
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
    /// Fails, and leaves it empty, where an accelerator's memory is short.
    pub fn copy(&mut self, other: &Session, len: usize) -> Result<()> {
        assert!(Arc::ptr_eq(&self.engine.shared, &other.engine.shared), "sessions of one engine");
        self.tokens.clear();
        if let (Some(draft), Some(other)) = (&mut self.draft, &other.draft) {
            draft.copy(other, other.tokens.len())?;
        }
        self.kv.copy(&other.kv)?;
        self.tokens.clone_from(&other.tokens);
        self.truncate(len);
        Ok(())
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

/// The id of the largest logit, and its share of all of them; `logits` are changed.
fn likeliest(isa: Isa, logits: &mut [f32]) -> (u32, f32) {
    let (mut best, mut max) = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0u32..).zip(&*logits) {
        if logit > max {
            (best, max) = (id, logit);
        }
    }
    logits.iter_mut().for_each(|logit| *logit -= max);
    exp_all(isa, logits);
    (best, 1.0 / logits.iter().sum::<f32>())
}
