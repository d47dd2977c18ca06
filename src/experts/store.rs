//! The store: experts where the weights lie, or some of them in slots and the others on the disk.

use super::device::OnDevice;
use super::image::{Images, PAGE};
use super::loader::{self, Loaders};
use super::policy::{self, Shape};
use super::schedule::Found;
use super::slots::{Pins, Slots};
use super::tier::{FileTier, Tier};
use super::{Choice, Down, Expert, ExpertId, Group, StoreStats, Tally};
use crate::checkpoint::{DownOrder, Matrix, Part, Weights};
use crate::config::Config;
use crate::config::placement::{self, Placement};
use crate::device::Accelerator;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLockReadGuard};

/// Slots below which a model does not run: a token's experts of one layer, and two on their way.
pub fn least_slots(config: &Config) -> usize {
    (config.active + 2).min(config.layers.len() * config.experts)
}

/// Puts another tier before the one of the model's files, which it is given.
pub type Wrap<'a> = dyn Fn(Arc<dyn Tier>) -> Arc<dyn Tier> + 'a;

/// All experts of a model.
pub struct ExpertStore {
    held: Held,
    /// Those that lie on an accelerator, which `held` is never asked for.
    device: Option<OnDevice>,
    ahead: usize,
    /// The fewest slots that will do.
    least: usize,
    notes: Vec<String>,
    tally: Tally,
}

enum Held {
    Lying(Lying),
    InSlots(Loaders),
}

/// Every expert where the weights lie.
struct Lying {
    /// `[layer * experts + index]`: gate, up, down.
    experts: Vec<[Matrix; 3]>,
    per_layer: usize,
    down: DownOrder,
}

impl Lying {
    fn new(config: &Config, weights: &Weights) -> Lying {
        let mut experts = Vec::with_capacity(config.layers.len() * config.experts);
        for layer in 0..config.layers.len() as u16 {
            for index in 0..config.experts as u16 {
                let parts = Part::expert(layer, index);
                // Of those that lie elsewhere what the file has: they may come back.
                experts.push(parts.map(|part| weights.as_stored(part).unwrap_or_else(|| weights.matrix(part))));
            }
        }
        Lying { experts, per_layer: config.experts, down: weights.down() }
    }

    fn matrices(&self, id: ExpertId) -> &[Matrix; 3] {
        &self.experts[id.layer as usize * self.per_layer + id.index as usize]
    }

    fn expert(&self, id: ExpertId) -> Expert<'_> {
        let [gate, up, down] = self.matrices(id);
        Expert { gate: gate.rows(), up: up.rows(), down: Down::of(self.down, &down.kind(), down.bytes()) }
    }
}

impl ExpertStore {
    /// With slots, `weights` are those of [`Weights::load_dense`]: the store reads experts from the files.
    ///
    /// Fails with `Error::Infeasible` below [`least_slots`], and where memory, threads or files cannot be had.
    pub fn open(config: &Config, weights: &Weights, placement: &Placement) -> Result<ExpertStore> {
        ExpertStore::with_tier(config, weights, placement, None, &|files| files)
    }

    /// The same, with another tier before the model's files, and the accelerator that the placement names. Experts that
    /// lie there `weights` were loaded without.
    pub fn with_tier(
        config: &Config,
        weights: &Weights,
        placement: &Placement,
        accelerator: Option<&Arc<Accelerator>>,
        wrap: &Wrap<'_>,
    ) -> Result<ExpertStore> {
        let away = placement.device.as_ref().map(|device| &device.experts).filter(|experts| !experts.is_empty());
        let device = accelerator.zip(away);
        let device = device.map(|(there, experts)| OnDevice::load(config, weights, there, experts)).transpose()?;
        let here = config.layers.len() * config.experts - away.map_or(0, |experts| experts.len());
        let Some(asked) = placement.slots.as_ref().filter(|_| here > 0) else {
            let held = Held::Lying(Lying::new(config, weights));
            return Ok(ExpertStore { held, device, ahead: 0, least: 0, notes: vec![], tally: Tally::new(config) });
        };
        check(config, asked, here)?;
        let checkpoint = weights.checkpoint();
        let mut notes = vec![];
        if asked.verify && checkpoint.packed().is_none() {
            notes.push("experts are not verified as they are read: only a packed file holds their hashes".into());
        }
        let images = Arc::new(Images::of(checkpoint, asked.verify));
        let count = asked.count.min(here);
        let shape = Shape { layers: config.layers.len(), experts: config.experts, active: config.active, slots: count };
        let mut slots = Slots::new(images.clone(), count, policy::policy(asked.policy, shape))?;
        let (files, said) = FileTier::open(checkpoint, images, slots.first_page(PAGE))?;
        notes.extend(said);
        let loaders = Loaders::start(Arc::new(slots), wrap(Arc::new(files)), asked.loaders)?;
        let (held, least) = (Held::InSlots(loaders), least_slots(config));
        Ok(ExpertStore { held, device, ahead: asked.ahead, least, notes, tally: Tally::new(config) })
    }

