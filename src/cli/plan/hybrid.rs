//! Plans with an accelerator: one that is there, or one that is described.

use super::{Gpu, Ground};
use crate::cli::args::PlanArgs;
use crate::cli::forecast;
use crate::config::placement::DeviceName;
use crate::config::size::{argument, shown};
use crate::device::{Accelerator, Speeds};
use crate::engine::{Wanted, most_there};
use crate::error::{Error, Result};
use crate::planner::budget::{Plan as Memory, enough};
use crate::planner::cost::{Forecast, Work, prompt};
use crate::planner::hardware::machine::{Machine, Timing};
use crate::planner::hybrid::{self, Footprint, Hybrid, Hybridised, LayerTold, Told};
use crate::planner::plan::{Choice, LayerProblem, Place};
use std::sync::Arc;

/// What is planned for.
pub struct Target {
    pub name: String,
    /// All of its memory, or what may be used of it; bytes of it that are not ours: the driver's, the desktop's.
    pub vram: u64,
    margin: u64,
    pub speeds: Speeds,
    /// The device itself, where it is there.
    pub accelerator: Option<Arc<Accelerator>>,
}

impl Target {
    /// Whether it is no accelerator at all, whose speed nobody waits for.
    pub fn is_stand_in(&self) -> bool {
        self.accelerator.as_ref().is_some_and(|there| there.name() == DeviceName::StandIn)
    }

    /// Whether its memory is this machine's, and counts with it.
    pub fn is_shared(&self) -> bool {
        self.accelerator.as_ref().is_some_and(|there| there.name().is_unified())
    }
}

/// Bytes that a described accelerator keeps to itself.
const MARGIN: u64 = 512 << 20;
/// Memory of a device that says nothing of it.
const UNKNOWN: u64 = u64::MAX / 4;

/// The accelerator that flags describe or name, or the one there is; `None`: the processor does everything.
pub fn target(args: &PlanArgs, wanted: &Wanted, machine: &mut Machine) -> Result<Option<Target>> {
    if let Some(Gpu { name, vram, bandwidth, link }) = args.gpu.clone() {
        let (vram, speeds) = (wanted.memory.unwrap_or(vram), Speeds::described(bandwidth, link));
        return Ok(Some(Target { name, vram, margin: MARGIN, speeds, accelerator: None }));
    }
    let accelerator = match wanted.name {
        _ if wanted.processor => return Ok(None),
        Some(name) => Accelerator::open(name, None)?,
        None => match Accelerator::first(None) {
            None => return Ok(None),
            Some(Err(why)) => {
                super::downgrade(&format!("{why}; planned for the processor"), args.load.strict)?;
                return Ok(None);
            }
            Some(Ok(accelerator)) => accelerator,
        },
    };
    let mut notes = vec![];
    let vram = most_there(&accelerator, wanted.memory, &mut notes).unwrap_or(UNKNOWN);
    notes.iter().try_for_each(|note| super::downgrade(note, args.load.strict))?;
    let speeds = forecast::speeds(machine, &accelerator)?;
    Ok(Some(Target { name: accelerator.called(), vram, margin: 0, speeds, accelerator: Some(accelerator) }))
}

/// Where everything lies, as figures.
pub struct Plan {
    pub memory: Memory,
    pub choices: Vec<Choice>,
    pub token: Forecast,
    pub prompt: Forecast,
    /// No plan of this kind takes fewer seconds for a token.
    pub bound: Option<f64>,
    /// The accelerator's memory, line by line.
    pub vram: Vec<(String, u64)>,
    /// What more memory would buy, in tokens/s; the next-best way, and its tokens/s.
    pub prices: Vec<(String, f64)>,
    pub other: Option<(String, f64)>,
    /// Bytes of weights and of the cache that memory is spared.
    pub away: (u64, u64),
}

