//! Memory that others take or give back between turns: experts move between memory and disk, and no result changes.

use super::Engine;
use crate::config::size::shown;
use crate::planner::replan::{self, Seen, Slots};
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjusted {
    /// Experts in memory: so many may be from now on, instead of so many before.
    Slots { before: usize, now: usize, bytes: u64, free: u64 },
    /// Nothing, for weights are mapped: so much is free. Said once.
    Mapped { free: u64 },
}

impl fmt::Display for Adjusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Adjusted::Slots { before, now, bytes, free } if now < before => write!(
                f,
                "only {} of memory are free: {} of {before} experts in memory were given back ({}), and are read from the disk \
                 when they are needed",
                shown(free),
                before - now,
                shown((before - now) as u64 * bytes)
            ),
            Adjusted::Slots { before, now, bytes, free } => write!(
                f,
                "{} of memory are free again: {} more experts may stay in memory ({}), {now} in all",
                shown(free),
                now - before,
                shown((now - before) as u64 * bytes)
            ),
            Adjusted::Mapped { free } => write!(
                f,
                "only {} of memory are free: the model's file is mapped, so the system takes its pages back where it must and \
                 reads them again when they are needed, which is slow; --ram SIZE keeps fewer experts in memory by plan",
                shown(free)
            ),
        }
    }
}

impl Engine {
    /// To be called between turns with what is seen of memory ([`Seen::now`]): uses more or fewer of the slots that were
    /// planned at the start, never fewer than the model can run in. What changed; `None` where nothing did, as where
    /// [`Options`](super::Options) say that experts stay, or weights are locked.
    pub fn adjust(&self, seen: &Seen) -> Option<Adjusted> {
        let shared = &self.shared;
        if shared.fixed {
            return None;
        }
        let free = seen.free.as_ref()?.bytes;
        let experts = shared.model.experts();
        let (Some((most, least)), Some(stats)) = (experts.bounds(), experts.stats()) else {
            let short = self.is_mapped() && free < replan::MARGIN;
            return (short && !shared.warned.swap(true, Relaxed)).then_some(Adjusted::Mapped { free });
        };
        let bytes = experts.expert_bytes();
        let slots = Slots { in_use: stats.slots, filled: stats.resident, least, most, bytes };
        let wanted = replan::wanted(slots, seen);
        let now = if wanted == stats.slots { wanted } else { experts.resize(wanted)? };
        if now == stats.slots {
            return None;
        }
        shared.across.resized();
        Some(Adjusted::Slots { before: stats.slots, now, bytes, free })
    }
}
