//! `bench`: how fast prompts are read and answers written, beside what this machine's memory could do.
//!
//! Rows are named as in llama-bench: `pp512` reads 512 tokens in steps, `tg128` decodes 128 one by one, `@ d1024` means 1,024
//! tokens were in the context already, `x8` that eight sequences decoded together, a token each in one step: tokens/s are those
//! of all eight, and bytes read once for several of them count once. Tokens are drawn from the whole vocabulary by a fixed seed, so experts are chosen
//! about as widely as they can be.

mod ideal;
mod parts;
mod report;
mod row;

use super::args::BenchArgs;
use super::expected::{Expected, Sight};
use super::forecast;
use super::interrupt::Interrupts;
use super::open::{self, Opened};
use super::terminal::Passing;
use super::values::Counts;
use super::{Done, device, terminal};
use crate::engine::{Budget, Engine, Session, StoreStats};
use crate::error::{Error, Result};
use crate::planner::profile::Profile;
use crate::planner::{disk, hardware, memory};
use ideal::Token;
use row::{Kind, Row, Sample, Test};
use std::time::Instant;

/// Sequences decoded together, at most.
const MOST_STREAMS: usize = 64;

pub fn run(args: &BenchArgs) -> Done {
    let tests = tests(args)?;
    let interrupts = Interrupts::watch()?;
    let mut options = open::options(&args.load, &args.cores);
    options.wanted = Some(device::wanted(&args.place)?);
    options.context = tests.iter().map(|t| t.depth + t.tokens).max();
    let streams = tests.iter().map(|t| t.streams).max().unwrap_or(1);
    (options.sessions, options.logits) = (streams, streams);
    let Opened { engine, name, mut recording } = open::open(&args.model, &args.load, &options, &interrupts)?;
    if args.load.profile.is_none() {
        recording.stop(); // random tokens are no text
    }
    let (decode_threads, prompt_threads) = engine.threads();
    let isa = engine.isa();
    let mut ids = Ids::new(engine.config().vocab);
    let mut sessions: Vec<Session> = (0..streams).map(|_| engine.session()).collect();
    let expected = Expected::of(&engine, &options)?;
    let (mut rows, mut seen) = (Vec::new(), Vec::new());
    for test in tests {
        let threads = match test.kind {
            Kind::Prompt => prompt_threads,
            Kind::Generate => decode_threads,
        };
        // What several sequences share is not foreseen.
        let foreseen = expected.as_ref().filter(|_| test.streams == 1);
        let Measured { samples, disk, steps, sights } =
            measure(&engine, &mut sessions[..test.streams], &test, args.repetitions, &mut ids, foreseen)?;
        if args.parts && test.kind == Kind::Generate {
            let sessions = &mut sessions[..test.streams];
            fill(sessions, test.depth, &mut ids)?;
            let tokens = ids.take(test.all_tokens());
            let watch = parts::Watch::start(&engine);
            decode(&engine, sessions, &tokens, &mut vec![])?;
            terminal::say(&format!("{}\n{}", test.name(), watch.finish(&engine, test.tokens)));
        }
        rows.push(Row { test, samples, threads, peak_rss_bytes: memory::peak_bytes(), disk, steps, expected: vec![] });
        seen.push(sights);
    }
    if let Some(seconds) = engine.planned() {
        let answers = rows.iter_mut().filter(|row| row.test.kind == Kind::Generate && row.test.streams == 1);
        answers.for_each(|row| row.expected = vec![1.0 / seconds; row.samples.len()]);
    }
    super::memory::say_peak(&engine, args.load.verbose);
    let budget = engine.ledger().budget.filter(Budget::in_force);
    let on_disk = engine.experts_on_disk();
    open::finish(&engine)?;
    // The probe needs memory of its own: after the rows, so that it is no part of their peak.
    let (ledger, away) = (engine.ledger().total(), engine.accelerator().is_some());
    let in_huge_pages = memory::files_in_huge_pages();
    drop((sessions, recording));
    if let Some(expected) = &expected {
        expect(expected, &mut rows, &seen)?;
    }
    drop((expected, engine));
    let mut passing = Passing::show("measuring memory");
    let ceiling = hardware::read_bandwidth(open::cores(), budget.map(|budget| budget.bytes))?;
    passing.clear();
    let mut passing = Passing::show("measuring the disk");
    let disk = on_disk.map(|(file, bytes)| disk::read_speed(&file, bytes, disk::WHOLE)).transpose()?;
    passing.clear();
    let machine = report::Machine {
        model: &name,
        isa,
        ceiling: &ceiling,
        disk: disk.as_ref(),
        budget,
        ledger,
        away,
        in_huge_pages,
    };
    terminal::answer(&report::render(args.output, &rows, &machine))
}

