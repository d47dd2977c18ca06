//! Reads the vocabulary beside this file. Only for tests: it trusts its input.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::HashMap;
use thermocline::checkpoint::GgufText;
use thermocline::config::{Config, Gating};

/// The `tokenizer.*` keys of `qwen2.gguf`.
pub fn qwen2() -> GgufText {
    let mut from = Reader { bytes: include_bytes!("qwen2.gguf"), at: 0 };
    assert_eq!((from.take(4), from.u32(), from.u64()), (b"GGUF".as_slice(), 3, 0));
    let keys = from.u64();
    let mut values: HashMap<String, Value> = (0..keys).map(|_| (from.text(), from.typed())).collect();
    let id = |v: Option<Value>| v.map(|v| v.number());
    GgufText {
        model: values.remove("tokenizer.ggml.model").unwrap().text(),
        pre: values.remove("tokenizer.ggml.pre").unwrap().text(),
        tokens: values.remove("tokenizer.ggml.tokens").unwrap().list(Value::text),
        token_types: values.remove("tokenizer.ggml.token_type").unwrap().list(|v| v.number()),
        merges: values.remove("tokenizer.ggml.merges").unwrap().list(Value::text),
        bos: id(values.remove("tokenizer.ggml.bos_token_id")),
        eos: id(values.remove("tokenizer.ggml.eos_token_id")),
        padding: id(values.remove("tokenizer.ggml.padding_token_id")),
        add_bos: false,
        chat_template: values.remove("tokenizer.chat_template").map(Value::text),
    }
}

/// Texts and the ids they must become.
pub fn vectors() -> Vec<(&'static str, Vec<u32>)> {
    let texts =
        include_str!("qwen2.inp").strip_suffix("\n__ggml_vocab_test__\n").unwrap().split("\n__ggml_vocab_test__\n");
    let ids = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let vectors: Vec<_> = texts.zip(include_str!("qwen2.out").lines().map(ids)).collect();
    assert_eq!(vectors.len(), include_str!("qwen2.out").lines().count());
    vectors
}

/// A config as far as text is concerned.
pub fn config(vocab: usize, eos: &[u32]) -> Config {
    Config {
        family: "smallthinker",
        name: None,
        layers: Vec::new(),
        width: 64,
        heads: 1,
        kv_heads: 1,
        head_width: 64,
        vocab,
        context: 128,
        norm_epsilon: 1e-6,
        rope_theta: 1e6,
        experts: 4,
        active: 2,
        neurons: 32,
        gating: Gating::Sigmoid,
        tied: true,
        bos: None,
        eos: eos.to_vec(),
        notes: Vec::new(),
    }
}

enum Value {
    Number(u32),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    fn number(self) -> u32 {
        if let Value::Number(n) = self { n } else { panic!("a number") }
    }
    fn text(self) -> String {
        if let Value::Text(t) = self { t } else { panic!("a text") }
    }
    fn list<T>(self, of: impl Fn(Value) -> T) -> Vec<T> {
        if let Value::List(l) = self { l.into_iter().map(of).collect() } else { panic!("a list") }
    }
}

struct Reader {
    bytes: &'static [u8],
    at: usize,
}

impl Reader {
    fn take(&mut self, n: usize) -> &'static [u8] {
        self.at += n;
        &self.bytes[self.at - n..self.at]
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
    fn text(&mut self) -> String {
        let n = self.u64() as usize;
        String::from_utf8(self.take(n).to_vec()).unwrap()
    }
    fn typed(&mut self) -> Value {
        let kind = self.u32();
        self.value(kind)
    }
    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4..=6 => Value::Number(self.u32()),
            8 => Value::Text(self.text()),
            9 => {
                let (kind, n) = (self.u32(), self.u64());
                Value::List((0..n).map(|_| self.value(kind)).collect())
            }
            other => panic!("type {other} is not in this file"),
        }
    }
}
