//! What a token is expected to cost on this machine: from a model's matrices, its habits, and the speed of each kind of
//! work. docs/PLANNER.md has the equations.

use super::hardware::machine::Timing;
use super::hardware::probe::{CacheKind, ExpertKind, Prober, can_be_silent};
use super::profile::Profile;
use crate::checkpoint::{DownOrder, Kind, Part};
use crate::config::Config;
use crate::error::Result;
use kernels::attend::KvFormat;

/// The matrices a token goes through, by layer.
#[derive(Clone, Debug)]
pub struct Work {
    pub config: Config,
    pub layers: Vec<LayerWork>,
    pub head: Kind,
}

#[derive(Clone, Debug)]
pub struct LayerWork {
    /// Queries, keys and values (stacked where they are alike), and the way out.
    pub dense: Vec<Kind>,
    pub router: Kind,
    pub experts: ExpertKind,
    pub window: Option<usize>,
}

/// How a model is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setup {
    /// Threads while answering, and while reading a prompt.
    pub threads: (usize, usize),
    pub keys: KvFormat,
    pub values: KvFormat,
    /// Tokens in the cache when a token of an answer is computed.
    pub depth: usize,
    /// Tokens of a prompt, and of one step of it.
    pub prompt: usize,
    pub chunk: usize,
}

impl Work {
    /// `kind` says how each part lies when it is computed with.
    pub fn of(config: &Config, order: DownOrder, kind: &dyn Fn(Part) -> Kind) -> Work {
        let layer = |(l, layer): (usize, &crate::config::Layer)| {
            let l = l as u16;
            let mut dense: Vec<Kind> = vec![];
            for part in [Part::Query(l), Part::Key(l), Part::Value(l)].map(kind) {
                let like = |k: &&mut Kind| (k.format, k.form, k.width) == (part.format, part.form, part.width);
                match dense.iter_mut().find(like) {
                    Some(stack) => stack.rows += part.rows,
                    None => dense.push(part),
                }
            }
            dense.push(kind(Part::AttentionOut(l)));
            let [gate, up, down] = [Part::Gate(l, 0), Part::Up(l, 0), Part::Down(l, 0)].map(kind);
            let experts = ExpertKind { gate, up, down, order };
            LayerWork { dense, router: kind(Part::Router(l)), experts, window: layer.window }
        };
        let layers = config.layers.iter().enumerate().map(layer).collect();
        Work { config: config.clone(), layers, head: kind(Part::Head) }
    }

    /// Bytes of one expert of a layer.
    pub fn expert_bytes(&self, layer: usize) -> u64 {
        let e = &self.layers[layer].experts;
        (e.gate.bytes() + e.up.bytes() + e.down.bytes()) as u64
    }

    /// Bytes of what a layer always reads: attention and router.
    pub fn dense_bytes(&self, layer: usize) -> u64 {
        let layer = &self.layers[layer];
        (layer.dense.iter().map(Kind::bytes).sum::<usize>() + layer.router.bytes()) as u64
    }
}

/// What one layer of one token takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerCost {
    /// Until the experts are known.
    pub router: Timing,
    /// From there to the experts: what hides reads of the disk.
    pub dense: Timing,
    pub attend: Timing,
    /// Norms, rounding, sums.
    pub rest: Timing,
    /// The first expert, and each further one.
    pub one: Timing,
    pub more: Timing,
}

impl LayerCost {
    fn experts(&self, count: f64) -> Timing {
        if count <= 0.0 { Timing::default() } else { self.one + self.more.times((count - 1.0).max(0.0)) }
    }

    /// All but the experts.
    pub fn fixed(&self) -> Timing {
        self.router + self.dense + self.attend + self.rest
    }
}

/// What a model takes on this machine.
#[derive(Clone, Debug)]
pub struct Costs {
    pub active: usize,
    pub layers: Vec<LayerCost>,
    pub head: Timing,
    /// Reading a prompt of `Setup::prompt` tokens, every expert at hand: by layer, and the head.
    pub prompt: Vec<Timing>,
    pub prompt_head: Timing,
    /// Distinct experts of each layer that a step of a prompt visits, and steps.
    pub visited: Vec<f64>,
    pub steps: f64,
}

