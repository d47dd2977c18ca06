//! What is known of a model and of this machine when it is decided what goes to an accelerator.

use super::expected::SMALL;
use super::forecast;
use crate::checkpoint::{Checkpoint, Weights};
use crate::device::Accelerator;
use crate::engine::{Options, Wanted};
use crate::error::{Error, Result};
use crate::experts::slot_bytes;
use crate::planner::cost::{Setup, Work};
use crate::planner::hybrid::Ground;
use crate::planner::profile::Profile;
use crate::pool::Pool;
use kernels::Isa;
use std::path::Path;

/// Positions in the context of a token that is planned for.
const DEPTH: usize = 512;

/// What is known, for a model of some size; what is not is measured once and kept, unless a budget has no room for that. `None`
/// where there is no accelerator. Notes are added to. `habits`: where those of the model are kept.
pub fn ground(
    checkpoint: &Checkpoint,
    options: &Options,
    wanted: &Wanted,
    habits: Option<&Path>,
    notes: &mut Vec<String>,
) -> Result<Option<Ground>> {
    let found = match wanted.name {
        _ if wanted.processor => None,
        Some(name) => Some(Accelerator::open(name, None)),
        None => Accelerator::first(None),
    };
    // What cannot be had is said by the engine, which tries again.
    let Some(Ok(accelerator)) = found else { return Ok(None) };
    let config = &checkpoint.config;
    let kinds = Weights::kinds(checkpoint, options.quant, options.relay)?;
    let work = Work::of(config, checkpoint.down, &|part| kinds[config.part_index(part).expect("a part of this model")]);
    // Damage is said when the habits are written.
    let known = habits.and_then(|path| Profile::read(path, config).ok().flatten());
    let profile = known.unwrap_or_else(|| Profile::even(config));
    let isa = options.isa.map_or_else(Isa::from_env, Ok).map_err(Error::Usage)?;
    let mut machine = forecast::machine(isa, false);
    let speeds = forecast::speeds(&mut machine, &accelerator)?;
    let assumed = Ground::assumed(&work, profile.clone(), speeds);
    if work.expert_bytes(0) * ((config.active * config.layers.len()) as u64) < SMALL {
        return Ok(Some(assumed));
    }
    let threads = options.threads.unwrap_or_else(Pool::cores);
    let setup = Setup {
        threads: (threads, options.threads_batch.unwrap_or(threads)),
        keys: options.keys,
        values: options.values,
        depth: DEPTH,
        prompt: 1,
        chunk: options.chunk,
        mapped: checkpoint.packed().is_some() || checkpoint.is_gguf(),
    };
    if options.ram.is_some() && !forecast::is_known(&work, &profile, &setup, &machine, isa)? {
        notes.push(
            "this machine's speeds are not known, and --ram leaves no room to measure them: usual ones decide what goes to \
             the accelerator (`thermocline plan` without --ram measures them)"
                .into(),
        );
        return Ok(Some(assumed));
    }
    let (costs, measured) = forecast::costs(&work, &profile, &setup, &mut machine, isa, None)?;
    if measured {
        forecast::keep(&machine);
    }
    let slot = slot_bytes(checkpoint, options.verify);
    let file = checkpoint.file_of(crate::checkpoint::Part::Gate(0, 0));
    let disk = machine.disk(file, forecast::piece(slot));
    let read = disk.map(|speed| forecast::reading(&speed, slot, options.loaders).among.seconds);
    Ok(Some(Ground { costs, profile, read: read.unwrap_or(assumed.read), speeds, measured: true }))
}
