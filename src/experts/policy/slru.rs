//! Least recently used in two parts: what is used again moves to a protected part, which gives back its oldest.

use super::{ExpertId, Policy, Shape};
use std::collections::{BTreeMap, HashMap};

/// The share of the slots that is protected, as its inventors had it (Karedla, Love and Wherry, 1994).
const PROTECTED: f64 = 0.8;

pub struct Slru {
    turn: u64,
    places: HashMap<ExpertId, Place>,
    /// By turn: on probation, protected.
    parts: [BTreeMap<u64, ExpertId>; 2],
    most_protected: usize,
}

/// Where an expert at hand stands.
struct Place {
    protected: bool,
    /// When it came to this part, or was last used in it.
    turn: u64,
    /// Not used yet: the use it was read for says nothing about the next.
    fresh: bool,
}

impl Slru {
    pub fn new(shape: Shape) -> Slru {
        let most_protected = (shape.slots as f64 * PROTECTED) as usize;
        Slru { turn: 0, places: HashMap::new(), parts: Default::default(), most_protected }
    }

    fn put(&mut self, id: ExpertId, protected: bool, fresh: bool) {
        self.turn += 1;
        if let Some(before) = self.places.insert(id, Place { protected, turn: self.turn, fresh }) {
            self.parts[before.protected as usize].remove(&before.turn);
        }
        self.parts[protected as usize].insert(self.turn, id);
    }
}

impl Policy for Slru {
    fn used(&mut self, id: ExpertId) {
        match self.places.get(&id).map(|place| place.fresh) {
            None => return,
            Some(true) => return self.put(id, false, false),
            Some(false) => self.put(id, true, false),
        }
        if self.parts[1].len() > self.most_protected
            && let Some((_, &oldest)) = self.parts[1].first_key_value()
        {
            self.put(oldest, false, false);
        }
    }

    fn admitted(&mut self, id: ExpertId) {
        self.put(id, false, true);
    }

    fn gone(&mut self, id: ExpertId) {
        if let Some(place) = self.places.remove(&id) {
            self.parts[place.protected as usize].remove(&place.turn);
        }
    }

    fn victim(&mut self, may_go: &dyn Fn(ExpertId) -> bool) -> Option<ExpertId> {
        self.parts.iter().flat_map(BTreeMap::values).copied().find(|&id| may_go(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_again_outlives_what_was_not() {
        let id = |index| ExpertId { layer: 0, index };
        let mut slru = Slru::new(Shape { layers: 1, experts: 8, active: 1, slots: 5 });
        for i in [0, 1, 0, 2, 3, 4] {
            if i != 0 || slru.turn == 0 {
                slru.admitted(id(i));
            }
            slru.used(id(i));
        }
        // 0 is older than 2, 3 and 4, but protected.
        for i in [1, 2, 3, 4, 0] {
            assert_eq!(slru.victim(&|_| true), Some(id(i)));
            slru.gone(id(i));
        }
        assert_eq!(slru.victim(&|_| true), None);
    }

    #[test]
    fn the_protected_part_gives_back_its_oldest() {
        let id = |index| ExpertId { layer: 0, index };
        let mut slru = Slru::new(Shape { layers: 1, experts: 8, active: 1, slots: 5 });
        for round in 0..2 {
            for i in 0..5 {
                if round == 0 {
                    slru.admitted(id(i));
                    slru.used(id(i));
                }
                slru.used(id(i));
            }
        }
        assert_eq!(slru.parts.each_ref().map(BTreeMap::len), [1, 4]);
        assert_eq!(slru.victim(&|_| true), Some(id(0)));
    }
}
