//! Who wants which expert, which one lies in which slot, and what is read next: the store's decisions, without memory,
//! threads or files.
//!
//! An expert is out, queued for a slot, being read, or here. Slots are given out when a loader is free to fill them, no
//! sooner, so that what they hold stays of use until then. Needed now comes before needed soon, and each in the order it
//! was asked for; what later layers may need is read ahead where the disk would idle.
//!
//! Nothing waits for ever: whoever holds an expert computes with it and lets go before asking for another, so as long as
//! one is held, read, or waiting to be taken, a slot will come free; and when none is, any slot may be emptied for an expert
//! that is needed now.

mod room;
#[cfg(test)]
mod tests;

use super::ExpertId;
use super::image::Images;
use super::policy::Policy;
use super::stats::{Meter, StoreStats};
use crate::error::Error;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of one read: small enough that one missing expert keeps several loaders busy, large enough for a disk.
pub const PIECE: usize = 512 << 10;

/// Of all experts a prompt's step reads, how many in a hundred it may have put out although their turn is still to come, so
/// that reading need not wait for the computation; beyond that only where nothing else would go on.
const SACRIFICED: usize = 3;

/// Reads in flight for what may be needed: enough to keep the disk at work, and as few as a sure need can wait behind.
pub const GUESSED: u32 = 2;

/// Where an expert is.
#[derive(Debug)]
enum Place {
    Out,
    /// Waits for a slot.
    Queued,
    Reading(Reading),
    Here {
        slot: usize,
        /// How many compute with it now.
        pins: u32,
    },
    /// Could not be read, and some who asked for it do not know yet.
    Failed(Error),
}

#[derive(Debug)]
struct Reading {
    slot: usize,
    /// Where the next piece begins.
    next: usize,
    /// Pieces handed out.
    flying: u32,
    /// How often it was read from the start again.
    again: u32,
    failed: Option<Error>,
}

struct Entry {
    place: Place,
    /// Requests that have not been given it yet.
    wanted: u32,
    /// Steps that said they will ask for it.
    expected: u32,
    /// Not used since it was read.
    fresh: bool,
    /// Read before anybody asked for it.
    guessed: bool,
    /// The step that asked for it last.
    step: usize,
}

impl Entry {
    fn is_asked_for(&self) -> bool {
        self.wanted > 0 || self.expected > 0
    }
}

/// One step of a forward pass.
#[derive(Default)]
struct Turn {
    /// Many tokens at once: each layer's experts are visited once, and what later layers will need should stay.
    scan: bool,
    marks: Vec<usize>,
    /// Experts of later layers put out for this step, and how many may be.
    sacrificed: usize,
    allowed: usize,
    /// Experts that began to be read for it.
    begun: usize,
}

/// A part of an expert to be read: for as long as it exists, its bytes of the slot are its owner's alone.
#[derive(Debug)]
pub struct Piece {
    expert: usize,
    slot: usize,
    range: Range<usize>,
}

impl Piece {
    pub fn expert(&self) -> usize {
        self.expert
    }

    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Bytes of the slot.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

/// An expert that has come whole, to be checked: until it is admitted, nobody writes to its slot or lets it go.
#[derive(Debug)]
pub struct Whole {
    expert: usize,
    slot: usize,
}

impl Whole {
    pub fn expert(&self) -> usize {
        self.expert
    }

    pub fn slot(&self) -> usize {
        self.slot
    }
}

/// What follows from a piece that has come.
#[derive(Debug)]
pub enum Then {
    /// Others are on their way.
    Nothing,
    /// The expert cannot be had.
    Failed,
    Whole(Whole),
}

/// What a request finds.
pub enum Found {
    Here(usize),
    NotYet,
    Failed(Error),
}

pub struct Schedule {
    images: Arc<Images>,
    policy: Box<dyn Policy>,
    entries: Vec<Entry>,
    /// The expert in each slot.
    slots: Vec<Option<usize>>,
    free: Vec<usize>,
    /// Slots that are not to be used: their memory was given back.
    withheld: Vec<usize>,
    now: VecDeque<usize>,
    soon: VecDeque<usize>,
    /// Out, and perhaps needed by a later layer.
    perhaps: VecDeque<usize>,
    /// By layer, experts it may need, until its router has spoken: they are not let go meanwhile.
    guesses: Vec<Vec<usize>>,
    /// Experts being read, in the order they were begun.
    reading: Vec<usize>,
    /// Experts of each layer that are here or being read.
    by_layer: Vec<usize>,
    turns: Vec<Option<Turn>>,
    /// Nobody in a queue can have a slot before something changes.
    stuck: bool,
    pub meter: Meter,
    /// Loaders with nothing to do, and whether their work has ended.
    pub idle: usize,
    pub stopped: bool,
}

impl Schedule {
    pub fn new(images: Arc<Images>, slots: usize, policy: Box<dyn Policy>) -> Schedule {
        let entry = || Entry { place: Place::Out, wanted: 0, expected: 0, fresh: false, guessed: false, step: 0 };
        let layers = images.id(images.len() - 1).layer as usize + 1;
        Schedule {
            policy,
            entries: (0..images.len()).map(|_| entry()).collect(),
            slots: vec![None; slots],
            free: (0..slots).rev().collect(),
            withheld: Vec::new(),
            now: VecDeque::new(),
            soon: VecDeque::new(),
            perhaps: VecDeque::new(),
            guesses: vec![Vec::new(); layers],
            reading: Vec::new(),
            by_layer: vec![0; layers],
            turns: Vec::new(),
            stuck: false,
            meter: Meter::new(layers),
            idle: 0,
            stopped: false,
            images,
        }
    }

