//! What a model is expected to do on this machine: the figures of `plan`, and those that stand beside measured ones.

use super::terminal::{Passing, say_note};
use crate::checkpoint::pack::cache;
use crate::device::{Accelerator, Speeds};
use crate::error::Result;
use crate::experts::{GUESSED, PIECE};
use crate::planner::cost::{self, Costs, Forecast, Setup, Work};
use crate::planner::disk::{self, DiskSpeed};
use crate::planner::hardware::machine::{Machine, Timing};
use crate::planner::hardware::probe::Prober;
use crate::planner::profile::Profile;
use crate::planner::rehearsal::{self, Keeping, Reading};
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

/// The costs of a model, measuring what is not known yet: true where something was. `pace`: bytes of the head that are read
/// a second while answering; `None`: measured now.
pub fn costs(
    work: &Work,
    profile: &Profile,
    setup: &Setup,
    machine: &mut Machine,
    isa: Isa,
    pace: Option<f64>,
) -> Result<(Costs, bool)> {
    let mut shown: Option<Passing> = None;
    let mut told = |what: &str| {
        drop(shown.take());
        shown = Some(Passing::show(&format!("measuring {what}")));
    };
    let most = setup.threads.0.max(setup.threads.1);
    let mut prober = Prober::new(machine, isa, most, work.head, &mut told);
    if let Some(pace) = pace {
        prober.at_pace(setup.threads.0, pace);
    }
    let costs = cost::costs(work, profile, setup, &mut prober)?;
    let measured = prober.measured;
    Ok((costs, measured))
}

/// Whether [`costs`] would have to measure something.
pub fn is_known(work: &Work, profile: &Profile, setup: &Setup, machine: &Machine, isa: Isa) -> Result<bool> {
    let mut machine = machine.clone();
    let mut told = |_: &str| ();
    let mut prober = Prober::new(&mut machine, isa, 1, work.head, &mut told);
    prober.sealed = true;
    prober.at_pace(setup.threads.0, 1e9);
    prober.at_pace(setup.threads.1, 1e9);
    cost::costs(work, profile, setup, &mut prober)?;
    Ok(!prober.missing)
}

/// How fast an accelerator is: known, or measured now and kept.
pub fn speeds(machine: &mut Machine, accelerator: &Accelerator) -> Result<Speeds> {
    let name = accelerator.called();
    if let Some(speeds) = machine.accelerator(&name) {
        return Ok(speeds);
    }
    let mut passing = Passing::show("measuring the accelerator");
    let speeds = Speeds::of(accelerator)?;
    passing.clear();
    if speeds.measured {
        machine.keep_accelerator(name, speeds);
        keep(machine);
    }
    Ok(speeds)
}

/// The disk under `file` at the reads the engine makes of an expert of `slot` bytes: known, or measured now.
pub fn disk(machine: &mut Machine, file: &Path, slot: usize) -> Result<(DiskSpeed, bool)> {
    let piece = piece(slot);
    if let Some(speed) = machine.disk(file, piece) {
        return Ok((speed, false));
    }
    let mut passing = Passing::show("measuring the disk");
    let speed = disk::read_speed(file, piece, disk::WHOLE)?;
    passing.clear();
    machine.keep_disk(file, &speed);
    Ok((speed, true))
}

/// Bytes of one read of an expert of `slot` bytes.
pub fn piece(slot: usize) -> usize {
    slot.min(PIECE).next_multiple_of(4096)
}

/// How long an expert of `slot` bytes is read, by `loaders` threads.
pub fn reading(speed: &DiskSpeed, slot: usize, loaders: usize) -> Reading {
    let busy: Vec<f64> = speed.by_depth.iter().filter(|(depth, _)| *depth >= 4).map(|d| d.1).collect();
    let (low, high) = (busy.iter().copied().fold(f64::INFINITY, f64::min), busy.iter().copied().fold(0.0, f64::max));
    let mean = if busy.is_empty() { speed.best().1 } else { busy.iter().sum::<f64>() / busy.len() as f64 };
    let (low, high) = if busy.is_empty() { (mean, mean) } else { (low, high) };
    let time = |depth: usize| {
        let seconds = slot as f64 / speed.at(depth.min(loaders));
        Timing { seconds, low: seconds * (mean / high), high: seconds * (mean / low) }
    };
    let pieces = slot.div_ceil(speed.piece);
    Reading { alone: time(pieces), among: time(loaders), ahead: time(GUESSED as usize), pieces: pieces as f64 }
}

/// A token of an answer, and a prompt, with so many experts in memory (`None`: all).
pub fn both(costs: &Costs, profile: &Profile, keeping: Option<Keeping>, reading: &Reading) -> (Forecast, Forecast) {
    let layers = profile.layers.len();
    let Some(keeping) = keeping else {
        return (
            cost::token(costs, &vec![Timing::default(); layers], 0.0),
            cost::prompt(costs, &vec![0.0; layers], reading.among),
        );
    };
    let costs = &rehearsal::kept(costs, keeping);
    let [mean, low, high] = [|t: &Timing| t.seconds, |t: &Timing| t.low, |t: &Timing| t.high]
        .map(|of| rehearsal::rehearse(costs, profile, keeping, reading, of));
    let wait = |l: usize| Timing { seconds: mean.waits[l], low: low.waits[l], high: high.waits[l] };
    let waits: Vec<Timing> = (0..layers).map(wait).collect();
    let share = 1.0 - (keeping.slots as f64 / (layers * profile.experts) as f64).min(1.0);
    let prompt = cost::prompt(costs, &vec![share; layers], reading.among);
    (cost::token(costs, &waits, mean.reads.iter().sum()), prompt)
}

/// Seconds of a token, without its interval: quick enough to compare many plans.
pub fn seconds(costs: &Costs, profile: &Profile, keeping: Option<Keeping>, reading: &Reading) -> f64 {
    let layers = profile.layers.len();
    let Some(keeping) = keeping else {
        return cost::token(costs, &vec![Timing::default(); layers], 0.0).seconds.seconds;
    };
    let costs = rehearsal::kept(costs, keeping);
    let waits = rehearsal::rehearse(&costs, profile, keeping, reading, |t| t.seconds).waits;
    let waits: Vec<Timing> = waits.into_iter().map(Timing::new).collect();
    cost::token(&costs, &waits, 0.0).seconds.seconds
}
