//! A slot for an expert that has none: whom to let go, and when rather to wait.

use super::{Entry, Place, Schedule};
use crate::experts::ExpertId;

impl Schedule {
    /// A slot for `expert`: a free one, or one whose expert is let go.
    pub(super) fn slot(&mut self, expert: usize, urgent: bool) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let (step, layer) = (self.entries[expert].step, self.images.id(expert).layer);
        let (scan, sacrifice) = match &self.turns[step] {
            Some(turn) => (turn.scan, turn.scan && turn.sacrificed < turn.allowed),
            None => (false, false),
        };
        // A prompt passes each layer once: what lies behind it is let go before what is to come.
        let unasked = |entry: &Entry| entry.expected == 0;
        if let Some(slot) = self.let_go(&|id, entry| unasked(entry) && (!scan || id.layer <= layer), true) {
            return Some(slot);
        }
        let slot = match () {
            _ if sacrifice => self.let_go(&|_, entry| unasked(entry), false),
            _ => None,
        };
        let slot = match slot {
            None if urgent && !self.in_motion() => {
                self.let_go(&|_, entry| unasked(entry), false).or_else(|| self.let_go(&|_, _| true, false))
            }
            slot => slot,
        };
        if let (Some(_), Some(turn)) = (slot, &mut self.turns[step]) {
            turn.sacrificed += 1;
        }
        slot
    }

    /// Lets go of the expert the policy names among those that are idle and `may_go`, of those a later layer may need only
    /// where they are not to be `spared`; its slot.
    pub(super) fn let_go(&mut self, may_go: &dyn Fn(ExpertId, &Entry) -> bool, spared: bool) -> Option<usize> {
        let (entries, images, guesses) = (&self.entries, &self.images, &self.guesses);
        let idle = |id: ExpertId| {
            let (expert, entry) = (images.index(id), &entries[images.index(id)]);
            let idle = matches!(entry.place, Place::Here { pins: 0, .. }) && entry.wanted == 0;
            idle && may_go(id, entry) && !(spared && guesses[id.layer as usize].contains(&expert))
        };
        let id = self.policy.victim(&idle)?;
        assert!(idle(id), "a policy names an expert that may go");
        self.meter.evicted();
        Some(self.empty(id))
    }

    /// Takes an expert that is here out of its slot.
    fn empty(&mut self, id: ExpertId) -> usize {
        let expert = self.images.index(id);
        let Place::Here { slot, .. } = self.entries[expert].place else { unreachable!("it is here") };
        self.entries[expert].place = Place::Out;
        self.entries[expert].guessed = false;
        self.slots[slot] = None;
        self.by_layer[id.layer as usize] -= 1;
        self.policy.gone(id);
        slot
    }

    /// Gives the slot of an expert that lies elsewhere from now on to others, and forgets what was guessed of its layer. One that somebody still computes with, or reads,
    /// stays until its turn to go comes.
    pub fn forget(&mut self, id: ExpertId) {
        self.forget_guesses(id.layer);
        self.stuck = false;
        let entry = &self.entries[self.images.index(id)];
        if matches!(entry.place, Place::Here { pins: 0, .. }) && entry.wanted == 0 {
            let slot = self.empty(id);
            self.free.push(slot);
        }
    }

    /// Whether some slot will come free by itself: its expert is computed with, or will be, or is being read.
    fn in_motion(&self) -> bool {
        let moves = |expert: &usize| match &self.entries[*expert].place {
            Place::Here { pins, .. } => *pins > 0 || self.entries[*expert].wanted > 0,
            _ => true,
        };
        self.slots.iter().flatten().any(moves)
    }
}
