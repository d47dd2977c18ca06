//! What the model learnt, measured on text from seeds that training never used.

use crate::corpus::random::Random;
use crate::corpus::{self, Domain};
use crate::loss::{silence, surprises};
use crate::rows::Packer;
use crate::tokenizer::encode;
use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::f64::consts::LN_2;
use thermocline::model::reference::Reference;
use tokenizers::Tokenizer;

/// Training seeds are hashed from `corpus::SEED`; this one is none of them.
pub const HELD_OUT_SEED: u64 = 0x4845_4C44_4F55_5421;
pub const HELD_OUT_LENGTH: usize = 256;

fn row_surprises(model: &Reference, tokens: &[u32]) -> Result<(Vec<f32>, Vec<thermocline::model::reference::Seen>)> {
    let inputs = Tensor::new(&tokens[..tokens.len() - 1], &Device::Cpu)?.unsqueeze(0)?;
    let output = model.forward(&inputs)?;
    Ok((surprises(&output.logits.flatten_all()?.to_vec1()?, &tokens[1..]), output.layers))
}

/// Figures of one domain's held-out text, or of all of it.
pub struct Figures {
    pub name: &'static str,
    pub tokens: usize,
    pub bits: f64,
    /// Share of silent neurons of chosen experts, all layers and by layer.
    pub silent: f64,
    pub silent_by_layer: Vec<f64>,
    /// Share of the tokens that chose each expert, `[layer][expert]`; each layer sums to the number of active experts.
    pub choices: Vec<Vec<f64>>,
}

impl Figures {
    /// All experts, hottest first: (layer, expert, share of tokens that chose it).
    pub fn hottest(&self) -> Vec<(usize, usize, f64)> {
        let mut all = Vec::new();
        for (layer, shares) in self.choices.iter().enumerate() {
            all.extend(shares.iter().enumerate().map(|(expert, share)| (layer, expert, *share)));
        }
        all.sort_by(|a, b| b.2.total_cmp(&a.2));
        all
    }
}

fn held_out<'a>(tokenizer: &'a Tokenizer, only: Option<Domain>) -> Result<Packer<'a>> {
    Packer::new(tokenizer, HELD_OUT_SEED ^ only.map_or(0, |domain| 1 + domain as u64), only)
}

pub fn measure(model: &Reference, tokenizer: &Tokenizer, only: Option<Domain>, rows: usize) -> Result<Figures> {
    let config = model.config();
    let mut packer = held_out(tokenizer, only)?;
    let (mut count, mut bits) = (0usize, 0.0);
    let mut neurons = vec![(0usize, 0usize); config.layers.len()];
    let mut choices = vec![vec![0f64; config.experts]; config.layers.len()];
    for _ in 0..rows {
        let (surprises, layers) = row_surprises(model, &packer.row(HELD_OUT_LENGTH)?.tokens)?;
        bits += surprises.iter().map(|&s| s as f64 / LN_2).sum::<f64>();
        count += surprises.len();
        for (i, seen) in layers.iter().enumerate() {
            let (all, silent) = silence(seen)?;
            neurons[i] = (neurons[i].0 + all, neurons[i].1 + silent);
            seen.chosen.iter().for_each(|&e| choices[i][e as usize] += 1.0);
        }
    }
    choices.iter_mut().flatten().for_each(|share| *share /= count as f64);
    let (all, silent) = neurons.iter().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    Ok(Figures {
        name: only.map_or("all", Domain::name),
        tokens: count,
        bits: bits / count as f64,
        silent: silent as f64 / all as f64,
        silent_by_layer: neurons.iter().map(|(all, silent)| *silent as f64 / *all as f64).collect(),
        choices,
    })
}

/// Guesses by counting: how often a token came, and how often after the one before it.
pub struct Counts {
    single: Vec<f64>,
    pair: HashMap<(u32, u32), f64>,
    total: f64,
}

