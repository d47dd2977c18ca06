//! Lets go of the expert whose next use is expected latest: perfect foresight, with odds instead of knowledge.
//!
//! A layer is visited once per token, so an expert is due when its layer's turn comes and the router takes it. With the
//! chance `p` at a visit, the visits of its layer until its next use are `1 / p` on average, each as many visits of the
//! whole model apart as there are layers; the next visit, for which more is known, has a chance `q` of its own:
//!
//! ```text
//! due = visits until its layer's turn + (1 - q) * layers / p
//! ```
//!
//! The log-odds of `p` are a weighted sum of those of three running shares of the layer's tokens that took the expert,
//! with a short, a middle and a long memory. `q` adds which experts of the layer the token before it took: some follow
//! others, as words do. The weights are learnt while the model runs, by a small step towards what has come after each
//! token. What the next layer's router says of the input of this one changes `q` by a factor learnt in the same way; where
//! such hints are worth nothing, the factors come out as one.
//!
//! A step of many tokens counts as that many in the shares and teaches nothing else.

use super::{ExpertId, Policy, Shape};

/// Tokens after which a running share has forgotten half.
const HALF_LIVES: [f32; 3] = [16.0, 256.0, 4096.0];
const SHARES: usize = HALF_LIVES.len();

/// Log-odds of the shares, of the followers, and a constant.
const FEATURES: usize = SHARES + 2;
const FOLLOWERS: usize = SHARES;
const CONSTANT: usize = SHARES + 1;

/// How far weights move for a layer's visit: ten times less is slow on a short trace, three times more is unsteady on models
/// with many experts.
const STEP: f32 = 0.01;

/// Chances stay between these, so that odds stay numbers of a moderate size.
const LEAST: f32 = 0.001;
const MOST: f32 = 0.98;
/// The same for what is learnt by counting, where a few chances prove little.
const LEAST_COUNTED: f32 = 0.003;

/// A follower's count begins as if it had been seen so often with its usual share.
const PRIOR: f32 = 10.0;
/// Counts of followers are halved here: habits change.
const MOST_FOLLOWED: f32 = 4096.0;

/// Beyond so many experts in a layer nobody counts who follows whom: the counts of a layer are as many squared.
const MOST_FOLLOWING: usize = 256;

/// Counts of what hints were worth are halved here, before small additions are lost on them.
const MOST_HINTED: f32 = 65536.0;

/// What a hint may say of an expert.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    /// Nobody has asked.
    None,
    /// Not among those listed.
    Unlisted,
    /// Listed, but later than as many as a token takes.
    Possible,
    Likely,
}

pub struct Odds {
    shape: Shape,
    hints: bool,
    /// The layer that was visited last.
    layer: usize,
    here: Vec<bool>,
    experts: Vec<Expert>,
    /// `due` without the visits until the layer's turn.
    due: Vec<f32>,
    layers: Vec<Layer>,
    /// Of the features.
    weights: [f32; FEATURES],
    /// By hint: how often experts were taken and how often not, weighted so that their ratio is the factor on the odds.
    factors: [(f32, f32); 4],
}

struct Expert {
    shares: [f32; SHARES],
    /// What `p` and `q` were computed from.
    features: [f32; FEATURES],
    p: f32,
    /// The chance at the next visit before hints.
    q: f32,
    hint: Hint,
}

struct Layer {
    /// Tokens that went through it.
    tokens: f32,
    /// Taken by the last of them, if it came alone.
    last: Vec<u16>,
    /// `[a * experts + b]`: how often a token took b after one that took a; and how often one took a.
    followed: Vec<f32>,
    seen: Vec<f32>,
}

