//! Makes a model of a real shape with random weights: a GGUF file in Q4_0, written tensor by tensor, for measuring
//! machines. It says nothing sensible; speed, memory and the share of silent neurons are those of a real model.
//!
//! ```sh
//! cargo run --release --example fabricate -- 4b /tmp/4b.gguf            # 2.3 GB
//! cargo run --release --example fabricate -- 21b /tmp/21b.gguf          # 12 GB
//! cargo run --release --example fabricate -- small /tmp/small.gguf --silent 0.9
//! ```
//!
//! How neurons fall silent: embeddings have a mean (the shared direction), which norms keep; rows of `gate` have a mean
//! against it, as large as makes a normal number fall below zero with the wanted chance.

mod gguf;
mod weights;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use gguf::{Key, Tensor};
use std::io::Write;
use std::path::PathBuf;
use weights::{Random, normal_below};

#[derive(Parser)]
struct Args {
    shape: Named,
    /// The file to write
    out: PathBuf,
    /// Share of neurons that do not fire
    #[arg(long, default_value_t = 0.63)]
    silent: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fewer layers than the shape has
    #[arg(long)]
    layers: Option<usize>,
    /// Fewer tokens than the shape has; at least 259
    #[arg(long)]
    vocab: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Named {
    /// 8 layers of 16 experts, 512 wide: 37 MB
    Small,
    /// SmallThinker 4B-A0.6B
    #[value(name = "4b")]
    FourB,
    /// SmallThinker 21B-A3B
    #[value(name = "21b")]
    TwentyOneB,
}

struct Shape {
    layers: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    experts: usize,
    active: usize,
    neurons: usize,
    vocab: usize,
    context: usize,
    window: Option<usize>,
    tied: bool,
    softmax: bool,
}

impl Named {
    fn shape(self) -> Shape {
        match self {
            Named::Small => Shape {
                layers: 8,
                width: 512,
                heads: 4,
                kv_heads: 2,
                head_width: 128,
                experts: 16,
                active: 4,
                neurons: 256,
                vocab: 8192,
                context: 8192,
                window: Some(512),
                tied: false,
                softmax: true,
            },
            Named::FourB => Shape {
                layers: 32,
                width: 1536,
                heads: 12,
                kv_heads: 2,
                head_width: 128,
                experts: 32,
                active: 4,
                neurons: 768,
                vocab: 151_936,
                context: 32_768,
                window: None,
                tied: true,
                softmax: false,
            },
            Named::TwentyOneB => Shape {
                layers: 52,
                width: 2560,
                heads: 28,
                kv_heads: 4,
                head_width: 128,
                experts: 64,
                active: 6,
                neurons: 768,
                vocab: 151_936,
                context: 16_384,
                window: Some(4096),
                tied: false,
                softmax: true,
            },
        }
    }
}

/// Mean of an embedding's numbers, whose root mean square is one.
const MEAN: f64 = 0.35;
/// What all layers together add to the residual's variance.
const ADDED: f64 = 1.2;

fn main() -> Result<()> {
    let args = Args::parse();
    let mut shape = args.shape.shape();
    shape.layers = args.layers.unwrap_or(shape.layers);
    shape.vocab = args.vocab.unwrap_or(shape.vocab);
    ensure!(
        shape.layers > 0 && shape.vocab >= 259,
        "at least one layer, and 259 tokens: 256 bytes and three of control"
    );
    ensure!(args.silent > 0.0 && args.silent < 1.0, "--silent {}: expected a share between 0 and 1", args.silent);
    let keys = keys(&shape);
    let tensors = tensors(&shape, args.silent);
    let file = std::fs::File::create(&args.out).with_context(|| format!("{}", args.out.display()))?;
    let mut to = std::io::BufWriter::with_capacity(1 << 20, file);
    to.write_all(&gguf::header(&keys, &tensors))?;
    for (number, tensor) in tensors.iter().enumerate() {
        // Each tensor has numbers of its own, whatever comes before it.
        let mut random = Random::new(args.seed << 32 | number as u64);
        let written = tensor.weights.write(&mut random, tensor.rows, tensor.width, &mut to)?;
        gguf::pad(&mut to, written)?;
    }
    to.flush()?;
    eprintln!("{}: {} bytes, {} tensors", args.out.display(), to.get_ref().metadata()?.len(), tensors.len());
    Ok(())
}

/// What the header says of the model and its vocabulary: every byte is a token, the last three are of control, the rest
/// are never used.
fn keys(s: &Shape) -> Vec<(String, Key)> {
    let count = |n: usize| Key::Count(n as u32);
    let model = |name: &str, value: Key| (format!("smallthinker.{name}"), value);
    let mut keys = vec![
        ("general.architecture".to_string(), Key::Text("smallthinker".into())),
        ("general.name".to_string(), Key::Text("fabricated".into())),
        model("block_count", count(s.layers)),
        model("context_length", count(s.context)),
        model("embedding_length", count(s.width)),
        model("feed_forward_length", count(s.neurons)),
        model("expert_feed_forward_length", count(s.neurons)),
        model("attention.head_count", count(s.heads)),
        model("attention.head_count_kv", count(s.kv_heads)),
        model("attention.key_length", count(s.head_width)),
        model("attention.value_length", count(s.head_width)),
        model("rope.dimension_count", count(s.head_width)),
        model("rope.freq_base", Key::Single(1.5e6)),
        model("attention.layer_norm_rms_epsilon", Key::Single(1e-6)),
        model("expert_count", count(s.experts)),
        model("expert_used_count", count(s.active)),
        model("expert_gating_func", count(if s.softmax { 1 } else { 2 })),
        model("vocab_size", count(s.vocab)),
    ];
    keys.extend(s.window.map(|window| model("attention.sliding_window", count(window))));
    let mut tokens: Vec<String> = (0..=255u8).map(|byte| spelled(byte).to_string()).collect();
    tokens.extend((tokens.len()..s.vocab - 3).map(|i| format!("[unused {i}]")));
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from));
    let kind = |i: usize| match i {
        0..256 => 1,               // text
        i if i < s.vocab - 3 => 5, // never used
        _ => 3,                    // control
    };
    let word = |name: &str, value: Key| (format!("tokenizer.ggml.{name}"), value);
    keys.extend([
        word("model", Key::Text("gpt2".into())),
        word("pre", Key::Text("qwen2".into())),
        word("token_type", Key::Kinds((0..s.vocab).map(kind).collect())),
        word("tokens", Key::Texts(tokens)),
        word("merges", Key::Texts(vec![])),
        word("bos_token_id", count(s.vocab - 3)),
        word("eos_token_id", count(s.vocab - 1)),
        word("add_bos_token", Key::Bool(false)),
    ]);
    keys
}

