//! What an operator can watch: counters, gauges and histograms, as Prometheus reads them.

use crate::engine::Stats;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Seconds a histogram tells apart.
const BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

#[derive(Default)]
pub struct Metrics {
    /// By route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    queued: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    prompt_tokens: AtomicU64,
    reused_tokens: AtomicU64,
    written_tokens: AtomicU64,
    drafted_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    prompt_micros: AtomicU64,
    decode_micros: AtomicU64,
    bytes: AtomicU64,
    /// Tokens a second of all answers together, of late: the bits of an f64.
    pace: AtomicU64,
    busy: AtomicU64,
    waiting: AtomicU64,
    waited: Histogram,
    first: Histogram,
    between: Histogram,
    turned_away: Histogram,
}

/// Values of one name, each with its labels.
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// Labels as they are written between the braces; none: "".
    pub values: Vec<(String, f64)>,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Gauge,
    Counter,
}

impl Family {
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Family {
        Family { name, help, kind: Kind::Gauge, values: vec![(String::new(), value)] }
    }

    pub fn counter(name: &'static str, help: &'static str, value: f64) -> Family {
        Family { kind: Kind::Counter, ..Family::gauge(name, help, value) }
    }

    fn write(&self, out: &mut String) {
        let kind = match self.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        head(out, self.name, self.help, kind);
        for (labels, value) in &self.values {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let _ = writeln!(out, "thermocline_{}{labels} {value}", self.name);
        }
    }
}