impl Odds {
    pub fn new(shape: Shape) -> Odds {
        let mean = (shape.active as f32 / shape.experts as f32).clamp(LEAST_COUNTED, MOST);
        let shares = [mean; SHARES];
        let expert = || Expert { shares, features: [0.0; FEATURES], p: mean, q: mean, hint: Hint::None };
        let pairs = Odds::pairs(shape);
        let layer =
            || Layer { tokens: 0.0, last: Vec::new(), followed: vec![0.0; pairs], seen: vec![0.0; shape.experts] };
        let mut weights = [1.0 / SHARES as f32; FEATURES];
        (weights[FOLLOWERS], weights[CONSTANT]) = (0.0, 0.0);
        let mut odds = Odds {
            hints: false,
            layer: 0,
            here: vec![false; shape.all()],
            experts: (0..shape.all()).map(|_| expert()).collect(),
            due: vec![0.0; shape.all()],
            layers: (0..shape.layers).map(|_| layer()).collect(),
            weights,
            factors: [(10.0, 10.0); 4],
            shape,
        };
        (0..shape.all()).for_each(|i| odds.update_due(i));
        odds
    }

    /// The same, asking for hints.
    pub fn looking_ahead(shape: Shape) -> Odds {
        Odds { hints: true, ..Odds::new(shape) }
    }

    /// What one takes.
    pub fn bytes(shape: Shape) -> usize {
        let expert = size_of::<Expert>() + size_of::<f32>() + size_of::<bool>();
        let layer = size_of::<Layer>() + size_of::<f32>() * (Odds::pairs(shape) + shape.experts);
        shape.all() * expert + shape.layers * layer
    }

    /// Counts of who follows whom, in each layer.
    fn pairs(shape: Shape) -> usize {
        if shape.experts > MOST_FOLLOWING { 0 } else { shape.experts * shape.experts }
    }

    fn range(&self, layer: usize) -> std::ops::Range<usize> {
        layer * self.shape.experts..(layer + 1) * self.shape.experts
    }

    /// The chance at the next visit, hints included.
    fn chance(&self, i: usize) -> f32 {
        let Expert { q, hint, .. } = self.experts[i];
        let (taken, left) = self.factors[hint as usize];
        let odds = q / (1.0 - q) * taken / left;
        odds / (1.0 + odds)
    }

    fn update_due(&mut self, i: usize) {
        self.due[i] = (1.0 - self.chance(i)) * self.shape.layers as f32 / self.experts[i].p;
    }

    /// Compares what was expected of each expert of a layer with whether one token took it.
    fn learn(&mut self, layer: usize, taken: &[f32]) {
        let mut slope = [0f32; FEATURES];
        for (i, &taken) in self.range(layer).zip(taken) {
            let expert = &self.experts[i];
            slope.iter_mut().zip(expert.features).for_each(|(s, x)| *s += (taken - expert.q) * x);
            if expert.hint != Hint::None {
                let (yes, no) = &mut self.factors[expert.hint as usize];
                *yes += taken * (1.0 - expert.q);
                *no += (1.0 - taken) * expert.q;
                if *yes + *no > MOST_HINTED {
                    (*yes, *no) = (*yes / 2.0, *no / 2.0);
                }
            }
        }
        for (weight, slope) in self.weights.iter_mut().zip(slope) {
            *weight += STEP / self.shape.experts as f32 * slope;
        }
    }

    /// Counts who came after whom.
    fn follow(&mut self, layer: usize, taken: &[f32]) {
        let experts = self.shape.experts;
        if experts > MOST_FOLLOWING {
            return;
        }
        let Layer { last, followed, seen, .. } = &mut self.layers[layer];
        for &a in last.iter() {
            let row = &mut followed[a as usize * experts..][..experts];
            row.iter_mut().zip(taken).for_each(|(count, taken)| *count += taken);
            seen[a as usize] += 1.0;
            if seen[a as usize] >= MOST_FOLLOWED {
                row.iter_mut().for_each(|count| *count /= 2.0);
                seen[a as usize] /= 2.0;
            }
        }
    }