    // ── steps ──────────────────────────────────────────────────────────────────────────────────

    pub fn begin(&mut self, tokens: usize) -> usize {
        let turn = Turn { scan: tokens > 1, ..Turn::default() };
        match self.turns.iter().position(Option::is_none) {
            Some(free) => {
                self.turns[free] = Some(turn);
                free
            }
            None => {
                self.turns.push(Some(turn));
                self.turns.len() - 1
            }
        }
    }

    pub fn end(&mut self, step: usize) {
        self.unmark(step);
        self.turns[step] = None;
    }

    /// What `step` will ask for of `layer` next, in this order, perhaps nothing; what it said before no longer counts.
    pub fn prefetch(&mut self, step: usize, layer: u16, ids: &[ExpertId]) {
        self.stuck = false;
        self.unmark(step);
        self.forget_guesses(layer);
        for &id in ids {
            let expert = self.images.index(id);
            self.entries[expert].expected += 1;
            self.turn(step).marks.push(expert);
            if matches!(self.entries[expert].place, Place::Out) {
                self.entries[expert].place = Place::Queued;
                self.entries[expert].step = step;
                self.soon.push_back(expert);
            }
        }
        if !ids.is_empty() && self.turn(step).scan {
            // As if every later layer took as many.
            let later = &self.by_layer[layer as usize..];
            let missing: usize = later.iter().map(|&at_hand| ids.len().saturating_sub(at_hand)).sum();
            let turn = self.turn(step);
            turn.allowed = (turn.begun + missing) * SACRIFICED / 100;
        }
    }

    /// A layer's router has spoken for a step of so many tokens.
    pub fn chosen(&mut self, layer: u16, chosen: &[(u16, u32)], tokens: u32) {
        self.policy.chosen(layer, chosen, tokens);
    }

    pub fn wants_hints(&self) -> bool {
        self.policy.wants_hints()
    }

    pub fn expect(&mut self, ids: &[ExpertId]) {
        self.policy.expect(ids);
    }

    /// What a layer may need whose router has not spoken yet, likeliest first: kept if it is here, read if the disk idles.
    pub fn guess(&mut self, ids: &[ExpertId]) {
        let Some(layer) = ids.first().map(|id| id.layer) else { return };
        self.stuck = false;
        self.forget_guesses(layer);
        for &id in ids {
            let expert = self.images.index(id);
            self.guesses[layer as usize].push(expert);
            if matches!(self.entries[expert].place, Place::Out) {
                self.perhaps.push_back(expert);
            }
        }
    }

    /// A layer's router has spoken, or will be guessed anew.
    pub(super) fn forget_guesses(&mut self, layer: u16) {
        self.guesses[layer as usize].clear();
        self.perhaps.retain(|&expert| self.images.id(expert).layer != layer);
    }

    fn turn(&mut self, step: usize) -> &mut Turn {
        self.turns[step].as_mut().expect("a step is asked about until it ends")
    }

    fn unmark(&mut self, step: usize) {
        self.stuck = false;
        for expert in std::mem::take(&mut self.turn(step).marks) {
            self.entries[expert].expected -= 1;
            self.unqueue(expert);
        }
    }

    /// Takes an expert nobody asks for any more out of its queue.
    fn unqueue(&mut self, expert: usize) {
        let entry = &mut self.entries[expert];
        if entry.wanted == 0 && entry.expected == 0 && matches!(entry.place, Place::Queued) {
            entry.place = Place::Out;
            self.now.retain(|&e| e != expert);
            self.soon.retain(|&e| e != expert);
        }
    }

    // ── requests ───────────────────────────────────────────────────────────────────────────────

    /// `step` needs this expert now.
    pub fn want(&mut self, step: usize, expert: usize) {
        self.stuck = false;
        let entry = &mut self.entries[expert];
        entry.wanted += 1;
        entry.step = step;
        match entry.place {
            Place::Out => {
                entry.place = Place::Queued;
                self.now.push_back(expert);
            }
            Place::Queued => {
                if let Some(at) = self.soon.iter().position(|&e| e == expert) {
                    self.soon.remove(at);
                    self.now.push_back(expert);
                }
            }
            _ => {}
        }
    }

