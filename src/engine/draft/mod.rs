//! Speculative decoding: guesses of how an answer goes on, which the model checks in one step.
//!
//! The model gives each position of a step the bits it would have alone, and every token is drawn from the model's own
//! logits in order, so an answer is the same with guesses and without, for every seed: a guess that is what was drawn saves
//! a step, the others are forgotten. Guesses come from the text itself ([`lookup`]) or from a smaller model.
//!
//! Checking costs: each further position chooses experts of its own. So as many tokens are guessed as make the step worth
//! most, by how often such guesses were right and by what steps of so many tokens take ([`Pace`]). And an answer may lose
//! only little by guessing in vain: three tenths of a step and one part in a hundred of its time, beyond what guesses have won it.

mod lookup;
mod pace;

pub(super) use pace::Pace;

use super::text::Text;
use super::{Engine, Session};
use crate::error::{Error, Result};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Of an answer's time this share may be lost, and so much of a step to begin with: less than two parts in a hundred of fifty
/// tokens together.
const LOSS: f64 = 0.01;
const FIRST_LOSS: f64 = 0.3;
/// What was won is remembered up to so many steps: a text may change.
const MOST_WON: f64 = 8.0;
/// Guessing has to promise this much more speed.
const MARGIN: f64 = 1.03;
/// How much of what was known remains after each guess that was checked.
const MEMORY: f64 = 0.97;
/// What a first guess is weighed with.
const PRIOR: f64 = 2.0;
/// Seconds a token of the smaller model is thought to take before one was measured, in steps of the large one.
const FIRST_COST: f64 = 0.15;

/// How guesses are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drafting {
    /// Most tokens guessed for one step; 0: none, ever.
    pub max: usize,
    /// Fewer than these are not worth a check.
    pub min: usize,
    /// The smaller model stops where its likeliest token is less likely.
    pub p_min: f32,
    /// Guess as much as there is to guess, worth it or not: to see what that costs, and that it changes nothing.
    pub always: bool,
}

impl Default for Drafting {
    fn default() -> Self {
        Drafting { max: 16, min: 0, p_min: 0.75, always: false }
    }
}

/// How often a kind of guess was right: `right` of `tried`, what is long ago counting less.
#[derive(Clone, Copy, Debug)]
struct Chance {
    right: f64,
    tried: f64,
}

impl Chance {
    fn new(prior: f64) -> Chance {
        Chance { right: prior * PRIOR, tried: PRIOR }
    }

    fn of(self) -> f64 {
        self.right / self.tried
    }

    /// Of `drafted` guesses in a row the first `right` were.
    fn saw(&mut self, right: usize, drafted: usize) {
        let tried = drafted.min(right + 1); // those after a wrong one say nothing
        (self.right, self.tried) = (self.right * MEMORY + right as f64, self.tried * MEMORY + tried as f64);
    }
}

/// What was learnt of guesses: for matches of each length, and for the smaller model.
#[derive(Clone, Debug)]
pub(super) struct Chances([Chance; lookup::LONGEST + 1]);

/// The smaller model's place, for a match of nothing is none.
const MODEL: usize = 0;

impl Default for Chances {
    fn default() -> Self {
        let prior = |kind| if kind == MODEL { 0.7 } else { (0.15 * kind as f64).min(0.75) };
        Chances(std::array::from_fn(|kind| Chance::new(prior(kind))))
    }
}

/// Guesses being checked.
#[derive(Debug)]
struct Try {
    kind: usize,
    drafted: usize,
    /// Seconds the step would have taken without them, and those they cost.
    plain: f64,
    cost: f64,
}

/// Guesses for one answer.
pub(super) struct Drafter {
    settings: Drafting,
    pub chances: Chances,
    /// Seconds that may be lost.
    credit: Option<f64>,
    trying: Option<Try>,
    /// Mean seconds the smaller model takes for a token.
    each: Option<f64>,
}

/// What a guess is made for.
pub(super) struct Place<'a> {
    /// Drawn, and not in the session yet.
    pub pending: u32,
    /// Tokens that may be guessed: no more than [`Drafter::most`], and what the context and the answer have room for.
    pub room: usize,
    /// Tokens of others in the same step.
    pub others: usize,
    pub interrupt: Option<&'a AtomicBool>,
}

impl Drafter {
    pub fn new(settings: Drafting, chances: Chances) -> Drafter {
        Drafter { settings, chances, credit: None, trying: None, each: None }
    }

    /// Tokens that may be guessed for one step.
    pub fn most(&self) -> usize {
        self.settings.max
    }

