//! How many experts stay in memory when, between turns, others took memory or gave it back. Pure arithmetic.

use super::memory::{self, Free};

/// Left to others, always.
pub const MARGIN: u64 = 256 << 20;
/// A plan is not changed for less than this share of its slots: experts that come and go cost reads.
const WORTH: usize = 20;
/// Share of the last ten seconds, in percent, that somebody waited for memory: more is taking memory away.
const PRESSED: f64 = 10.0;

/// What is seen of memory at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// `None` where the system does not say.
    pub free: Option<Free>,
    /// Percent of the last ten seconds in which somebody waited for memory; `None` where the system does not say.
    pub pressure: Option<f64>,
}

impl Seen {
    pub fn now() -> Seen {
        Seen { free: memory::free(), pressure: memory::pressure() }
    }
}

/// Slots for experts, as they are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    pub in_use: usize,
    /// Of them, those that hold an expert: the others have no memory yet.
    pub filled: usize,
    pub least: usize,
    /// What the plan at the start had room for.
    pub most: usize,
    pub bytes: u64,
}

/// How many slots to use from now on: what is free and what the slots hold, less the margin, in slots. Under pressure the
/// margin is twice as wide. As many as now where the difference is not worth it.
pub fn wanted(slots: Slots, seen: &Seen) -> usize {
    let Some(free) = &seen.free else { return slots.in_use };
    let margin = if seen.pressure.is_some_and(|share| share > PRESSED) { 2 * MARGIN } else { MARGIN };
    let room = free.bytes.saturating_add(slots.filled as u64 * slots.bytes).saturating_sub(margin);
    let fit = usize::try_from(room / slots.bytes.max(1)).unwrap_or(usize::MAX).clamp(slots.least, slots.most);
    let worth = slots.most.div_ceil(WORTH);
    // The ends are always worth it.
    if fit.abs_diff(slots.in_use) < worth && fit != slots.most { slots.in_use } else { fit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::memory::Bound;

    fn seen(bytes: u64, pressure: f64) -> Seen {
        Seen { free: Some(Free { bytes, bound: Bound::Machine }), pressure: Some(pressure) }
    }

    #[test]
    fn slots_follow_what_is_free_and_rest_when_little_changes() {
        let slots = Slots { in_use: 100, filled: 100, least: 6, most: 100, bytes: 16 << 20 };
        assert_eq!(wanted(slots, &seen(8 << 30, 0.0)), 100);
        assert_eq!(wanted(slots, &seen(MARGIN, 0.0)), 100);
        assert_eq!(wanted(slots, &seen(MARGIN - (48 << 20), 0.0)), 100, "three are not worth it");
        assert_eq!(wanted(slots, &seen(0, 0.0)), 84);
        assert_eq!(wanted(slots, &seen(MARGIN, 50.0)), 84, "pressure widens the margin");
        assert_eq!(wanted(Slots { filled: 0, ..slots }, &seen(0, 0.0)), 6, "never fewer than can run");
        // Slots that are promised and not yet filled need room too.
        assert_eq!(wanted(Slots { filled: 10, ..slots }, &seen(MARGIN + (160 << 20), 0.0)), 20);
        let few = Slots { in_use: 40, filled: 40, ..slots };
        assert_eq!(wanted(few, &seen(MARGIN + (160 << 20), 0.0)), 50);
        assert_eq!(wanted(few, &seen(8 << 30, 0.0)), 100, "never more than were planned");
        assert_eq!(wanted(Slots { in_use: 98, filled: 98, ..slots }, &seen(8 << 30, 0.0)), 100);
        assert_eq!(wanted(few, &Seen::default()), 40);
    }
}
