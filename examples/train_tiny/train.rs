//! The training loop: AdamW, a warm-up, a long even stretch, and a fall to nothing over the last part.

use crate::corpus::SEED;
use crate::corpus::random::Random;
use crate::loss::{self, CrossEntropy};
use crate::rows::{Packer, Row};
use crate::{evaluate, folder, shape};
use anyhow::{Context, Result};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use thermocline::config::Config;
use thermocline::model::reference::Reference;
use tokenizers::Tokenizer;

/// A step's rows are learnt in this many parts, which threads take as they come; small matrices gain nothing from being
/// shared. Their gradients are added in order, so the number of threads changes no result.
const PARTS: usize = 4;
/// Rows of a part: short ones first, then fewer but longer ones, so that it learns to hold a conversation.
const SHORT: (usize, usize) = (6, 160);
const LONG: (usize, usize) = (2, 400);
/// From this share of the steps on, rows are long and the rate falls.
const FALL: f64 = 0.75;
const PEAK_RATE: f64 = 2.5e-3;
const WARM_UP: usize = 100;
const NORM_LIMIT: f64 = 1.0;
const BALANCE: f64 = 0.01;
/// The push towards silence grows until this share of the neurons of chosen experts is silent.
const SILENT_TARGET: f64 = 0.72;
const SAVE_EVERY: Duration = Duration::from_secs(150);
const REPORT_EVERY: usize = 25;
const HELD_OUT_EVERY: usize = 250;
const HELD_OUT_ROWS: usize = 12;

#[derive(Serialize, Deserialize, Default, Clone)]
pub struct Progress {
    pub step: usize,
    pub tokens: usize,
    pub seconds: f64,
    /// The push towards silence as it stands.
    pub push: f64,
    /// (tokens seen, bits per token): smoothed training loss, weighted, and held-out loss, not weighted.
    pub training: Vec<(usize, f64)>,
    pub held_out: Vec<(usize, f64)>,
}

pub struct Job<'a> {
    pub config: &'a Config,
    pub tokenizer: &'a Tokenizer,
    pub steps: usize,
    /// Stop after this long whatever the step: the fall is then spread over what time is left.
    pub limit: Option<Duration>,
    pub out: PathBuf,
    pub work: PathBuf,
    pub resume: bool,
    pub threads: usize,
}

fn batch(packer: &mut Packer, (count, length): (usize, usize)) -> Result<(Tensor, CrossEntropy)> {
    let rows = (0..count).map(|_| packer.row(length)).collect::<Result<Vec<Row>>>()?;
    let inputs: Vec<u32> = rows.iter().flat_map(|row| &row.tokens[..length]).copied().collect();
    let targets = rows.iter().flat_map(|row| &row.tokens[1..]).copied().collect();
    let weights = rows.iter().flat_map(|row| &row.weights).copied().collect();
    Ok((Tensor::from_vec(inputs, (count, length), &Device::Cpu)?, CrossEntropy { targets, weights }))
}

/// Rate at this share of the whole way, `since` steps after a start or a resumption.
fn rate(done: f64, since: usize) -> f64 {
    let warm = ((since + 1) as f64 / WARM_UP as f64).min(1.0);
    let fall = if done < FALL { 1.0 } else { ((1.0 - done) / (1.0 - FALL)).clamp(0.02, 1.0) };
    PEAK_RATE * warm.min(fall)
}

/// What one part of a step has to say; sums over parts once they are added up.
struct Learnt {
    grads: GradStore,
    nats: f64,
    balance: f64,
    neurons: usize,
    silent: usize,
}

impl Learnt {
    fn add(&mut self, mut other: Learnt, vars: &[Var]) -> Result<()> {
        for var in vars {
            let sum = match (self.grads.remove(var), other.grads.remove(var)) {
                (Some(a), Some(b)) => Some((a + b)?),
                (one, None) | (None, one) => one,
            };
            if let Some(sum) = sum {
                self.grads.insert(var, sum);
            }
        }
        self.nats += other.nats;
        self.balance += other.balance;
        self.neurons += other.neurons;
        self.silent += other.silent;
        Ok(())
    }
}

/// Forward and backward over rows of this seed. Each part of each step has its own, so a resumed run sees the text it
/// would have seen.
fn learn(model: &Reference, tokenizer: &Tokenizer, seed: u64, size: (usize, usize), push: f64) -> Result<Learnt> {
    let (tokens, loss) = batch(&mut Packer::new(tokenizer, seed, None)?, size)?;
    let output = model.forward(&tokens)?;
    let guess = loss.of(&output.logits)?;
    let (balance, loudness) = (loss::balance(&output.layers)?, loss::loudness(&output.layers)?);
    let total = ((&guess + (&balance * BALANCE)?)? + (loudness * push)?)?;
    let (mut neurons, mut silent) = (0, 0);
    for seen in &output.layers {
        let (all, none) = loss::silence(seen)?;
        (neurons, silent) = (neurons + all, silent + none);
    }
    Ok(Learnt {
        grads: (total / PARTS as f64)?.backward()?,
        nats: guess.to_scalar::<f32>()? as f64,
        balance: balance.to_scalar::<f32>()? as f64,
        neurons,
        silent,
    })
}

