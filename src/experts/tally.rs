//! Which experts are chosen and how many of their neurons fire, counted always while a model runs.
//!
//! Counting costs a lock and some hundred additions for each layer of a step. Pairs of experts, which would touch far more
//! memory, are counted for every eighth token only.

use super::Group;
use crate::config::Config;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Tokens for each one whose pairs of experts are counted.
const EVERY: usize = 8;
/// With more experts in a layer pairs are not counted: their number grows with the square.
const MOST_PAIRED: usize = 256;

/// What one layer's router chose so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerCounts {
    pub tokens: u64,
    /// By expert: tokens that chose it.
    pub chosen: Vec<u64>,
    /// By expert: neurons that were looked at, and those that fired.
    pub looked: Vec<u64>,
    pub fired: Vec<u64>,
    /// Choices that had a token before them in the text, and those in which that token had chosen the same expert.
    pub followers: u64,
    pub again: u64,
    /// Tokens whose pairs were counted; `[a][b]`, a < b: that chose both; `[a][b]`: that chose a here and b in the next
    /// layer. Empty where there are too many experts.
    pub sampled: u64,
    pub together: Vec<u32>,
    pub next: Vec<u32>,
}

/// Counts since it was made.
pub struct Tally {
    experts: usize,
    state: Mutex<State>,
}

struct State {
    layers: Vec<LayerCounts>,
    /// By layer: what the last step chose, and whether that was one token.
    last: Vec<(Vec<u16>, bool)>,
    /// The layer counted last, and what its sampled tokens chose.
    before: (usize, Vec<Vec<u16>>),
}

impl Tally {
    pub fn new(config: &Config) -> Tally {
        Tally::of(config.layers.len(), config.experts)
    }

    pub fn of(layers: usize, experts: usize) -> Tally {
        let pairs = if experts <= MOST_PAIRED { experts * experts } else { 0 };
        let layer = LayerCounts {
            chosen: vec![0; experts],
            looked: vec![0; experts],
            fired: vec![0; experts],
            together: vec![0; pairs],
            next: vec![0; pairs],
            ..LayerCounts::default()
        };
        let state = State { layers: vec![layer; layers], last: vec![(vec![], false); layers], before: (0, vec![]) };
        Tally { experts, state: Mutex::new(state) }
    }

    /// What was counted so far, by layer.
    pub fn counts(&self) -> Vec<LayerCounts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).layers.clone()
    }

    /// By layer, without copying the pairs: tokens so far, how often each expert was chosen, and those of the last step.
    pub fn heat(&self) -> Vec<(u64, Vec<u64>, Vec<u16>)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = state.layers.iter().zip(&state.last);
        layers.map(|(counts, (last, _))| (counts.tokens, counts.chosen.clone(), last.clone())).collect()
    }

    /// A step of `tokens` tokens made this choice in one layer.
    pub fn chose(&self, groups: &[Group], tokens: usize) {
        let Some(first) = groups.first() else { return };
        let layer = first.id.layer as usize;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let counts = &mut state.layers[layer];
        let sampled = sampled(groups, counts.tokens as usize, tokens);
        counts.tokens += tokens as u64;
        for group in groups {
            let index = group.id.index as usize;
            counts.chosen[index] += group.tokens.len() as u64;
            counts.again += group.tokens.windows(2).filter(|pair| pair[1] == pair[0] + 1).count() as u64;
            counts.followers += group.tokens.iter().filter(|token| **token > 0).count() as u64;
        }
        let (last, single) = &mut state.last[layer];
        if tokens == 1 && *single {
            counts.followers += groups.len() as u64;
            counts.again += groups.iter().filter(|group| last.contains(&group.id.index)).count() as u64;
        }
        last.clear();
        last.extend(groups.iter().map(|group| group.id.index));
        *single = tokens == 1;
        if !counts.together.is_empty() {
            counts.sampled += sampled.len() as u64;
            for chosen in &sampled {
                for (at, &a) in chosen.iter().enumerate() {
                    let row = &mut counts.together[a as usize * self.experts..][..self.experts];
                    chosen[at + 1..].iter().for_each(|&b| row[b as usize] += 1);
                }
            }
            let (before, theirs) = &state.before;
            if before + 1 == layer && theirs.len() == sampled.len() {
                let next = &mut state.layers[*before].next;
                for (a, b) in theirs.iter().zip(&sampled) {
                    for &a in a {
                        let row = &mut next[a as usize * self.experts..][..self.experts];
                        b.iter().for_each(|&b| row[b as usize] += 1);
                    }
                }
            }
            state.before = (layer, sampled);
        }
    }

    /// So many of each expert's `neurons` fired for the first of its tokens.
    pub fn fired(&self, groups: &[&Group], fired: &[AtomicU64], neurons: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (group, fired) in groups.iter().zip(fired) {
            let counts = &mut state.layers[group.id.layer as usize];
            let index = group.id.index as usize;
            counts.looked[index] += neurons as u64;
            counts.fired[index] += fired.load(Ordering::Relaxed);
        }
    }
}

