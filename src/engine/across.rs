//! Experts that change sides between answers, as the habits of a conversation turn out other than the plan knew them.

use super::Engine;
use super::away::Reasons;
use crate::config::size::shown;
use crate::experts::ExpertId;
use crate::planner::hybrid::{Exchange, Footprint, Ground, Hybrid, exchange};
use crate::planner::profile::Profile;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// New tokens that are seen before habits are looked at again.
const TOKENS: u64 = 256;
/// Most experts that change sides at once: the next answer waits for them.
const MOST: usize = 64;

/// What is known for experts to change sides, and what came of it.
#[derive(Default)]
pub(super) struct Across {
    pub reasons: Option<Reasons>,
    /// Answers being written: nothing changes sides meanwhile.
    writing: Arc<AtomicUsize>,
    /// Tokens seen at the last look.
    seen: AtomicU64,
    moved: AtomicU64,
    resized: AtomicU64,
}

/// An answer is being written while this lives.
pub(super) struct Writing(Arc<AtomicUsize>);

impl Across {
    pub fn of(reasons: Option<Reasons>) -> Across {
        Across { reasons, ..Across::default() }
    }

    /// Experts moved between memory and disk.
    pub fn resized(&self) {
        self.resized.fetch_add(1, Relaxed);
    }

    pub fn writing(&self) -> Writing {
        self.writing.fetch_add(1, Relaxed);
        Writing(self.writing.clone())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What moved between turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// How often the number of experts in memory was changed, as others took memory or gave it back.
    pub resized: u64,
    /// Experts that came to the accelerator in the place of others.
    pub across: u64,
}

/// What changed sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Rearranged {
    /// Experts that came to the accelerator; as many went from it.
    pub moved: usize,
    pub bytes: u64,
    /// Tokens a second that were expected before, and are then.
    pub before: f64,
    pub after: f64,
    /// Why not all that were to move did.
    pub failed: Option<String>,
}

impl fmt::Display for Rearranged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} experts came to the accelerator ({}) and as many went from it, as they are chosen now: {:+.0} % tokens/s are \
             expected; numbers differ from here on within the tolerance between devices",
            self.moved,
            shown(self.bytes),
            100.0 * (self.after / self.before - 1.0)
        )?;
        match &self.failed {
            Some(why) => write!(f, "; others could not: {why}"),
            None => Ok(()),
        }
    }
}

impl Engine {
    /// To be called between answers: experts that are chosen more often than was known come to the accelerator in the place of
    /// others there, where that makes tokens faster by some percent. `None` where nothing did, as where an answer is being
    /// written, [`Options`](super::Options) say that experts stay, or weights were rounded while they were loaded.
    pub fn rearrange(&self) -> Option<Rearranged> {
        let (shared, across) = (&self.shared, &self.shared.across);
        let reasons = across.reasons.as_ref()?;
        let device = shared.model.experts().on_device()?;
        if shared.fixed || across.writing.load(Relaxed) > 0 {
            return None;
        }
        let counts = self.counts();
        let tokens = counts.iter().map(|layer| layer.tokens).max().unwrap_or(0);
        if tokens < across.seen.load(Relaxed) + TOKENS {
            return None;
        }
        across.seen.store(tokens, Relaxed);
        let ground = self.ground_now(reasons);
        let there = device.ids().map(|id| (id.layer, id.index)).collect();
        let layers = (reasons.dense.as_slice(), reasons.head);
        let known = (&reasons.work, &ground, &reasons.told);
        let mut found = exchange(known, &there, layers, self.in_memory(), MOST)?;
        found.pairs.retain(|(goes, comes)| device.movable(goes.0) && device.movable(comes.0));
        if found.pairs.is_empty() {
            return None;
        }
        Some(self.exchange(&found))
    }

    /// What the plan was made from, with the habits that were counted since.
    fn ground_now(&self, reasons: &Reasons) -> Ground {
        let mut profile = reasons.ground.profile.clone();
        profile.merge(&Profile::of(&self.shared.config, &self.counts()));
        Ground { profile, ..reasons.ground.clone() }
    }

    /// Experts of the processor that are at hand.
    fn in_memory(&self) -> usize {
        self.store_stats().map_or(usize::MAX, |stats| stats.slots)
    }

    /// Seconds of a token that are to be expected as experts lie and are chosen now; `None` where no plan put some of them on an
    /// accelerator, or where speeds were not measured.
    pub fn planned(&self) -> Option<f64> {
        let reasons = self.shared.across.reasons.as_ref().filter(|reasons| reasons.is_measured())?;
        let ground = self.ground_now(reasons);
        let problem = Hybrid::new(&reasons.work, &ground, &Footprint::default(), &reasons.told);
        let ranks: Vec<Vec<usize>> = (0..reasons.work.layers.len()).map(|l| ground.profile.by_heat(l)).collect();
        let device = self.shared.model.experts().on_device();
        let there = |l: usize, rank: usize| {
            let id = ExpertId { layer: l as u16, index: ranks[l][rank] as u16 };
            device.is_some_and(|device| device.holds(id))
        };
        Some(problem.seconds_with(&reasons.dense, reasons.head, &there, self.in_memory()))
    }

    fn exchange(&self, found: &Exchange) -> Rearranged {
        let experts = self.shared.model.experts();
        let device = experts.on_device().expect("experts change sides where there are two");
        let mut done =
            Rearranged { moved: 0, bytes: 0, before: 1.0 / found.before, after: 1.0 / found.after, failed: None };
        for (goes, comes) in &found.pairs {
            let [goes, comes] = [goes, comes].map(|&(layer, index)| ExpertId { layer, index });
            match experts.exchange(goes, comes) {
                Ok(()) => {
                    done.moved += 1;
                    done.bytes += device.expert_bytes(comes.layer) as u64;
                }
                Err(why) => {
                    done.failed = Some(why.to_string());
                    break;
                }
            }
        }
        self.shared.across.moved.fetch_add(done.moved as u64, Relaxed);
        done
    }

    /// What moved since the engine was opened.
    pub fn moves(&self) -> Moves {
        let across = &self.shared.across;
        Moves { resized: across.resized.load(Relaxed), across: across.moved.load(Relaxed) }
    }
}