    /// How the text of `session` goes on after `place.pending`; nothing where that is not worth a check.
    pub fn guess(&mut self, session: &mut Session, place: &Place<'_>) -> Result<Vec<u32>> {
        self.trying = None;
        let room = place.room.min(session.shared().kv.chunk.saturating_sub(1));
        let measured = session.shared().pace.of(place.others + 1);
        let Some(plain) = measured.or(self.settings.always.then_some(0.0)) else { return Ok(Vec::new()) };
        let credit = self.credit.get_or_insert(FIRST_LOSS * plain);
        *credit += LOSS * plain;
        let text: Vec<u32> = session.tokens().iter().copied().chain([place.pending]).collect();
        let found = lookup::look_up(&text);
        let (kind, room, each) = match &found {
            Some(found) => (found.length, room.min(text.len() - found.next), 0.0),
            None if session.has_draft() => (MODEL, room, self.each.unwrap_or(FIRST_COST * plain)),
            None => return Ok(Vec::new()),
        };
        let count = match self.settings.always {
            true => room,
            false => self.worth(&session.shared().pace, kind, room, each, place.others),
        };
        if count == 0 || count < self.settings.min {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let mut guesses = match found {
            Some(found) => text[found.next..found.next + count].to_vec(),
            None => session.draft(&text, count, self.settings.p_min, place.interrupt)?,
        };
        // Nobody reads on after the end, and ids that are no tokens cannot be drawn.
        let ends = guesses.iter().position(|&id| session.is_end(id)).unwrap_or(guesses.len());
        guesses.truncate(ends);
        let mut spent = 0.0;
        if kind == MODEL && !guesses.is_empty() {
            spent = started.elapsed().as_secs_f64();
            let each = spent / guesses.len() as f64;
            self.each = Some(self.each.map_or(each, |mean| mean + 0.125 * (each - mean)));
        }
        if !guesses.is_empty() && guesses.len() >= self.settings.min {
            let step = session.shared().pace.of(place.others + 1 + guesses.len()).unwrap_or(plain);
            let cost = step - plain + spent;
            self.trying = Some(Try { kind, drafted: guesses.len(), plain, cost });
            return Ok(guesses);
        }
        Ok(Vec::new())
    }

    /// How many guesses of a kind make a step give the most tokens a second, were they right as often as such were before;
    /// no more than may be lost.
    fn worth(&self, pace: &Pace, kind: usize, room: usize, each: f64, others: usize) -> usize {
        let chance = self.chances.0[kind].of();
        let (Some(plain), Some(credit)) = (pace.of(others + 1), self.credit) else { return 0 };
        let (mut best, mut most) = (0, MARGIN * (others + 1) as f64 / plain);
        let (mut expected, mut right) = (1.0, 1.0);
        for count in 1..=room {
            right *= chance;
            expected += right;
            let seconds = pace.of(others + 1 + count).unwrap_or(plain) + each * count as f64;
            if seconds - plain > credit {
                break;
            }
            let speed = (others as f64 + expected) / seconds;
            if speed > most {
                (best, most) = (count, speed);
            }
        }
        best
    }

    /// The first `right` of the last guesses were what was drawn.
    pub fn checked(&mut self, right: usize) {
        let Some(Try { kind, drafted, plain, cost }) = self.trying.take() else { return };
        self.chances.0[kind].saw(right, drafted);
        let credit = self.credit.unwrap_or(0.0) + right as f64 * plain - cost;
        self.credit = Some(credit.min(MOST_WON * plain));
    }
}

/// Errors (usage) where the vocabulary of a model that guesses is not `text`'s.
pub(super) fn same_vocabulary(draft: &Engine, text: &Text) -> Result<()> {
    let theirs = draft.text();
    if theirs.limit() != text.limit() {
        return Err(Error::Usage(format!(
            "a draft model has to have the model's vocabulary: it has {} tokens, the model {}",
            theirs.limit(),
            text.limit()
        )));
    }
    match (0..text.limit() as u32).find(|&id| theirs.spelling(id) != text.spelling(id)) {
        None => Ok(()),
        Some(id) => Err(Error::Usage(format!(
            "a draft model has to have the model's vocabulary: its token {id} is {:?}, the model's {:?}",
            String::from_utf8_lossy(theirs.spelling(id)),
            String::from_utf8_lossy(text.spelling(id))
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_that_are_never_right_are_soon_given_up_and_right_ones_grow() {
        let pace = Pace::touching((0..pace::MOST).map(|more| 1.0 + 0.3 * more as f64).collect());
        pace.saw(1, 1.0);
        let run = |right: bool| {
            let mut drafter = Drafter::new(Drafting::default(), Chances::default());
            drafter.credit = Some(FIRST_LOSS);
            let (mut lost, mut most) = (0.0, 0);
            for _ in 0..1000 {
                drafter.credit = drafter.credit.map(|credit| credit + LOSS);
                let count = drafter.worth(&pace, 4, 16, 0.0, 0);
                most = most.max(count);
                if count > 0 {
                    let cost = pace.of(1 + count).unwrap() - 1.0;
                    lost += cost;
                    drafter.trying = Some(Try { kind: 4, drafted: count, plain: 1.0, cost });
                    drafter.checked(if right { count } else { 0 });
                }
            }
            (lost, most)
        };
        let (lost, most) = run(false);
        assert!(lost <= FIRST_LOSS + 1000.0 * LOSS && most <= 2, "{lost} {most}");
        assert_eq!(run(true).1, 16);
    }
}