/// The plan.
///
/// Errors (infeasible): nothing that is allowed fits; the smallest change that does.
pub fn plan(
    work: &Work,
    ground: &Ground<'_>,
    target: &Target,
    room: Footprint,
    told: &Told,
    budget: Option<u64>,
) -> Result<Plan> {
    let room = Footprint { vram: target.vram.saturating_sub(target.margin), shared: target.is_shared(), ..room };
    let known = hybrid::Ground {
        costs: ground.costs.clone(),
        profile: ground.profile.clone(),
        read: ground.reading.among.seconds,
        speeds: target.speeds,
        measured: true,
    };
    let problem = Hybrid::new(work, &known, &room, told);
    let found = problem.solve().ok_or_else(|| Error::Infeasible(no_room(&problem, &room, target, budget)))?;
    let mut plan = figures(&problem.problem.layers, &found, ground, target, &room);
    if target.is_stand_in() {
        return Ok(plan); // its speeds are made up
    }
    let with = |room: &Footprint, told: &Told| Some(1.0 / Hybrid::new(work, &known, room, told).solve()?.seconds);
    let rate = 1.0 / found.seconds;
    let more = [
        (
            "+1 GiB of the accelerator's memory",
            room.vram < UNKNOWN,
            Footprint { vram: room.vram + GIB, ..room.clone() },
        ),
        ("+1 GiB of memory", budget.is_some(), Footprint { ram: room.ram + GIB, ..room.clone() }),
        ("+2 GiB of memory", budget.is_some(), Footprint { ram: room.ram + 2 * GIB, ..room.clone() }),
    ];
    let asked = more.into_iter().filter(|(_, bounded, _)| *bounded);
    // What fits in less fits in more.
    let gain = |room: &Footprint| Some((with(room, told)? - rate).max(0.0));
    plan.prices = asked.filter_map(|(name, _, room)| Some((name.to_string(), gain(&room)?))).collect();
    // Where something was laid down, it is not for us to say how else.
    let free = told.head.is_none() && told.layers.iter().all(|layer| *layer == LayerTold::default());
    let others = others(work.layers.len()).into_iter().filter(|_| free);
    // Of each way the most that fits: the first of its list that does.
    let others = others.filter_map(|mut way| way.find_map(|(name, told)| Some((name, with(&room, &told)?))));
    plan.other = others.filter(|(_, other)| *other < rate * 0.999).max_by(|a, b| a.1.total_cmp(&b.1));
    Ok(plan)
}

const GIB: u64 = 1 << 30;

/// Simpler ways to share the work, by the flags that ask for them: each from the most on the accelerator to the least.
fn others(layers: usize) -> Vec<Box<dyn Iterator<Item = (String, Told)>>> {
    let (here, there) = (Place::Processor, Place::Accelerator);
    let told = move |layer: &dyn Fn(usize) -> (Place, Place), head: bool| {
        let layer = |l| {
            let (experts, dense) = layer(l);
            LayerTold { experts: Some(experts), dense: Some(dense) }
        };
        Told { layers: (0..layers).map(layer).collect(), head: Some(head) }
    };
    let cpu = [("everything on the processor (--cpu)".to_string(), told(&|_| (here, here), false))];
    let whole = (1..=layers + 1).rev().map(move |n| {
        let side = move |l| if l + n.min(layers) >= layers { there } else { here };
        (
            format!("the last {} layers on the accelerator (-ngl {n})", n.min(layers)),
            told(&|l| (side(l), side(l)), n > layers),
        )
    });
    let experts = (0..=layers).map(move |n| {
        let name = format!(
            "all but the experts of the first {n} layers on the accelerator (-ngl {} --n-cpu-moe {n})",
            layers + 1
        );
        (name, told(&|l| (if l < n { here } else { there }, there), true))
    });
    vec![Box::new(cpu.into_iter()), Box::new(whole), Box::new(experts)]
}