    /// Expects anew, for the next visit of a layer.
    fn expect_next(&mut self, layer: usize) {
        let experts = self.shape.experts;
        for (b, i) in self.range(layer).enumerate() {
            let Layer { last, followed, seen, .. } = &self.layers[layer];
            let expert = &mut self.experts[i];
            for (x, share) in expert.features.iter_mut().zip(expert.shares) {
                *x = log_odds(share.clamp(LEAST_COUNTED, MOST));
            }
            let usual = expert.shares[SHARES - 1].clamp(LEAST_COUNTED, MOST);
            let odds = |&a: &u16| {
                let counted = followed[a as usize * experts + b] + PRIOR * usual;
                let share = (counted / (seen[a as usize] + PRIOR)).clamp(LEAST_COUNTED, MOST);
                f64::from(share / (1.0 - share))
            };
            expert.features[FOLLOWERS] = match followed.is_empty() {
                true => 0.0,
                // One logarithm for all: dear ones are the most of this.
                false => {
                    last.iter().map(odds).product::<f64>().clamp(1e-300, 1e300).ln() as f32
                        - last.len() as f32 * log_odds(usual)
                }
            };
            expert.features[CONSTANT] = 1.0;
            let parts: [f32; FEATURES] = std::array::from_fn(|f| self.weights[f] * expert.features[f]);
            let sum: f32 = parts.iter().sum();
            expert.q = chance(sum);
            expert.p = chance(sum - parts[FOLLOWERS]);
            expert.hint = Hint::None;
            self.update_due(i);
        }
    }
}

fn log_odds(p: f32) -> f32 {
    (p / (1.0 - p)).ln()
}

fn chance(log_odds: f32) -> f32 {
    (1.0 / (1.0 + (-log_odds).exp())).clamp(LEAST, MOST)
}

impl Policy for Odds {
    fn chosen(&mut self, layer: u16, chosen: &[(u16, u32)], tokens: u32) {
        let layer = layer as usize;
        self.layer = layer;
        let mut taken = vec![0f32; self.shape.experts];
        chosen.iter().for_each(|&(index, count)| taken[index as usize] = count as f32 / tokens as f32);
        if tokens == 1 {
            self.learn(layer, &taken);
            self.follow(layer, &taken);
        }
        let before = self.layers[layer].tokens;
        for (i, taken) in self.range(layer).zip(&taken) {
            for (share, half_life) in self.experts[i].shares.iter_mut().zip(HALF_LIVES) {
                // A young share is the mean of what was seen and of a few tokens that chose evenly.
                let even = 2.0 * self.shape.experts as f32 / self.shape.active as f32;
                let young = tokens as f32 / (before + tokens as f32 + even);
                let weight = (1.0 - (-(tokens as f32) / half_life).exp2()).max(young);
                *share += weight * (taken - *share);
            }
        }
        let state = &mut self.layers[layer];
        state.tokens += tokens as f32;
        state.last.clear();
        if tokens == 1 {
            state.last.extend(chosen.iter().map(|&(index, _)| index));
        }
        self.expect_next(layer);
    }

    fn used(&mut self, _: ExpertId) {}

    fn admitted(&mut self, id: ExpertId) {
        self.here[self.shape.index(id)] = true;
    }

    fn gone(&mut self, id: ExpertId) {
        self.here[self.shape.index(id)] = false;
    }

    fn wants_hints(&self) -> bool {
        self.hints
    }

    fn expect(&mut self, ids: &[ExpertId]) {
        let Some(layer) = ids.first().map(|id| id.layer as usize).filter(|_| self.hints) else { return };
        for i in self.range(layer) {
            let place = ids.iter().position(|&id| self.shape.index(id) == i);
            self.experts[i].hint = match place {
                Some(place) if place < self.shape.active => Hint::Likely,
                Some(_) => Hint::Possible,
                None => Hint::Unlisted,
            };
            self.update_due(i);
        }
    }

