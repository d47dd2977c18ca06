//! Tokens drawn from a model's habits, played through the policy that will run and a disk of known speed: which experts
//! will have to be read, and how long a token waits for them. Nothing of it is fitted to a policy: the policy is asked.

use super::cost::{Costs, LayerCost};
use super::hardware::machine::Timing;
use super::profile::Profile;
use crate::config::placement::PolicyName;
use crate::experts::ExpertId;
use crate::experts::policy::{self, Policy, Shape};
use std::collections::VecDeque;

/// How some experts at a time are kept in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keeping {
    pub slots: usize,
    pub policy: PolicyName,
    /// Layers ahead that experts are guessed and read while the disk would idle.
    pub ahead: usize,
}

/// Seconds until an expert is read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Nothing else being read.
    pub alone: Timing,
    /// Each of several that are read at once.
    pub among: Timing,
    /// With as few reads in flight as guesses may have.
    pub ahead: Timing,
    /// Reads it takes.
    pub pieces: f64,
}

/// What was seen, by layer, each for one token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rehearsal {
    /// Seconds of waiting for the disk, and of making way for those who read.
    pub waits: Vec<f64>,
    /// Experts read.
    pub reads: Vec<f64>,
}

/// Tokens until the policy knows what it will know, and those that are counted.
const TOKENS: (usize, usize) = (96, 96);
/// Share of guesses for a later layer that are right. Measured on models of random weights (docs/BENCHMARKS.md).
const RIGHT: f64 = 0.8;

/// Seconds in which a layer asks for experts: the policy, the queue, calling those who read. Fitted on one machine.
const ASKING: f64 = 12e-6;

/// Seconds of computing that one read takes from those who compute: threads that read, memory that is written to. Fitted
/// on the same machine.
const STOLEN: f64 = 18e-6;

/// What a token takes, beside waiting, where experts are kept so: each router is asked twice where experts are guessed.
pub fn kept(costs: &Costs, keeping: Keeping) -> Costs {
    let mut costs = costs.clone();
    for layer in &mut costs.layers {
        layer.rest = layer.rest + Timing::new(ASKING);
        if keeping.ahead > 0 {
            layer.router = layer.router.times(2.0);
        }
    }
    costs
}

/// `of` says which of a timing's figures counts.
pub fn rehearse(
    costs: &Costs,
    profile: &Profile,
    keeping: Keeping,
    reading: &Reading,
    of: fn(&Timing) -> f64,
) -> Rehearsal {
    let layers = profile.layers.len();
    if keeping.slots >= layers * profile.experts {
        return Rehearsal { waits: vec![0.0; layers], reads: vec![0.0; layers] };
    }
    let mut chance = Chance(0);
    let mut words = Words::new(profile, &mut chance);
    let mut stage = Stage::new(costs, profile, keeping, reading, of);
    for token in 0..TOKENS.0 + TOKENS.1 {
        if token == TOKENS.0 {
            stage.seen = Rehearsal { waits: vec![0.0; layers], reads: vec![0.0; layers] };
        }
        words.next(&mut chance);
        (0..layers).for_each(|layer| stage.layer(layer, &words, &mut chance));
    }
    let each = |sum: &mut f64| *sum /= TOKENS.1 as f64;
    stage.seen.waits.iter_mut().chain(&mut stage.seen.reads).for_each(each);
    let Rehearsal { waits, reads } = &mut stage.seen;
    waits.iter_mut().zip(reads).for_each(|(wait, reads)| *wait += *reads * reading.pieces * STOLEN);
    stage.seen
}

/// Numbers from 0 to 1 that look random and are always the same (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, count: usize) -> usize {
        ((self.next() * count as f64) as usize).min(count - 1)
    }
}

/// What routers choose, token after token.
struct Words {
    active: usize,
    /// By layer: the chance of each expert, and how much likelier than by chance a choice is repeated.
    shares: Vec<(Vec<f64>, f64)>,
    chosen: Vec<Vec<usize>>,
}

impl Words {
    fn new(profile: &Profile, chance: &mut Chance) -> Words {
        let share = |l: usize| -> (Vec<f64>, f64) {
            ((0..profile.experts).map(|e| profile.frequency(l, e)).collect(), againness(profile, l))
        };
        let shares: Vec<(Vec<f64>, f64)> = (0..profile.layers.len()).map(share).collect();
        let chosen = shares.iter().map(|(shares, _)| drawn(shares, profile.active, chance)).collect();
        Words { active: profile.active, shares, chosen }
    }

