//! Answers without end under a budget and watches that nothing grows and nothing slows down.
//!
//! ```text
//! cargo run --release --example soak -- MODEL --ram 1G --minutes 120
//! ```
//!
//! One engine, conversations of random tokens and random lengths, each in a session of its own. Prints a line a minute and
//! ends with an error when resident memory grew after the first tenth of the time by more than 1 % and 16 MiB, when it ever
//! was above the budget, or when the last tenth decoded slower than 0.8 times the first (a noisy machine needs a wider
//! `--slack`).

use anyhow::{Context, Result, bail};
use clap::Parser;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thermocline::config::size;
use thermocline::engine::{Engine, Options};
use thermocline::planner::memory;

#[derive(Parser)]
struct Asked {
    /// A folder or .gguf file; a packed one runs fastest.
    model: PathBuf,
    /// The budget; without it what is free.
    #[arg(long)]
    ram: Option<String>,
    #[arg(long, default_value_t = 120.0)]
    minutes: f64,
    #[arg(long, default_value_t = 4096)]
    ctx_size: usize,
    /// Share of the first tenth's speed that the last must keep.
    #[arg(long, default_value_t = 0.8)]
    slack: f64,
}

/// One conversation's measurements.
struct Sample {
    at: Duration,
    tokens_per_second: f64,
    resident: u64,
}

/// xorshift: repeatable, and good enough to choose tokens.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

fn main() -> Result<()> {
    let asked = Asked::parse();
    let ram = asked.ram.as_deref().map(size::parse).transpose().map_err(anyhow::Error::msg)?;
    let options = Options { ram, context: Some(asked.ctx_size), ..Options::default() };
    let engine = Engine::open(&asked.model, &options, &mut |_, _| {}).context("the model cannot be opened")?;
    engine.notes().iter().for_each(|note| println!("note: {note}"));
    println!("{}", engine.ledger());

    let (started, length) = (Instant::now(), Duration::from_secs_f64(asked.minutes * 60.0));
    let (mut draw, mut samples, mut printed) = (Draw(0x9e3779b97f4a7c15), Vec::new(), Duration::ZERO);
    while started.elapsed() < length {
        let (seconds, tokens) = converse(&engine, &mut draw)?;
        let held = memory::held().context("this system does not say how much memory a process holds")?;
        let sample = Sample { at: started.elapsed(), tokens_per_second: tokens as f64 / seconds, resident: held.now() };
        if sample.at >= printed {
            println!(
                "{:7.1} min  {:8.2} tokens/s  {} resident, peak {}",
                sample.at.as_secs_f64() / 60.0,
                sample.tokens_per_second,
                size::shown(sample.resident),
                size::shown(held.peak)
            );
            printed += Duration::from_secs(60);
        }
        samples.push(sample);
    }
    judge(&samples, length, ram, asked.slack)
}

/// A prompt and an answer in a fresh session: seconds of the answer, and its tokens.
fn converse(engine: &Engine, draw: &mut Draw) -> Result<(f64, usize)> {
    let (vocab, room) = (engine.config().vocab, engine.session().capacity());
    let prompt = (1 + draw.below(600)).min(room / 2);
    let answer = (64 + draw.below(64)).min(room / 2);
    let prompt: Vec<u32> = (0..prompt).map(|_| draw.below(vocab) as u32).collect();
    let mut session = engine.session();
    session.feed(&prompt, 0..0, &mut |_, _| {})?;
    let started = Instant::now();
    for _ in 0..answer {
        session.feed(&[draw.below(vocab) as u32], 0..1, &mut |_, logits| assert!(logits[0].is_finite()))?;
    }
    Ok((started.elapsed().as_secs_f64(), answer))
}

fn judge(samples: &[Sample], length: Duration, ram: Option<u64>, slack: f64) -> Result<()> {
    let tenth = length / 10;
    let part = |from: Duration, to: Duration| samples.iter().filter(move |s| s.at >= from && s.at < to);
    let speed = |part: Vec<&Sample>| median(part.iter().map(|s| s.tokens_per_second).collect());
    let first = speed(part(Duration::ZERO, tenth).collect()).context("no conversation ended in the first tenth")?;
    let last = speed(part(length - tenth, Duration::MAX).collect()).context("none ended in the last tenth")?;
    let early = part(Duration::ZERO, tenth).map(|s| s.resident).max().unwrap_or(0);
    let most = samples.iter().map(|s| s.resident).max().unwrap_or(0);
    let peak = memory::held().map_or(most, |held| held.peak);
    println!(
        "{} conversations; {first:.2} tokens/s in the first tenth, {last:.2} in the last; resident {} at most in the first \
         tenth, {} in all, peak {}",
        samples.len(),
        size::shown(early),
        size::shown(most),
        size::shown(peak)
    );
    if most > early + early / 100 + (16 << 20) {
        bail!("memory grew from {early} to {most} bytes");
    }
    if ram.is_some_and(|ram| peak > ram) {
        bail!("the peak of {peak} bytes is above the budget");
    }
    if last < slack * first {
        bail!("answers became slower: {last:.2} tokens/s after {first:.2}");
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
