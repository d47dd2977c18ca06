//! One conversation: its cache, its tokens, and the loop that turns logits into pieces of text.

use super::Engine;
use crate::error::Result;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// When an answer ends, besides at an end-of-sequence id.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Most tokens to generate; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Set from elsewhere (Ctrl-C) to end the answer after the current step.
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
    pub prompt_seconds: f64,
    pub decode_tokens: usize,
    pub decode_seconds: f64,
    /// Bytes of weights and cache read, counted by the model as it runs.
    pub prompt_bytes: u64,
    pub decode_bytes: u64,
}

pub struct Session {
    #[allow(dead_code)]
    engine: Engine,
}

impl Session {
    /// Tokens whose positions are in the cache.
    pub fn tokens(&self) -> &[u32] {
        todo!()
    }

    /// Most positions this session can hold.
    pub fn capacity(&self) -> usize {
        todo!()
    }

    /// Forgets everything after the first `len` tokens. False when a sliding window has already overwritten what would
    /// be needed; the session is then empty.
    pub fn truncate(&mut self, len: usize) -> bool {
        let _ = len;
        todo!()
    }

    /// Appends `tokens` and hands over the logits (f32, one per vocabulary row) of those whose index in `tokens` lies in
    /// `want`, in order. Errors when they do not fit in the context.
    pub fn feed(&mut self, tokens: &[u32], want: Range<usize>, sink: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let _ = (tokens, want, sink);
        todo!()
    }

    /// Bytes of weights and cache touched since this session began.
    pub fn bytes_touched(&self) -> u64 {
        todo!()
    }

    /// Answers `prompt` (the whole conversation as tokens; what is already in the cache is not computed again).
    pub fn generate(
        &mut self,
        prompt: &[u32],
        sampling: &super::sampler::Sampling,
        limits: &Limits,
    ) -> Result<Generation<'_>> {
        let _ = (prompt, sampling, limits);
        todo!()
    }
}

/// An answer being written: an iterator over pieces of text, each valid UTF-8.
pub struct Generation<'s> {
    #[allow(dead_code)]
    session: &'s mut Session,
}

impl Generation<'_> {
    /// What it cost so far.
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// `Some` once the iterator has ended.
    pub fn finish(&self) -> Option<Finish> {
        todo!()
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