#[derive(Default)]
struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    fn add(&self, took: Duration) {
        let at = BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        add(&self.counts[at], 1);
        add(&self.micros, took.as_micros() as u64);
    }

    fn count(&self) -> u64 {
        self.counts.iter().map(get).sum()
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, help, "histogram");
        let mut sum = 0;
        for (count, bound) in self.counts.iter().zip(BOUNDS) {
            sum += get(count);
            let _ = writeln!(out, "thermocline_{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        sum += get(&self.counts[BOUNDS.len()]);
        let _ = writeln!(out, "thermocline_{name}_bucket{{le=\"+Inf\"}} {sum}");
        let _ = writeln!(out, "thermocline_{name}_sum {}", get(&self.micros) as f64 / 1e6);
        let _ = writeln!(out, "thermocline_{name}_count {sum}");
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP thermocline_{name} {help}\n# TYPE thermocline_{name} {kind}");
}

impl Metrics {
    pub fn request(&self, route: &'static str, status: u16) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() += 1;
    }

    pub fn queued(&self) {
        add(&self.queued, 1);
    }

    /// A job left the queue for a slot after `waited`.
    pub fn seated(&self, waited: Duration) {
        self.waited.add(waited);
    }

    pub fn first_token(&self, after: Duration) {
        self.first.add(after);
    }

    pub fn next_token(&self, after: Duration) {
        self.between.add(after);
    }

    /// A request found every place taken and was told so after `after`.
    pub fn turned_away(&self, after: Duration) {
        self.turned_away.add(after);
    }

    pub fn cancelled(&self) {
        add(&self.cancelled, 1);
    }

    pub fn failed(&self) {
        add(&self.failed, 1);
    }

    pub fn ended(&self) {
        add(&self.ended, 1);
    }

    /// What an answer has cost, however it ended.
    pub fn cost(&self, stats: &Stats) {
        add(&self.prompt_tokens, stats.prompt_tokens as u64);
        add(&self.reused_tokens, stats.reused_tokens as u64);
        add(&self.drafted_tokens, stats.drafted as u64);
        add(&self.accepted_tokens, stats.accepted as u64);
        add(&self.written_tokens, stats.decode_tokens as u64);
        add(&self.prompt_micros, (stats.prompt_seconds * 1e6) as u64);
        add(&self.decode_micros, (stats.decode_seconds * 1e6) as u64);
        add(&self.bytes, stats.prompt_bytes + stats.decode_bytes);
    }

    /// A step of the model gave so many answers a token each.
    pub fn wrote(&self, tokens: usize, took: Duration) {
        let (now, before) = (tokens as f64 / took.as_secs_f64().max(1e-9), f64::from_bits(get(&self.pace)));
        let pace = if before > 0.0 { before + (now - before) / 8.0 } else { now };
        self.pace.store(pace.to_bits(), Ordering::Relaxed); // the worker alone writes
    }

    /// Tokens written so far, and how many a second of late: 0 while no answer is written.
    pub fn pace(&self) -> (u64, f64) {
        (self.first.count() + self.between.count(), f64::from_bits(get(&self.pace)))
    }

    /// Slots with an answer, and jobs without a slot.
    pub fn set_load(&self, busy: usize, waiting: usize) {
        self.busy.store(busy as u64, Ordering::Relaxed);
        self.waiting.store(waiting as u64, Ordering::Relaxed);
        if busy == 0 {
            self.pace.store(0, Ordering::Relaxed);
        }
    }

    /// Slots with an answer, and jobs without a slot.
    pub fn load(&self) -> (u64, u64) {
        (get(&self.busy), get(&self.waiting))
    }

    /// The whole page; `others` are families from elsewhere.
    pub fn page(&self, others: &[Family]) -> String {
        let mut out = String::new();
        head(&mut out, "requests_total", "Requests answered, by route and status.", "counter");
        for ((route, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "thermocline_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        let seconds = |counter: &AtomicU64| get(counter) as f64 / 1e6;
        let counters = [
            ("jobs_total", "Answers asked for, one for each choice.", get(&self.queued) as f64),
            ("answers_total", "Answers written to their end.", get(&self.ended) as f64),
            ("answers_failed_total", "Answers that failed.", get(&self.failed) as f64),
            ("answers_cancelled_total", "Answers nobody waited for.", get(&self.cancelled) as f64),
            ("prompt_tokens_total", "Prompt tokens computed.", get(&self.prompt_tokens) as f64),
            ("drafted_tokens_total", "Tokens guessed ahead of the model.", get(&self.drafted_tokens) as f64),
            ("accepted_tokens_total", "Guessed tokens that were right.", get(&self.accepted_tokens) as f64),
            ("prompt_tokens_reused_total", "Prompt tokens found in a cache.", get(&self.reused_tokens) as f64),
            ("written_tokens_total", "Tokens of answers.", get(&self.written_tokens) as f64),
            ("prompt_seconds_total", "Seconds spent reading prompts.", seconds(&self.prompt_micros)),
            ("decode_seconds_total", "Seconds spent writing answers.", seconds(&self.decode_micros)),
            ("bytes_read_total", "Bytes of weights and cache read for answers.", get(&self.bytes) as f64),
        ];
        counters.into_iter().for_each(|(name, help, value)| Family::counter(name, help, value).write(&mut out));
        let own = [
            Family::gauge("slots_busy", "Slots with an answer being written.", get(&self.busy) as f64),
            Family::gauge("queue_waiting", "Answers that wait for a slot.", get(&self.waiting) as f64),
            Family::gauge("tokens_per_second", "Tokens of all answers, of late.", self.pace().1),
        ];
        own.iter().chain(others).for_each(|family| family.write(&mut out));
        self.waited.write(&mut out, "queue_seconds", "From a request's arrival to its slot.");
        self.first.write(&mut out, "first_token_seconds", "From a request's arrival to its first token.");
        self.between.write(&mut out, "between_tokens_seconds", "Between the tokens of one answer.");
        self.turned_away.write(&mut out, "turned_away_seconds", "From a request's arrival to its 429.");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::default();
        for millis in [1, 20, 20, 400_000] {
            metrics.first_token(Duration::from_millis(millis));
        }
        metrics.request("/health", 200);
        let page = metrics.page(&[Family::gauge("slots", "Slots.", 4.0)]);
        for line in [
            "thermocline_first_token_seconds_bucket{le=\"0.001\"} 1",
            "thermocline_first_token_seconds_bucket{le=\"0.025\"} 3",
            "thermocline_first_token_seconds_bucket{le=\"300\"} 3",
            "thermocline_first_token_seconds_bucket{le=\"+Inf\"} 4",
            "thermocline_first_token_seconds_count 4",
            "thermocline_requests_total{route=\"/health\",status=\"200\"} 1",
            "thermocline_slots 4",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
    }
}
