//! The reference (plain f32 candle, from the same weights decoded) judges the decoder: every format, both orders of `down`,
//! both gatings, heads shared or not, windows or none, tied or not, every format of the cache.
//!
//! With float weights the two differ in the order of sums only. With quantised weights the decoder also rounds activations
//! to int8, 32 at a time: half a step is 1/254 of the largest of 32, and the largest of 32 normal numbers is some 2.1 times
//! their size, so one rounding moves a vector by 2.1 / 127 / sqrt(12) = 0.5 % of its length. A layer rounds four times on
//! the way (q k v, attention out, gate and up, down), the head once; in two layers nine errors that do not know each other
//! add up to 0.5 % * sqrt(9) = 1.5 %, if every branch weighed as much as the residual it is added to. Where two experts are
//! nearly tied, either choice is right, and a position moves by an expert's whole weight: a few may.

mod tiny;

use kernels::Format;
use kernels::attend::KvFormat;
use std::path::Path;
use thermocline::checkpoint::{Checkpoint, Quant};
use thermocline::engine::{Engine, Options};
use thermocline::model::reference::Reference;
use tiny::Tiny;

/// Logits of every position by the reference, `[t * vocab]`.
fn expected(path: &Path, tokens: &[u32]) -> Vec<f32> {
    let reference = Reference::open(&Checkpoint::open(path).unwrap()).unwrap();
    let tokens = candle_core::Tensor::new(tokens, &candle_core::Device::Cpu).unwrap().unsqueeze(0).unwrap();
    reference.forward(&tokens).unwrap().logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// The same by the decoder, in steps of 13 tokens on two threads.
fn found(path: &Path, tokens: &[u32], cache: KvFormat) -> Vec<f32> {
    let options = Options {
        quant: Some(Quant::None),
        context: Some(512),
        threads: Some(2),
        keys: cache,
        values: cache,
        chunk: 13,
        rewind: 0,
        ..Options::default()
    };
    let mut session = Engine::open(path, &options, &mut |_, _| {}).unwrap().session();
    let mut out = Vec::new();
    session.feed(tokens, 0..tokens.len(), &mut |_, row| out.extend_from_slice(row)).unwrap();
    out
}

/// How far `ours` is from `theirs`.
struct Distance {
    /// Largest difference, as a share of the largest logit there is.
    largest: f32,
    /// Length of the difference as a share of the length of the logits: of each position, ascending.
    lengths: Vec<f32>,
    /// Positions with the same best token.
    argmax: usize,
    kl: f64,
}

impl Distance {
    /// The length that a share of all positions keeps within.
    fn within(&self, share: f32) -> f32 {
        self.lengths[((self.lengths.len() - 1) as f32 * share) as usize]
    }

    fn argmax(&self) -> f32 {
        self.argmax as f32 / self.lengths.len() as f32
    }
}

fn distance(ours: &[f32], theirs: &[f32], vocab: usize) -> Distance {
    assert_eq!(ours.len(), theirs.len());
    let positions = ours.len() / vocab;
    let length = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
    let best = |row: &[f32]| (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let log_softmax = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
        row.iter().map(|&l| f64::from(l) - sum.ln()).collect::<Vec<_>>()
    };
    let scale = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
    let mut d = Distance { largest: 0.0, lengths: vec![], argmax: 0, kl: 0.0 };
    for (a, b) in ours.chunks_exact(vocab).zip(theirs.chunks_exact(vocab)) {
        assert!(a.iter().all(|x| x.is_finite()));
        d.largest = a.iter().zip(b).map(|(a, b)| (a - b).abs() / scale).fold(d.largest, f32::max);
        d.lengths.push(length(&mut a.iter().zip(b).map(|(a, b)| a - b)) / length(&mut b.iter().copied()));
        d.argmax += usize::from(best(a) == best(b));
        let (a, b) = (log_softmax(a), log_softmax(b));
        d.kl += b.iter().zip(&a).map(|(b, a)| b.exp() * (b - a)).sum::<f64>() / positions as f64;
    }
    d.lengths.sort_by(f32::total_cmp);
    d
}

fn tokens(count: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut seed = seed;
    (0..count).map(|_| ((tiny::uniform(&mut seed) + 1.0) * 0.5 * vocab as f32) as u32 % vocab as u32).collect()
}

/// One model through both, `count` tokens of it.
fn judge(wrong: &mut Vec<String>, path: &Path, tiny: &Tiny, name: &str, count: usize, cache: KvFormat, bound: Bound) {
    let tokens = tokens(count, tiny.vocab, tiny.seed);
    let d = distance(&found(path, &tokens, cache), &expected(path, &tokens), tiny.vocab);
    println!(
        "{name:<56} cache {:<4}  largest {:.1e}  half {:.2} %  nine of ten {:.2} %  all {:.2} %  argmax {:.1} %  KL {:.1e}",
        cache.name(),
        d.largest,
        100.0 * d.within(0.5),
        100.0 * d.within(0.9),
        100.0 * d.within(1.0),
        100.0 * d.argmax(),
        d.kl
    );
    let good = match bound {
        Bound::Largest(most) => d.largest <= most && d.argmax + count / 100 >= count,
        Bound::Median(most) => d.within(0.5) <= most && d.within(0.9) <= 2.0 * most && d.argmax() >= 0.9,
    };
    if !good {
        wrong.push(format!("{name}, {} cache", cache.name()));
    }
}

#[derive(Clone, Copy)]
enum Bound {
    /// Of the largest logit, at any position, with the same best token everywhere (one near tie in a hundred aside).
    Largest(f32),
    /// Of the length of the logits, at half of the positions; twice that, and the same best token, at nine of ten.
    Median(f32),
}

/// f32 sums in another order: some units in the last place (6e-8) at each of forty sums on the way.
const EXACT: Bound = Bound::Largest(1e-5);
/// Keys and values with eleven bits move by up to 2^-12 of their size; what a window of few positions does not average
/// away goes through six layers.
const HALVES: Bound = Bound::Largest(2e-3);
/// The same over so many positions that a near tie of the router is among them.
const HALVES_IN_MANY: Bound = Bound::Median(0.003);
/// Keys and values of q8_0 are rounded as activations are.
const EIGHTS: Bound = Bound::Median(0.02);
const ROUNDED: Bound = Bound::Median(0.02);

/// Shape `i` of many, so that every two properties meet.
fn shape(i: usize, format: Format) -> Tiny {
    let base = if format.block_weights() == 256 {
        Tiny { layers: 2, width: 256, heads: 4, head_width: 64, experts: 3, neurons: 256, ..Tiny::default() }
    } else if format.is_float() {
        Tiny { layers: 6, neurons: 96, experts: 5, ..Tiny::default() }
    } else {
        Tiny { layers: 2, width: 96, neurons: 96, experts: 5, ..Tiny::default() }
    };
    Tiny {
        vocab: 288,
        kv_heads: [1, 2, 4][i % 3],
        softmax: [false, true][i % 2],
        tied: [true, false][i / 2 % 2],
        window: [Some([5, 24][i / 3 % 2]), None][i / 4 % 2],
        active: 1 + i % base.experts.min(4),
        down_by_neuron: [false, true][i / 8 % 2],
        silence: if format.is_float() { [0.0, 0.35, 1.5][i / 2 % 3] } else { 0.0 },
        seed: 100 + i as u64,
        ..base
    }
}

fn name(tiny: &Tiny, format: Format) -> String {
    format!(
        "{format} {} {} {} kv {} window {} {}/{}",
        if tiny.down_by_neuron { "by neuron" } else { "by output" },
        if tiny.softmax { "softmax" } else { "sigmoid" },
        if tiny.tied { "tied" } else { "head" },
        tiny.kv_heads,
        tiny.window.unwrap_or(0),
        tiny.active,
        tiny.experts,
    )
}

#[test]
fn float_formats_agree_closely() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for i in 0..24 {
        let format = [Format::F32, Format::F16, Format::BF16][i % 3];
        let tiny = shape(i, format);
        let path = tiny.write_gguf(&folder.path().join(format!("{i}.gguf")), format);
        let name = name(&tiny, format);
        judge(&mut wrong, &path, &tiny, &name, 60, KvFormat::F32, EXACT);
        if i % 3 == 0 {
            judge(&mut wrong, &path, &tiny, &name, 60, KvFormat::F16, HALVES);
        }
    }
    assert!(wrong.is_empty(), "too far from the reference: {wrong:#?}");
}

