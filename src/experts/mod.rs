//! Which expert weights are where, now; and the mathematics of the chosen ones on host memory.
//!
//! The forward pass says what it will need (`prefetch`, a hint) and later asks for it (`ready`, a promise). It cannot see
//! whether an expert was at hand or had to be read.

mod device;
mod ffn;
mod image;
mod loader;
mod map;
pub mod policy;
pub mod replay;
mod schedule;
mod slots;
mod stats;
mod store;
mod tally;
pub mod tier;
pub mod trace;

pub use device::OnDevice;
pub use ffn::{Room, WAVE_TOKENS, compute, mixture};
pub use image::slot_bytes;
pub use map::{LayerMap, Lies, Map};
pub use schedule::{GUESSED, PIECE};
pub use stats::{LayerStats, StoreStats};
pub use store::{Arrivals, Batch, ExpertStore, Step, Wrap, least_slots};
pub use tally::{LayerCounts, Tally};

use crate::checkpoint::{DownOrder, Kind};
use kernels::{Rows, Tiles};

/// One expert of one layer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ExpertId {
    pub layer: u16,
    pub index: u16,
}

/// Views of one expert's three matrices. `gate` and `up` have one row of `width` weights per neuron.
#[derive(Clone, Copy)]
pub struct Expert<'a> {
    pub gate: Rows<'a>,
    pub up: Rows<'a>,
    pub down: Down<'a>,
}

/// The orders a `down` matrix comes in.
#[derive(Clone, Copy)]
pub enum Down<'a> {
    /// `[neurons, width]`, blocks along the width (PowerInfer's files, and re-laid float formats).
    ByNeuron(Rows<'a>),
    /// `[width, neurons]`, blocks along the neurons (ordinary files).
    ByOutput(Rows<'a>),
    /// Ordinary files re-laid: weights by neuron, the scales where they were.
    Tiled(Tiles<'a>),
}

impl<'a> Down<'a> {
    /// A `down` of files in this order.
    fn of(order: DownOrder, kind: &Kind, bytes: &'a [u8]) -> Down<'a> {
        match order {
            DownOrder::ByNeuron => Down::ByNeuron(kind.view(bytes)),
            DownOrder::ByOutput => match (kind.tiles(bytes), kind.neurons(bytes)) {
                (Some(tiles), _) => Down::Tiled(tiles),
                (_, Some(neurons)) => Down::ByNeuron(neurons),
                _ => Down::ByOutput(kind.view(bytes)),
            },
        }
    }
}

/// Which experts of one layer each token takes, and how much of each: `[t, active]`, row-major.
pub struct Choice {
    pub layer: u16,
    pub active: usize,
    pub experts: Vec<u16>,
    pub weights: Vec<f32>,
}

/// One expert and the tokens that chose it.
pub struct Group {
    pub id: ExpertId,
    /// Token indices within the step, ascending, each with the expert's weight for it.
    pub tokens: Vec<usize>,
    pub weights: Vec<f32>,
}

impl Choice {
    /// The experts chosen by at least one token, ascending.
    pub fn ids(&self) -> Vec<ExpertId> {
        let mut ids: Vec<u16> = self.experts.clone();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(|index| ExpertId { layer: self.layer, index }).collect()
    }

    /// The experts chosen by at least one token, ascending, and by how many.
    pub fn counts(&self) -> Vec<(u16, u32)> {
        let mut counts: Vec<(u16, u32)> = self.ids().into_iter().map(|id| (id.index, 0)).collect();
        for expert in &self.experts {
            let at = counts.binary_search_by_key(expert, |c| c.0).expect("ids() names every chosen expert");
            counts[at].1 += 1;
        }
        counts
    }

    /// The choice turned round: per expert, ascending, who wants it.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> =
            self.ids().into_iter().map(|id| Group { id, tokens: Vec::new(), weights: Vec::new() }).collect();
        for (slot, (&expert, &weight)) in self.experts.iter().zip(&self.weights).enumerate() {
            let at = groups.binary_search_by_key(&expert, |g| g.id.index).expect("every chosen expert has a group");
            groups[at].tokens.push(slot / self.active);
            groups[at].weights.push(weight);
        }
        groups
    }
}
