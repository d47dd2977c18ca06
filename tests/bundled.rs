//! The bundled model is what `assets/README.md` says: small, whole, silent for the most part, and able to answer.

#![allow(dead_code, reason = "the example's modules are used in part")]

#[path = "../examples/train_tiny/corpus/mod.rs"]
mod corpus;
#[path = "../examples/train_tiny/evaluate.rs"]
mod evaluate;
#[path = "../examples/train_tiny/loss.rs"]
mod loss;
#[path = "../examples/train_tiny/rows.rs"]
mod rows;
#[path = "../examples/train_tiny/tokenizer.rs"]
mod tokenizer;

use corpus::Domain;
use std::path::{Path, PathBuf};
use thermocline::checkpoint::{Checkpoint, TextSource};
use thermocline::config::{Gating, Layer};
use thermocline::model::reference::Reference;
use tokenizers::Tokenizer;

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets")
}

fn open() -> (Reference, Tokenizer) {
    let checkpoint = Checkpoint::open(&assets().join("tiny")).unwrap();
    (Reference::open(&checkpoint).unwrap(), Tokenizer::from_file(assets().join("tiny/tokenizer.json")).unwrap())
}

#[test]
fn the_folder_is_whole_and_small() {
    let checkpoint = Checkpoint::open(&assets().join("tiny")).unwrap();
    assert!(std::fs::metadata(assets().join("tiny/model.safetensors")).unwrap().len() <= 6_000_000);
    let TextSource::Folder(folder) = &checkpoint.text else { panic!("a folder holds its own tokenizer") };
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let c = &checkpoint.config;
    assert!(c.layers.len() > 4 && c.experts >= 16 && c.active == 2 && c.gating == Gating::Softmax && !c.tied);
    for (i, layer) in c.layers.iter().enumerate() {
        let expected = match i % 4 {
            0 => Layer { rotary: false, window: None },
            _ => Layer { rotary: true, window: Some(64) },
        };
        assert_eq!(*layer, expected, "layer {i}");
    }
    assert!([c.width, c.neurons, c.heads * c.head_width].iter().all(|n| n.is_multiple_of(32)) && c.width != c.neurons);
    assert!(c.context >= 8 * 64 && c.kv_heads < c.heads);
    let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), c.vocab);
    assert_eq!(c.eos, tokenizer::ends(&tokenizer).unwrap());
}

#[test]
fn held_out_text_is_as_easy_and_neurons_as_silent_as_stated() {
    let stated = std::fs::read_to_string(assets().join("figures.json")).unwrap();
    let stated: serde_json::Value = serde_json::from_str(&stated).unwrap();
    let number = |key: &str| stated[key].as_f64().unwrap_or_else(|| panic!("figures.json lacks {key}"));
    let (model, tokenizer) = open();
    let all = evaluate::measure(&model, &tokenizer, None, 12).unwrap();
    let bits = number("held_out_bits_per_token");
    assert!((all.bits - bits).abs() < 0.1, "stated {bits}, found {}", all.bits);
    assert!(all.bits < number("bigram_bits_per_token") / 2.0 && all.bits < number("unigram_bits_per_token") / 4.0);
    assert!((all.silent - number("silent")).abs() < 0.03, "stated {}, found {}", number("silent"), all.silent);
    for domain in Domain::ALL {
        let figures = evaluate::measure(&model, &tokenizer, Some(domain), 2).unwrap();
        assert!(figures.silent > 0.5, "{}: only {} silent", figures.name, figures.silent);
    }
}

#[test]
fn it_answers() {
    let (model, tokenizer) = open();
    let answer = |question: &str| evaluate::answer(&model, &tokenizer, question, 60).unwrap();
    assert_eq!(answer("What is 7 + 5?"), "7 + 5 = 12.");
    assert_eq!(answer("What is 48 + 37?"), "48 + 37 = 85.");
    assert_eq!(answer("What is the capital of Italy?"), "The capital of Italy is Rome.");
    assert_eq!(answer("Say in Russian: The cat is sleeping."), "Кот спит.");
    assert!(answer("Who are you?").contains("thermocline"));
}