/// How byte-level vocabularies spell a byte: printable ones as themselves, the others from 256 on.
fn spelled(byte: u8) -> char {
    let plain = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let code = match plain(byte) {
        true => u32::from(byte),
        false => 256 + (0..byte).filter(|b| !plain(*b)).count() as u32,
    };
    char::from_u32(code).expect("below the first code that is none")
}

/// Every tensor in the order of the file.
fn tensors(s: &Shape, silent: f64) -> Vec<Tensor> {
    use weights::Weights::{Noise, Norm, Router, Table};
    let (queries, keys) = (s.heads * s.head_width, s.kv_heads * s.head_width);
    let spread = |inputs: usize, by: f64| Noise { spread: by / (inputs as f64).sqrt(), mean: 0.0 };
    let mut tensors = vec![Tensor::new("token_embd.weight", &[s.width, s.vocab], Table { mean: MEAN })];
    if !s.tied {
        tensors.push(Tensor::new("output.weight", &[s.width, s.vocab], spread(s.width, 1.5)));
    }
    // A tied head must not simply say the token it was given again: signs at random.
    let last = if s.tied { 1.5 / (s.width as f64).sqrt() } else { 1.0 };
    tensors.push(Tensor::new("output_norm.weight", &[s.width], Norm { size: last, signs: true }));
    let each = ADDED / s.layers as f64; // variance a layer adds: a quarter by attention, the rest by experts
    for layer in 0..s.layers {
        let size = (1.0 + each * layer as f64).sqrt(); // of the residual here
        let (name, mean) = (|part: &str| format!("blk.{layer}.{part}.weight"), MEAN / size);
        let gate =
            Noise { spread: 1.0 / (s.width as f64).sqrt(), mean: -normal_below(silent) / (mean * s.width as f64) };
        // Neurons that fire have a gate of square one on average, as the other two matrices do.
        let down = (0.75 * each * s.active as f64 / (s.neurons as f64 * (1.0 - silent))).sqrt();
        let norm = || Norm { size: 1.0, signs: false };
        let tensor = |part: &str, dims: &[usize], weights| Tensor::new(&name(part), dims, weights);
        tensors.extend([
            tensor("attn_norm", &[s.width], norm()),
            tensor("attn_q", &[s.width, queries], spread(s.width, 1.4)),
            tensor("attn_k", &[s.width, keys], spread(s.width, 1.4)),
            tensor("attn_v", &[s.width, keys], spread(s.width, 1.0)),
            tensor("attn_output", &[queries, s.width], spread(queries, (0.25 * each / 0.35).sqrt())),
            tensor("ffn_norm", &[s.width], norm()),
            tensor("ffn_gate_inp", &[s.width, s.experts], Router),
            tensor("ffn_gate_exps", &[s.width, s.neurons, s.experts], gate),
            tensor("ffn_down_exps", &[s.neurons, s.width, s.experts], Noise { spread: down, mean: 0.0 }),
            tensor("ffn_up_exps", &[s.width, s.neurons, s.experts], spread(s.width, 1.0)),
        ]);
    }
    tensors
}
