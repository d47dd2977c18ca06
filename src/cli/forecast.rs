//! What a model is expected to do on this machine: the figures of `plan`, and those that stand beside measured ones.

use super::terminal::{Passing, say_note};
use crate::checkpoint::pack::cache;
use crate::config::placement::PolicyName;
use crate::error::Result;
use crate::planner::budget::Plan;
use crate::planner::cost::{self, Costs, Forecast, Keeping, Setup, Work};
use crate::planner::disk::{self, DiskSpeed};
use crate::planner::hardware::machine::{Machine, Timing};
use crate::planner::hardware::probe::Prober;
use crate::planner::profile::Profile;
use kernels::Isa;
use std::path::{Path, PathBuf};

/// What is measured once and kept: beside the packed files of models.
pub fn machine_file() -> Option<PathBuf> {
    Some(cache::folder()?.parent()?.join("machine.json"))
}

/// What is known of this machine; damage is a note.
pub fn machine(isa: Isa, anew: bool) -> Machine {
    let known = machine_file().filter(|_| !anew).map(|path| Machine::read(&path, isa));
    known.unwrap_or_else(|| Ok(Machine::here(isa))).unwrap_or_else(|e| {
        say_note(&format!("{e}; this machine is measured anew"));
        Machine::here(isa)
    })
}

pub fn keep(machine: &Machine) {
    if let Some(Err(e)) = machine_file().map(|path| machine.write(&path)) {
        say_note(&format!("{e}; this machine will be measured again"));
    }
}

/// The costs of a model, measuring what is not known yet. True where something was.
pub fn costs(work: &Work, profile: &Profile, setup: &Setup, machine: &mut Machine, isa: Isa) -> Result<(Costs, bool)> {
    let mut shown: Option<Passing> = None;
    let mut told = |what: &str| {
        drop(shown.take());
        shown = Some(Passing::show(&format!("measuring {what}")));
    };
    let mut prober = Prober::new(machine, isa, setup.threads.0.max(setup.threads.1), &mut told);
    let costs = cost::costs(work, profile, setup, &mut prober)?;
    let measured = prober.measured;
    Ok((costs, measured))
}

/// The disk under `file` at reads of one expert: known, or measured now.
pub fn disk(machine: &mut Machine, file: &Path, piece: usize) -> Result<(DiskSpeed, bool)> {
    let piece = piece.next_multiple_of(4096);
    if let Some(speed) = machine.disk(file, piece) {
        return Ok((speed, false));
    }
    let mut passing = Passing::show("measuring the disk");
    let speed = disk::read_speed(file, piece)?;
    passing.clear();
    machine.keep_disk(file, &speed);
    Ok((speed, true))
}

/// Seconds until one expert is read while others are: from the depths that keep a disk busy.
pub fn read_time(speed: &DiskSpeed) -> Timing {
    let busy: Vec<f64> = speed.by_depth.iter().filter(|(depth, _)| *depth >= 4).map(|d| d.1).collect();
    let rates = if busy.is_empty() { vec![speed.best().1] } else { busy };
    let (low, high) = (rates.iter().copied().fold(f64::INFINITY, f64::min), rates.iter().copied().fold(0.0, f64::max));
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    let time = |rate: f64| speed.piece as f64 / rate;
    Timing { seconds: time(mean), low: time(high), high: time(low) }
}

/// How a policy keeps, as far as forecasts tell policies apart.
pub fn keeping(policy: PolicyName) -> Keeping {
    match policy {
        PolicyName::Lru => Keeping::Recent,
        PolicyName::Lfu => Keeping::Hottest,
        _ => Keeping::Between,
    }
}

/// A token of an answer, and a prompt, with the experts where `plan` has them.
pub fn both(
    costs: &Costs,
    profile: &Profile,
    plan: Plan,
    keeping: Keeping,
    read: Timing,
    here: &dyn Fn(usize, usize) -> bool,
) -> (Forecast, Forecast) {
    let layers = profile.layers.len();
    let (missing, share) = match plan {
        Plan::Whole => (vec![0.0; layers], vec![0.0; layers]),
        Plan::Slots(count) => {
            let missing = cost::misses(profile, count, keeping, here);
            let share = 1.0 - (count as f64 / (layers * profile.experts) as f64).min(1.0);
            (missing, vec![share; layers])
        }
    };
    (cost::token(costs, &missing, read), cost::prompt(costs, &share, read))
}
