//! A model with an accelerator as a problem for [`plan`](super::plan): what each part takes here and there, in seconds and in
//! bytes, and what is laid down about it. docs/PLANNER.md has the equations.

use super::cost::{Costs, LayerCost, Work};
use super::hardware::machine::Timing;
use super::plan::{Choice, LayerProblem, Place, Problem};
use super::profile::Profile;
use crate::checkpoint::{DownOrder, Kind, Part};
use crate::config::Config;
use crate::device::{Laid, Speeds};
use std::collections::BTreeSet;

/// Kernels of a layer beside its experts (norms, queries, keys, values, rotation, cache, attention, the way out, router),
/// and of its experts.
const DENSE_KERNELS: f64 = 17.0;
const EXPERT_KERNELS: f64 = 4.0;
/// And of a layer that is wholly there in a model that is (`kernels::cuda::Step`): ten, which take as long as eight norms (two
/// shapes on an H200, 2026-11-28).
const CHAINED_KERNELS: f64 = 8.0;

/// What is known of a model, of the processor and of the accelerator.
#[derive(Clone, Debug)]
pub struct Ground {
    pub costs: Costs,
    pub profile: Profile,
    /// Seconds to read an expert from the disk, among several.
    pub read: f64,
    pub speeds: Speeds,
    /// The processor's costs were measured on this machine.
    pub measured: bool,
}

/// Bytes of memory a second that are taken for granted where nothing was measured.
const MEMORY: f64 = 20e9;
/// The same of a disk.
const DISK: f64 = 1e9;

impl Ground {
    /// Where nothing was measured: everything takes as long as its bytes take at usual speeds.
    pub fn assumed(work: &Work, profile: Profile, speeds: Speeds) -> Ground {
        let time = |bytes: u64| Timing::new(bytes as f64 / MEMORY);
        let layer = |l: usize| {
            let expert = time(work.expert_bytes(l)).times(part_read(&profile, l));
            LayerCost { dense: time(work.dense_bytes(l)), one: expert, more: expert, ..LayerCost::default() }
        };
        let layers: Vec<LayerCost> = (0..work.layers.len()).map(layer).collect();
        let expert = (0..layers.len()).map(|l| work.expert_bytes(l)).max().unwrap_or(0);
        let costs = Costs {
            active: work.config.active,
            prompt: layers.iter().map(|l| l.fixed() + l.experts(work.config.active as f64)).collect(),
            visited: vec![work.config.active as f64; layers.len()],
            layers,
            head: time(work.head.bytes() as u64),
            prompt_head: time(work.head.bytes() as u64),
            steps: 1.0,
        };
        Ground { costs, profile, read: expert as f64 / DISK, speeds, measured: false }
    }
}

/// Of an expert's three matrices the gate is read whole, the others as far as neurons fire.
fn part_read(profile: &Profile, layer: usize) -> f64 {
    (1.0 + 2.0 * profile.firing(layer)) / 3.0
}

/// Bytes of the parts of a layer: in memory, and on the accelerator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerBytes {
    /// Attention, norms, router and cache.
    pub dense: (u64, u64),
    pub expert: (u64, u64),
}

/// What there is to place, and the room for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    pub layers: Vec<LayerBytes>,
    /// Of the dense ones in memory, those of each layer's cache.
    pub caches: Vec<u64>,
    pub head: (u64, u64),
    /// Bytes of memory and of the accelerator's for layers and head.
    pub ram: u64,
    pub vram: u64,
    /// Bytes of memory by which all else is more than there is: nothing fits.
    pub short: u64,
    /// The accelerator's memory is ours too: what lies there counts in both.
    pub shared: bool,
    /// Experts may be left on the disk; if any are, at least so many of the processor's are in memory.
    pub disk: bool,
    pub least: usize,
}

impl Footprint {
    /// What the parts of a model take, with no room for any. `kind` says how each lies, `slot` how many bytes an expert takes
    /// in memory, `cache` those of a layer's cache here and there.
    pub fn of(
        config: &Config,
        order: DownOrder,
        kind: &dyn Fn(Part) -> Kind,
        slot: u64,
        cache: &dyn Fn(usize) -> (u64, u64),
    ) -> Footprint {
        let bytes = |parts: &[Part]| parts.iter().map(|part| kind(*part).bytes() as u64).sum::<u64>();
        let there = (0..config.layers.len()).map(|l| slot_there(l, order, kind)).max().unwrap_or(0);
        let layer = |l: usize| {
            let (dense, (here, away)) = (bytes(&Part::dense(l as u16)), cache(l));
            LayerBytes { dense: (dense + here, dense + away), expert: (slot, there) }
        };
        let head = bytes(&[Part::OutputNorm, Part::Head]);
        let layers = (0..config.layers.len()).map(layer).collect();
        let caches = (0..config.layers.len()).map(|l| cache(l).0).collect();
        Footprint { layers, caches, head: (head, head), disk: true, ..Footprint::default() }
    }
}