    /// Each choice is kept with its chance; others are drawn anew.
    fn next(&mut self, chance: &mut Chance) {
        for ((shares, again), chosen) in self.shares.iter().zip(&mut self.chosen) {
            chosen.retain(|_| chance.next() < *again);
            let mut anew = drawn(shares, self.active, chance);
            anew.retain(|e| !chosen.contains(e));
            while chosen.len() < self.active && !anew.is_empty() {
                chosen.push(anew.swap_remove(chance.below(anew.len())));
            }
        }
    }
}

/// How much likelier than by chance a choice is repeated by the next token, from 0 to 1: the share s for which
/// q + (1 - q) s, weighed by q, is what was counted.
fn againness(profile: &Profile, layer: usize) -> f64 {
    let q = |e: usize| profile.frequency(layer, e);
    let (sum, squares) = (0..profile.experts).fold((0.0, 0.0), |(s, t), e| (s + q(e), t + q(e) * q(e)));
    let chance = squares / sum;
    if chance >= 1.0 { 0.0 } else { ((profile.layers[layer].again - chance) / (1.0 - chance)).clamp(0.0, 0.99) }
}

/// `count` different experts, each with its chance exactly (systematic sampling in a random order: Madow 1949).
fn drawn(shares: &[f64], count: usize, chance: &mut Chance) -> Vec<usize> {
    let mut order: Vec<usize> = (0..shares.len()).collect();
    (1..order.len()).rev().for_each(|i| order.swap(i, chance.below(i + 1)));
    let whole: f64 = shares.iter().sum();
    let (mut sum, mut mark) = (0.0, chance.next());
    let mut chosen = Vec::with_capacity(count);
    for &e in &order {
        sum += shares[e] / whole * count as f64;
        if sum > mark && chosen.len() < count {
            chosen.push(e);
            mark += 1.0;
        }
    }
    // The last may be lost to rounding.
    let rest = order.iter().filter(|e| !chosen.contains(e)).take(count - chosen.len()).copied().collect::<Vec<_>>();
    chosen.extend(rest);
    chosen
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Out,
    Here,
    /// Being read on a guess: the share that is still to come.
    Coming(f64),
}

/// Slots, a policy and a disk.
struct Stage<'a> {
    costs: &'a Costs,
    keeping: Keeping,
    /// Seconds: alone, among others, ahead.
    reading: [f64; 3],
    of: fn(&Timing) -> f64,
    experts: usize,
    policy: Box<dyn Policy>,
    places: Vec<Place>,
    free: usize,
    /// By layer, what it may need, until its router has spoken; and what is still to be read of it.
    guesses: Vec<Vec<usize>>,
    perhaps: VecDeque<usize>,
    seen: Rehearsal,
}