    /// Fallbacks that were taken, with their cost, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The experts on an accelerator, where there are any.
    pub fn on_device(&self) -> Option<&OnDevice> {
        self.device.as_ref()
    }

    fn lies_away(&self, id: ExpertId) -> bool {
        self.device.as_ref().is_some_and(|device| device.holds(id))
    }

    /// Those of `ids` that do not lie on an accelerator.
    fn own(&self, ids: &[ExpertId]) -> Vec<ExpertId> {
        ids.iter().copied().filter(|id| !self.lies_away(*id)).collect()
    }

    /// The experts in slots now; none where all lie with the other weights.
    pub fn at_hand(&self) -> Vec<ExpertId> {
        match &self.held {
            Held::Lying(_) => vec![],
            Held::InSlots(loaders) => loaders.slots.lock().at_hand(),
        }
    }

    /// Bytes of memory for slots.
    pub fn slots_bytes(&self) -> u64 {
        match &self.held {
            Held::Lying(_) => 0,
            Held::InSlots(loaders) => loaders.slots.bytes() as u64,
        }
    }

    /// Uses about so many slots from now on, at least [`least_slots`] and at most those there were at the start: memory is
    /// given back, or filled again. Changes no result. How many are in use then; `None` where there are no slots.
    pub fn resize(&self, wanted: usize) -> Option<usize> {
        match &self.held {
            Held::Lying(_) => None,
            Held::InSlots(loaders) => Some(loaders.slots.resize(wanted.max(self.least))),
        }
    }

    /// Slots there were at the start, and the fewest that will do.
    pub fn bounds(&self) -> Option<(usize, usize)> {
        match &self.held {
            Held::Lying(_) => None,
            Held::InSlots(loaders) => Some((loaders.slots.count(), self.least)),
        }
    }

    /// Pins the slots in memory. Errors as the system gives them.
    pub fn lock(&self) -> std::io::Result<()> {
        match &self.held {
            Held::Lying(_) => Ok(()),
            Held::InSlots(loaders) => loaders.slots.lock_memory(),
        }
    }

    /// Begins a step of the forward pass over so many tokens; it ends when it is dropped. It looks at `interrupt` while it
    /// waits for the disk.
    pub fn step<'s>(&'s self, tokens: usize, interrupt: Option<&'s AtomicBool>) -> Step<'s> {
        let turn = match &self.held {
            Held::Lying(_) => 0,
            Held::InSlots(loaders) => loaders.slots.lock().begin(tokens),
        };
        Step { store: self, turn, interrupt, _border: self.device.as_ref().map(OnDevice::step) }
    }

    /// Puts `comes` into the place of `goes` on the accelerator, and `goes` into the processor's care. Waits until no step runs.
    /// After an error what was there is there still, or both are the processor's.
    pub fn exchange(&self, goes: ExpertId, comes: ExpertId) -> Result<()> {
        let device = self.device.as_ref().expect("experts change sides where there are two");
        match &self.held {
            Held::Lying(lying) => {
                let matrices = lying.matrices(comes);
                device.exchange(goes, comes, matrices.each_ref().map(Matrix::bytes))?;
                matrices.iter().for_each(Matrix::release);
            }
            Held::InSlots(loaders) => {
                let images = &loaders.slots.images;
                let read = {
                    let (step, ids) = (self.step(1, None), [comes]);
                    let mut arrivals = step.ready(&ids);
                    arrivals.take()?.bytes().map(<[u8]>::to_vec)
                };
                let read = read.expect("one was asked for, so one came");
                device.exchange(goes, comes, images.image(comes).matrices(&read))?;
                loaders.slots.lock().forget(comes);
            }
        }
        Ok(())
    }

