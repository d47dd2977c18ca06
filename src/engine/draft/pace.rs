//! How long a step of the model takes by how many tokens it has: measured where there were such steps, foreseen from the
//! bytes they touch where there were none.

use crate::config::Config;
use std::sync::{Mutex, PoisonError};

/// Steps of more tokens are not told apart.
pub const MOST: usize = 64;

/// Of a new measurement this much enters the mean.
const WEIGHT: f64 = 0.125;

/// A byte from the disk takes as long as so many from memory, before anything was measured.
const DISK: f64 = 16.0;

pub struct Pace {
    /// `[tokens - 1]`: weights a step touches; only their ratios count.
    touched: Vec<f64>,
    /// `[tokens - 1]`: mean seconds; 0 where there was no such step yet.
    seen: Mutex<Vec<f64>>,
}

impl Pace {
    /// `resident`: share of the experts that lie in memory.
    pub fn new(config: &Config, resident: f64) -> Pace {
        let heads = config.heads + config.kv_heads;
        let attention = 2 * config.width * heads * config.head_width;
        let dense = (config.layers.len() * attention + config.vocab * config.width) as f64;
        // About half of `up` and `down` is read where silent neurons are left out.
        let expert = (2 * config.width * config.neurons) as f64 * (1.0 + (1.0 - resident) * DISK);
        let (all, share) = (config.experts as f64, config.active as f64 / config.experts as f64);
        // As if every token drew its experts anew: neighbours agree more often, so this is no less than what is touched.
        let union = |tokens: usize| all * (1.0 - (1.0 - share).powi(tokens as i32));
        Pace::touching((1..=MOST).map(|tokens| dense + config.layers.len() as f64 * union(tokens) * expert).collect())
    }

    /// `touched`: `[tokens - 1]`, up to [`MOST`].
    pub fn touching(touched: Vec<f64>) -> Pace {
        Pace { touched, seen: Mutex::new(vec![0.0; MOST]) }
    }

    /// A step of so many tokens took so long.
    pub fn saw(&self, tokens: usize, seconds: f64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mean = &mut seen[tokens.clamp(1, MOST) - 1];
        *mean = if *mean == 0.0 { seconds } else { *mean + WEIGHT * (seconds - *mean) };
    }

    /// Seconds a step of so many tokens is expected to take; `None` before the first was measured.
    pub fn of(&self, tokens: usize) -> Option<f64> {
        let at = tokens.clamp(1, MOST) - 1;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let near = (0..MOST).filter(|&other| seen[other] > 0.0).min_by_key(|other| other.abs_diff(at))?;
        Some(seen[near] * self.touched[at] / self.touched[near])
    }
}