    fn victim(&mut self, may_go: &dyn Fn(ExpertId) -> bool) -> Option<ExpertId> {
        let (mut latest, mut victim) = (f32::NEG_INFINITY, None);
        for layer in 0..self.shape.layers {
            let turn = (layer + self.shape.layers - self.layer - 1) % self.shape.layers;
            for i in self.range(layer) {
                let due = self.due[i] + turn as f32;
                if self.here[i] && due > latest && may_go(self.shape.id(i)) {
                    (latest, victim) = (due, Some(self.shape.id(i)));
                }
            }
        }
        victim
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::placement::PolicyName;
    use crate::experts::policy::{Foresight, policy};
    use crate::experts::replay::{Outcome, replay, shape};
    use crate::experts::trace::{Header, Step, Trace, Visit};

    /// 600 steps through three layers of eight experts; `take(step, layer)` is the one that is taken.
    fn trace(take: impl Fn(usize, usize) -> u16, hints: bool) -> Trace {
        let visit = |i: usize, layer: usize| Visit {
            chosen: vec![(take(i, layer), 1)],
            expected: if hints && layer < 2 { vec![take(i, layer + 1)] } else { vec![] },
        };
        let step = |i: usize| Step { tokens: 1, visits: (0..3).map(|layer| visit(i, layer)).collect() };
        let header = Header { model: "made up".into(), layers: 3, experts: 8, active: 1, expert_bytes: 1 };
        Trace { header, steps: (0..600).map(step).collect() }
    }

    fn played(trace: &Trace, slots: usize, name: PolicyName) -> Outcome {
        replay(trace, slots, &mut *policy(name, shape(trace, slots)))
    }

    fn draw(seed: usize) -> u16 {
        let mut z = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)) >> 40) as u16 % 8
    }

    #[test]
    fn a_popular_expert_outlives_a_recent_one() {
        // Half of the tokens take expert 0, the others any: what came last says nothing.
        let trace =
            trace(|i, layer| if draw(7 * i + layer).is_multiple_of(2) { 0 } else { draw(3 * i + layer) }, false);
        let (lru, odds) = (played(&trace, 6, PolicyName::Lru), played(&trace, 6, PolicyName::Odds));
        assert!(10 * odds.misses < 9 * lru.misses, "{odds:?} {lru:?}");
    }

    #[test]
    fn it_learns_who_follows_whom() {
        // Five experts in a circle, room for four in each layer: whoever is oldest is needed next.
        let trace = trace(|i, _| (i % 5) as u16, false);
        let best = replay(&trace, 12, &mut Foresight::new(&trace, shape(&trace, 12)));
        let (lru, odds) = (played(&trace, 12, PolicyName::Lru), played(&trace, 12, PolicyName::Odds));
        assert_eq!(lru.hits, 0);
        assert!(odds.hits > best.hits / 2, "{odds:?} {best:?}");
    }

    #[test]
    fn it_learns_what_hints_are_worth() {
        let told = trace(|i, layer| draw(3 * i + layer), true);
        let (odds, ahead) = (played(&told, 5, PolicyName::Odds), played(&told, 5, PolicyName::Ahead));
        assert!(100 * ahead.misses < 98 * odds.misses, "{ahead:?} {odds:?}");
        // Hints that are wrong throughout are no worse than none.
        let mut lied_to = told.clone();
        lied_to
            .steps
            .iter_mut()
            .flat_map(|s| &mut s.visits)
            .for_each(|v| v.expected.iter_mut().for_each(|e| *e = (*e + 1) % 8));
        assert!(played(&lied_to, 5, PolicyName::Ahead).misses <= odds.misses, "{odds:?}");
    }

    #[test]
    fn a_prompt_counts_as_its_tokens() {
        let shape = Shape { layers: 1, experts: 4, active: 1, slots: 4 };
        let id = |index| ExpertId { layer: 0, index };
        let mut odds = Odds::new(shape);
        (0..4).for_each(|i| odds.admitted(id(i)));
        odds.chosen(0, &[(0, 300), (1, 2), (2, 100), (3, 110)], 512);
        for expected in [1, 2, 3, 0].map(id) {
            assert_eq!(odds.victim(&|_| true), Some(expected));
            odds.gone(expected);
        }
        assert!(odds.due.iter().all(|due| due.is_finite()));
    }

    #[test]
    fn many_experts_and_many_active_stay_numbers() {
        for (experts, active) in [(300, 3), (256, 200)] {
            let mut odds = Odds::looking_ahead(Shape { layers: 1, experts, active, slots: experts });
            for i in 0..200 {
                let mut taken: Vec<u16> = (0..active).map(|j| ((i * 7 + j) % experts) as u16).collect();
                taken.sort_unstable();
                odds.expect(&taken.iter().map(|&index| ExpertId { layer: 0, index }).collect::<Vec<_>>());
                odds.chosen(0, &taken.iter().map(|&index| (index, 1)).collect::<Vec<_>>(), 1);
            }
            assert!(odds.due.iter().chain(&odds.weights).all(|x| x.is_finite()), "{experts} {active}");
        }
    }
}