    /// Bytes of an expert as it is kept here: its matrices, or a slot.
    pub fn expert_bytes(&self) -> u64 {
        match &self.held {
            Held::Lying(lying) => lying.experts[0].iter().map(|matrix| matrix.kind().bytes() as u64).sum(),
            Held::InSlots(loaders) => loaders.slots.images.slot_bytes() as u64,
        }
    }

    /// How many layers ahead experts are to be guessed: [`Step::guess`] says them. 0 where none is ever read.
    pub fn read_ahead(&self) -> usize {
        self.ahead
    }

    /// Whether hints are of use: `Step::expect` says them.
    pub fn wants_hints(&self) -> bool {
        match &self.held {
            Held::Lying(_) => false,
            Held::InSlots(loaders) => loaders.slots.lock().wants_hints(),
        }
    }

    /// What was done so far; `None` where no expert ever has to be read.
    pub fn stats(&self) -> Option<StoreStats> {
        match &self.held {
            Held::Lying(_) => None,
            Held::InSlots(loaders) => Some(loaders.slots.lock().stats()),
        }
    }

    /// What routers chose so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

/// `here`: experts that do not lie on an accelerator.
fn check(config: &Config, asked: &placement::Slots, here: usize) -> Result<()> {
    let least = least_slots(config).min(here);
    if asked.count < least {
        return Err(Error::Infeasible(format!(
            "{} slots for experts are {} too few: this model needs at least {least} at a time",
            asked.count,
            least - asked.count
        )));
    }
    if !(1..=loader::MOST).contains(&asked.loaders) {
        return Err(Error::Usage(format!("expected 1 to {} loader threads, found {}", loader::MOST, asked.loaders)));
    }
    Ok(())
}

/// What one step of the forward pass asks of the store.
pub struct Step<'s> {
    store: &'s ExpertStore,
    /// Its number in the schedule, where there are slots.
    turn: usize,
    interrupt: Option<&'s AtomicBool>,
    /// No expert changes sides meanwhile.
    _border: Option<RwLockReadGuard<'s, ()>>,
}

impl Step<'_> {
    /// The experts on an accelerator, where there are any.
    pub fn on_device(&self) -> Option<&OnDevice> {
        self.store.on_device()
    }

    /// Says who chose what in a layer of this step of `tokens` tokens, for the counts.
    pub fn count(&self, groups: &[Group], tokens: usize) {
        self.store.tally.chose(groups, tokens);
    }

    /// Where choices are counted.
    pub(super) fn tally(&self) -> &Tally {
        &self.store.tally
    }

    /// Says what will be asked for of a layer next, at least one, in this order; what was said before no longer counts. Returns at once. May change
    /// speed, never a result.
    pub fn prefetch(&self, ids: &[ExpertId]) {
        if let (Held::InSlots(loaders), Some(first)) = (&self.store.held, ids.first()) {
            let own = self.store.own(ids);
            loaders.slots.ask(|schedule| schedule.prefetch(self.turn, first.layer, &own));
        }
    }

    /// Says what a layer's router has chosen: a hint for whom to keep. May change speed, never a result.
    pub fn chosen(&self, choice: &Choice) {
        if let Held::InSlots(loaders) = &self.store.held {
            let tokens = choice.experts.len() / choice.active;
            let mut counts = choice.counts();
            counts.retain(|(index, _)| !self.store.lies_away(ExpertId { layer: choice.layer, index: *index }));
            loaders.slots.lock().chosen(choice.layer, &counts, tokens as u32);
        }
    }

    /// Says what a later layer may need, likeliest first: it is read if the disk has nothing surer to do. May change speed,
    /// never a result.
    pub fn guess(&self, ids: &[ExpertId]) {
        if let Held::InSlots(loaders) = &self.store.held {
            let ids = self.store.own(ids);
            loaders.slots.ask(|schedule| schedule.guess(&ids));
        }
    }

    /// Says what may be needed in later layers: a hint for whom to keep. May change speed, never a result.
    pub fn expect(&self, ids: &[ExpertId]) {
        if let Held::InSlots(loaders) = &self.store.held {
            loaders.slots.lock().expect(&self.store.own(ids));
        }
    }

    /// Asks for experts, each once.
    pub fn ready<'a>(&'a self, ids: &'a [ExpertId]) -> Arrivals<'a> {
        if let Held::InSlots(loaders) = &self.store.held {
            let index = |id| loaders.slots.images.index(id);
            loaders.slots.ask(|schedule| ids.iter().for_each(|&id| schedule.want(self.turn, index(id))));
        }
        Arrivals { step: self, ids, pending: (0..ids.len()).collect() }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if let Held::InSlots(loaders) = &self.store.held {
            loaders.slots.ask(|schedule| schedule.end(self.turn));
        }
    }
}

