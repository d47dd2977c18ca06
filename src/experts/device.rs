//! Experts that live on an accelerator and are computed there. The host keeps no copy of them.

use super::{ExpertId, Group};
use crate::checkpoint::{Part, Weights};
use crate::config::Config;
use crate::device::{Accelerator, Chosen, Laid, Slab};
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// The experts of a model that were put on an accelerator.
pub struct OnDevice {
    slab: Slab,
    /// By layer: what its experts are.
    laid: Vec<Laid>,
    /// `[layer * experts + index]`: its slot, or `NONE`. Changes only while no step runs.
    slots: Vec<AtomicU32>,
    per_layer: usize,
    /// By layer: whether its experts lie here as in their file, so that the processor could take them back.
    movable: Vec<bool>,
    /// Held by each step, and alone by whoever moves experts.
    steps: RwLock<()>,
}

/// No slot: the processor's.
const NONE: u32 = u32::MAX;

impl OnDevice {
    /// Carries `experts` there, one after the other. `weights` were loaded without them.
    ///
    /// Fails where the accelerator's memory is short, and where experts of one layer are not all of one kind.
    pub(super) fn load(
        config: &Config,
        weights: &Weights,
        accelerator: &Arc<Accelerator>,
        experts: &BTreeSet<(u16, u16)>,
    ) -> Result<OnDevice> {
        let laid = laid(config, weights)?;
        let per_layer = config.experts;
        let slot_bytes = laid.iter().map(Laid::bytes).max().unwrap_or(0);
        let slab = Slab::new(accelerator, experts.len(), slot_bytes)?;
        let slots: Vec<AtomicU32> = (0..config.layers.len() * per_layer).map(|_| AtomicU32::new(NONE)).collect();
        for (slot, &(layer, index)) in experts.iter().enumerate() {
            let parts = Part::expert(layer, index);
            let [gate, up, down] = parts.map(|part| weights.lend(part));
            slab.write(slot, &laid[layer as usize], [&gate?, &up?, &down?])?;
            parts.iter().for_each(|part| weights.release(*part));
            slots[layer as usize * per_layer + index as usize].store(slot as u32, Relaxed);
        }
        let as_stored = |layer| Part::expert(layer, 0).iter().all(|part| weights.as_stored(*part).is_some());
        let movable = (0..config.layers.len() as u16).map(as_stored).collect();
        Ok(OnDevice { slab, laid, slots, per_layer, movable, steps: RwLock::new(()) })
    }

    pub fn accelerator(&self) -> &Arc<Accelerator> {
        self.slab.accelerator()
    }

    /// Bytes of an expert of a layer, as it lies there.
    pub fn expert_bytes(&self, layer: u16) -> usize {
        self.laid[layer as usize].bytes()
    }

    pub fn holds(&self, id: ExpertId) -> bool {
        self.slot(id).is_some()
    }

    /// All of them, ascending.
    pub fn ids(&self) -> impl Iterator<Item = ExpertId> + '_ {
        let id = |i: usize| ExpertId { layer: (i / self.per_layer) as u16, index: (i % self.per_layer) as u16 };
        (0..self.slots.len()).map(id).filter(|id| self.holds(*id))
    }

    pub fn slab(&self) -> &Slab {
        &self.slab
    }

    /// What the experts of a layer are, and the slot of each; `None` where one of them does not lie there.
    pub fn layer(&self, layer: u16) -> Option<(Laid, Vec<u32>)> {
        let slot = |index| self.slot(ExpertId { layer, index }).map(|slot| slot as u32);
        Some((self.laid[layer as usize], (0..self.per_layer as u16).map(slot).collect::<Option<_>>()?))
    }

    fn place(&self, id: ExpertId) -> &AtomicU32 {
        &self.slots[id.layer as usize * self.per_layer + id.index as usize]
    }

    fn slot(&self, id: ExpertId) -> Option<usize> {
        Some(self.place(id).load(Relaxed)).filter(|slot| *slot != NONE).map(|slot| slot as usize)
    }

    /// Whether experts of a layer can change sides: not where they were converted for this one.
    pub fn movable(&self, layer: u16) -> bool {
        self.movable[layer as usize]
    }

    /// Nothing moves while this is held.
    pub(super) fn step(&self) -> RwLockReadGuard<'_, ()> {
        self.steps.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `comes`, whose matrices these are, into the slot of `goes`, which is the processor's from then on. Waits until no
    /// step runs. After an error both are the processor's.
    pub(super) fn exchange(&self, goes: ExpertId, comes: ExpertId, matrices: [&[u8]; 3]) -> Result<()> {
        let _alone = self.steps.write().unwrap_or_else(PoisonError::into_inner);
        let slot = self.place(goes).swap(NONE, Relaxed);
        assert!(slot != NONE && !self.holds(comes), "one lies here and the other does not");
        self.slab.write(slot as usize, &self.laid[comes.layer as usize], matrices)?;
        self.place(comes).store(slot, Relaxed);
        Ok(())
    }

    /// `x` `[t, width]`, there -> the weighted sum of these experts, ascending, `[t, width]`. A real device may still be
    /// computing when this returns. Panics for an expert that does not lie there.
    pub fn compute(&self, groups: &[Group], x: &Tensor) -> Result<Tensor> {
        let chosen = |group: &'_ Group| self.slot(group.id).expect("only its own experts are asked of it");
        let chosen: Vec<Chosen<'_>> = groups
            .iter()
            .map(|group| Chosen { slot: chosen(group), tokens: &group.tokens, weights: &group.weights })
            .collect();
        self.slab.experts(&chosen, x)
    }
}

/// What the experts of each layer are: in every file we read those of one layer are alike.
fn laid(config: &Config, weights: &Weights) -> Result<Vec<Laid>> {
    let layer = |layer: u16| {
        let laid = |index: u16| {
            let parts = Part::expert(layer, index);
            let [gate, up, down] = parts.map(|part| weights.kind(part));
            Laid { gate, up, down, order: weights.down() }
        };
        let first = laid(0);
        match (1..config.experts as u16).find(|index| laid(*index) != first) {
            None => Ok(first),
            Some(odd) => Err(Error::Usage(format!(
                "layer {layer}: experts on an accelerator have to be alike, but the matrices of expert 0 are {}, {}, {} and \
                 those of expert {odd} are not; leave experts to the processor (--cpu-moe)",
                first.gate.format, first.up.format, first.down.format
            ))),
        }
    };
    (0..config.layers.len() as u16).map(layer).collect()
}
