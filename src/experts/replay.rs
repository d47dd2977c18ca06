//! Plays a trace through a policy, without weights: what would have been at hand, and what would have had to be read.

use super::ExpertId;
use super::policy::{Policy, Shape};
use super::trace::{Trace, Visit};
use std::collections::HashSet;

/// What a policy would have made of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Experts asked for, once in each layer of each step, that were at hand; and those that were not.
    pub hits: u64,
    pub misses: u64,
    pub tokens: u64,
}

impl Outcome {
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / (self.hits + self.misses) as f64
    }

    pub fn misses_per_token(&self) -> f64 {
        self.misses as f64 / self.tokens as f64
    }
}

/// The shape of a trace's model with so many slots.
pub fn shape(trace: &Trace, slots: usize) -> Shape {
    let header = &trace.header;
    Shape { layers: header.layers, experts: header.experts, active: header.active, slots }
}

/// Slots start empty. What a layer of a step needs does not put out what else it needs, unless it needs more than there
/// are slots; then its experts come and go in ascending order. Needs one slot at least.
pub fn replay(trace: &Trace, slots: usize, policy: &mut dyn Policy) -> Outcome {
    assert!(slots > 0, "an expert is computed with where it lies in a slot");
    let mut outcome = Outcome::default();
    let mut here = HashSet::with_capacity(slots);
    for step in &trace.steps {
        outcome.tokens += u64::from(step.tokens);
        for (layer, visit) in step.visits.iter().enumerate() {
            let next = |&index: &u16| ExpertId { layer: layer as u16 + 1, index };
            policy.expect(&visit.expected.iter().map(next).collect::<Vec<_>>());
            policy.chosen(layer as u16, &visit.chosen, step.tokens);
            let (hits, misses) = visited(layer, visit, slots, &mut here, policy);
            outcome.hits += hits;
            outcome.misses += misses;
        }
    }
    outcome
}

/// One layer of one step: hits and misses.
fn visited(
    layer: usize,
    visit: &Visit,
    slots: usize,
    here: &mut HashSet<ExpertId>,
    policy: &mut dyn Policy,
) -> (u64, u64) {
    let ids: Vec<ExpertId> = visit.ids(layer).collect();
    let mut needed: HashSet<ExpertId> = ids.iter().copied().collect();
    let (at_hand, missing): (Vec<_>, Vec<_>) = ids.iter().partition(|id| here.contains(id));
    for &id in &at_hand {
        policy.used(id);
        if ids.len() > slots {
            needed.remove(&id); // computed first, so that its slot is of use
        }
    }
    for &id in &missing {
        if here.len() == slots {
            let may_go = |id: ExpertId| !needed.contains(&id);
            let victim = policy.victim(&may_go).expect("something at hand is not needed any more");
            assert!(here.remove(&victim) && may_go(victim), "a victim is at hand and may go");
            policy.gone(victim);
        }
        here.insert(id);
        policy.admitted(id);
        policy.used(id);
        if ids.len() > slots {
            needed.remove(&id);
        }
    }
    (at_hand.len() as u64, missing.len() as u64)
}

/// How good the hints of a trace are: of the experts that were hinted at before their layer's turn, the share that hints
/// named among as many as a token takes, and among all they named. `None` where the trace has no hints.
pub fn foretold(trace: &Trace) -> Option<(f64, f64)> {
    let (mut chosen, mut likely, mut listed) = (0u64, 0u64, 0u64);
    for step in &trace.steps {
        for pair in step.visits.windows(2) {
            let expected = &pair[0].expected;
            if expected.is_empty() {
                continue;
            }
            for (index, _) in &pair[1].chosen {
                let place = expected.iter().position(|e| e == index);
                chosen += 1;
                likely += place.is_some_and(|place| place < trace.header.active) as u64;
                listed += place.is_some() as u64;
            }
        }
    }
    (chosen > 0).then(|| (likely as f64 / chosen as f64, listed as f64 / chosen as f64))
}

#[cfg(test)]
mod tests {
    use super::super::policy::{Foresight, policy};
    use super::super::trace::{Header, Step};
    use super::*;
    use crate::config::placement::PolicyName;

    /// Steps of one layer, each with the experts it takes.
    fn trace(steps: &[&[u16]]) -> Trace {
        let visit = |ids: &[u16]| Visit { chosen: ids.iter().map(|&id| (id, 1)).collect(), expected: vec![] };
        let step = |ids: &&[u16]| Step { tokens: 1, visits: vec![visit(ids)] };
        let header = Header { model: "one layer".into(), layers: 1, experts: 8, active: 1, expert_bytes: 1 };
        Trace { header, steps: steps.iter().map(step).collect() }
    }

    #[test]
    fn counted_by_hand() {
        let trace = trace(&[&[0], &[1], &[2], &[0], &[1], &[2]]);
        let shape = shape(&trace, 2);
        // A cycle longer than the slots is the worst case of LRU; foresight keeps one of the first two.
        let lru = replay(&trace, 2, &mut *policy(PolicyName::Lru, shape));
        let best = replay(&trace, 2, &mut Foresight::new(&trace, shape));
        assert_eq!((lru.hits, lru.misses, lru.tokens), (0, 6, 6));
        assert_eq!((best.hits, best.misses), (2, 4));
        assert_eq!((best.hit_rate(), best.misses_per_token()), (2.0 / 6.0, 4.0 / 6.0));
    }

    #[test]
    fn what_a_step_needs_stays_until_it_was_computed() {
        // Expert 0 is the oldest when 3 has to come, but needed in the same step; so 1 goes.
        let trace = trace(&[&[0], &[1], &[2], &[0, 3], &[0]]);
        let lru = replay(&trace, 3, &mut *policy(PolicyName::Lru, shape(&trace, 3)));
        assert_eq!((lru.hits, lru.misses), (2, 4));
        // More than there are slots: what is at hand is computed first, then they come one after the other.
        let trace = self::trace(&[&[0, 1], &[0, 1, 2, 3, 4]]);
        let lru = replay(&trace, 2, &mut *policy(PolicyName::Lru, shape(&trace, 2)));
        assert_eq!((lru.hits, lru.misses), (2, 5));
    }

    #[test]
    fn hints_are_scored_where_they_were_given() {
        let visit = |ids: [u16; 2], expected: &[u16]| Visit {
            chosen: ids.map(|id| (id, 1)).to_vec(),
            expected: expected.to_vec(),
        };
        let visits = vec![visit([0, 1], &[5, 2, 1, 7]), visit([1, 5], &[]), visit([3, 4], &[])];
        let header = Header { model: "three layers".into(), layers: 3, experts: 8, active: 2, expert_bytes: 1 };
        let mut trace = Trace { header, steps: vec![Step { tokens: 1, visits }] };
        assert_eq!(foretold(&trace), Some((0.5, 1.0)));
        trace.steps[0].visits[0].expected.clear();
        assert_eq!(foretold(&trace), None);
    }
}