/// What every eighth token chose, ascending, counted on from `before` tokens.
fn sampled(groups: &[Group], before: usize, tokens: usize) -> Vec<Vec<u16>> {
    let first = (EVERY - before % EVERY) % EVERY;
    let mut lists = vec![vec![]; tokens.saturating_sub(first).div_ceil(EVERY)];
    if lists.is_empty() {
        return lists;
    }
    for group in groups {
        for token in group.tokens.iter().filter(|token| **token >= first && (**token - first).is_multiple_of(EVERY)) {
            lists[(token - first) / EVERY].push(group.id.index);
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Gating, Layer};
    use crate::experts::{Choice, ExpertId};

    fn config(experts: usize) -> Config {
        Config {
            family: "smallthinker",
            name: None,
            layers: vec![Layer { rotary: true, window: None }; 2],
            width: 64,
            heads: 4,
            kv_heads: 2,
            head_width: 16,
            vocab: 100,
            context: 512,
            norm_epsilon: 1e-6,
            rope_theta: 1.5e6,
            experts,
            active: 2,
            neurons: 32,
            gating: Gating::Sigmoid,
            tied: true,
            bos: None,
            eos: vec![],
            notes: vec![],
        }
    }

    fn groups(layer: u16, experts: &[u16]) -> Vec<Group> {
        Choice { layer, active: 2, experts: experts.to_vec(), weights: vec![0.5; experts.len()] }.groups()
    }

    /// A text read in one step or token by token counts the same, but for where its first token comes from.
    #[test]
    fn steps_and_single_tokens_count_alike() {
        let text: Vec<u16> = vec![0, 1, 1, 2, 1, 2, 3, 0, 0, 1, 2, 3, 0, 3, 1, 3, 2, 1, 2, 0];
        let (whole, single) = (Tally::new(&config(4)), Tally::new(&config(4)));
        for layer in 0..2 {
            whole.chose(&groups(layer, &text), text.len() / 2);
        }
        for token in text.chunks(2) {
            (0..2).for_each(|layer| single.chose(&groups(layer, token), 1));
        }
        let (whole, single) = (whole.counts(), single.counts());
        assert_eq!(whole, single);
        assert_eq!(whole[0].chosen.iter().sum::<u64>(), text.len() as u64);
        assert_eq!((whole[0].tokens, whole[0].sampled, whole[0].followers), (10, 2, 18));
        // Tokens 0 and 8: (0, 1) and (1, 2).
        assert_eq!(whole[0].together.iter().sum::<u32>(), 2);
        assert_eq!((whole[0].together[1], whole[0].together[4 + 2]), (1, 1));
        assert_eq!((whole[0].next[1], whole[0].next[4 + 1], whole[1].next.iter().sum::<u32>()), (1, 2, 0));
        // 0 1 | 1 2 | 1 2 | 3 0 | 0 1 | 2 3 | 0 3 | 1 3 | 2 1 | 2 0
        assert_eq!(whole[0].again, 1 + 2 + 1 + 1 + 1 + 1 + 1);
    }

    #[test]
    fn firing_neurons_are_counted_by_expert() {
        let tally = Tally::new(&config(4));
        let group = |index| Group { id: ExpertId { layer: 1, index }, tokens: vec![0, 5], weights: vec![1.0; 2] };
        let (groups, fired) = ([&group(1), &group(3)], [AtomicU64::new(7), AtomicU64::new(2)]);
        (0..2).for_each(|_| tally.fired(&groups, &fired, 32));
        let counts = tally.counts();
        assert_eq!((counts[1].looked[3], counts[1].fired[3]), (64, 4));
        assert_eq!((counts[1].looked[1], counts[1].fired[1], counts[1].looked[0]), (64, 14, 0));
    }

    #[test]
    fn too_many_experts_are_not_paired() {
        let tally = Tally::new(&config(MOST_PAIRED + 1));
        tally.chose(&groups(0, &[0, 1]), 1);
        let counts = tally.counts();
        assert!(counts[0].together.is_empty() && counts[0].sampled == 0 && counts[0].tokens == 1);
    }
}
