//! Where a decoded token's time goes: wall time, bytes and bandwidth of each part of a step.

use crate::engine::{Engine, Share, Spent};
use std::time::Instant;

/// What the parts had cost when the clock started.
pub struct Watch {
    before: Vec<(Share, Spent)>,
    waited: f64,
    start: Instant,
}

impl Watch {
    /// Gate and up run in one region; they are told apart from here to `finish`, at a cost of about one percent.
    pub fn start(engine: &Engine) -> Watch {
        engine.set_fine(true);
        Watch { before: engine.spent(), waited: engine.waited(), start: Instant::now() }
    }

    /// The table, per token of `tokens`.
    pub fn finish(self, engine: &Engine, tokens: usize) -> String {
        let per_token = |value: f64| value / tokens as f64;
        let wall = per_token(self.start.elapsed().as_secs_f64()) * 1e6;
        engine.set_fine(false);
        let mut table = format!("{:<21}{:>11}{:>9}{:>11}{:>9}\n", "part", "us/token", "share", "MB/token", "GB/s");
        let mut line = |name: &str, microseconds: f64, bytes: f64| {
            let rate = if bytes > 0.0 { format!("{:.1}", bytes / microseconds / 1e3) } else { "-".into() };
            let share = 100.0 * microseconds / wall;
            table.push_str(&format!("{name:<21}{microseconds:>11.1}{share:>7.1} %{:>11.2}{rate:>9}\n", bytes / 1e6));
        };
        let (mut named, mut bytes) = (0.0, 0.0);
        for ((share, after), (_, before)) in engine.spent().iter().zip(&self.before) {
            let (time, read) = (after.seconds - before.seconds, after.bytes - before.bytes);
            let (time, read) = (per_token(time) * 1e6, per_token(read as f64));
            line(share.name(), time, read);
            (named, bytes) = (named + time, bytes + read);
        }
        line("everything else", wall - named, 0.0);
        line("whole token", wall, bytes);
        let waited = per_token(engine.waited() - self.waited) * 1e6;
        table.push_str(&format!(
            "in these, {waited:.1} us a token spent waiting for other threads at the end of a region\n"
        ));
        table
    }
}