/// Context lengths attention is measured at; its time lies on the line through them.
const SEEN: (usize, usize) = (256, 4096);
/// Tokens of a step that stand for a step of a prompt, and what they see.
const STEP: usize = 128;
const STEP_SEEN: usize = 2048;
/// What is between the parts of a layer (tensors, regions, allocations) beside norms and rounding, as a multiple of these.
/// Fitted on one machine: 17 us a layer of the 4B shape where 3 are measured.
const BETWEEN: f64 = 4.3;
/// Shares of firing neurons that are measured.
const FIRING: (f64, f64) = (0.25, 0.75);

/// Measures what is not known yet and puts it together.
pub fn costs(work: &Work, profile: &Profile, setup: &Setup, prober: &mut Prober<'_>) -> Result<Costs> {
    let c = &work.config;
    let cache = CacheKind {
        keys: setup.keys,
        values: setup.values,
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_width: c.head_width,
    };
    let (threads, batch) = setup.threads;
    let tokens = setup.prompt.min(setup.chunk).max(1);
    let steps = (setup.prompt as f64 / tokens as f64).max(1.0);
    let rest = prober.rest(c, threads)?.times(1.0 + BETWEEN);
    let near = prober.attention(cache, 1, SEEN.0, threads)?;
    let far = prober.attention(cache, 1, SEEN.1, threads)?;
    let step = if setup.prompt > 1 { Some(prober.attention(cache, STEP, STEP_SEEN, batch)?) } else { None };
    let mut costs = Costs {
        active: c.active,
        layers: vec![],
        head: prober.product(work.head, 1, threads)?,
        prompt: vec![],
        prompt_head: Timing::default(),
        visited: vec![],
        steps,
    };
    costs.prompt_head = costs.head;
    for (l, layer) in work.layers.iter().enumerate() {
        let firing = profile.firing(l);
        let place = |at: f64| (at - FIRING.0) / (FIRING.1 - FIRING.0);
        let mut experts = |count: usize| -> Result<Timing> {
            let low = prober.experts(layer.experts, (count, 1), FIRING.0, threads)?;
            if !can_be_silent(layer.experts.gate.format) {
                return Ok(low);
            }
            let high = prober.experts(layer.experts, (count, 1), FIRING.1, threads)?;
            Ok(low.towards(high, place(firing)))
        };
        let one = experts(1)?;
        let more = match c.active {
            1 => one,
            k => per_further(one, experts(k)?, k),
        };
        let seen = setup.depth.min(layer.window.unwrap_or(usize::MAX)) as f64;
        let mut dense = Timing::default();
        for kind in &layer.dense {
            dense = dense + prober.product(*kind, 1, threads)?;
        }
        costs.layers.push(LayerCost {
            router: prober.product(layer.router, 1, threads)?,
            dense,
            attend: near.towards(far, (seen - SEEN.0 as f64) / (SEEN.1 - SEEN.0) as f64),
            rest,
            one,
            more,
        });
        let visited: f64 = (0..c.experts).map(|e| 1.0 - (1.0 - profile.frequency(l, e)).powi(tokens as i32)).sum();
        costs.visited.push(visited);
        let Some(step) = step else {
            costs.prompt.push(costs.layers[l].fixed() + costs.layers[l].experts(c.active as f64));
            continue;
        };
        let each = tokens.min(STEP);
        let mut time = Timing::default();
        for kind in layer.dense.iter().chain([&layer.router]) {
            time = time + prober.product(*kind, each, batch)?.times(setup.prompt as f64 / each as f64);
        }
        // On average a token of a prompt sees half of it.
        let window = layer.window.unwrap_or(usize::MAX) as f64;
        let sees = (setup.prompt as f64 / 2.0).min(window);
        time = time + step.times(setup.prompt as f64 * sees / (STEP * STEP_SEEN) as f64);
        let share = (tokens as f64 * c.active as f64 / visited).round().max(1.0) as usize;
        let few = 2.min(c.experts);
        let pair = prober.experts(layer.experts, (few, share.min(256)), FIRING.1, batch)?;
        time = time + pair.times(visited * steps / few as f64) + rest.times(setup.prompt as f64);
        costs.prompt.push(time);
    }
    Ok(costs)
}

fn per_further(one: Timing, all: Timing, count: usize) -> Timing {
    let each = |one: f64, all: f64| ((all - one) / (count - 1) as f64).max(0.0);
    Timing { seconds: each(one.seconds, all.seconds), low: each(one.low, all.low), high: each(one.high, all.high) }
}

/// Who stays in memory when not all experts do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// The most recently used (LRU).
    Recent,
    /// Those chosen most often, always the same.
    Hottest,
    /// Policies between the two: half way.
    Between,
}