/// Bytes of a slot on an accelerator for an expert of a layer.
fn slot_there(layer: usize, order: DownOrder, kind: &dyn Fn(Part) -> Kind) -> u64 {
    let [gate, up, down] = Part::expert(layer as u16, 0).map(kind);
    Laid { gate, up, down, order }.bytes() as u64
}

/// What was laid down of one layer. What is with the processor may lie on the disk where memory is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerTold {
    pub experts: Option<Place>,
    pub dense: Option<Place>,
}

/// What was laid down; what was not is the plan's to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub layers: Vec<LayerTold>,
    /// Whether the head lies on the accelerator.
    pub head: Option<bool>,
}

impl LayerTold {
    /// Narrows what the plan may choose.
    fn bind(&self, problem: &mut LayerProblem) {
        let all = problem.heat.len();
        match self.experts {
            Some(Place::Processor) => problem.on_gpu = (0, 0),
            Some(Place::Accelerator) => problem.on_gpu = (all, all),
            Some(Place::Disk) => (problem.on_gpu, problem.on_disk) = ((0, 0), (all, all)),
            None => {}
        }
        if let Some(place) = self.dense {
            problem.dense_on_gpu = Some(place == Place::Accelerator);
        }
    }
}

/// The whole problem: layers, and the head beside them.
#[derive(Clone, Debug)]
pub struct Hybrid {
    pub problem: Problem,
    shared: bool,
    /// Nothing fits, whatever is placed where.
    short: bool,
    /// Experts in memory at least, if any are on the disk.
    least: usize,
    /// Seconds and bytes of the head, here and there.
    head_seconds: (f64, f64),
    head_bytes: (u64, u64),
    pub head_told: Option<bool>,
    /// Seconds of each layer, without its experts and of them, and of the head where everything lies there and nobody waits
    /// in between; `None` where the accelerator has no such way.
    whole: Option<(Vec<(f64, f64)>, f64)>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Hybridised {
    pub choices: Vec<Choice>,
    pub head: bool,
    /// Seconds of a token, of all layers without their experts, of each layer and of the head.
    pub seconds: f64,
    pub dense: f64,
    pub by_layer: Vec<f64>,
    pub head_seconds: f64,
    /// No plan of this kind takes less.
    pub bound: f64,
}

impl Hybrid {
    pub fn new(work: &Work, ground: &Ground, room: &Footprint, told: &Told) -> Hybrid {
        let Speeds { bandwidth, launch, chained, crossing, link, .. } = ground.speeds;
        let at = |bytes: f64, kernels: f64| bytes / bandwidth + kernels * launch;
        let active = ground.costs.active as f64;
        let hidden = work.config.width as f64 * 4.0;
        let layer = |l: usize| {
            let (cost, bytes) = (&ground.costs.layers[l], room.layers.get(l).copied().unwrap_or_default());
            let read = work.expert_bytes(l) as f64 * part_read(&ground.profile, l);
            let all = work.config.experts;
            let mut problem = LayerProblem {
                heat: heat(&ground.profile, l),
                // The router's logits come across in any case.
                dense: (cost.fixed().seconds, at(work.dense_bytes(l) as f64, DENSE_KERNELS) + crossing / 2.0),
                dense_bytes: bytes.dense,
                cpu: cost.experts(active).seconds / active,
                gpu: read / bandwidth,
                begin: EXPERT_KERNELS * launch,
                read: ground.read,
                crossing: crossing + 2.0 * hidden / link,
                expert_bytes: bytes.expert,
                shared: room.shared,
                on_gpu: (0, all),
                dense_on_gpu: None,
                on_disk: (0, if room.disk { all } else { 0 }),
            };
            if let Some(told) = told.layers.get(l) {
                told.bind(&mut problem);
            }
            problem
        };
        let layers = (0..work.layers.len()).map(layer).collect();
        let logits = work.head.rows as f64 * 4.0 / link;
        let whole = chained.map(|chained| {
            let layer = |l: usize| {
                let read = work.expert_bytes(l) as f64 * part_read(&ground.profile, l) * active;
                // Ten kernels: the experts' as many of them as of those that are asked for one by one.
                let experts = CHAINED_KERNELS * EXPERT_KERNELS / (DENSE_KERNELS + EXPERT_KERNELS);
                let dense = work.dense_bytes(l) as f64 / bandwidth + (CHAINED_KERNELS - experts) * chained;
                (dense, read / bandwidth + experts * chained)
            };
            let head = work.head.bytes() as f64 / bandwidth + 2.0 * chained + crossing; // logits come through pinned memory
            ((0..work.layers.len()).map(layer).collect(), head)
        });
        Hybrid {
            whole,
            problem: Problem { layers, vram: room.vram, ram: room.ram },
            shared: room.shared,
            short: room.short > 0,
            least: room.least,
            head_seconds: (ground.costs.head.seconds, at(work.head.bytes() as f64, 2.0) + crossing + logits),
            head_bytes: room.head,
            head_told: told.head,
        }
    }

