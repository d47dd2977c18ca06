//! Perfect foresight (Belady, 1966): lets go of what is needed again latest. Only a trace knows that; it is the ceiling the
//! others are measured by, and none of them.

use super::{ExpertId, Policy, Shape};
use crate::experts::trace::Trace;

pub struct Foresight {
    shape: Shape,
    here: Vec<bool>,
    /// Of each expert, the visits at which it is chosen, last first: those to come.
    coming: Vec<Vec<u32>>,
}

impl Foresight {
    pub fn new(trace: &Trace, shape: Shape) -> Foresight {
        let mut coming = vec![Vec::new(); shape.all()];
        let visits = trace.steps.iter().flat_map(|step| step.visits.iter().enumerate());
        for (at, (layer, visit)) in visits.enumerate().collect::<Vec<_>>().into_iter().rev() {
            visit.ids(layer).for_each(|id| coming[shape.index(id)].push(at as u32));
        }
        Foresight { here: vec![false; shape.all()], coming, shape }
    }
}

impl Policy for Foresight {
    fn chosen(&mut self, layer: u16, chosen: &[(u16, u32)], _tokens: u32) {
        for &(index, _) in chosen {
            self.coming[self.shape.index(ExpertId { layer, index })].pop();
        }
    }

    fn used(&mut self, _: ExpertId) {}

    fn admitted(&mut self, id: ExpertId) {
        self.here[self.shape.index(id)] = true;
    }

    fn gone(&mut self, id: ExpertId) {
        self.here[self.shape.index(id)] = false;
    }

    fn victim(&mut self, may_go: &dyn Fn(ExpertId) -> bool) -> Option<ExpertId> {
        let here = (0..self.here.len()).filter(|&i| self.here[i] && may_go(self.shape.id(i)));
        here.max_by_key(|&i| self.coming[i].last().copied().unwrap_or(u32::MAX)).map(|i| self.shape.id(i))
    }
}