/// Experts of each layer that a token is expected to miss, when `slots` of all that are `here` share the memory.
/// `here(layer, expert)` is false for those that are kept elsewhere.
pub fn misses(profile: &Profile, slots: usize, keeping: Keeping, here: &dyn Fn(usize, usize) -> bool) -> Vec<f64> {
    let layers = profile.layers.len();
    let all: Vec<(usize, f64, f64)> = (0..layers)
        .flat_map(|l| {
            let again = againness(profile, l);
            (0..profile.experts).map(move |e| (l, e, again))
        })
        .filter(|(l, e, _)| here(*l, *e))
        .map(|(l, e, again)| {
            let q = profile.frequency(l, e);
            (l, q, q + (1.0 - q) * again)
        })
        .collect();
    match keeping {
        Keeping::Recent => recent(&all, slots, layers),
        Keeping::Hottest => hottest(&all, slots, layers),
        Keeping::Between => {
            recent(&all, slots, layers).iter().zip(hottest(&all, slots, layers)).map(|(a, b)| (a + b) / 2.0).collect()
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

/// Che's approximation, with choices that repeat: an expert is at hand if it was chosen within the last T tokens, T such
/// that as many are as there are slots.
fn recent(all: &[(usize, f64, f64)], slots: usize, layers: usize) -> Vec<f64> {
    let mut missing = vec![0.0; layers];
    if slots >= all.len() {
        return missing;
    }
    // An expert not chosen now is chosen next with probability p, so that its share of all tokens is q.
    let p = |q: f64, r: f64| if q >= 1.0 { 1.0 } else { (q * (1.0 - r) / (1.0 - q)).clamp(0.0, 1.0) };
    let idle = |q: f64, r: f64, t: f64| (1.0 - p(q, r)).powf(t - 1.0);
    let held = |t: f64| all.iter().map(|&(_, q, r)| 1.0 - (1.0 - q) * idle(q, r, t)).sum::<f64>();
    let wanted = slots as f64;
    if held(1.0) > wanted {
        // Fewer slots than a token uses: what it uses first is gone when the next token comes.
        all.iter().for_each(|&(l, q, _)| missing[l] += q);
        return missing;
    }
    let (mut low, mut high) = (1.0, 2.0);
    while held(high) < wanted && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if held(middle) < wanted { low = middle } else { high = middle }
    }
    if low > WHOLE_TOKENS {
        all.iter().for_each(|&(l, q, r)| missing[l] += q * (1.0 - r) * idle(q, r, low));
        return missing;
    }
    // Choices come back after whole tokens, so a few tokens are told apart: after g of them an expert is still there if
    // fewer than all slots were wanted by others, whose number is near a normal one.
    let there = |g: usize| {
        let mean = held(g as f64);
        let spread = |&(_, q, r): &(usize, f64, f64)| {
            let gone = (1.0 - q) * idle(q, r, g as f64);
            gone * (1.0 - gone)
        };
        let variance = all.iter().map(spread).sum::<f64>() * (1.0 - 1.0 / g as f64);
        1.0 / (1.0 + (-1.702 * (wanted + 0.5 - mean) / variance.max(1e-6).sqrt()).exp())
    };
    let (mut g, mut now) = (1, there(1));
    all.iter().for_each(|&(l, q, _)| missing[l] += q * (1.0 - now));
    while now > 1e-6 {
        let next = there(g + 1);
        for &(l, q, r) in all {
            missing[l] += (now - next).max(0.0) * q * (1.0 - r) * idle(q, r, g as f64);
        }
        (g, now) = (g + 1, next.min(now));
    }
    missing
}

/// Beyond so many tokens it does not matter that they are whole.
const WHOLE_TOKENS: f64 = 64.0;

fn hottest(all: &[(usize, f64, f64)], slots: usize, layers: usize) -> Vec<f64> {
    let mut sorted: Vec<&(usize, f64, f64)> = all.iter().collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut missing = vec![0.0; layers];
    sorted.iter().skip(slots).for_each(|(l, q, _)| missing[*l] += q);
    missing
}

/// What a token, or a prompt, is expected to take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    pub seconds: Timing,
    /// Seconds by part; they sum to the whole.
    pub parts: Vec<(&'static str, f64)>,
    pub by_layer: Vec<f64>,
    /// Experts that have to be read.
    pub missing: f64,
}

/// One token: `missing[l]` experts of layer l are expected to be read, each in `read`.
pub fn token(costs: &Costs, missing: &[f64], read: Timing) -> Forecast {
    let mut sums = [Timing::default(); 6]; // router, dense, attend, rest, experts, waiting
    let mut by_layer = vec![];
    for (layer, &missing) in costs.layers.iter().zip(missing) {
        let experts = layer.experts(costs.active as f64);
        let wait = waiting(layer, costs.active, missing, read);
        let parts = [layer.router, layer.dense, layer.attend, layer.rest, experts, wait];
        by_layer.push(parts.iter().map(|t| t.seconds).sum());
        sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum = *sum + part);
    }
    let names = ["router", "q, k, v and out", "attention", "norms and between", "experts", "waiting for the disk"];
    let mut parts: Vec<(&str, f64)> = names.into_iter().zip(sums.map(|t| t.seconds)).collect();
    parts.push(("head", costs.head.seconds));
    let seconds = sums.into_iter().sum::<Timing>() + costs.head;
    Forecast { seconds, parts, by_layer, missing: missing.iter().sum() }
}

/// Expected wait of a layer: of its experts so many are missing, each alike and apart (binomial). Reads begin when the
/// router has chosen and go on behind attention and the experts at hand; the last one to come is computed alone.
fn waiting(layer: &LayerCost, active: usize, missing: f64, read: Timing) -> Timing {
    if missing <= 0.0 {
        return Timing::default();
    }
    let p = (missing / active as f64).clamp(0.0, 1.0);
    let wait = |read: f64, of: &dyn Fn(&Timing) -> f64| {
        let hidden = of(&layer.dense) + of(&layer.attend) + of(&layer.rest) / 2.0;
        let experts = of(&layer.experts(active as f64));
        let mut expected = 0.0;
        let mut chance = (1.0 - p).powi(active as i32); // of none
        for m in 0..=active {
            if m > 0 {
                chance = if p >= 1.0 {
                    f64::from(m == active)
                } else {
                    chance * (active - m + 1) as f64 / m as f64 * p / (1.0 - p)
                };
                let end = (m as f64 * read - hidden).max(0.0) + of(&layer.one);
                expected += chance * (end - experts).max(0.0);
            }
        }
        expected
    };
    Timing {
        seconds: wait(read.seconds, &|t| t.seconds),
        low: wait(read.low, &|t| t.low),
        high: wait(read.high, &|t| t.high),
    }
}

/// A prompt: of the experts a step visits this share is not at hand.
pub fn prompt(costs: &Costs, missing: &[f64], read: Timing) -> Forecast {
    let mut out = Forecast { seconds: costs.prompt_head, ..Forecast::default() };
    let (mut computing, mut waiting) = (0.0, 0.0);
    for (l, time) in costs.prompt.iter().enumerate() {
        let reads = costs.visited[l] * missing[l].clamp(0.0, 1.0) * costs.steps;
        let most = |read: f64, time: f64| (reads * read).max(time);
        let whole = Timing {
            seconds: most(read.seconds, time.seconds),
            low: most(read.low, time.low),
            high: most(read.high, time.high),
        };
        computing += time.seconds;
        waiting += whole.seconds - time.seconds;
        out.missing += reads;
        out.by_layer.push(whole.seconds);
        out.seconds = out.seconds + whole;
    }
    out.parts = vec![("layers", computing), ("waiting for the disk", waiting), ("head", costs.prompt_head.seconds)];
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::profile::tests::config;

    fn skewed(layers: usize, experts: usize, active: usize, again: f64) -> Profile {
        let mut profile = Profile::even(&config(layers, experts, active));
        profile.tokens = 1e9;
        for layer in &mut profile.layers {
            let weights: Vec<f64> = (0..experts).map(|e| 1.0 / (e + 3) as f64).collect();
            let sum: f64 = weights.iter().sum();
            layer.chosen = weights.iter().map(|w| (w / sum * active as f64).min(1.0) * 1e9).collect();
            layer.again = again;
        }
        profile
    }

    fn total(misses: &[f64]) -> f64 {
        misses.iter().sum()
    }

    #[test]
    fn more_slots_miss_less_and_all_miss_nothing() {
        for keeping in [Keeping::Recent, Keeping::Hottest, Keeping::Between] {
            let profile = skewed(4, 16, 3, 0.4);
            let mut before = f64::INFINITY;
            for slots in 0..=64 {
                let now = total(&misses(&profile, slots, keeping, &|_, _| true));
                assert!(now <= before + 1e-9, "{slots}: {now} after {before}");
                before = now;
            }
            assert_eq!(before, 0.0);
        }
        // Below what a token uses, recency holds nothing that is needed.
        let even = Profile::even(&config(4, 16, 3));
        assert!((total(&misses(&even, 11, Keeping::Recent, &|_, _| true)) - 12.0).abs() < 0.1);
    }

    /// An exact LRU over drawn choices agrees with the approximation.
    #[test]
    fn the_approximation_is_near_a_real_lru() {
        for (again, slots) in [(0.0, 40), (0.0, 90), (0.45, 40), (0.45, 90)] {
            let (layers, experts, active) = (8, 16, 2);
            let even = active as f64 / experts as f64;
            let again = f64::max(again, even);
            let mut profile = Profile::even(&config(layers, experts, active));
            profile.layers.iter_mut().for_each(|layer| layer.again = again);
            let mut state = 1u64;
            let mut random = move || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as f64 / (1u64 << 31) as f64
            };
            // Each place of a choice is kept with a chance s, or drawn anew.
            let s = (again - even) / (1.0 - even);
            let mut chosen = vec![vec![0usize, 1]; layers];
            let (mut last, mut clock, mut missed, tokens) = (vec![0u64; layers * experts], 0u64, 0, 20_000);
            for token in 0..tokens {
                for (l, chosen) in chosen.iter_mut().enumerate() {
                    for place in 0..active {
                        if random() >= s {
                            loop {
                                let e = (random() * experts as f64) as usize;
                                if !chosen.iter().enumerate().any(|(i, c)| i != place && *c == e) {
                                    chosen[place] = e;
                                    break;
                                }
                            }
                        }
                    }
                    for &e in chosen.iter() {
                        let id = l * experts + e;
                        let newer = last.iter().filter(|t| **t > last[id]).count();
                        if token > 1000 && (last[id] == 0 || newer >= slots) {
                            missed += 1;
                        }
                        clock += 1;
                        last[id] = clock;
                    }
                }
            }
            let real = missed as f64 / (tokens - 1001) as f64;
            let said = total(&misses(&profile, slots, Keeping::Recent, &|_, _| true));
            assert!((said - real).abs() < 0.06 * real + 0.05, "again {again}, {slots} slots: {said} for {real}");
        }
    }

    fn costs() -> Costs {
        let t = Timing::new;
        let layer =
            LayerCost { router: t(1.0), dense: t(10.0), attend: t(2.0), rest: t(1.0), one: t(4.0), more: t(3.0) };
        Costs {
            active: 3,
            layers: vec![layer; 2],
            head: t(5.0),
            prompt: vec![t(100.0); 2],
            prompt_head: t(5.0),
            visited: vec![10.0; 2],
            steps: 2.0,
        }
    }

    #[test]
    fn parts_sum_to_the_whole_and_the_disk_hides_behind_attention() {
        let all_here = token(&costs(), &[0.0, 0.0], Timing::new(50.0));
        assert!((all_here.seconds.seconds - (2.0 * (14.0 + 10.0) + 5.0)).abs() < 1e-9);
        for (missing, read) in [(0.5, 8.0), (1.0, 50.0), (3.0, 50.0), (3.0, 1.0)] {
            let said = token(&costs(), &[missing, 0.0], Timing::new(read));
            let sum: f64 = said.parts.iter().map(|p| p.1).sum();
            assert!((sum - said.seconds.seconds).abs() < 1e-9);
            assert!(said.seconds.seconds >= all_here.seconds.seconds - 1e-9);
        }
        // One that is read behind attention costs nothing; three long ones cost their reads less what hides them.
        assert_eq!(token(&costs(), &[0.3, 0.0], Timing::new(5.0)).seconds, all_here.seconds);
        let three = token(&costs(), &[3.0, 0.0], Timing::new(50.0));
        let wait = (150.0 - 12.5 + 4.0) - 10.0;
        assert!((three.seconds.seconds - all_here.seconds.seconds - wait).abs() < 1e-9);
    }

    #[test]
    fn a_prompt_waits_for_what_it_cannot_read_beside() {
        let here = prompt(&costs(), &[0.0; 2], Timing::new(50.0));
        assert!((here.seconds.seconds - 205.0).abs() < 1e-9);
        let half = prompt(&costs(), &[0.5; 2], Timing::new(50.0));
        assert!((half.seconds.seconds - 1005.0).abs() < 1e-9 && half.missing == 20.0);
    }
}
