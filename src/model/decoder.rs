//! The forward pass. Two screens, and it stays two screens.
//!
//! A prompt and a single token take the same way: decode is `t = 1`. Every sum has one order, so neither the number of
//! threads nor the cut of a prompt into steps changes a bit of a logit.

use super::attention::{Rotation, Turns};
use super::block::Block;
use super::head::Head;
use super::kv::KvCache;
use super::mixture;
use super::vector::{Home, Vector};
use super::whole::{self, whole};
use crate::bridge::tensor;
use crate::checkpoint::{Matrix, Part, Weights};
use crate::config::Config;
use crate::config::placement::OnDevice;
use crate::device::{Accelerator, What, Whole};
use crate::error::{Error, Result};
use crate::experts::trace::{self, Recorder, Visit};
use crate::experts::{self, ExpertId, ExpertStore};
use crate::host::{Host, Share};
use candle_core::Tensor;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A model ready to run: on the host, or some of it on an accelerator.
pub struct Model {
    host: Arc<Host>,
    embedding: Matrix, // [vocab, width]
    blocks: Vec<Block>,
    experts: ExpertStore,
    head: Head,
    rotation: Rotation,
    trace: Option<Recorder>,
    accelerator: Option<Arc<Accelerator>>,
    /// Where all of the model lies there, what computes a token at a time: made of the parts above.
    whole: Option<Whole>,
    /// Memory of logits that somebody is done with ([`Model::give_back`]).
    spare: Mutex<Vec<f32>>,
}

/// One sequence's part of a step: `tokens` to append to `kv`, and those whose logits are wanted.
pub struct Step<'a> {
    pub tokens: &'a [u32],
    pub kv: &'a mut KvCache,
    pub want: Range<usize>,
}

impl Model {
    /// Views into `weights`; nothing large is copied, but what lies `away` is carried there. Fails where memory there is
    /// short.
    pub fn new(
        config: &Config,
        weights: &Weights,
        experts: ExpertStore,
        host: Arc<Host>,
        away: Option<(&OnDevice, &Arc<Accelerator>)>,
    ) -> Result<Model> {
        let home = |part| away.filter(|(device, _)| device.holds(part)).map(|(_, accelerator)| accelerator);
        let block = |layer: u16| Block::new(config, weights, layer, home(Part::Router(layer)));
        let blocks: Vec<Block> = (0..config.layers.len() as u16).map(block).collect::<Result<_>>()?;
        let head = Head::new(config, weights, home(Part::Head))?;
        let whole = away.map(|(_, accelerator)| whole(config, accelerator, (&blocks, &experts, &head))).transpose()?;
        Ok(Model {
            embedding: weights.matrix(Part::Embedding),
            whole: whole.flatten(),
            blocks,
            experts,
            head,
            rotation: Rotation::new(config),
            trace: None,
            accelerator: away.map(|(_, accelerator)| accelerator.clone()),
            spare: Mutex::default(),
            host,
        })
    }

