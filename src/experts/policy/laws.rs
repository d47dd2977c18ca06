//! What every policy must keep, whatever it is asked.

use super::{Foresight, Policy, Shape, policy};
use crate::config::placement::PolicyName;
use crate::experts::ExpertId;
use crate::experts::replay::{replay, shape};
use crate::experts::trace::{Header, Step, Trace, Visit};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// What a store may do with a policy, in any order.
#[derive(Clone, Debug)]
enum Act {
    Chosen {
        layer: u16,
        first: u16,
        tokens: u32,
    },
    Expect {
        layer: u16,
        first: u16,
    },
    Admit(ExpertId),
    Use(ExpertId),
    /// Asks for a victim among those whose index leaves this rest when divided by three, and lets it go or not.
    Victim {
        rest: Option<u16>,
        let_go: bool,
    },
    /// One leaves that the policy did not name.
    Gone(ExpertId),
}

const SHAPE: Shape = Shape { layers: 3, experts: 6, active: 2, slots: 7 };

fn id() -> impl Strategy<Value = ExpertId> {
    (0..SHAPE.layers as u16, 0..SHAPE.experts as u16).prop_map(|(layer, index)| ExpertId { layer, index })
}

fn act() -> impl Strategy<Value = Act> {
    let chosen = (0..SHAPE.layers as u16, 0..SHAPE.experts as u16, 1u32..4);
    prop_oneof![
        3 => chosen.prop_map(|(layer, first, tokens)| Act::Chosen { layer, first, tokens }),
        1 => (0..SHAPE.layers as u16, 0..SHAPE.experts as u16).prop_map(|(layer, first)| Act::Expect { layer, first }),
        4 => id().prop_map(Act::Admit),
        4 => id().prop_map(Act::Use),
        4 => (proptest::option::of(0u16..3), any::<bool>()).prop_map(|(rest, let_go)| Act::Victim { rest, let_go }),
        1 => id().prop_map(Act::Gone),
    ]
}

/// `active` neighbours from `first` on, ascending, each taken by every token.
fn neighbours(first: u16, tokens: u32) -> Vec<(u16, u32)> {
    let indices: BTreeSet<u16> = (0..SHAPE.active as u16).map(|i| (first + i) % SHAPE.experts as u16).collect();
    indices.into_iter().map(|index| (index, tokens)).collect()
}

/// Plays `acts`; the victims named on the way.
fn play(policy: &mut dyn Policy, acts: &[Act]) -> Vec<Option<ExpertId>> {
    let mut here: BTreeSet<ExpertId> = BTreeSet::new();
    let mut victims = vec![];
    for act in acts {
        match *act {
            Act::Chosen { layer, first, tokens } => policy.chosen(layer, &neighbours(first, tokens), tokens),
            Act::Expect { layer, first } => {
                let ids = neighbours(first, 1).into_iter().map(|(index, _)| ExpertId { layer, index });
                policy.expect(&ids.rev().collect::<Vec<_>>());
            }
            Act::Admit(id) if here.len() < SHAPE.slots && here.insert(id) => policy.admitted(id),
            Act::Use(id) if here.contains(&id) => policy.used(id),
            Act::Gone(id) if here.remove(&id) => policy.gone(id),
            Act::Victim { rest, let_go } => {
                let may_go = |id: ExpertId| rest.is_none_or(|rest| id.index % 3 == rest);
                let victim = policy.victim(&may_go);
                match victim {
                    Some(id) => assert!(here.contains(&id) && may_go(id), "{id:?} is at hand and may go"),
                    None => assert!(!here.iter().any(|&id| may_go(id)), "someone may go, so someone goes"),
                }
                if let Some(id) = victim.filter(|_| let_go) {
                    here.remove(&id);
                    policy.gone(id);
                }
                victims.push(victim);
            }
            _ => {}
        }
    }
    victims
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn victims_are_at_hand_and_the_same_again(acts in proptest::collection::vec(act(), 1..300)) {
        for name in PolicyName::ALL {
            let once = play(&mut *policy(name, SHAPE), &acts);
            prop_assert_eq!(once, play(&mut *policy(name, SHAPE), &acts), "{}", name);
        }
    }
}

/// A seeded trace: in each layer some experts are dearer than others, and what was taken is likelier to be taken again.
fn trace(seed: u64, steps: usize) -> Trace {
    let mut state = seed;
    let mut below = move |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let header = Header { model: "made up".into(), layers: 4, experts: 12, active: 2, expert_bytes: 1 };
    let mut visit = |layer: usize, tokens: u32| {
        let mut chosen = std::collections::BTreeMap::new();
        for _ in 0..tokens {
            let first = below(12).min(below(12)) as u16;
            let second = (first + 1 + below(11) as u16) % 12;
            [first, second].into_iter().for_each(|index| *chosen.entry(index).or_insert(0) += 1);
        }
        let expected = if tokens == 1 && layer < 3 { vec![below(12) as u16, below(12) as u16] } else { vec![] };
        Visit { chosen: chosen.into_iter().collect(), expected }
    };
    let step = |i: usize| {
        let tokens = if i.is_multiple_of(50) { 20 } else { 1 };
        Step { tokens, visits: (0..4).map(|layer| visit(layer, tokens)).collect() }
    };
    Trace { steps: (0..steps).map(step).collect(), header }
}

#[test]
fn a_replay_is_the_same_twice_and_nobody_beats_foresight() {
    for slots in [2, 3, 9, 24, 40, 48] {
        let trace = trace(slots as u64, 200);
        let shape = shape(&trace, slots);
        let best = replay(&trace, slots, &mut Foresight::new(&trace, shape));
        let asked = trace.steps.iter().flat_map(|s| &s.visits).map(|v| v.chosen.len() as u64).sum::<u64>();
        for name in PolicyName::ALL {
            let outcome = replay(&trace, slots, &mut *policy(name, shape));
            assert_eq!(outcome, replay(&trace, slots, &mut *policy(name, shape)), "{name}, {slots} slots");
            assert_eq!(outcome.hits + outcome.misses, asked, "{name}, {slots} slots");
            // In a prompt's step that needs more experts than there are slots, order is not foresight's to choose.
            if slots > 12 {
                assert!(outcome.misses >= best.misses, "{name}, {slots} slots: {outcome:?}, at best {best:?}");
            }
            if slots == 48 {
                assert!(outcome.misses <= 48, "{name} lets go although there is room for all: {outcome:?}");
            }
        }
    }
}

#[test]
fn what_every_step_uses_is_kept() {
    // Expert 5 of each layer is in every token; the other is one of all in turn, so that each comes once in twelve.
    let mut trace = trace(1, 0);
    for i in 0..600u16 {
        let other = |layer: u16| (i + layer * 5) % 12;
        let visit = |layer| {
            let chosen: BTreeSet<u16> = [5, if other(layer) == 5 { 6 } else { other(layer) }].into();
            Visit { chosen: chosen.into_iter().map(|index| (index, 1)).collect(), expected: vec![] }
        };
        trace.steps.push(Step { tokens: 1, visits: (0..4).map(visit).collect() });
    }
    // Room for the four that are always used, and four more.
    for name in PolicyName::ALL {
        let outcome = replay(&trace, 10, &mut *policy(name, shape(&trace, 10)));
        let hits = outcome.hits as f64 / outcome.tokens as f64;
        assert!(hits > 3.9, "{name}: {hits} hits in a token");
    }
}
