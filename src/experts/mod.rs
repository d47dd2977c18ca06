//! Which expert weights are where, now; and the mathematics of the chosen ones on host memory.
//!
//! The forward pass says what it will need (`prefetch`, a hint) and later asks for it (`ready`, a promise). Every expert
//! of this store lies in the weights it was opened on, mapped or owned, so a promise is kept at once.

mod ffn;

pub use ffn::mixture;

use crate::checkpoint::{DownOrder, Matrix, Part, Weights};
use crate::config::Config;
use kernels::{Rows, Tiles};

/// One expert of one layer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ExpertId {
    pub layer: u16,
    pub index: u16,
}

/// Views of one expert's three matrices. `gate` and `up` have one row of `width` weights per neuron.
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

/// All experts of a model.
pub struct ExpertStore {
    /// `[layer * experts + index]`: gate, up, down.
    experts: Vec<[Matrix; 3]>,
    per_layer: usize,
    down: DownOrder,
}

impl ExpertStore {
    pub fn open(config: &Config, weights: &Weights) -> ExpertStore {
        let mut experts = Vec::with_capacity(config.layers.len() * config.experts);
        for layer in 0..config.layers.len() as u16 {
            for index in 0..config.experts as u16 {
                let [gate, up, down] = [Part::Gate(layer, index), Part::Up(layer, index), Part::Down(layer, index)];
                experts.push([weights.matrix(gate), weights.matrix(up), weights.matrix(down)]);
            }
        }
        ExpertStore { experts, per_layer: config.experts, down: weights.down() }
    }

    /// Say what will be needed. Returns at once. May change speed, never a result: here all of it is at hand already.
    pub fn prefetch(&self, _ids: &[ExpertId]) {}

    /// One expert, ready to compute with.
    pub fn ready(&self, id: ExpertId) -> Expert<'_> {
        let [gate, up, down] = &self.experts[id.layer as usize * self.per_layer + id.index as usize];
        let down = match self.down {
            DownOrder::ByNeuron => Down::ByNeuron(down.rows()),
            DownOrder::ByOutput => match (down.tiles(), down.neurons()) {
                (Some(tiles), _) => Down::Tiled(tiles),
                (_, Some(neurons)) => Down::ByNeuron(neurons),
                _ => Down::ByOutput(down.rows()),
            },
        };
        Expert { gate: gate.rows(), up: up.rows(), down }
    }
}