fn no_room(problem: &Hybrid, room: &Footprint, target: &Target, budget: Option<u64>) -> String {
    if let Some(least) = problem.least_memory() {
        let others = (budget.unwrap_or(0) + room.short).saturating_sub(room.ram);
        return format!(
            "{} of memory are the least that does beside the accelerator, {} of it for what is not placed; found {}: --ram {} fits",
            shown(others + least),
            shown(others),
            shown(budget.unwrap_or(0)),
            argument(enough(others + least))
        );
    }
    let least = |l: &LayerProblem| {
        let all = [false, true].into_iter().filter(|on| l.dense_on_gpu.is_none_or(|only| only == *on));
        all.map(|dense_on_gpu| l.bytes(Choice { gpu: l.on_gpu.0, disk: 0, dense_on_gpu }).0).min().unwrap_or(0)
    };
    let head = if problem.head_told == Some(true) { room.head.1 } else { 0 };
    let least = problem.problem.layers.iter().map(least).sum::<u64>() + head + target.margin;
    format!(
        "{} of the accelerator's memory are the least that does{}; found {}: --vram {} fits, or less that is told to lie there \
         (-ngl, -ot)",
        shown(least),
        if target.margin > 0 {
            format!(", {} of it left to driver and desktop", shown(target.margin))
        } else {
            String::new()
        },
        shown(target.vram),
        argument(least)
    )
}

fn figures(
    layers: &[LayerProblem],
    found: &Hybridised,
    ground: &Ground<'_>,
    target: &Target,
    room: &Footprint,
) -> Plan {
    let seconds = found.seconds;
    let placed = || layers.iter().zip(&found.choices);
    let (dense, head) = (found.dense, found.head_seconds);
    let parts = vec![("all but experts", dense), ("experts, crossings", seconds - dense - head), ("head", head)];
    let missing = placed().map(|(l, c)| l.heat[l.heat.len() - c.disk..].iter().sum::<f64>()).fold(0.0, |a, b| a + b);
    let (low, high) = if target.speeds.measured { (0.85, 1.2) } else { (0.75, 1.5) };
    let timing = Timing { seconds, low: seconds * low, high: seconds * high };
    let count: usize = placed().map(|(l, c)| l.heat.len() - c.gpu - c.disk).sum();
    let all: usize = placed().map(|(l, c)| l.heat.len() - c.gpu).sum();
    let memory = if count == all { Memory::Whole } else { Memory::Slots(count) };
    let (token, prompt) = match found.head || found.choices.iter().any(|c| c.dense_on_gpu || c.gpu > 0) {
        false => forecast::both(&ground.costs, ground.profile, ground.keeping(memory), &ground.reading),
        true => (
            Forecast { seconds: timing, parts, by_layer: found.by_layer.clone(), missing },
            // Prompts are computed where the weights lie; what the accelerator would save of them is not forecast.
            prompt(&ground.costs, &vec![0.0; layers.len()], ground.reading.among),
        ),
    };
    let experts: usize = found.choices.iter().map(|c| c.gpu).sum();
    let slot = room.layers.first().map_or(0, |layer| layer.expert.1);
    let there: Vec<u64> = placed().filter(|(_, c)| c.dense_on_gpu).map(|(l, _)| l.dense_bytes.1).collect();
    let mut vram = vec![
        (format!("attention and cache of {} layers", there.len()), there.iter().sum()),
        (format!("{experts} experts"), experts as u64 * slot),
    ];
    vram.extend(found.head.then(|| ("the head".to_string(), room.head.1)));
    vram.extend(
        (target.margin > 0).then(|| ("left to driver and desktop".to_string(), target.margin.min(target.vram))),
    );
    // What is not there any more: experts where all are in memory, and what is dense.
    let spared = |expert: u64| -> u64 {
        let layer = |(l, c): (&LayerProblem, &Choice)| {
            let dense = if c.dense_on_gpu { l.dense_bytes.0 } else { 0 };
            dense + c.gpu as u64 * expert
        };
        placed().map(layer).sum::<u64>() + if found.head { room.head.0 } else { 0 }
    };
    let caches: u64 =
        room.caches.iter().zip(&found.choices).filter(|(_, c)| c.dense_on_gpu).map(|(bytes, _)| bytes).sum();
    let weights = spared(if memory == Memory::Whole { room.layers.first().map_or(0, |l| l.expert.0) } else { 0 });
    let (choices, bound, away) = (found.choices.clone(), Some(found.bound), (weights - caches, caches));
    Plan { memory, choices, token, prompt, bound, vram, prices: vec![], other: None, away }
}
