//! Least recently used.

use super::{ExpertId, Policy};
use std::collections::{BTreeMap, HashMap};

/// Experts at hand by the turn of their last use.
#[derive(Default)]
pub struct Lru {
    turn: u64,
    last: HashMap<ExpertId, u64>,
    order: BTreeMap<u64, ExpertId>,
}

impl Lru {
    fn touch(&mut self, id: ExpertId) {
        self.turn += 1;
        if let Some(before) = self.last.insert(id, self.turn) {
            self.order.remove(&before);
        }
        self.order.insert(self.turn, id);
    }
}

impl Policy for Lru {
    fn used(&mut self, id: ExpertId) {
        if self.last.contains_key(&id) {
            self.touch(id);
        }
    }

    fn admitted(&mut self, id: ExpertId) {
        self.touch(id);
    }

    fn gone(&mut self, id: ExpertId) {
        if let Some(turn) = self.last.remove(&id) {
            self.order.remove(&turn);
        }
    }

    fn victim(&mut self, may_go: &dyn Fn(ExpertId) -> bool) -> Option<ExpertId> {
        self.order.values().copied().find(|&id| may_go(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_may_go() {
        let id = |index| ExpertId { layer: 0, index };
        let mut lru = Lru::default();
        (0..4).for_each(|i| lru.admitted(id(i)));
        lru.used(id(0));
        assert_eq!(lru.victim(&|_| true), Some(id(1)));
        assert_eq!(lru.victim(&|e| e.index != 1), Some(id(2)));
        lru.gone(id(1));
        assert_eq!(lru.victim(&|_| true), Some(id(2)));
        assert_eq!(lru.victim(&|_| false), None);
        lru.used(id(9));
        assert_eq!(lru.victim(&|e| e.index == 9), None);
    }
}
