//! `cache-sim`: what each policy would have had to read in a run that was traced, beside perfect foresight.

use super::args::CacheSimArgs;
use super::table::{self, Line, rounded};
use super::terminal::{Passing, bytes, grouped, say};
use super::values::Output;
use super::{Done, terminal};
use crate::config::placement::PolicyName;
use crate::error::{Error, Result};
use crate::experts::policy::{self, Foresight};
use crate::experts::replay::{Outcome, foretold, replay, shape};
use crate::experts::trace::Trace;
use serde_json::{Map, Value, json};

/// Shares replayed where nothing is said.
const SHARES: [f64; 2] = [0.25, 0.6];

pub fn run(args: &CacheSimArgs) -> Done {
    let trace = Trace::open(&args.trace)?;
    let mut lines = Vec::new();
    let mut passing = Passing::show("replaying");
    for slots in slots(args, &trace)? {
        lines.extend(compare(&trace, slots));
    }
    passing.clear();
    if args.output == Output::Md {
        terminal::answer(&format!("{}\n\n", about(&trace)))?;
    }
    let header =
        ["policy", "slots", "of experts", "hit rate", "misses/token", "read/token", "of the way from lru to foresight"];
    terminal::answer(&table::render(args.output, &header, &lines))?;
    match foretold(&trace) {
        Some((likely, listed)) => say(&format!(
            "hints: of a layer's experts the router, asked a layer ahead, named {:.1} % among its first {}, {:.1} % among its first {}",
            100.0 * likely,
            trace.header.active,
            100.0 * listed,
            2 * trace.header.active
        )),
        None => say("hints: none in this trace; only steps of one token have them"),
    }
    Ok(())
}

fn about(trace: &Trace) -> String {
    let header = &trace.header;
    let tokens: u64 = trace.steps.iter().map(|step| u64::from(step.tokens)).sum();
    format!(
        "{}: {} tokens in {} steps; {} layers, {} of {} experts of {} chosen",
        header.model,
        grouped(tokens),
        grouped(trace.steps.len() as u64),
        header.layers,
        header.active,
        header.experts,
        bytes(header.expert_bytes)
    )
}

/// How many slots to replay with, fewest first.
fn slots(args: &CacheSimArgs, trace: &Trace) -> Result<Vec<usize>> {
    let header = &trace.header;
    let all = header.layers * header.experts;
    let mut counts: Vec<usize> = args.slots.iter().flat_map(|counts| counts.0.clone()).collect();
    let shares: Vec<f64> = args.share.iter().flat_map(|shares| shares.0.clone()).collect();
    let shares = if counts.is_empty() && shares.is_empty() { SHARES.to_vec() } else { shares };
    counts.extend(shares.iter().map(|share| (share * all as f64).round() as usize));
    match counts.iter().find(|count| !(header.active..=all).contains(count)) {
        Some(count) => Err(Error::Usage(format!(
            "{count} slots: expected at least {}, as many experts as a token takes in a layer, and at most all {all}",
            header.active
        ))),
        None => {
            counts.sort_unstable();
            counts.dedup();
            Ok(counts)
        }
    }
}

/// All policies, and perfect foresight last.
fn compare(trace: &Trace, slots: usize) -> Vec<Line> {
    let shape = shape(trace, slots);
    let lru = replay(trace, slots, &mut *policy::policy(PolicyName::Lru, shape));
    let best = replay(trace, slots, &mut Foresight::new(trace, shape));
    let others = PolicyName::ALL.into_iter().filter(|name| *name != PolicyName::Lru);
    let others = others.map(|name| (name.name(), replay(trace, slots, &mut *policy::policy(name, shape))));
    let all = [(PolicyName::Lru.name(), lru)].into_iter().chain(others).chain([("foresight", best)]);
    all.map(|(name, outcome)| line(trace, slots, name, outcome, closed(&outcome, &lru, &best))).collect()
}

/// How much of the way from `lru` to `best`, in misses; `None` where there is no way to go.
fn closed(outcome: &Outcome, lru: &Outcome, best: &Outcome) -> Option<f64> {
    let way = lru.misses as f64 - best.misses as f64;
    (way > 0.0).then(|| (lru.misses as f64 - outcome.misses as f64) / way)
}

fn line(trace: &Trace, slots: usize, name: &str, outcome: Outcome, closed: Option<f64>) -> Line {
    let share = slots as f64 / (trace.header.layers * trace.header.experts) as f64;
    let read = outcome.misses_per_token() * trace.header.expert_bytes as f64;
    let values: Map<String, Value> = [
        ("policy", json!(name)),
        ("slots", json!(slots)),
        ("share_of_experts", json!(rounded(share))),
        ("hit_rate", json!(rounded(outcome.hit_rate()))),
        ("misses_per_token", json!(rounded(outcome.misses_per_token()))),
        ("bytes_per_token", json!(read.round() as u64)),
        ("closed", json!(closed.map(rounded))),
        ("hits", json!(outcome.hits)),
        ("misses", json!(outcome.misses)),
        ("tokens", json!(outcome.tokens)),
        ("model", json!(trace.header.model)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value))
    .collect();
    let cells = vec![
        name.to_string(),
        slots.to_string(),
        format!("{:.0} %", 100.0 * share),
        format!("{:.1} %", 100.0 * outcome.hit_rate()),
        format!("{:.2}", outcome.misses_per_token()),
        bytes(read.round() as u64),
        closed.map_or("none".to_string(), |closed| format!("{:.1} %", 100.0 * closed)),
    ];
    Line { values, cells }
}