    /// Gives a wanted expert if it is here; it is pinned then.
    pub fn look(&mut self, step: usize, expert: usize) -> Found {
        let entry = &mut self.entries[expert];
        let slot = match &mut entry.place {
            Place::Here { slot, pins } => {
                *pins += 1;
                *slot
            }
            Place::Failed(error) => {
                let error = error.clone();
                self.unwant(expert);
                return Found::Failed(error);
            }
            _ => return Found::NotYet,
        };
        entry.wanted -= 1;
        let guessed = std::mem::take(&mut entry.guessed);
        let id = self.images.id(expert);
        match std::mem::take(&mut entry.fresh) {
            true => self.meter.miss(id.layer, self.images.image(id).bytes, guessed),
            false => self.meter.hit(id.layer),
        }
        let turn = self.turns[step].as_mut().expect("a step is asked about until it ends");
        if let Some(at) = turn.marks.iter().position(|&e| e == expert) {
            turn.marks.swap_remove(at);
            self.entries[expert].expected -= 1;
        }
        self.policy.used(id);
        Found::Here(slot)
    }

    /// A request for it ends without having been given it.
    pub fn unwant(&mut self, expert: usize) {
        self.stuck = false;
        let entry = &mut self.entries[expert];
        entry.wanted -= 1;
        if entry.wanted == 0 && matches!(entry.place, Place::Failed(_)) {
            entry.place = Place::Out;
        }
        self.unqueue(expert);
    }

    pub fn unpin(&mut self, expert: usize) {
        self.stuck = false;
        match &mut self.entries[expert].place {
            Place::Here { pins, .. } => *pins -= 1,
            other => unreachable!("a pinned expert stays here, found {other:?}"),
        }
    }

    // ── reading ────────────────────────────────────────────────────────────────────────────────

    /// Whether there may be something to read.
    pub fn has_more(&self) -> bool {
        let guess = self.may_guess();
        let queued = !self.now.is_empty() || !self.soon.is_empty() || guess && !self.perhaps.is_empty();
        queued && !self.stuck
            || self.reading.iter().any(|&e| self.has_pieces(e) && (guess || self.entries[e].is_asked_for()))
    }

    /// Whether one more read may be spent on what nobody has asked for yet.
    fn may_guess(&self) -> bool {
        let flying = |&expert: &usize| match &self.entries[expert] {
            entry @ Entry { place: Place::Reading(reading), .. } if !entry.is_asked_for() => reading.flying,
            _ => 0,
        };
        self.reading.iter().map(flying).sum::<u32>() < GUESSED
    }

    /// What a loader should read next.
    pub fn next(&mut self) -> Option<Piece> {
        let expert = self
            .piece(|entry| entry.wanted > 0)
            .or_else(|| self.start(true))
            .or_else(|| self.piece(Entry::is_asked_for))
            .or_else(|| self.start(false))
            .or_else(|| self.guessed());
        self.stuck = expert.is_none();
        let expert = expert?;
        let bytes = self.images.image(self.images.id(expert)).bytes;
        let Place::Reading(reading) = &mut self.entries[expert].place else { unreachable!("it is being read") };
        let range = reading.next..(reading.next + PIECE).min(bytes);
        reading.next = range.end;
        reading.flying += 1;
        let slot = reading.slot;
        self.meter.begin();
        Some(Piece { expert, slot, range })
    }

    /// The first expert being read that has pieces left and is `such`.
    fn piece(&self, such: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.reading.iter().copied().find(|&expert| self.has_pieces(expert) && such(&self.entries[expert]))
    }

    /// An expert that nobody has asked for yet, where few reads are spent on such.
    fn guessed(&mut self) -> Option<usize> {
        if !self.may_guess() {
            return None;
        }
        if let Some(expert) = self.piece(|entry| !entry.is_asked_for()) {
            return Some(expert);
        }
        while let Some(expert) = self.perhaps.pop_front() {
            if !matches!(self.entries[expert].place, Place::Out) {
                continue;
            }
            let slot = self.free.pop().or_else(|| self.let_go(&|_, entry| entry.expected == 0, true));
            let Some(slot) = slot else {
                self.perhaps.clear(); // nor is there one for the others
                return None;
            };
            self.meter.guessed();
            self.entries[expert].guessed = true;
            self.begin_reading(expert, slot);
            return Some(expert);
        }
        None
    }

    fn begin_reading(&mut self, expert: usize, slot: usize) {
        self.slots[slot] = Some(expert);
        self.entries[expert].place = Place::Reading(Reading { slot, next: 0, flying: 0, again: 0, failed: None });
        self.reading.push(expert);
        self.by_layer[self.images.id(expert).layer as usize] += 1;
    }