    /// The layers alone, with the head here or there; `None` where that does not fit.
    fn beside(&self, head: bool) -> Option<Problem> {
        if self.short {
            return None;
        }
        let (ram, vram) = match head {
            false => (self.head_bytes.0, 0),
            true => (if self.shared { self.head_bytes.1 } else { 0 }, self.head_bytes.1),
        };
        let Problem { layers, vram: all_vram, ram: all_ram } = &self.problem;
        let (vram, ram) = (all_vram.checked_sub(vram)?, all_ram.checked_sub(ram)?);
        Some(Problem { layers: layers.clone(), vram, ram })
    }

    /// The fastest plan found. `None` where nothing that is allowed fits.
    pub fn solve(&self) -> Option<Hybridised> {
        let solved = self.heads().filter_map(|head| {
            let problem = self.beside(head)?;
            let found = problem.solve()?;
            let choices = self.gathered(&problem, self.enough(&problem, found.choices)?);
            let head_seconds = if head { self.head_seconds.1 } else { self.head_seconds.0 };
            let by_layer: Vec<f64> = problem.layers.iter().zip(&choices).map(|(l, c)| l.seconds(*c)).collect();
            let seconds = by_layer.iter().sum::<f64>() + self.borders(&choices) + head_seconds;
            let bound = found.bound + head_seconds;
            let dense = |(l, c): (&LayerProblem, &Choice)| if c.dense_on_gpu { l.dense.1 } else { l.dense.0 };
            let dense = problem.layers.iter().zip(&choices).map(dense).sum();
            Some(Hybridised { choices, head, seconds, dense, by_layer, head_seconds, bound })
        });
        let mut solved: Vec<Hybridised> = solved.collect();
        if let Some(whole) = self.wholly() {
            solved.retain(|other| (other.head, &other.choices) != (true, &whole.choices)); // which would be done this way
            solved.push(whole);
        }
        let bound = solved.iter().map(|s| s.bound).fold(f64::INFINITY, f64::min);
        let best = solved.into_iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
        Some(Hybridised { bound, ..best })
    }

    /// The least memory that does for layers and head, if nothing else held it: `None` where the accelerator has too little
    /// of its own for what is to lie there.
    pub fn least_memory(&self) -> Option<u64> {
        let plenty =
            Hybrid { short: false, problem: Problem { ram: u64::MAX / 4, ..self.problem.clone() }, ..self.clone() };
        let least = |head: bool| {
            let beside = plenty.beside(head)?;
            let (bytes, choices) = beside.least_memory()?;
            let more = self.missing(&choices) as u64 * self.slot();
            Some(bytes + more + (plenty.problem.ram - beside.ram))
        };
        self.heads().filter_map(least).min()
    }

    /// Experts that would have to come from the disk into memory for a model to run.
    fn missing(&self, choices: &[Choice]) -> usize {
        let layers = || self.problem.layers.iter().zip(choices);
        let here: usize = layers().map(|(layer, c)| layer.heat.len() - c.gpu - c.disk).sum();
        let disk: usize = layers().map(|(_, c)| c.disk).sum();
        if disk == 0 { 0 } else { self.least.saturating_sub(here).min(disk) }
    }

    fn slot(&self) -> u64 {
        self.problem.layers.iter().map(|layer| layer.expert_bytes.0).max().unwrap_or(0)
    }