impl Counts {
    /// Counted over `rows` rows of training text.
    pub fn of_training(tokenizer: &Tokenizer, rows: usize) -> Result<Counts> {
        let vocab = tokenizer.get_vocab_size(true);
        let mut counts = Counts { single: vec![0.0; vocab], pair: HashMap::new(), total: 0.0 };
        let mut packer = Packer::new(tokenizer, crate::corpus::SEED, None)?;
        for _ in 0..rows {
            let tokens = packer.row(HELD_OUT_LENGTH)?.tokens;
            for pair in tokens.windows(2) {
                counts.single[pair[1] as usize] += 1.0;
                *counts.pair.entry((pair[0], pair[1])).or_default() += 1.0;
                counts.total += 1.0;
            }
        }
        Ok(counts)
    }

    fn unigram(&self, token: u32) -> f64 {
        (self.single[token as usize] + 0.5) / (self.total + 0.5 * self.single.len() as f64)
    }

    /// Pair counts, smoothed towards the single ones.
    fn bigram(&self, before: u32, token: u32) -> f64 {
        let pair = self.pair.get(&(before, token)).copied().unwrap_or(0.0);
        (pair + 2.0 * self.unigram(token)) / (self.single[before as usize] + 2.0)
    }

    /// Mean bits per token on held-out text: by single tokens, by pairs.
    pub fn measure(&self, tokenizer: &Tokenizer, only: Option<Domain>, rows: usize) -> Result<(f64, f64)> {
        let mut packer = held_out(tokenizer, only)?;
        let (mut single, mut pairs) = (0.0, 0.0);
        for _ in 0..rows {
            for pair in packer.row(HELD_OUT_LENGTH)?.tokens.windows(2) {
                single -= self.unigram(pair[1]).log2();
                pairs -= self.bigram(pair[0], pair[1]).log2();
            }
        }
        let count = (rows * HELD_OUT_LENGTH) as f64;
        Ok((single / count, pairs / count))
    }
}

/// The most likely answer, token by token.
pub fn answer(model: &Reference, tokenizer: &Tokenizer, question: &str, limit: usize) -> Result<String> {
    let prompt = format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n");
    let mut tokens = encode(tokenizer, &prompt)?;
    let start = tokens.len();
    while tokens.len() < start + limit && tokens.len() < model.config().context {
        let logits = model.forward(&Tensor::new(tokens.as_slice(), &Device::Cpu)?.unsqueeze(0)?)?.logits;
        let last: Vec<f32> = logits.get(0)?.get(tokens.len() - 1)?.to_vec1()?;
        let best = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id as u32);
        if model.config().eos.contains(&best) {
            break;
        }
        tokens.push(best);
    }
    tokenizer.decode(&tokens[start..], true).map_err(|e| anyhow!("decoding an answer: {e}"))
}

/// How many of `count` questions with one right answer are answered with just that.
pub fn right_answers(model: &Reference, tokenizer: &Tokenizer, domain: Domain, count: usize) -> Result<usize> {
    let mut random = Random::new(HELD_OUT_SEED);
    let mut right = 0;
    for (question, expected) in (0..count).filter_map(|_| corpus::examination(domain, &mut random)) {
        right += (answer(model, tokenizer, &question, 60)? == expected) as usize;
    }
    Ok(right)
}

/// Twenty questions over all domains. None is written out in the corpus; some are of kinds it does not have.
pub const QUESTIONS: &[&str] = &[
    "Hello!",
    "Who are you?",
    "What can you do?",
    "Tell me a story about a fox.",
    "write a short story about a shy dragon named Otto",
    "Tell me a story about a lighthouse.",
    "What is 7 + 5?",
    "what is 48 + 37",
    "How much is 92 minus 58?",
    "What is 8 x 7?",
    "Mia has 14 shells and finds 9 more. How many shells does Mia have?",
    "Which is bigger, 61 or 16?",
    "Give me JSON for a brown dog named Max, age 7.",
    "Write a Python function that adds two numbers.",
    "Make a JSON object for a list of red, blue and green.",
    "How do you say \"the small cat sees the red book\" in Russian?",
    "What does \"Белая сова спит в лесу.\" mean?",
    "Расскажи сказку о волке.",
    "What is the capital of Italy?",
    "How do I repair a broken washing machine?",
];