    fn has_pieces(&self, expert: usize) -> bool {
        let bytes = self.images.image(self.images.id(expert)).bytes;
        matches!(&self.entries[expert].place, Place::Reading(r) if r.failed.is_none() && r.next < bytes)
    }

    /// Gives the first in the queue that can have one a slot.
    fn start(&mut self, urgent: bool) -> Option<usize> {
        if self.stuck {
            return None;
        }
        let queue = if urgent { &self.now } else { &self.soon };
        // Soon comes in order: what is needed first shall not come last.
        let look = if urgent { queue.len() } else { queue.len().min(1) };
        for at in 0..look {
            let expert = if urgent { self.now[at] } else { self.soon[at] };
            let Some(slot) = self.slot(expert, urgent) else { continue };
            let queue = if urgent { &mut self.now } else { &mut self.soon };
            queue.remove(at);
            self.begin_reading(expert, slot);
            if let Some(turn) = &mut self.turns[self.entries[expert].step] {
                turn.begun += 1;
            }
            return Some(expert);
        }
        None
    }

    /// A piece has come, or failed for good.
    pub fn landed(&mut self, piece: Piece, result: Result<(), Error>) -> Then {
        self.stuck = false;
        self.meter.end();
        if result.is_ok() {
            self.meter.read(piece.range.len());
        }
        let bytes = self.images.image(self.images.id(piece.expert)).bytes;
        let Place::Reading(reading) = &mut self.entries[piece.expert].place else { unreachable!("it is being read") };
        reading.flying -= 1;
        if let Err(error) = result {
            reading.failed.get_or_insert(error);
        }
        match (reading.flying, &reading.failed) {
            (0, Some(error)) => {
                let error = error.clone();
                self.fail(piece.expert, error);
                Then::Failed
            }
            (0, None) if reading.next >= bytes => Then::Whole(Whole { expert: piece.expert, slot: piece.slot }),
            _ => Then::Nothing,
        }
    }

    /// All of an expert is there, and right.
    pub fn admit(&mut self, Whole { expert, .. }: Whole) {
        let Place::Reading(Reading { slot, .. }) = self.entries[expert].place else { unreachable!("it was read") };
        self.reading.retain(|&e| e != expert);
        self.entries[expert].place = Place::Here { slot, pins: 0 };
        self.entries[expert].fresh = true;
        self.stuck = false;
        self.policy.admitted(self.images.id(expert));
    }

    /// All of an expert is there, but wrong: reads it once more, or gives up.
    pub fn wrong(&mut self, Whole { expert, .. }: Whole, error: Error) {
        let Place::Reading(reading) = &mut self.entries[expert].place else { unreachable!("it was read") };
        if reading.again == 0 {
            (reading.next, reading.again) = (0, 1);
            self.meter.again();
        } else {
            self.fail(expert, error);
        }
    }

    fn fail(&mut self, expert: usize, error: Error) {
        let entry = &mut self.entries[expert];
        let Place::Reading(Reading { slot, .. }) = entry.place else { unreachable!("it was being read") };
        entry.place = if entry.wanted > 0 { Place::Failed(error) } else { Place::Out };
        entry.guessed = false;
        self.reading.retain(|&e| e != expert);
        self.slots[slot] = None;
        self.free.push(slot);
        self.by_layer[self.images.id(expert).layer as usize] -= 1;
    }

    /// The experts that are here.
    pub fn at_hand(&self) -> Vec<ExpertId> {
        let here = |expert: &&usize| matches!(self.entries[**expert].place, Place::Here { .. });
        self.slots.iter().flatten().filter(here).map(|&expert| self.images.id(expert)).collect()
    }

    pub fn stats(&mut self) -> StoreStats {
        let resident = self.at_hand().len();
        self.meter.stats(self.in_use(), resident)
    }

    // ── more slots, or fewer ───────────────────────────────────────────────────────────────────

    /// Slots that may hold an expert.
    pub fn in_use(&self) -> usize {
        self.slots.len() - self.withheld.len()
    }

    /// Uses `wanted` slots from now on, as near as can be: an expert that somebody computes with, waits for or reads keeps
    /// its own. Names the slots that are no longer used; they are empty.
    pub fn resize(&mut self, wanted: usize) -> Vec<usize> {
        self.stuck = false;
        while self.in_use() < wanted
            && let Some(slot) = self.withheld.pop()
        {
            self.free.push(slot);
        }
        let before = self.withheld.len();
        while self.in_use() > wanted {
            let unasked = |_, entry: &Entry| !entry.is_asked_for();
            let Some(slot) = self.free.pop().or_else(|| self.let_go(&unasked, false)) else { break };
            self.withheld.push(slot);
        }
        self.withheld[before..].to_vec()
    }
}
