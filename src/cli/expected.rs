//! What an open engine is expected to do on this machine: stands beside what it did.

use super::forecast;
use crate::engine::{Engine, Options, StoreStats};
use crate::error::{Error, Result};
use crate::planner::cost::{Forecast, Setup, Work};
use crate::planner::disk::{self, DiskSpeed};
use crate::planner::hardware::machine::Machine;
use crate::planner::profile::Profile;
use crate::planner::rehearsal::{Keeping, Reading};
use kernels::Isa;
use std::path::{Path, PathBuf};

/// Models with fewer bytes of experts in a token are quick anyway: nothing is measured for them.
pub const SMALL: u64 = 4 << 20;

/// A model as it was opened.
pub struct Expected {
    engine: Engine,
    work: Work,
    options: Options,
    isa: Isa,
    /// The file experts are read from, and the bytes of one of them.
    on_disk: Option<(PathBuf, usize)>,
}

/// What was known just before something was measured.
#[derive(Clone)]
pub struct Sight {
    /// The model's habits.
    pub profile: Profile,
    /// Bytes of the head that memory gave a second, and how fast the disk was, where experts are read from one.
    pub pace: f64,
    pub disk: Option<DiskSpeed>,
}

impl Expected {
    /// `None` for small models, and where an accelerator has a part in it.
    pub fn of(engine: &Engine, options: &Options) -> Result<Option<Expected>> {
        let Some(work) = engine.work().cloned() else { return Ok(None) };
        let token = work.expert_bytes(0) * (engine.config().active * engine.config().layers.len()) as u64;
        if token < SMALL {
            return Ok(None);
        }
        let isa = options.isa.map_or_else(Isa::from_env, Ok).map_err(Error::Usage)?;
        let (engine, options) = (engine.clone(), options.clone());
        Ok(Some(Expected { on_disk: engine.experts_on_disk(), engine, work, options, isa }))
    }

    /// Looks at memory and disk as they are now: a tenth of a second, and half of one where experts are read.
    pub fn look(&self, profile: Profile) -> Result<Sight> {
        let speed = |(file, slot): &(PathBuf, usize)| disk::read_speed(file, forecast::piece(*slot), disk::GLANCE);
        Ok(Sight { profile, pace: self.pace(), disk: self.on_disk.as_ref().map(speed).transpose()? })
    }

    fn pace(&self) -> f64 {
        self.engine.pace().expect("without an accelerator the head is here")
    }

    /// Who keeps which experts, where not all are in memory.
    fn keeping(&self) -> Option<Keeping> {
        let stats: StoreStats = self.engine.store_stats()?;
        Some(Keeping { slots: stats.slots, policy: self.options.policy, ahead: self.options.ahead })
    }

    fn setup(&self, (prompt, depth): (usize, usize)) -> Setup {
        Setup {
            threads: self.engine.threads(),
            keys: self.options.keys,
            values: self.options.values,
            depth: depth.max(1),
            prompt: prompt.max(1),
            chunk: self.options.chunk,
            mapped: self.engine.is_mapped(),
        }
    }

    /// An answer's token after `depth` others, and a prompt of `prompt` tokens, as they were to be expected then. What is not
    /// known of this machine is measured, and kept in `machine`: true where something was.
    pub fn forecast(
        &self,
        sight: &Sight,
        (prompt, depth): (usize, usize),
        machine: &mut Machine,
    ) -> Result<((Forecast, Forecast), bool)> {
        let setup = self.setup((prompt, depth));
        let (costs, new) = forecast::costs(&self.work, &sight.profile, &setup, machine, self.isa, Some(sight.pace))?;
        let reading = match (&sight.disk, &self.on_disk) {
            (Some(speed), Some((_, slot))) => forecast::reading(speed, *slot, self.options.loaders),
            _ => Reading::default(),
        };
        Ok((forecast::both(&costs, &sight.profile, self.keeping(), &reading), new))
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }
}

/// What answers are expected to take.
pub enum Foresight {
    Host(Box<Known>),
    /// By the plan of an accelerator's part.
    Planned(Engine),
}

/// The same from what is known of this machine and of the model's habits.
pub struct Known {
    expected: Expected,
    /// What is known of the habits from earlier runs.
    known: Option<Profile>,
    machine: Machine,
    /// Whether this machine may be measured: not where a budget has no room for it.
    measure: bool,
}

impl Foresight {
    /// `habits`: where those of earlier runs are kept. `None` for small models. What is not known of the machine is measured
    /// where `measure` says so, and a budget has room for it.
    pub fn new(engine: &Engine, options: &Options, habits: Option<&Path>, measure: bool) -> Result<Option<Foresight>> {
        if engine.planned().is_some() {
            return Ok(Some(Foresight::Planned(engine.clone())));
        }
        let Some(expected) = Expected::of(engine, options)? else { return Ok(None) };
        // Damage is said when the habits are written.
        let known = habits.and_then(|path| Profile::read(path, engine.config()).ok().flatten());
        let machine = forecast::machine(expected.isa, false);
        let measure = measure && options.ram.is_none();
        Ok(Some(Foresight::Host(Box::new(Known { expected, known, machine, measure }))))
    }

    /// Tokens a second of a prompt of `prompt` tokens, where that is foreseen, and of an answer around position `depth`, were
    /// they begun now. `None` where something would have to be measured and may not be.
    pub fn rates(&mut self, prompt: usize, depth: usize) -> Result<Option<(Option<f64>, f64)>> {
        match self {
            Foresight::Planned(engine) => Ok(engine.planned().map(|seconds| (None, 1.0 / seconds))),
            Foresight::Host(known) => Ok(known.rates(prompt, depth)?.map(|(prompt, answer)| (Some(prompt), answer))),
        }
    }
}

impl Known {
    fn rates(&mut self, prompt: usize, depth: usize) -> Result<Option<(f64, f64)>> {
        let mut profile = self.known.clone().unwrap_or_else(|| Profile::even(self.expected.engine.config()));
        profile.merge(&Profile::of(self.expected.engine.config(), &self.expected.engine.counts()));
        let disk = match &self.expected.on_disk {
            None => None,
            Some((file, slot)) => match self.machine.disk(file, forecast::piece(*slot)) {
                None if !self.measure => return Ok(None),
                None => Some(forecast::disk(&mut self.machine, file, *slot)?.0),
                known => known,
            },
        };
        let sight = Sight { profile, pace: self.expected.pace(), disk };
        let (expected, what) = (&self.expected, (prompt, depth));
        let setup = expected.setup(what);
        if !self.measure && !forecast::is_known(&expected.work, &sight.profile, &setup, &self.machine, expected.isa)? {
            return Ok(None);
        }
        let ((token, whole), new) = expected.forecast(&sight, what, &mut self.machine)?;
        if new {
            forecast::keep(&self.machine);
        }
        Ok(Some((prompt.max(1) as f64 / whole.seconds.seconds, 1.0 / token.seconds.seconds)))
    }
}