impl<'a> Stage<'a> {
    /// The hottest experts lie in the slots.
    fn new(
        costs: &'a Costs,
        profile: &Profile,
        keeping: Keeping,
        reading: &Reading,
        of: fn(&Timing) -> f64,
    ) -> Stage<'a> {
        let (layers, experts) = (profile.layers.len(), profile.experts);
        let shape = Shape { layers, experts, active: profile.active, slots: keeping.slots };
        let mut stage = Stage {
            costs,
            keeping,
            reading: [of(&reading.alone), of(&reading.among), of(&reading.ahead)],
            of,
            experts,
            policy: policy::policy(keeping.policy, shape),
            places: vec![Place::Out; layers * experts],
            free: keeping.slots,
            guesses: vec![vec![]; layers],
            perhaps: VecDeque::new(),
            seen: Rehearsal { waits: vec![0.0; layers], reads: vec![0.0; layers] },
        };
        let heat = |i: &usize| profile.frequency(i / experts, i % experts);
        let mut all: Vec<usize> = (0..layers * experts).collect();
        all.sort_by(|a, b| heat(b).total_cmp(&heat(a)).then((a % experts, a).cmp(&(b % experts, b))));
        for &expert in &all[..keeping.slots] {
            stage.free -= 1;
            stage.admit(expert);
        }
        stage
    }

    fn id(&self, expert: usize) -> ExpertId {
        ExpertId { layer: (expert / self.experts) as u16, index: (expert % self.experts) as u16 }
    }

    fn admit(&mut self, expert: usize) {
        self.places[expert] = Place::Here;
        self.policy.admitted(self.id(expert));
    }

    /// A layer of a token, from the moment its router has spoken to the moment the next one's has.
    fn layer(&mut self, layer: usize, words: &Words, chance: &mut Chance) {
        let mut chosen: Vec<usize> = words.chosen[layer].iter().map(|e| layer * self.experts + e).collect();
        chosen.sort_unstable();
        let said: Vec<(u16, u32)> = chosen.iter().map(|e| ((e % self.experts) as u16, 1)).collect();
        self.policy.chosen(layer as u16, &said, 1);
        self.perhaps.retain(|expert| expert / self.experts != layer);
        for expert in std::mem::take(&mut self.guesses[layer]) {
            // A wrong guess is read to its end all the same.
            if matches!(self.places[expert], Place::Coming(_)) && !chosen.contains(&expert) {
                self.admit(expert);
            }
        }
        self.guess(layer + self.keeping.ahead, words, chance);
        let (here, missing): (Vec<usize>, Vec<usize>) =
            chosen.iter().partition(|&&expert| self.places[expert] == Place::Here);
        here.iter().for_each(|&expert| self.policy.used(self.id(expert)));
        let mut reading = 0.0;
        for &expert in &missing {
            reading += match self.places[expert] {
                Place::Coming(rest) => rest,
                _ => {
                    self.make_room(layer, &chosen, false);
                    self.seen.reads[layer] += 1.0;
                    1.0
                }
            };
            self.admit(expert);
            self.policy.used(self.id(expert));
        }
        let [alone, among, _] = self.reading;
        let read = reading * if missing.len() == 1 { alone } else { among };
        let LayerCost { router, dense, attend, rest, one, .. } = &self.costs.layers[layer];
        let of = self.of;
        // Reads hide behind attention and the experts at hand; the last to come is computed alone.
        let before = of(dense) + of(attend) + of(rest) / 2.0;
        let experts = of(&self.costs.layers[layer].experts(self.costs.active as f64));
        let wait = match missing.is_empty() {
            true => 0.0,
            false => ((read - before).max(0.0) + of(one) - experts).max(0.0),
        };
        self.seen.waits[layer] += wait;
        let whole = before + experts + wait + of(rest) / 2.0 + of(router);
        self.read_ahead(layer, &chosen, whole - read);
    }

    /// What a later layer may need.
    fn guess(&mut self, later: usize, words: &Words, chance: &mut Chance) {
        if self.keeping.ahead == 0 || later >= self.guesses.len() {
            return;
        }
        for e in &words.chosen[later] {
            let e = if chance.next() < RIGHT { *e } else { chance.below(self.experts) };
            let expert = later * self.experts + e;
            self.guesses[later].push(expert);
            if self.places[expert] == Place::Out {
                self.perhaps.push_back(expert);
            }
        }
    }

    /// Reads guesses for so many seconds.
    fn read_ahead(&mut self, layer: usize, chosen: &[usize], mut seconds: f64) {
        let ahead = self.reading[2];
        while seconds > 0.0
            && let Some(&expert) = self.perhaps.front()
        {
            let place = self.places[expert];
            let rest = match place {
                Place::Coming(rest) => rest,
                Place::Here => 0.0,
                Place::Out if self.make_room(layer, chosen, true) => {
                    self.seen.reads[expert / self.experts] += 1.0;
                    1.0
                }
                Place::Out => return,
            };
            if rest * ahead > seconds {
                self.places[expert] = Place::Coming(rest - seconds / ahead);
                return;
            }
            if rest > 0.0 {
                self.admit(expert);
            }
            seconds -= rest * ahead;
            self.perhaps.pop_front();
        }
    }

    /// Finds a slot: a free one, or one whose expert is let go. For a guess, of those that are not guessed themselves.
    fn make_room(&mut self, layer: usize, chosen: &[usize], guess: bool) -> bool {
        if self.free > 0 {
            self.free -= 1;
            return true;
        }
        let (places, guesses, experts) = (&self.places, &self.guesses, self.experts);
        let index = |id: ExpertId| id.layer as usize * experts + id.index as usize;
        let idle = |id: ExpertId| places[index(id)] == Place::Here && !chosen.contains(&index(id));
        let spared = |id: ExpertId| idle(id) && !guesses[id.layer as usize].contains(&index(id));
        let victim = match self.policy.victim(&spared) {
            None if !guess => self.policy.victim(&idle),
            victim => victim,
        };
        // With hardly any slots, what was computed first makes room for the last.
        let any = |id: ExpertId| places[index(id)] == Place::Here && id.layer as usize == layer;
        let victim = if victim.is_none() && !guess { self.policy.victim(&any) } else { victim };
        let Some(id) = victim else { return false };
        self.places[index(id)] = Place::Out;
        self.policy.gone(id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::profile::tests::config;

    fn skewed(again: f64) -> Profile {
        let (layers, experts, active) = (4, 16, 3);
        let mut profile = Profile::even(&config(layers, experts, active));
        profile.tokens = 1e9;
        for layer in &mut profile.layers {
            let weights: Vec<f64> = (0..experts).map(|e| 1.0 / (e + 3) as f64).collect();
            let sum: f64 = weights.iter().sum();
            layer.chosen = weights.iter().map(|w| w / sum * active as f64 * 1e9).collect();
            layer.again = again;
        }
        profile
    }

    fn costs() -> Costs {
        let t = Timing::new;
        let layer =
            LayerCost { router: t(1.0), dense: t(10.0), attend: t(2.0), rest: t(2.0), one: t(4.0), more: t(3.0) };
        Costs {
            active: 3,
            layers: vec![layer; 4],
            head: t(5.0),
            prompt: vec![],
            prompt_head: t(5.0),
            visited: vec![],
            steps: 1.0,
        }
    }

    fn disk(seconds: f64) -> Reading {
        let t = Timing::new(seconds);
        Reading { alone: t, among: t, ahead: t, pieces: 0.0 }
    }

    fn seen(slots: usize, policy: PolicyName, ahead: usize, seconds: f64) -> (f64, f64) {
        let keeping = Keeping { slots, policy, ahead };
        let seen = rehearse(&costs(), &skewed(0.4), keeping, &disk(seconds), |t| t.seconds);
        (seen.waits.iter().sum(), seen.reads.iter().sum())
    }

    #[test]
    fn choices_have_the_shares_they_should_have_and_repeat_as_often() {
        let (profile, mut chance) = (skewed(0.4), Chance(7));
        let mut words = Words::new(&profile, &mut chance);
        let (mut counts, mut again, tokens) = (vec![0.0; 16], 0.0, 20_000);
        for _ in 0..tokens {
            let before = words.chosen[1].clone();
            words.next(&mut chance);
            let now = &words.chosen[1];
            assert!(now.len() == 3 && (0..3).all(|i| !now[..i].contains(&now[i])), "{now:?}");
            now.iter().for_each(|&e| counts[e] += 1.0 / tokens as f64);
            again += now.iter().filter(|e| before.contains(e)).count() as f64 / (3 * tokens) as f64;
        }
        for (e, count) in counts.iter().enumerate() {
            let share = profile.frequency(1, e);
            assert!((count - share).abs() < 0.08 * share, "{e}: {count} of {share}");
        }
        assert!((again - 0.4).abs() < 0.04, "{again}");
    }

    #[test]
    fn more_slots_read_and_wait_less_and_all_of_them_not_at_all() {
        for policy in PolicyName::ALL {
            let mut before = (f64::INFINITY, f64::INFINITY);
            for slots in [5, 16, 28, 40, 52, 64] {
                let now = seen(slots, policy, 0, 30.0);
                assert!(now.0 <= before.0 * 1.03 && now.1 <= before.1 * 1.03, "{policy}, {slots}: {now:?}");
                before = now;
            }
            assert_eq!(before, (0.0, 0.0), "{policy}");
        }
        // With fewer slots than a token uses, recency holds nothing that is needed.
        assert!(seen(5, PolicyName::Lru, 0, 30.0).1 > 11.0);
    }

    #[test]
    fn a_quick_disk_is_not_waited_for_and_guesses_hide_a_slow_one() {
        // Three that take as long as attention hide behind it but for the last, which is computed with the others.
        assert!(seen(16, PolicyName::Odds, 0, 3.0).0 < 1.0);
        let (without, with) = (seen(16, PolicyName::Odds, 0, 12.0), seen(16, PolicyName::Odds, 2, 12.0));
        assert!(with.0 < 0.9 * without.0, "{with:?} of {without:?}");
        assert!(with.1 > without.1, "wrong guesses are read too: {with:?}, {without:?}");
    }

    #[test]
    fn those_who_read_take_time_from_those_who_compute() {
        let keeping = Keeping { slots: 16, policy: PolicyName::Odds, ahead: 0 };
        let reading = Reading { pieces: 4.0, ..disk(1e-9) };
        let seen = rehearse(&costs(), &skewed(0.4), keeping, &reading, |t| t.seconds);
        let reads: f64 = seen.reads.iter().sum();
        assert!((seen.waits.iter().sum::<f64>() - reads * 4.0 * STOLEN).abs() < 1e-6);
        let kept = kept(&costs(), Keeping { ahead: 2, ..keeping });
        assert_eq!(kept.layers[0].router.seconds, 2.0);
        assert!((kept.layers[0].rest.seconds - 2.0 - ASKING).abs() < 1e-12);
    }
}