#[test]
fn safetensors_agree_closely() {
    let mut wrong = Vec::new();
    for (i, format) in [Format::F32, Format::F16, Format::BF16].into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Tiny { down_by_neuron: false, ..shape(3 + 5 * i, format) };
        let path = tiny.write_folder(folder.path(), format);
        let name = format!("safetensors {}", name(&tiny, format));
        judge(&mut wrong, &path, &tiny, &name, 60, KvFormat::F32, EXACT);
    }
    assert!(wrong.is_empty(), "too far from the reference: {wrong:#?}");
}

#[test]
fn contexts_of_several_blocks_agree_closely() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (i, window) in [None, Some(31), Some(300)].into_iter().enumerate() {
        let tiny = Tiny { layers: 5, head_width: 32, window, ..shape(i, Format::F32) };
        let path = tiny.write_gguf(&folder.path().join(format!("{i}.gguf")), Format::F32);
        let name = format!("{} in 400 positions", name(&tiny, Format::F32));
        judge(&mut wrong, &path, &tiny, &name, 400, KvFormat::F32, EXACT);
        judge(&mut wrong, &path, &tiny, &name, 400, KvFormat::F16, HALVES_IN_MANY);
        judge(&mut wrong, &path, &tiny, &name, 400, KvFormat::Q8_0, EIGHTS);
    }
    assert!(wrong.is_empty(), "too far from the reference: {wrong:#?}");
}

#[test]
fn quantised_formats_agree_to_the_rounding_of_activations() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    let quantised = Format::ALL.into_iter().filter(|f| !f.is_float());
    for (f, format) in quantised.enumerate() {
        for i in 0..4 {
            // Four shapes for each format, other ones for the next, both orders of `down` among them.
            let tiny = Tiny { down_by_neuron: i % 2 == 1, ..shape(5 * f + 3 * i, format) };
            let path = tiny.write_gguf(&folder.path().join(format!("{format}-{i}.gguf")), format);
            judge(&mut wrong, &path, &tiny, &name(&tiny, format), 60, KvFormat::F32, ROUNDED);
        }
    }
    assert!(wrong.is_empty(), "too far from the reference: {wrong:#?}");
}
