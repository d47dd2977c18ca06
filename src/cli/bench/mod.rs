//! `bench`: how fast prompts are read and answers written, beside what this machine's memory could do.
//!
//! Rows are named as in llama-bench: `pp512` reads 512 tokens in steps, `tg128` decodes 128 one by one, `@ d1024` means 1,024
//! tokens were in the context already. Tokens are drawn from the whole vocabulary by a fixed seed, so experts are chosen
//! about as widely as they can be.

mod ideal;
mod parts;
mod report;
mod row;

use super::args::BenchArgs;
use super::interrupt::Interrupts;
use super::open::{self, Opened};
use super::plan::Expected;
use super::terminal::Passing;
use super::values::Counts;
use super::{Done, terminal};
use crate::engine::{Budget, Engine, Session, StoreStats};
use crate::error::{Error, Result};
use crate::planner::{disk, hardware, memory};
use ideal::Token;
use row::{Kind, Row, Sample, Test};
use std::time::Instant;

pub fn run(args: &BenchArgs) -> Done {
    let tests = tests(args)?;
    let interrupts = Interrupts::watch()?;
    let mut options = open::options(&args.load, &args.cores);
    options.context = tests.iter().map(|t| t.depth + t.tokens).max();
    let Opened { engine, name, mut recording } = open::open(&args.model, &args.load, &options, &interrupts)?;
    if args.load.profile.is_none() {
        recording.stop(); // random tokens are no text
    }
    let (decode_threads, prompt_threads) = engine.threads();
    let isa = engine.isa();
    let mut ids = Ids::new(engine.config().vocab);
    let mut session = engine.session();
    let mut rows = Vec::new();
    for test in tests {
        let threads = match test.kind {
            Kind::Prompt => prompt_threads,
            Kind::Generate => decode_threads,
        };
        let Measured { samples, disk, steps } = measure(&engine, &mut session, &test, args.repetitions, &mut ids)?;
        if args.parts && test.kind == Kind::Generate {
            fill(&mut session, test.depth, &mut ids)?;
            let tokens = ids.take(test.tokens);
            let watch = parts::Watch::start(&engine);
            decode(&engine, &mut session, &tokens, &mut vec![])?;
            terminal::say(&format!("{}\n{}", test.name(), watch.finish(&engine, test.tokens)));
        }
        rows.push(Row { test, samples, threads, peak_rss_bytes: memory::peak_bytes(), disk, steps });
    }
    super::memory::say_peak(&engine, args.load.verbose);
    let budget = engine.ledger().budget.filter(Budget::in_force);
    let on_disk = engine.experts_on_disk();
    open::finish(&engine)?;
    // The probe needs memory of its own: after the rows, so that it is no part of their peak.
    drop((session, engine, recording));
    let mut passing = Passing::show("measuring memory");
    let ceiling = hardware::read_bandwidth(open::cores(), budget.map(|budget| budget.bytes))?;
    passing.clear();
    let mut passing = Passing::show("measuring the disk");
    let disk = on_disk.map(|(file, bytes)| disk::read_speed(&file, bytes)).transpose()?;
    passing.clear();
    let slots = budget.and_then(|budget| budget.slots).map(|slots| slots.0);
    say_expected(&Expected { model: &args.model, load: &args.load, options: &options, slots }, &rows)?;
    let machine = report::Machine { model: &name, isa, ceiling: &ceiling, disk: disk.as_ref(), budget };
    terminal::answer(&report::render(args.output, &rows, &machine))
}

/// What was to be expected of each row, beside what was measured.
fn say_expected(expected: &Expected<'_>, rows: &[Row]) -> Result<()> {
    let what = |row: &Row| match row.test.kind {
        Kind::Prompt => (row.test.tokens, row.test.depth),
        // Half of the answer stands in the context on average.
        Kind::Generate => (0, row.test.depth + row.test.tokens / 2),
    };
    let rates = expected.rates(&rows.iter().map(what).collect::<Vec<_>>())?;
    for (row, rate) in rows.iter().zip(rates) {
        if let Some(rate) = rate {
            let measured = row.tokens_per_second();
            terminal::say(&format!(
                "{}: {rate:.2} tokens/s expected, {measured:.2} measured, ratio {:.2}",
                row.test.name(),
                measured / rate
            ));
        }
    }
    Ok(())
}

fn tests(args: &BenchArgs) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for &depth in &args.n_depth.0 {
        for (kind, Counts(lengths)) in [(Kind::Prompt, &args.n_prompt), (Kind::Generate, &args.n_gen)] {
            tests.extend(lengths.iter().filter(|n| **n > 0).map(|&tokens| Test { kind, tokens, depth }));
        }
    }
    match tests.is_empty() {
        true => Err(Error::Usage("nothing to measure: give -p or -n a length above 0".into())),
        false => Ok(tests),
    }
}

/// What a test gave.
#[derive(Default)]
struct Measured {
    /// One for each repetition.
    samples: Vec<Sample>,
    /// What was read from the disk in each of them.
    disk: Vec<StoreStats>,
    /// Every token that was decoded while experts were read from the disk.
    steps: Vec<Token>,
}

/// Repetitions of a test. One more is done first and not counted: it brings mapped weights into memory.
fn measure(engine: &Engine, session: &mut Session, test: &Test, repetitions: usize, ids: &mut Ids) -> Result<Measured> {
    let mut measured = Measured::default();
    for repetition in 0..=repetitions {
        let mut passing = Passing::show(&format!("{}: {repetition} of {repetitions}", test.name()));
        fill(session, test.depth, ids)?;
        let tokens = ids.take(test.tokens);
        let stored = engine.store_stats();
        let (bytes, start) = (engine.bytes_touched(), Instant::now());
        match test.kind {
            Kind::Prompt => session.feed(&tokens, tokens.len() - 1..tokens.len(), &mut |_, _| ())?,
            Kind::Generate => {
                if repetition == 1 {
                    measured.steps.clear();
                }
                decode(engine, session, &tokens, &mut measured.steps)?
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        passing.clear();
        if repetition > 0 {
            measured.disk.extend(engine.store_stats().zip(stored).map(|(now, before)| now.since(&before)));
            measured.samples.push((tokens.len() as f64 / seconds, (engine.bytes_touched() - bytes) as f64 / seconds));
        }
    }
    Ok(measured)
}

fn decode(engine: &Engine, session: &mut Session, tokens: &[u32], steps: &mut Vec<Token>) -> Result<()> {
    let mut before = engine.store_stats();
    for token in tokens {
        let start = Instant::now();
        session.feed(std::slice::from_ref(token), 0..1, &mut |_, _| ())?;
        let seconds = start.elapsed().as_secs_f64();
        let now = engine.store_stats();
        steps.extend(now.as_ref().zip(before).map(|(now, before)| Token::new(seconds, &now.since(&before))));
        before = now;
    }
    Ok(())
}

/// Leaves exactly `depth` tokens in the context; what is there already is not computed again if it can be kept.
fn fill(session: &mut Session, depth: usize, ids: &mut Ids) -> Result<()> {
    if session.tokens().len() > depth && !session.truncate(depth) {
        session.truncate(0);
    }
    let missing = depth - session.tokens().len();
    if missing > 0 {
        session.feed(&ids.take(missing), 0..0, &mut |_, _| ())?;
    }
    Ok(())
}

/// Token ids that look random and are the same on every machine (SplitMix64).
struct Ids {
    state: u64,
    vocab: u64,
}

impl Ids {
    fn new(vocab: usize) -> Ids {
        Ids { state: 0, vocab: vocab as u64 }
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % self.vocab) as u32
    }
}
