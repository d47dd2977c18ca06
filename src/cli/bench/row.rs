//! One row of `bench`: what was asked, and what came out.

use super::ideal::Token;
use crate::engine::StoreStats;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tokens read in steps, as a prompt is.
    Prompt,
    /// Tokens decoded one by one, as an answer is.
    Generate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub kind: Kind,
    pub tokens: usize,
    /// Tokens in the context before the clock starts.
    pub depth: usize,
    /// Sequences that are decoded together, a token each in one step of the model.
    pub streams: usize,
}

impl Test {
    /// `pp512`, `tg128`, `tg128 @ d1024`, `tg128 x8`.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Prompt => "pp",
            Kind::Generate => "tg",
        };
        let streams = if self.streams > 1 { format!(" x{}", self.streams) } else { String::new() };
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        format!("{kind}{}{streams}{depth}", self.tokens)
    }

    /// Tokens of all streams.
    pub fn all_tokens(&self) -> usize {
        self.tokens * self.streams
    }
}

/// (tokens per second, bytes per second).
pub type Sample = (f64, f64);

pub struct Row {
    pub test: Test,
    /// One for each repetition.
    pub samples: Vec<Sample>,
    pub threads: usize,
    /// The peak of the whole process when the row was done; `None` where the system does not say.
    pub peak_rss_bytes: Option<u64>,
    /// What was read from the disk, one for each repetition; none where every expert is in memory.
    pub disk: Vec<StoreStats>,
    /// Every decoded token, there.
    pub steps: Vec<Token>,
    /// Tokens a second that were to be expected, one for each repetition; none for small models.
    pub expected: Vec<f64>,
}

/// How experts were read from the disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disk {
    pub slots: usize,
    /// Share of chosen experts that were at hand.
    pub hit_rate: f64,
    pub bytes_per_token: f64,
    /// While the disk was busy.
    pub bytes_per_second: f64,
    /// Share of all time that was spent waiting for the disk.
    pub waited_per_second: f64,
    /// Share of the disk's time in which nobody waited for it.
    pub hidden: f64,
}

impl Row {
    pub fn tokens_per_second(&self) -> f64 {
        median(self.samples.iter().map(|s| s.0))
    }

    pub fn expected(&self) -> Option<f64> {
        (!self.expected.is_empty()).then(|| median(self.expected.iter().copied()))
    }

    /// Measured beside expected: the middle of all repetitions.
    pub fn ratio(&self) -> Option<f64> {
        let ratios = self.samples.iter().zip(&self.expected).map(|(sample, expected)| sample.0 / expected);
        (!self.expected.is_empty()).then(|| median(ratios))
    }

    pub fn slowest(&self) -> f64 {
        self.samples.iter().map(|s| s.0).fold(f64::INFINITY, f64::min)
    }

    pub fn fastest(&self) -> f64 {
        self.samples.iter().map(|s| s.0).fold(0.0, f64::max)
    }

    /// Where experts are read from the disk: what became of it over all repetitions.
    pub fn disk(&self) -> Option<Disk> {
        let first = self.disk.first()?;
        let sum = |of: fn(&StoreStats) -> f64| self.disk.iter().map(of).sum::<f64>();
        let (hits, misses) = (sum(|d| d.hits as f64), sum(|d| d.misses as f64));
        let (bytes, busy) = (sum(|d| d.bytes_read as f64), sum(|d| d.busy));
        Some(Disk {
            slots: first.slots,
            hit_rate: if hits + misses > 0.0 { hits / (hits + misses) } else { 1.0 },
            bytes_per_token: bytes / (self.disk.len() * self.test.all_tokens()).max(1) as f64,
            bytes_per_second: if busy > 0.0 { bytes / busy } else { 0.0 },
            waited_per_second: sum(|d| d.waited) / self.seconds().max(f64::MIN_POSITIVE),
            hidden: if busy > 0.0 { (sum(|d| d.hidden) / busy).clamp(0.0, 1.0) } else { 1.0 },
        })
    }

    /// Seconds of all repetitions.
    fn seconds(&self) -> f64 {
        self.samples.iter().map(|(rate, _)| self.test.all_tokens() as f64 / rate).sum()
    }

    /// What the processor read; `None` where it read nothing, an accelerator doing everything.
    pub fn bytes_per_second(&self) -> Option<f64> {
        Some(median(self.samples.iter().map(|s| s.1))).filter(|read| *read > 0.0)
    }
}

/// The middle one, or the mean of the middle two; 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_names() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median([].into_iter()), 0.0);
        assert_eq!(Test { kind: Kind::Prompt, tokens: 512, depth: 0, streams: 1 }.name(), "pp512");
        assert_eq!(Test { kind: Kind::Generate, tokens: 32, depth: 64, streams: 1 }.name(), "tg32 @ d64");
        assert_eq!(Test { kind: Kind::Generate, tokens: 32, depth: 64, streams: 8 }.name(), "tg32 x8 @ d64");
    }
}
