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
    /// Weights are used where they lie in a mapped file, rather than in memory of our own.
    pub mapped: bool,
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
            let [gate, up, down] = Part::expert(l, 0).map(kind);
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
    /// So many experts.
    pub fn experts(&self, count: f64) -> Timing {
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
const SEEN: (usize, usize) = (64, 4096);
/// A step of a prompt is measured with all its tokens up to here: more of them than caches hold are slower each.
const LONGEST_STEP: usize = 512;
/// Tokens whose attention stands for that of a step, and what they see.
const STEP: usize = 128;
const STEP_SEEN: usize = 2048;
/// What is between the parts of a layer (tensors, regions, allocations, rotation) beside norms and rounding, as a multiple
/// of these. Fitted on one machine, as is the next.
const BETWEEN: f64 = 5.0;
/// How much longer a product takes among all others of a model than when only its like are computed: the tables of pages
/// are as cold as the weights.
const COLD: f64 = 1.08;
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
    prober.huge = !setup.mapped;
    let tokens = setup.prompt.min(setup.chunk).max(1);
    let steps = (setup.prompt as f64 / tokens as f64).max(1.0);
    let rest = prober.rest(c, threads)?.times(1.0 + BETWEEN);
    let near = prober.attention(cache, 1, SEEN.0, threads)?;
    let far = prober.attention(cache, 1, SEEN.1, threads)?;
    let step = if setup.prompt > 1 { Some(prober.attention(cache, STEP, STEP_SEEN, batch)?) } else { None };
    let head = prober.product(work.head, 1, threads)?;
    // The yardstick itself: what it takes now is known, whatever it took when it was measured.
    let now = work.head.bytes() as f64 / prober.pace(threads)? * COLD;
    let mut costs = Costs {
        active: c.active,
        layers: vec![],
        head: if head.seconds > 0.0 { head.times(now / head.seconds) } else { Timing::new(now) },
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
            let low = prober.experts(layer.experts, (count, 1), FIRING.0, threads)?.times(COLD);
            if !can_be_silent(layer.experts.gate.format) {
                return Ok(low);
            }
            let high = prober.experts(layer.experts, (count, 1), FIRING.1, threads)?.times(COLD);
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
            dense = dense + prober.product(*kind, 1, threads)?.times(COLD);
        }
        costs.layers.push(LayerCost {
            router: prober.product(layer.router, 1, threads)?.times(COLD),
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
        let each = tokens.min(LONGEST_STEP);
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

/// One token, which waits for the disk for `waits[l]` in layer l and reads so many experts in all.
pub fn token(costs: &Costs, waits: &[Timing], reads: f64) -> Forecast {
    let mut sums = [Timing::default(); 6]; // router, dense, attend, rest, experts, waiting
    let mut by_layer = vec![];
    for (layer, &wait) in costs.layers.iter().zip(waits) {
        let experts = layer.experts(costs.active as f64);
        let parts = [layer.router, layer.dense, layer.attend, layer.rest, experts, wait];
        by_layer.push(parts.iter().map(|t| t.seconds).sum());
        sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum = *sum + part);
    }
    let names = ["router", "q, k, v and out", "attention", "norms and between", "experts", "waiting for the disk"];
    let mut parts: Vec<(&str, f64)> = names.into_iter().zip(sums.map(|t| t.seconds)).collect();
    parts.push(("head", costs.head.seconds));
    let seconds = sums.into_iter().sum::<Timing>() + costs.head;
    Forecast { seconds, parts, by_layer, missing: reads }
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
    fn parts_sum_to_the_whole() {
        let here = token(&costs(), &[Timing::default(); 2], 0.0);
        assert!((here.seconds.seconds - (2.0 * (14.0 + 10.0) + 5.0)).abs() < 1e-9);
        let waits = [Timing { seconds: 3.0, low: 1.0, high: 9.0 }, Timing::new(2.0)];
        let said = token(&costs(), &waits, 1.5);
        let sum: f64 = said.parts.iter().map(|p| p.1).sum();
        assert!((sum - said.seconds.seconds).abs() < 1e-9);
        assert!((said.seconds.seconds - here.seconds.seconds - 5.0).abs() < 1e-9);
        assert!((said.seconds.high - here.seconds.high - 11.0).abs() < 1e-9 && said.missing == 1.5);
    }

    #[test]
    fn a_prompt_waits_for_what_it_cannot_read_beside() {
        let here = prompt(&costs(), &[0.0; 2], Timing::new(50.0));
        assert!((here.seconds.seconds - 205.0).abs() < 1e-9);
        let half = prompt(&costs(), &[0.5; 2], Timing::new(50.0));
        assert!((half.seconds.seconds - 1005.0).abs() < 1e-9 && half.missing == 20.0);
    }
}