/// What was to be expected of each repetition, from what was seen just before it.
fn expect(expected: &Expected, rows: &mut [Row], seen: &[Vec<Sight>]) -> Result<()> {
    let mut machine = forecast::machine(expected.isa(), false);
    let mut measured = false;
    for (row, sights) in rows.iter_mut().zip(seen) {
        let Test { kind, tokens, depth, .. } = row.test;
        for sight in sights {
            // Half of an answer stands in the context on average.
            let what = if kind == Kind::Prompt { (tokens, depth) } else { (1, depth + tokens / 2) };
            let ((token, prompt), new) = expected.forecast(sight, what, &mut machine)?;
            row.expected.push(match kind {
                Kind::Prompt => tokens as f64 / prompt.seconds.seconds,
                Kind::Generate => 1.0 / token.seconds.seconds,
            });
            measured |= new;
        }
    }
    if measured {
        forecast::keep(&machine);
    }
    Ok(())
}

fn tests(args: &BenchArgs) -> Result<Vec<Test>> {
    if let Some(wrong) = args.parallel.0.iter().find(|n| !(1..=MOST_STREAMS).contains(*n)) {
        return Err(Error::Usage(format!("-np {wrong}: 1 to {MOST_STREAMS} sequences decode together")));
    }
    let mut tests = Vec::new();
    for &depth in &args.n_depth.0 {
        for (kind, Counts(lengths)) in [(Kind::Prompt, &args.n_prompt), (Kind::Generate, &args.n_gen)] {
            let streams: &[usize] = if kind == Kind::Generate { &args.parallel.0 } else { &[1] };
            for &tokens in lengths.iter().filter(|n| **n > 0) {
                tests.extend(streams.iter().map(|&streams| Test { kind, tokens, depth, streams }));
            }
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
    /// What was known before each of them.
    sights: Vec<Sight>,
}

/// Repetitions of a test. One more is done first and not counted: it brings mapped weights into memory, and teaches the
/// habits of routers that are forecast with.
fn measure(
    engine: &Engine,
    sessions: &mut [Session],
    test: &Test,
    repetitions: usize,
    ids: &mut Ids,
    expected: Option<&Expected>,
) -> Result<Measured> {
    let mut measured = Measured::default();
    for repetition in 0..=repetitions {
        let mut passing = Passing::show(&format!("{}: {repetition} of {repetitions}", test.name()));
        fill(sessions, test.depth, ids)?;
        let tokens = ids.take(test.all_tokens());
        if let Some(expected) = expected.filter(|_| repetition > 0) {
            measured.sights.push(expected.look(Profile::of(engine.config(), &engine.counts()))?);
        }
        let stored = engine.store_stats();
        let (bytes, start) = (engine.bytes_touched(), Instant::now());
        match test.kind {
            Kind::Prompt => sessions[0].feed(&tokens, tokens.len() - 1..tokens.len(), &mut |_, _| ())?,
            Kind::Generate => {
                if repetition == 1 {
                    measured.steps.clear();
                }
                decode(engine, sessions, &tokens, &mut measured.steps)?
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

/// Of `tokens` each session in turn takes one, all of them in one step.
fn decode(engine: &Engine, sessions: &mut [Session], tokens: &[u32], steps: &mut Vec<Token>) -> Result<()> {
    let mut before = engine.store_stats();
    for tokens in tokens.chunks_exact(sessions.len()) {
        let start = Instant::now();
        let mut fed: Vec<(&mut Session, &[u32])> = sessions.iter_mut().zip(tokens.chunks_exact(1)).collect();
        Session::feed_together(&mut fed, None)?;
        let seconds = start.elapsed().as_secs_f64();
        let now = engine.store_stats();
        steps.extend(now.as_ref().zip(before).map(|(now, before)| Token::new(seconds, &now.since(&before))));
        before = now;
    }
    Ok(())
}

/// Leaves exactly `depth` tokens in each context; what is there already is not computed again if it can be kept.
fn fill(sessions: &mut [Session], depth: usize, ids: &mut Ids) -> Result<()> {
    for session in sessions {
        if session.tokens().len() > depth && !session.truncate(depth) {
            session.truncate(0);
        }
        let missing = depth - session.tokens().len();
        if missing > 0 {
            session.feed(&ids.take(missing), 0..0, &mut |_, _| ())?;
        }
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