    /// `choices`, or others with as many experts in memory as a model needs to run: room for these is put aside first.
    fn enough(&self, problem: &Problem, choices: Vec<Choice>) -> Option<Vec<Choice>> {
        if self.missing(&choices) == 0 {
            return Some(choices);
        }
        let ram = problem.ram.checked_sub(self.least as u64 * self.slot())?;
        let mut choices = Problem { ram, ..problem.clone() }.solve()?.choices;
        for _ in 0..self.missing(&choices) {
            let hottest =
                |l: &usize| self.problem.layers[*l].heat[self.problem.layers[*l].heat.len() - choices[*l].disk];
            let may = |l: &usize| choices[*l].disk > self.problem.layers[*l].on_disk.0;
            let of = (0..choices.len()).filter(may).max_by(|a, b| hottest(a).total_cmp(&hottest(b)))?;
            choices[of].disk -= 1;
        }
        Some(choices)
    }

    /// The head there and here, as far as it was not told where to lie.
    fn heads(&self) -> impl Iterator<Item = bool> {
        let told = self.head_told;
        [true, false].into_iter().filter(move |head| told.is_none_or(|told| told == *head))
    }

    /// Everything there, where that fits and is allowed.
    fn wholly(&self) -> Option<Hybridised> {
        let (by_layer, head_seconds) = self.whole.clone()?;
        let problem = self.beside(true).filter(|_| self.head_told != Some(false))?;
        let choice = |layer: &LayerProblem| Choice { dense_on_gpu: true, gpu: layer.heat.len(), disk: 0 };
        let choices: Vec<Choice> = problem.layers.iter().map(choice).collect();
        if !problem.fits(&choices) || problem.layers.iter().zip(&choices).any(|(layer, choice)| !layer.allows(*choice))
        {
            return None;
        }
        let dense = by_layer.iter().map(|layer| layer.0).sum();
        let by_layer: Vec<f64> = by_layer.iter().map(|layer| layer.0 + layer.1).collect();
        let seconds = by_layer.iter().sum::<f64>() + head_seconds;
        Some(Hybridised { choices, head: true, seconds, dense, by_layer, head_seconds, bound: seconds })
    }

    /// Seconds that the residual stream is on its way between layers of which one lies here and one there.
    fn borders(&self, choices: &[Choice]) -> f64 {
        let layers = self.problem.layers.iter().zip(choices.windows(2));
        layers.filter(|(_, two)| two[0].dense_on_gpu != two[1].dense_on_gpu).map(|(l, _)| l.crossing / 2.0).sum()
    }

    /// The same with the layers whose attention lies there last, if that is faster for having fewer borders.
    fn gathered(&self, problem: &Problem, choices: Vec<Choice>) -> Vec<Choice> {
        let (mut there, mut here): (Vec<Choice>, Vec<Choice>) = choices.iter().partition(|c| c.dense_on_gpu);
        if there.is_empty() || here.is_empty() {
            return choices;
        }
        here.append(&mut there);
        let allowed = problem.layers.iter().zip(&here).all(|(layer, choice)| layer.allows(*choice));
        let total = |choices: &[Choice]| problem.seconds(choices) + self.borders(choices);
        if allowed && problem.fits(&here) && total(&here) < total(&choices) { here } else { choices }
    }

    /// Seconds of a token with any experts on the accelerator: `there(layer, rank)` says which, of each layer's from the
    /// hottest on. Of the others the `in_memory` hottest of all are at hand.
    pub fn seconds_with(
        &self,
        dense: &[bool],
        head: bool,
        there: &dyn Fn(usize, usize) -> bool,
        in_memory: usize,
    ) -> f64 {
        let layers = &self.problem.layers;
        let all = |l: usize| dense.get(l) == Some(&true) && (0..layers[l].heat.len()).all(|rank| there(l, rank));
        if let Some((by_layer, head_seconds)) = self.whole.as_ref().filter(|_| head && (0..layers.len()).all(all)) {
            return by_layer.iter().map(|layer| layer.0 + layer.1).sum::<f64>() + head_seconds;
        }
        let ranks = |l: usize| (0..layers[l].heat.len()).map(move |rank| (l, rank));
        let mut here: Vec<(usize, usize)> = (0..layers.len()).flat_map(ranks).filter(|(l, r)| !there(*l, *r)).collect();
        here.sort_by(|a, b| layers[b.0].heat[b.1].total_cmp(&layers[a.0].heat[a.1]).then(a.cmp(b)));
        let away: BTreeSet<(usize, usize)> = here.iter().skip(in_memory).copied().collect();
        let layer = |l: usize| {
            let lies = |rank| match (there(l, rank), away.contains(&(l, rank))) {
                (true, _) => Place::Accelerator,
                (false, true) => Place::Disk,
                (false, false) => Place::Processor,
            };
            layers[l].seconds_with(dense.get(l).copied().unwrap_or(false), &lies)
        };
        let head = if head { self.head_seconds.1 } else { self.head_seconds.0 };
        (0..layers.len()).map(layer).sum::<f64>() + head
    }
}

impl Hybridised {
    /// Layer and index of each expert on the accelerator.
    pub fn experts(&self, profile: &Profile) -> BTreeSet<(u16, u16)> {
        let of = |(l, choice): (usize, &Choice)| {
            let hottest: Vec<usize> = profile.by_heat(l).into_iter().take(choice.gpu).collect();
            hottest.into_iter().map(move |e| (l as u16, e as u16))
        };
        self.choices.iter().enumerate().flat_map(of).collect()
    }