    /// Where some of the model lies, if any does.
    pub fn accelerator(&self) -> Home<'_> {
        self.accelerator.as_ref()
    }

    pub fn experts(&self) -> &ExpertStore {
        &self.experts
    }

    /// How fast memory gives weights just now: bytes a second of the head, its longest matrix. `None` where that lies on an
    /// accelerator.
    pub fn pace(&self) -> Option<f64> {
        self.head.pace(&self.host)
    }

    /// From now on every step goes into `recorder` too.
    pub fn record(&mut self, recorder: Recorder) {
        self.trace = Some(recorder);
    }

    pub fn trace(&self) -> Option<&Recorder> {
        self.trace.as_ref()
    }

    /// Appends each sequence's tokens to its cache and hands over the logits of those it wants, `[wanted, vocab]`, in order, no
    /// more than `most` rows at a time.
    /// What several need is read once, and no sequence notices the others: every number is what it would be alone.
    /// The caller has checked that ids are inside the vocabulary and that caches have room.
    /// Looks at `interrupt` before each layer and while it waits for experts: `Error::Interrupted`. After any error caches
    /// are as long as before.
    pub fn forward(
        &self,
        steps: &mut [Step<'_>],
        interrupt: Option<&AtomicBool>,
        most: usize,
        sink: &mut dyn FnMut(Vec<f32>),
    ) -> Result<()> {
        let host = &*self.host;
        let tokens: Vec<u32> = steps.iter().flat_map(|step| step.tokens).copied().collect();
        let turns: Vec<Turns> = steps.iter().map(|step| self.rotation.at(step.kv.len(), step.tokens.len())).collect();
        let experts = self.experts.step(tokens.len(), interrupt);
        let mut spare = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        if steps.iter().any(|step| step.want.len() < step.tokens.len()) {
            spare = Vec::new(); // a prompt needs the memory itself
        }
        steps.iter_mut().for_each(|step| step.kv.begin(step.tokens.len()));
        if let (Some(whole), None) = (&self.whole, &self.trace)
            && let Some(logits) = self.at_once(whole, steps, &turns, &experts)?
        {
            sink(logits);
            return Ok(());
        }
        // [t, width], sequence after sequence, and where the layer lies
        let mut x = Vector::new(None, What::Hidden, host.timed(Share::Embed, || self.embed(&tokens))?);
        let mut record = self.trace.as_ref().map(|_| trace::Step::new(tokens.len()));
        let mut room = experts::Room::default();
        for (layer, block) in self.blocks.iter().enumerate() {
            if interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                return Err(Error::Interrupted);
            }
            x = x.moved(self.accelerator().filter(|_| block.away))?;
            let choice = block.router.choose(host, &x)?; // before attention: the layer's input decides
            let expected = self.expected(layer, &x)?;
            host.timed(Share::Wait, || {
                experts.expect(&expected);
                experts.chosen(&choice);
                experts.prefetch(&choice.ids());
            });
            experts.guess(&self.guessed(layer, &x)?);
            if let Some(step) = &mut record {
                step.visits.push(Visit::new(&choice, &expected));
            }
            let h = block.norm_in.forward(host, &x)?;
            let caches = steps.iter_mut().map(|step| step.kv.layer(layer)).zip(&turns);
            let y = block.attention.forward(host, &h, caches)?;
            x = host.timed(Share::Residual, || x.plus(y))?;
            let h = block.norm_ffn.forward(host, &x)?;
            let y = mixture::forward(host, &experts, &choice, &h, &mut room)?;
            x = host.timed(Share::Residual, || x.plus(y))?;
        }
        drop(room); // what the head gives may be as large
        steps.iter_mut().for_each(|step| step.kv.grow(step.tokens.len()));
        if let (Some(recorder), Some(step)) = (&self.trace, record) {
            recorder.add(&step);
        }
        let Some(wanted) = self.wanted(steps, x.tensor())? else { return Ok(()) };
        let rows = wanted.dim(0)?;
        for first in (0..rows).step_by(most) {
            let some = wanted.narrow(0, first, most.min(rows - first))?;
            let some = Vector::new(x.home(), What::Hidden, some);
            sink(self.head.forward(host, some, self.accelerator(), std::mem::take(&mut spare))?);
        }
        Ok(())
    }

    /// Takes logits that are done with: the next step writes into the same memory, which is warm and need not be filled with
    /// zeros.
    pub fn give_back(&self, logits: Vec<f32>) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = logits;
    }

    /// A token of each sequence, one after the other, all of it on the accelerator. `None`, and nothing is done, where a step
    /// has more tokens, and where caches are none for that.
    fn at_once(
        &self,
        whole: &Whole,
        steps: &mut [Step<'_>],
        turns: &[Turns],
        experts: &experts::Step<'_>,
    ) -> Result<Option<Vec<f32>>> {
        if steps.iter().any(|step| step.tokens.len() != 1) {
            return Ok(None);
        }
        let (host, mut logits) = (&*self.host, Vec::new());
        for (step, turns) in steps.iter_mut().zip(turns) {
            let Some(rings) = step.kv.there() else { return Ok(None) };
            let x = host.timed(Share::Embed, || self.embed(step.tokens))?.flatten_all()?.to_vec1()?;
            let spoken = host.timed(Share::Away, || whole.token(turns.first, rings, turns.at(0), &x))?;
            let Some(spoken) = spoken else { return Ok(None) };
            host.timed(Share::Regroup, || whole::count(experts, &spoken))?;
            if !step.want.is_empty() {
                logits.extend(spoken.logits);
            }
        }
        steps.iter_mut().for_each(|step| step.kv.grow(1));
        Ok(Some(logits))
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
    fn expected(&self, layer: usize, x: &Vector<'_>) -> Result<Vec<ExpertId>> {
        let asked = self.trace.is_some() || self.experts.wants_hints();
        match self.blocks.get(layer + 1) {
            Some(next) if asked && x.t()? == 1 => next.router.expect(&self.host, x, 2),
            _ => Ok(Vec::new()),
        }
    }

    /// Experts a later layer may choose, guessed from the input of `layer`, for reading ahead: nothing where none is ever
    /// read, and for many tokens, which may take them all.
    fn guessed(&self, layer: usize, x: &Vector<'_>) -> Result<Vec<ExpertId>> {
        let ahead = self.experts.read_ahead();
        match self.blocks.get(layer.saturating_add(ahead)) {
            Some(later) if ahead > 0 && later.router.leaves_some(x.t()?) => later.router.expect(&self.host, x, 1),
            _ => Ok(Vec::new()),
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
