//! Random orders of everything that can happen, each followed by a look at whether what is kept still agrees with itself.

use super::*;
use crate::config::placement::PolicyName;
use crate::experts::policy::{Shape, policy};

impl Schedule {
    /// Panics where what is kept here contradicts itself.
    fn validate(&self) {
        let mut used = 0;
        for (slot, expert) in self.slots.iter().enumerate() {
            assert_eq!(self.free.contains(&slot), expert.is_none(), "slot {slot} is free or holds an expert");
            let Some(expert) = expert else { continue };
            used += 1;
            match &self.entries[*expert].place {
                Place::Here { slot: s, .. } => assert_eq!(*s, slot),
                Place::Reading(r) => {
                    assert_eq!(r.slot, slot);
                    assert!(self.reading.contains(expert));
                }
                other => panic!("slot {slot} holds expert {expert}, which is {other:?}"),
            }
        }
        let with_slot = |e: &&Entry| matches!(e.place, Place::Here { .. } | Place::Reading(_));
        assert_eq!(self.entries.iter().filter(with_slot).count(), used, "each expert lies in one slot");
        assert_eq!(self.by_layer.iter().sum::<usize>(), used);
        assert_eq!(self.entries.iter().filter(|e| matches!(e.place, Place::Reading(_))).count(), self.reading.len());
        for (expert, entry) in self.entries.iter().enumerate() {
            let queued = self.now.iter().chain(&self.soon).filter(|&&e| e == expert).count();
            assert_eq!(queued, matches!(entry.place, Place::Queued) as usize, "expert {expert} is {:?}", entry.place);
            let marks = self.turns.iter().flatten().flat_map(|t| &t.marks).filter(|&&e| e == expert).count();
            assert_eq!(marks, entry.expected as usize, "expert {expert} is expected");
            assert!(entry.wanted == 0 || !self.soon.contains(&expert), "expert {expert} is needed now");
            assert!(entry.wanted > 0 || !matches!(entry.place, Place::Failed(_)), "a failure is kept for someone");
            assert!(entry.wanted + entry.expected > 0 || queued == 0, "nobody asked for expert {expert}");
            let guessed = self.guesses[self.images.id(expert).layer as usize].contains(&expert);
            assert!(guessed || !self.perhaps.contains(&expert), "expert {expert} is read for nothing");
        }
    }
}

