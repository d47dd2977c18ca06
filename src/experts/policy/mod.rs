//! Whom to let go when an expert is needed that is not at hand.
//!
//! A policy knows no bytes, no clock and no lock, so that a trace can be replayed through it.

mod lru;

use super::ExpertId;
use crate::config::placement::PolicyName;

/// Keeps an opinion on the experts that are at hand.
pub trait Policy: Send {
    /// An expert that is at hand is computed with.
    fn used(&mut self, id: ExpertId);
    /// An expert has come.
    fn admitted(&mut self, id: ExpertId);
    /// An expert has left.
    fn gone(&mut self, id: ExpertId);
    /// A hint: these are likely to be used soon, at hand or not.
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

pub fn policy(name: PolicyName, _shape: Shape) -> Box<dyn Policy> {
    match name {
        PolicyName::Lru => Box::new(lru::Lru::default()),
    }
}
