//! The store: experts where the weights lie, or some of them in slots and the others on the disk.

use super::{Down, Expert, ExpertId, StoreStats};
use crate::checkpoint::{DownOrder, Matrix, Part, Weights};
use crate::config::Config;
use crate::config::placement::Placement;
use crate::error::{Error, Result};

/// Slots below which a model does not run: a token's experts of one layer, and two on their way.
pub fn least_slots(config: &Config) -> usize {
    (config.active + 2).min(config.layers.len() * config.experts)
}

/// All experts of a model.
pub struct ExpertStore {
    /// `[layer * experts + index]`: gate, up, down.
    lying: Vec<[Matrix; 3]>,
    per_layer: usize,
    down: DownOrder,
}

impl ExpertStore {
    pub fn open(config: &Config, weights: &Weights, placement: &Placement) -> Result<ExpertStore> {
        if placement.slots.is_some() {
            return Err(Error::Usage("experts cannot be kept in slots yet".into()));
        }
        let mut lying = Vec::with_capacity(config.layers.len() * config.experts);
        for layer in 0..config.layers.len() as u16 {
            for index in 0..config.experts as u16 {
                let parts = [Part::Gate(layer, index), Part::Up(layer, index), Part::Down(layer, index)];
                lying.push(parts.map(|part| weights.matrix(part)));
            }
        }
        Ok(ExpertStore { lying, per_layer: config.experts, down: weights.down() })
    }

    /// Begins a step of the forward pass over so many tokens; it ends when it is dropped.
    pub fn step(&self, _tokens: usize) -> Step<'_> {
        Step { store: self }
    }

    /// Bytes of memory for slots.
    pub fn slots_bytes(&self) -> u64 {
        0
    }

    /// Pins the slots in memory. Errors as the system gives them.
    pub fn lock(&self) -> std::io::Result<()> {
        Ok(())
    }

    /// What was done so far; `None` where no expert ever has to be read.
    pub fn stats(&self) -> Option<StoreStats> {
        None
    }

    fn lying(&self, id: ExpertId) -> Expert<'_> {
        let [gate, up, down] = &self.lying[id.layer as usize * self.per_layer + id.index as usize];
        Expert { gate: gate.rows(), up: up.rows(), down: Down::of(self.down, &down.kind(), down.bytes()) }
    }
}

/// What one step of the forward pass asks of the store.
pub struct Step<'s> {
    store: &'s ExpertStore,
}

impl<'s> Step<'s> {
    /// Says what will be needed next. Returns at once. May change speed, never a result.
    pub fn prefetch(&self, _ids: &[ExpertId]) {}

    /// Says what may be needed in later layers: a hint for whom to keep. May change speed, never a result.
    pub fn expect(&self, _ids: &[ExpertId]) {}

    /// Asks for experts, each once.
    pub fn ready<'a>(&'a self, ids: &'a [ExpertId]) -> Arrivals<'a> {
        Arrivals { store: self.store, ids, given: 0 }
    }
}

/// Experts that were asked for, in order of arrival.
pub struct Arrivals<'a> {
    store: &'a ExpertStore,
    ids: &'a [ExpertId],
    given: usize,
}

impl Arrivals<'_> {
    /// All that are at hand and were not given before, and where they stand in the list that was asked for: at least one,
    /// waiting if need be, unless all were given. They stay at hand while this is held, which should not be long: others
    /// may wait for their places.
    ///
    /// Errors when one of them cannot be had; the others can be asked for again.
    pub fn take(&mut self) -> Result<Vec<Here<'_>>> {
        let rest = self.given..self.ids.len();
        self.given = self.ids.len();
        Ok(rest.map(|place| Here { place, expert: self.store.lying(self.ids[place]) }).collect())
    }
}

/// An expert that is at hand.
pub struct Here<'a> {
    /// Index into the list that was asked for.
    pub place: usize,
    pub expert: Expert<'a>,
}
