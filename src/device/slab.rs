//! Experts on an accelerator: equal slots, each of which can be overwritten, and the mathematics of those that were
//! chosen.

use super::own;
use super::{Accelerator, Hold, Weight, What};
use crate::checkpoint::{DownOrder, Kind};
use crate::error::Result;
use candle_core::Tensor;
use std::sync::{Arc, PoisonError, RwLock};

/// What the three matrices of an expert are: the same for all experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Laid {
    pub gate: Kind,
    pub up: Kind,
    pub down: Kind,
    pub order: DownOrder,
}

impl Laid {
    /// Where each matrix begins in its slot. Loads are widest where they begin on such a boundary.
    const ALIGNED: usize = 256;

    /// Where gate, up and down begin in a slot.
    pub fn offsets(&self) -> [usize; 3] {
        let up = self.gate.bytes().next_multiple_of(Laid::ALIGNED);
        [0, up, up + self.up.bytes().next_multiple_of(Laid::ALIGNED)]
    }

    /// Bytes of a slot that holds such an expert.
    pub fn bytes(&self) -> usize {
        (self.offsets()[2] + self.down.bytes()).next_multiple_of(Laid::ALIGNED)
    }
}

/// One chosen expert, and who takes it.
pub struct Chosen<'a> {
    pub slot: usize,
    /// Rows of `x`, ascending, each with the expert's weight for it.
    pub tokens: &'a [usize],
    pub weights: &'a [f32],
}

/// Slots of one size.
pub struct Slab {
    accelerator: Arc<Accelerator>,
    slots: Vec<RwLock<Option<[Weight; 3]>>>,
    /// The same in one piece, where the device has kernels of ours.
    pub(super) own: Option<own::Slots>,
    slot_bytes: usize,
    _hold: Hold,
}

impl Slab {
    /// Takes the memory of all slots at once.
    pub fn new(accelerator: &Arc<Accelerator>, slots: usize, slot_bytes: usize) -> Result<Slab> {
        let hold = accelerator.hold((slots * slot_bytes) as u64)?;
        let own = accelerator.own.as_ref().map(|own| own.slots(slots, slot_bytes)).transpose()?;
        let slots = (0..slots).map(|_| RwLock::new(None)).collect();
        Ok(Slab { accelerator: accelerator.clone(), slots, own, slot_bytes, _hold: hold })
    }

    pub fn accelerator(&self) -> &Arc<Accelerator> {
        &self.accelerator
    }

    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Puts an expert into a slot, over whatever was there: gate, up and down as they lie. Nobody may be computing with
    /// that slot.
    pub fn write(&self, slot: usize, laid: &Laid, matrices: [&[u8]; 3]) -> Result<()> {
        assert!(laid.bytes() <= self.slot_bytes, "an expert fits in its slot");
        let accelerator = &self.accelerator;
        if let (Some(own), Some(slots)) = (&accelerator.own, &self.own) {
            accelerator.brought(What::Weights, matrices.iter().map(|m| m.len() as u64).sum());
            return own.write(slots, slot, laid, matrices);
        }
        let [gate, up, down] = matrices;
        let matrices = [
            Weight::in_slot(accelerator, &laid.gate, DownOrder::ByOutput, gate)?,
            Weight::in_slot(accelerator, &laid.up, DownOrder::ByOutput, up)?,
            Weight::in_slot(accelerator, &laid.down, laid.order, down)?,
        ];
        *self.slots[slot].write().unwrap_or_else(PoisonError::into_inner) = Some(matrices);
        Ok(())
    }

    /// `x` `[t, width]` -> the weighted sum of each row's experts among `chosen`, `[t, width]`, added in the order given
    /// (specification 3.1, step 2.10). Panics for a slot that was never written.
    pub fn experts(&self, chosen: &[Chosen<'_>], x: &Tensor) -> Result<Tensor> {
        if let (Some(own), Some(slots)) = (&self.accelerator.own, &self.own) {
            let pairs: usize = chosen.iter().map(|c| c.tokens.len()).sum();
            self.accelerator.brought(What::Choice, 12 * pairs as u64); // token, place and weight of each
            return own.experts(slots, chosen, x);
        }
        let mut y = x.zeros_like()?;
        for chosen in chosen {
            let slot = self.slots[chosen.slot].read().unwrap_or_else(PoisonError::into_inner);
            let matrices = slot.as_ref().expect("only slots that were written are asked for");
            if x.dim(0)? == 1 {
                y = (y + expert(matrices, x)?.affine(chosen.weights[0] as f64, 0.0)?)?;
                continue;
            }
            let rows: Vec<u32> = chosen.tokens.iter().map(|&token| token as u32).collect();
            let device = self.accelerator.device();
            self.accelerator.brought(What::Choice, 8 * rows.len() as u64);
            let weights = Tensor::from_slice(chosen.weights, (rows.len(), 1), device)?;
            let rows = Tensor::new(rows, device)?;
            let out = expert(matrices, &x.contiguous()?.index_select(&rows, 0)?)?;
            y = y.index_add(&rows, &out.broadcast_mul(&weights)?, 0)?;
        }
        Ok(y)
    }
}

/// `down (relu(gate x) * (up x))` of each row of `x`. A neuron whose gate is not positive adds exactly nothing, whatever
/// its `up` says.
fn expert([gate, up, down]: &[Weight; 3], x: &Tensor) -> Result<Tensor> {
    let g = gate.product(x)?;
    let h = (&g * up.product(x)?)?;
    let h = g.gt(0f32)?.where_cond(&h, &h.zeros_like()?)?;
    down.product(&h)
}