/// Computes every part on some thread, then adds them in order.
fn share<T: Send>(
    threads: usize,
    part: impl Fn(usize) -> Result<T> + Sync,
    add: impl Fn(&mut T, T) -> Result<()>,
) -> Result<T> {
    let next = AtomicUsize::new(0);
    let take = || -> Result<Vec<(usize, T)>> {
        let mut done = Vec::new();
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                i if i < PARTS => done.push((i, part(i)?)),
                _ => return Ok(done),
            }
        }
    };
    let mut parts = Vec::with_capacity(PARTS);
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(take)).collect();
        for thread in threads {
            parts.extend(thread.join().expect("a training thread does not panic")?);
        }
        Ok(())
    })?;
    parts.sort_by_key(|(i, _)| *i);
    let mut parts = parts.into_iter().map(|(_, part)| part);
    let mut sum = parts.next().expect("a step has parts");
    parts.try_for_each(|part| add(&mut sum, part))?;
    Ok(sum)
}

pub fn run(job: &Job) -> Result<Progress> {
    std::fs::create_dir_all(&job.work).with_context(|| format!("creating {}", job.work.display()))?;
    let weights = shape::first_weights(job.config, SEED)?;
    let mut progress = Progress { push: 0.05, ..Progress::default() };
    if job.resume {
        progress = load(&job.work, &weights)?;
        eprintln!("resumed at step {}", progress.step);
    }
    let model = shape::model(job.config, &shape::tensors(&weights))?;
    let vars: Vec<Var> = weights.values().cloned().collect();
    let mut optimizer =
        AdamW::new(vars.clone(), ParamsAdamW { lr: 0.0, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 })?;

    let (began, first) = (Instant::now(), progress.step);
    let before = progress.seconds;
    let (mut saved, mut smooth) = (Instant::now(), None::<f64>);
    loop {
        let elapsed = before + began.elapsed().as_secs_f64();
        let by_time = job.limit.map_or(0.0, |limit| elapsed / limit.as_secs_f64());
        let done = (progress.step as f64 / job.steps as f64).max(by_time);
        if done >= 1.0 {
            break;
        }
        let size = if done < FALL { SHORT } else { LONG };
        let seed = |part: usize| Random::new(SEED ^ ((progress.step as u64 + 1) << 20) ^ part as u64).next();
        let learnt = share(
            job.threads,
            |part| learn(&model, job.tokenizer, seed(part), size, progress.push),
            |sum, part| sum.add(part, &vars),
        )?;
        let mut grads = learnt.grads;
        let norm = loss::clip(&mut grads, &vars, NORM_LIMIT)?;
        optimizer.set_learning_rate(rate(done, progress.step - first));
        optimizer.step(&grads)?;
        progress.step += 1;
        progress.tokens += PARTS * size.0 * size.1;
        progress.seconds = before + began.elapsed().as_secs_f64();

        let bits = learnt.nats / PARTS as f64 / std::f64::consts::LN_2;
        smooth = Some(smooth.map_or(bits, |smooth| 0.95 * smooth + 0.05 * bits));
        if progress.step.is_multiple_of(REPORT_EVERY) {
            let silent = learnt.silent as f64 / learnt.neurons as f64;
            progress.push = (progress.push * if silent < SILENT_TARGET { 1.1 } else { 0.9 }).clamp(1e-3, 2.0);
            let smooth = smooth.unwrap_or(bits);
            progress.training.push((progress.tokens, smooth));
            eprintln!(
                "step {:5}  {:4.0}%  {:.3} bits/token  silent {:.2} (push {:.3})  balance {:.2}  norm {norm:.2}  rate {:.1e}  {:.0} tokens/s  {:.0} s",
                progress.step,
                done * 100.0,
                smooth,
                silent,
                progress.push,
                learnt.balance / PARTS as f64,
                optimizer.learning_rate(),
                progress.tokens as f64 / progress.seconds,
                progress.seconds,
            );
        }
        if progress.step.is_multiple_of(HELD_OUT_EVERY) {
            let held_out = evaluate::measure(&model, job.tokenizer, None, HELD_OUT_ROWS)?.bits;
            progress.held_out.push((progress.tokens, held_out));
            eprintln!("            held out: {held_out:.3} bits/token");
        }
        if saved.elapsed() > SAVE_EVERY {
            save(job, &weights, &progress)?;
            saved = Instant::now();
        }
    }
    let held_out = evaluate::measure(&model, job.tokenizer, None, HELD_OUT_ROWS)?.bits;
    progress.held_out.push((progress.tokens, held_out));
    save(job, &weights, &progress)?;
    Ok(progress)
}

/// The f32 weights and the progress for resuming, and the folder as it would be shipped now.
fn save(job: &Job, weights: &shape::Weights, progress: &Progress) -> Result<()> {
    let tensors = shape::tensors(weights);
    let all: HashMap<String, Tensor> = tensors.clone().into_iter().collect();
    let bytes = safetensors::serialize(all.iter().map(|(name, tensor)| (name.as_str(), tensor)), None)?;
    folder::replace(&job.work.join("weights.safetensors"), &bytes)?;
    folder::replace(&job.work.join("progress.json"), serde_json::to_string(progress)?.as_bytes())?;
    folder::write(&job.out, job.config, job.tokenizer, &tensors)
}

fn load(work: &Path, weights: &shape::Weights) -> Result<Progress> {
    let stored = candle_core::safetensors::load(work.join("weights.safetensors"), &Device::Cpu)
        .with_context(|| format!("resuming from {}", work.display()))?;
    for (name, var) in weights {
        let tensor = stored.get(name).with_context(|| format!("the saved weights lack {name}"))?;
        var.set(tensor)?;
    }
    read_progress(work)
}

pub fn read_progress(work: &Path) -> Result<Progress> {
    let path = work.join("progress.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}