fn schedule(layers: usize, per_layer: usize, slots: usize, name: PolicyName) -> Schedule {
    let images = Arc::new(Images::plain(layers, per_layer, PIECE / 2));
    let shape = Shape { layers, experts: per_layer, active: 2, slots };
    Schedule::new(images, slots, policy(name, shape))
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

/// One forward pass, as the store sees it: it asks for some experts of a layer, computes with what it is given, lets go,
/// asks for the rest, goes to the next layer.
struct Pass {
    step: usize,
    tokens: usize,
    layer: usize,
    pending: Vec<usize>,
    pinned: Vec<usize>,
    given: usize,
}

struct World {
    schedule: Schedule,
    layers: usize,
    per_layer: usize,
    draw: Draw,
    passes: Vec<Pass>,
    pieces: Vec<Piece>,
    wholes: Vec<Whole>,
    failures: usize,
}

impl World {
    fn begin(&mut self) {
        let tokens = 1 + self.draw.below(2) * 7;
        let step = self.schedule.begin(tokens);
        self.passes.push(Pass { step, tokens, layer: 0, pending: vec![], pinned: vec![], given: 0 });
    }

    /// One thing a pass does. False where it can only wait.
    fn advance(&mut self, i: usize) -> bool {
        let pass = &mut self.passes[i];
        if !pass.pinned.is_empty() {
            let expert = pass.pinned.pop().unwrap();
            self.schedule.unpin(expert);
            return true;
        }
        if pass.pending.is_empty() {
            if pass.layer == self.layers {
                let pass = self.passes.swap_remove(i);
                self.schedule.end(pass.step);
                return true;
            }
            let mut ids: Vec<u16> = (0..self.per_layer as u16).collect();
            let count = (1 + self.draw.below(3) * pass.tokens).min(self.per_layer);
            while ids.len() > count {
                ids.remove(self.draw.below(ids.len()));
            }
            let ids: Vec<_> = ids.into_iter().map(|index| ExpertId { layer: pass.layer as u16, index }).collect();
            if self.draw.below(4) > 0 {
                self.schedule.prefetch(pass.step, pass.layer as u16, &ids);
            }
            let later = pass.layer + 1 + self.draw.below(2);
            if later < self.layers && pass.tokens == 1 {
                let index = |_| self.draw.below(self.per_layer) as u16;
                let mut guesses: Vec<u16> = (0..2).map(index).collect();
                guesses.dedup();
                let id = |index| ExpertId { layer: later as u16, index };
                self.schedule.guess(&guesses.into_iter().map(id).collect::<Vec<_>>());
            }
            for id in ids {
                let expert = self.schedule.images.index(id);
                self.schedule.want(pass.step, expert);
                pass.pending.push(expert);
            }
            pass.layer += 1;
            return true;
        }
        let mut failed = false;
        let (schedule, pinned) = (&mut self.schedule, &mut pass.pinned);
        pass.pending.retain(|&expert| match schedule.look(pass.step, expert) {
            Found::Here(_) => {
                pinned.push(expert);
                false
            }
            Found::NotYet => true,
            Found::Failed(_) => {
                failed = true;
                false
            }
        });
        pass.given += pass.pinned.len();
        if failed {
            // The pass ends; its other requests with it.
            self.failures += 1;
            let mut pass = self.passes.swap_remove(i);
            pass.pinned.drain(..).for_each(|e| self.schedule.unpin(e));
            pass.pending.drain(..).for_each(|e| self.schedule.unwant(e));
            self.schedule.end(pass.step);
            return true;
        }
        !self.passes[i].pinned.is_empty()
    }

    /// One thing a loader does. False where there is nothing to do.
    fn load(&mut self, faults: bool) -> bool {
        match self.draw.below(3) {
            0 if !self.pieces.is_empty() => {
                let at = self.draw.below(self.pieces.len());
                let piece = self.pieces.swap_remove(at);
                let fault = faults && self.draw.below(30) == 0;
                let result = if fault { Err(Error::Runtime("planted".into())) } else { Ok(()) };
                if let Then::Whole(whole) = self.schedule.landed(piece, result) {
                    self.wholes.push(whole);
                }
                true
            }
            1 if !self.wholes.is_empty() => {
                let whole = self.wholes.pop().unwrap();
                match faults && self.draw.below(20) == 0 {
                    true => self.schedule.wrong(whole, Error::Runtime("planted".into())),
                    false => self.schedule.admit(whole),
                }
                true
            }
            _ if self.pieces.len() < 5 => match self.schedule.next() {
                Some(piece) => {
                    self.pieces.push(piece);
                    true
                }
                None => !(self.pieces.is_empty() && self.wholes.is_empty()),
            },
            _ => true,
        }
    }
}

#[test]
fn whatever_happens_everything_agrees_and_nobody_waits_for_ever() {
    for seed in 1..200u64 {
        let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (layers, per_layer) = (1 + draw.below(4), 2 + draw.below(7));
        let slots = 1 + draw.below(layers * per_layer);
        let name = PolicyName::ALL[draw.below(PolicyName::ALL.len())];
        let schedule = schedule(layers, per_layer, slots, name);
        let (passes, pieces, wholes) = (vec![], vec![], vec![]);
        let mut world = World { schedule, layers, per_layer, draw, passes, pieces, wholes, failures: 0 };
        let faults = seed % 2 == 0;
        for _ in 0..400 {
            match world.draw.below(8) {
                0 if world.passes.len() < 3 => world.begin(),
                1..4 if !world.passes.is_empty() => {
                    let i = world.draw.below(world.passes.len());
                    world.advance(i);
                }
                _ => _ = world.load(faults),
            }
            world.schedule.validate();
        }
        // From wherever this ended, every pass comes to its end.
        let mut idle = 0;
        while !world.passes.is_empty() {
            let i = world.draw.below(world.passes.len());
            let moved = world.advance(i) | world.load(false);
            world.schedule.validate();
            idle = if moved { 0 } else { idle + 1 };
            assert!(idle < 1000, "seed {seed}: {} passes wait for ever", world.passes.len());
        }
        assert!(faults || world.failures == 0);
        assert!(
            world.schedule.now.is_empty() && world.schedule.soon.is_empty(),
            "nobody asks, and something is queued"
        );
    }
}

/// A right guess is read while nothing else is, and is at hand when it is asked for; a wrong one is let go first.
#[test]
fn guesses_are_read_when_nothing_is_sure_and_kept_until_their_turn() {
    let mut s = schedule(3, 4, 3, PolicyName::Lru);
    let id = |layer, index| ExpertId { layer, index };
    let read = |s: &mut Schedule| {
        let mut read = vec![];
        while let Some(piece) = s.next() {
            read.push(s.images.id(piece.expert()));
            if let Then::Whole(whole) = s.landed(piece, Ok(())) {
                s.admit(whole);
            }
            s.validate();
        }
        read.dedup(); // an expert comes in pieces
        read
    };
    let step = s.begin(1);
    s.guess(&[id(1, 0), id(1, 1)]);
    s.prefetch(step, 0, &[id(0, 3)]);
    assert_eq!(read(&mut s), [id(0, 3), id(1, 0), id(1, 1)], "what is sure comes first");
    // One more than there is room for: what was guessed stays, though nobody used it.
    s.prefetch(step, 0, &[id(0, 2)]);
    assert_eq!(read(&mut s), [id(0, 2)]);
    s.prefetch(step, 1, &[id(1, 0)]);
    assert!(read(&mut s).is_empty(), "it is at hand");
    let expert = s.images.index(id(1, 0));
    s.want(step, expert);
    assert!(matches!(s.look(step, expert), Found::Here(_)));
    s.unpin(expert);
    let stats = s.stats();
    assert_eq!((stats.guesses, stats.right, stats.misses), (2, 1, 1));
    // The router has spoken: the wrong guess is no better than others any more.
    s.guess(&[id(2, 0), id(2, 1), id(2, 2)]);
    assert_eq!(read(&mut s).len(), 3);
    // Nor is anything read for a layer that has spoken, though it asked for nothing that is kept here.
    s.guess(&[id(1, 2), id(1, 3)]);
    s.prefetch(step, 1, &[]);
    assert!(read(&mut s).is_empty());
    s.end(step);
}

/// Guesses never take more than a few reads at a time, so that what is sure does not wait long.
#[test]
fn few_guesses_are_read_at_a_time() {
    let mut s = schedule(2, 8, 12, PolicyName::Lru);
    s.guess(&(0..6).map(|index| ExpertId { layer: 1, index }).collect::<Vec<_>>());
    let pieces: Vec<_> = std::iter::from_fn(|| s.next()).collect();
    assert_eq!(pieces.len(), GUESSED as usize);
    let step = s.begin(1);
    s.prefetch(step, 0, &[ExpertId { layer: 0, index: 0 }]);
    assert!(s.next().is_some(), "a sure one is read beside them");
}

/// What a step over many tokens still needs is not put out by what it reads before.
#[test]
fn a_scan_keeps_what_is_to_come() {
    let (layers, per_layer, slots) = (6, 8, 20);
    let mut s = schedule(layers, per_layer, slots, PolicyName::Lru);
    let pass = |s: &mut Schedule, tokens: usize, choose: &dyn Fn(usize) -> Vec<u16>| {
        let mut begun = 0;
        let step = s.begin(tokens);
        for layer in 0..layers {
            let ids: Vec<_> = choose(layer).into_iter().map(|index| ExpertId { layer: layer as u16, index }).collect();
            s.prefetch(step, layer as u16, &ids);
            let mut pending: Vec<usize> = ids.iter().map(|&id| s.images.index(id)).collect();
            pending.iter().for_each(|&e| s.want(step, e));
            while !pending.is_empty() {
                while let Some(piece) = s.next() {
                    begun += (piece.range.start == 0) as usize;
                    if let Then::Whole(whole) = s.landed(piece, Ok(())) {
                        s.admit(whole);
                    }
                }
                let mut here = vec![];
                pending.retain(|&e| match s.look(step, e) {
                    Found::Here(_) => (here.push(e), false).1,
                    _ => true,
                });
                here.into_iter().for_each(|e| s.unpin(e));
                s.validate();
            }
        }
        s.end(step);
        begun
    };
    // Single tokens leave three experts in the slots of each layer, about.
    (0..40).for_each(|t| _ = pass(&mut s, 1, &|layer| vec![((t + layer) % 8) as u16, ((t * 3 + 1) % 8) as u16]));
    for round in 0..4 {
        let resident = s.stats().resident;
        let read = pass(&mut s, 64, &|_| (0..8).collect());
        let missing = layers * per_layer - resident;
        assert!(read <= missing + 1, "round {round}: {read} read, {missing} were missing");
    }
}