    pub fn dense(&self) -> Vec<bool> {
        self.choices.iter().map(|choice| choice.dense_on_gpu).collect()
    }
}

/// Experts that are to change sides: who goes to the processor, and who comes into its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    pub pairs: Vec<((u16, u16), (u16, u16))>,
    /// Expected seconds of a token, as it is and then.
    pub before: f64,
    pub after: f64,
}

/// How many times as fast a token has to become for experts to change sides.
const WORTH: f64 = 1.02;

/// What would be on the accelerator now that habits are those of `ground`: of `there` and as many others, at most `most`
/// exchanged for others, the most useful ones first. Layers and head stay where `dense` and `head` have them, and of the
/// processor's experts `in_memory` are at hand. `None` where that is hardly worth it.
pub fn exchange(
    (work, ground, told): (&Work, &Ground, &Told),
    there: &BTreeSet<(u16, u16)>,
    (dense, head): (&[bool], bool),
    in_memory: usize,
    most: usize,
) -> Option<Exchange> {
    let layer = |l: usize| {
        let side = if dense[l] { Place::Accelerator } else { Place::Processor };
        LayerTold { dense: Some(side), experts: told.layers.get(l).and_then(|layer| layer.experts) }
    };
    let told = Told { layers: (0..work.layers.len()).map(layer).collect(), head: Some(head) };
    // In slots: every expert takes one, and all else is where it is.
    let bytes = LayerBytes { dense: (0, 0), expert: (0, 1) };
    let room = Footprint {
        layers: vec![bytes; work.layers.len()],
        vram: there.len() as u64,
        ram: u64::MAX / 4,
        ..Footprint::default()
    };
    let problem = Hybrid::new(work, ground, &room, &told);
    let profile = &ground.profile;
    let wanted = problem.solve()?.experts(profile);
    let heat = |id: &(u16, u16)| profile.frequency(id.0 as usize, id.1 as usize);
    let mut goes: Vec<(u16, u16)> = there.difference(&wanted).copied().collect();
    let mut comes: Vec<(u16, u16)> = wanted.difference(there).copied().collect();
    goes.sort_by(|a, b| heat(a).total_cmp(&heat(b)).then(a.cmp(b)));
    comes.sort_by(|a, b| heat(b).total_cmp(&heat(a)).then(a.cmp(b)));
    let pairs: Vec<_> = goes.into_iter().zip(comes).take(most).collect();
    let mut then = there.clone();
    for (goes, comes) in &pairs {
        then.remove(goes);
        then.insert(*comes);
    }
    let ranks: Vec<Vec<usize>> = (0..work.layers.len()).map(|l| profile.by_heat(l)).collect();
    let seconds = |set: &BTreeSet<(u16, u16)>| {
        problem.seconds_with(dense, head, &|l, rank| set.contains(&(l as u16, ranks[l][rank] as u16)), in_memory)
    };
    let (before, after) = (seconds(there), seconds(&then));
    (!pairs.is_empty() && before >= WORTH * after).then_some(Exchange { pairs, before, after })
}

/// The heat of a layer's experts, descending.
pub fn heat(profile: &Profile, layer: usize) -> Vec<f64> {
    profile.by_heat(layer).into_iter().map(|e| profile.frequency(layer, e)).collect()
}

#[cfg(test)]
#[path = "hybrid/tests.rs"]
mod tests;
