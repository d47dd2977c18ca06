//! Whom to let go when an expert is needed that is not at hand.
//!
//! A policy knows no bytes, no clock and no lock, so that a trace can be replayed through it.

mod foresight;
#[cfg(test)]
mod laws;
mod lfu;
mod lru;
mod odds;
mod slru;

pub use foresight::Foresight;

use super::ExpertId;
use crate::config::placement::PolicyName;

/// Keeps an opinion on the experts that are at hand.
pub trait Policy: Send {
    /// A layer's router has spoken: which of its experts will be used, ascending, and by how many of the step's tokens.
    fn chosen(&mut self, _layer: u16, _chosen: &[(u16, u32)], _tokens: u32) {}
    /// An expert that is at hand is computed with.
    fn used(&mut self, id: ExpertId);
    /// An expert has come.
    fn admitted(&mut self, id: ExpertId);
    /// An expert has left.
    fn gone(&mut self, id: ExpertId);
    /// Whether [`Policy::expect`] is of use.
    fn wants_hints(&self) -> bool {
        false
    }
    /// A hint, before a router speaks: experts of later layers that may be used soon, at hand or not, likeliest first.
    fn expect(&mut self, _ids: &[ExpertId]) {}
    /// The one that will be missed least among those at hand that may go; `None` when none may. It stays at hand until it
    /// is said to be gone.
    fn victim(&mut self, may_go: &dyn Fn(ExpertId) -> bool) -> Option<ExpertId>;
}

/// What a policy may want to know of the model and of the store.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub layers: usize,
    /// In each layer, and those that a token takes.
    pub experts: usize,
    pub active: usize,
    /// How many can be at hand.
    pub slots: usize,
}

impl Shape {
    /// Experts of all layers.
    fn all(&self) -> usize {
        self.layers * self.experts
    }

    /// Where an expert stands in a list of all.
    fn index(&self, id: ExpertId) -> usize {
        id.layer as usize * self.experts + id.index as usize
    }

    fn id(&self, index: usize) -> ExpertId {
        ExpertId { layer: (index / self.experts) as u16, index: (index % self.experts) as u16 }
    }
}

pub fn policy(name: PolicyName, shape: Shape) -> Box<dyn Policy> {
    match name {
        PolicyName::Lru => Box::new(lru::Lru::default()),
        PolicyName::Lfu => Box::new(lfu::Lfu::new(shape)),
        PolicyName::Slru => Box::new(slru::Slru::new(shape)),
        PolicyName::Odds => Box::new(odds::Odds::new(shape)),
        PolicyName::Ahead => Box::new(odds::Odds::looking_ahead(shape)),
    }
}

/// The most memory a policy takes, in bytes.
pub fn bytes(name: PolicyName, shape: Shape) -> u64 {
    /// A place in a map by id and one in a map by turn, both as empty as they may be.
    const MAPPED: usize = 96;
    let bytes = match name {
        PolicyName::Lru | PolicyName::Slru => shape.slots * MAPPED,
        PolicyName::Lfu => shape.all() * (size_of::<f64>() + 1),
        PolicyName::Odds | PolicyName::Ahead => odds::Odds::bytes(shape),
    };
    bytes as u64
}
