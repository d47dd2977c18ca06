//! Least frequently used, where what is long past counts for little.

use super::{ExpertId, Policy, Shape};

/// Tokens after which a use counts half.
const HALF_LIFE: f64 = 128.0;

/// A use at turn `t` counts `2^(t / half-life)`, so that what came before never has to be made smaller one by one: only all
/// at once, long before the numbers end.
const LARGEST: f64 = 1e200;

pub struct Lfu {
    shape: Shape,
    /// Of every expert, at hand or not.
    counts: Vec<f64>,
    here: Vec<bool>,
    /// What a use counts now, and by what it grows from use to use.
    worth: f64,
    growth: f64,
}

impl Lfu {
    pub fn new(shape: Shape) -> Lfu {
        let uses = HALF_LIFE * (shape.layers * shape.active) as f64;
        Lfu {
            counts: vec![0.0; shape.all()],
            here: vec![false; shape.all()],
            worth: 1.0,
            growth: (1.0 / uses).exp2(),
            shape,
        }
    }
}

impl Policy for Lfu {
    fn used(&mut self, id: ExpertId) {
        self.counts[self.shape.index(id)] += self.worth;
        self.worth *= self.growth;
        if self.worth > LARGEST {
            self.counts.iter_mut().for_each(|count| *count /= LARGEST);
            self.worth /= LARGEST;
        }
    }

    fn admitted(&mut self, id: ExpertId) {
        self.here[self.shape.index(id)] = true;
    }

    fn gone(&mut self, id: ExpertId) {
        self.here[self.shape.index(id)] = false;
    }

    fn victim(&mut self, may_go: &dyn Fn(ExpertId) -> bool) -> Option<ExpertId> {
        let (mut least, mut victim) = (f64::INFINITY, None);
        for (i, &count) in self.counts.iter().enumerate() {
            if self.here[i] && count < least && may_go(self.shape.id(i)) {
                (least, victim) = (count, Some(self.shape.id(i)));
            }
        }
        victim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rarest_goes_until_its_uses_are_newer() {
        let shape = Shape { layers: 1, experts: 4, active: 1, slots: 2 };
        let id = |index| ExpertId { layer: 0, index };
        let mut lfu = Lfu::new(shape);
        (0..2).for_each(|i| lfu.admitted(id(i)));
        (0..100).for_each(|_| lfu.used(id(0)));
        (0..50).for_each(|_| lfu.used(id(1)));
        assert_eq!(lfu.victim(&|_| true), Some(id(1)));
        // Two half-lives later a hundred uses count as 25.
        (0..2 * HALF_LIFE as usize).for_each(|_| lfu.used(id(1)));
        assert_eq!(lfu.victim(&|_| true), Some(id(0)));
    }

    #[test]
    fn numbers_do_not_run_out() {
        let id = |index| ExpertId { layer: 0, index };
        let mut lfu = Lfu::new(Shape { layers: 1, experts: 2, active: 1, slots: 2 });
        (0..2).for_each(|i| lfu.admitted(id(i)));
        (0..200_000).for_each(|i| lfu.used(id((i % 3 == 0) as u16)));
        assert!(lfu.worth.is_finite() && lfu.counts.iter().all(|c| c.is_finite()));
        assert_eq!(lfu.victim(&|_| true), Some(id(1)));
    }
}