/// Experts that were asked for, in order of arrival.
pub struct Arrivals<'a> {
    step: &'a Step<'a>,
    ids: &'a [ExpertId],
    /// Places in `ids` that were not given yet.
    pending: Vec<usize>,
}

impl Arrivals<'_> {
    /// All that are at hand and were not given before: at least one, waiting if need be, unless all were given. They stay
    /// at hand while this is held, which should not be long: others may wait for their slots.
    ///
    /// Errors when one of them cannot be had, the others can be asked for again; and with `Error::Interrupted`.
    pub fn take(&mut self) -> Result<Batch<'_>> {
        let slots = match &self.step.store.held {
            Held::Lying(lying) => {
                let places = std::mem::take(&mut self.pending);
                return Ok(Batch { places, from: From::Weights(lying, self.ids) });
            }
            Held::InSlots(loaders) => &*loaders.slots,
        };
        let (mut places, mut pins) = (Vec::with_capacity(self.pending.len()), Pins::new(slots, self.pending.len()));
        if !self.pending.is_empty() {
            self.collect(slots, &mut places, &mut pins)?;
        }
        Ok(Batch { places, from: From::Slots(pins) })
    }

    /// Waits until something can be given.
    fn collect(&mut self, slots: &Slots, places: &mut Vec<usize>, pins: &mut Pins<'_>) -> Result<()> {
        let mut failed = None;
        let mut schedule = slots.lock(); // let go before `pins` are, which take it too
        loop {
            self.pending.retain(|&place| {
                let id = self.ids[place];
                match schedule.look(self.step.turn, slots.images.index(id)) {
                    Found::Here(slot) => {
                        pins.add(id, slot);
                        places.push(place);
                    }
                    Found::NotYet => return true,
                    Found::Failed(error) => failed = failed.take().or(Some(error)),
                }
                false
            });
            if let Some(error) = failed {
                return Err(error);
            }
            if !places.is_empty() {
                return Ok(());
            }
            if self.step.interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                return Err(Error::Interrupted);
            }
            schedule = slots.wait(schedule, self.ids[self.pending[0]].layer);
        }
    }
}

impl Drop for Arrivals<'_> {
    fn drop(&mut self) {
        if let Held::InSlots(loaders) = &self.step.store.held
            && !self.pending.is_empty()
        {
            let index = |place: usize| loaders.slots.images.index(self.ids[place]);
            loaders.slots.ask(|schedule| self.pending.iter().for_each(|&place| schedule.unwant(index(place))));
        }
    }
}

/// Experts that are at hand, for as long as this is held.
pub struct Batch<'a> {
    places: Vec<usize>,
    from: From<'a>,
}

enum From<'a> {
    Weights(&'a Lying, &'a [ExpertId]),
    Slots(Pins<'a>),
}

impl Batch<'_> {
    /// Where each stands in the list that was asked for; none when all were given.
    pub fn places(&self) -> &[usize] {
        &self.places
    }

    /// The slot of the first, where experts lie in slots.
    fn bytes(&self) -> Option<&[u8]> {
        match &self.from {
            From::Weights(..) => None,
            From::Slots(pins) => pins.bytes().next().map(|(_, bytes)| bytes),
        }
    }

    /// Views of each.
    pub fn experts(&self) -> Vec<Expert<'_>> {
        match &self.from {
            From::Weights(lying, ids) => self.places.iter().map(|&place| lying.expert(ids[place])).collect(),
            From::Slots(pins) => pins.views().collect(),
        }
    }
}
