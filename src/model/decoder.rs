//! The forward pass. Two screens, and it stays two screens.
//!
//! A prompt and a single token take the same way: decode is `t = 1`. Every sum has one order, so neither the number of
//! threads nor the cut of a prompt into steps changes a bit of a logit.

use super::attention::{Attention, Rotation, Turns};
use super::kv::KvCache;
use super::linear::Linear;
use super::mixture;
use super::norm::Norm;
use super::router::Router;
use crate::bridge::{activations, tensor};
use crate::checkpoint::{Matrix, Part, Weights};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::experts::trace::{self, Recorder, Visit};
use crate::experts::{ExpertId, ExpertStore};
use crate::host::{Host, Share};
use candle_core::Tensor;
use kernels::Activations;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A model ready to run on the host.
pub struct Model {
    host: Arc<Host>,
    embedding: Matrix, // [vocab, width]
    blocks: Vec<Block>,
    experts: ExpertStore,
    norm_out: Norm,
    head: Linear, // [vocab, width]
    rotation: Rotation,
    trace: Option<Recorder>,
}

struct Block {
    router: Router,
    norm_in: Norm,
    attention: Attention,
    norm_ffn: Norm,
}

/// One sequence's part of a step: `tokens` to append to `kv`, and those whose logits are wanted.
pub struct Step<'a> {
    pub tokens: &'a [u32],
    pub kv: &'a mut KvCache,
    pub want: Range<usize>,
}

impl Model {
    /// Views into `weights`; nothing large is copied.
    pub fn new(config: &Config, weights: &Weights, experts: ExpertStore, host: Arc<Host>) -> Model {
        let norm = |part| Norm::new(&weights.matrix(part), config.norm_epsilon);
        let block = |layer: u16| Block {
            router: Router::new(layer, weights.matrix(Part::Router(layer)), config.active, config.gating),
            norm_in: norm(Part::NormIn(layer)),
            attention: Attention::new(config, layer, weights),
            norm_ffn: norm(Part::NormFfn(layer)),
        };
        Model {
            embedding: weights.matrix(Part::Embedding),
            blocks: (0..config.layers.len() as u16).map(block).collect(),
            experts,
            norm_out: norm(Part::OutputNorm),
            head: Linear::new(vec![weights.matrix(Part::Head)], Share::Head),
            rotation: Rotation::new(config),
            trace: None,
            host,
        }
    }

    pub fn experts(&self) -> &ExpertStore {
        &self.experts
    }

    /// From now on every step goes into `recorder` too.
    pub fn record(&mut self, recorder: Recorder) {
        self.trace = Some(recorder);
    }

    pub fn trace(&self) -> Option<&Recorder> {
        self.trace.as_ref()
    }

    /// Appends each sequence's tokens to its cache and returns the logits of those it wants, `[wanted, vocab]`, in order.
    /// What several need is read once, and no sequence notices the others: every number is what it would be alone.
    /// The caller has checked that ids are inside the vocabulary and that caches have room.
    /// Looks at `interrupt` before each layer and while it waits for experts: `Error::Interrupted`. After any error caches
    /// are as long as before.
    pub fn forward(&self, steps: &mut [Step<'_>], interrupt: Option<&AtomicBool>) -> Result<Vec<f32>> {
        let host = &*self.host;
        let tokens: Vec<u32> = steps.iter().flat_map(|step| step.tokens).copied().collect();
        let turns: Vec<Turns> = steps.iter().map(|step| self.rotation.at(step.kv.len(), step.tokens.len())).collect();
        let experts = self.experts.step(tokens.len(), interrupt);
        steps.iter_mut().for_each(|step| step.kv.begin(step.tokens.len()));
        let mut x = host.timed(Share::Embed, || self.embed(&tokens))?; // [t, width], sequence after sequence
        let mut record = self.trace.as_ref().map(|_| trace::Step::new(tokens.len()));
        for (layer, block) in self.blocks.iter().enumerate() {
            if interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                return Err(Error::Interrupted);
            }
            let input = activations(host, &x)?;
            let choice = block.router.choose(host, &input)?; // before attention: the layer's input decides
            let expected = self.expected(layer, &input);
            host.timed(Share::Wait, || {
                experts.expect(&expected);
                experts.chosen(&choice);
                experts.prefetch(&choice.ids());
            });
            experts.guess(&self.guessed(layer, &input));
            if let Some(step) = &mut record {
                step.visits.push(Visit::new(&choice, &expected));
            }
            let h = block.norm_in.forward(host, &x)?;
            let caches = steps.iter_mut().map(|step| step.kv.layer(layer)).zip(&turns);
            x = (&x + block.attention.forward(host, &h, caches)?)?;
            let h = block.norm_ffn.forward(host, &x)?;
            x = (&x + mixture::forward(host, &experts, &choice, &h)?)?;
        }
        steps.iter_mut().for_each(|step| step.kv.grow(step.tokens.len()));
        if let (Some(recorder), Some(step)) = (&self.trace, record) {
            recorder.add(&step);
        }
        let Some(wanted) = self.wanted(steps, &x)? else { return Ok(Vec::new()) };
        let last = self.norm_out.forward(host, &wanted)?;
        Ok(self.head.forward(host, &activations(host, &last)?))
    }

    /// The rows of `x` whose logits are wanted; `None` when there are none.
    fn wanted(&self, steps: &[Step<'_>], x: &Tensor) -> Result<Option<Tensor>> {
        let (mut parts, mut first) = (Vec::new(), 0);
        for step in steps {
            if !step.want.is_empty() {
                parts.push(x.narrow(0, first + step.want.start, step.want.len())?);
            }
            first += step.tokens.len();
        }
        Ok(match parts.as_slice() {
            [] => None,
            [only] => Some(only.clone()),
            several => Some(Tensor::cat(several, 0)?),
        })
    }

    /// Experts the next layer may choose, guessed from the input of `layer`, likeliest first. Nothing where nobody asks for
    /// them, and for a prompt, whose steps go through most experts anyway.
    fn expected(&self, layer: usize, x: &Activations) -> Vec<ExpertId> {
        let asked = self.trace.is_some() || self.experts.wants_hints();
        match self.blocks.get(layer + 1) {
            Some(next) if asked && x.t() == 1 => next.router.expect(&self.host, x, 2),
            _ => Vec::new(),
        }
    }

    /// Experts a later layer may choose, guessed from the input of `layer`, for reading ahead: nothing where none is ever
    /// read, and for many tokens, which may take them all.
    fn guessed(&self, layer: usize, x: &Activations) -> Vec<ExpertId> {
        let ahead = self.experts.read_ahead();
        match self.blocks.get(layer.saturating_add(ahead)) {
            Some(later) if ahead > 0 && later.router.leaves_some(x.t()) => later.router.expect(&self.host, x, 1),
            _ => Vec::new(),
        }
    }

    /// Rows of the embedding, unscaled (specification 3.1, step 1).
    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let width = self.embedding.width();
        let mut x = vec![0f32; tokens.len() * width];
        for (&token, x) in tokens.iter().zip(x.chunks_exact_mut(width)) {
            self.embedding.decode_row(token as usize, x)?;
        }
        tensor(x, width)
    }
}
