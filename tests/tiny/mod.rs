//! Tiny SmallThinker models made in memory: seeded weights, written as a folder of safetensors or as a GGUF file of any
//! format. Small writers of both containers, open to every kind of damage a test may want.
#![allow(dead_code, reason = "each test crate uses its own part")]

mod blocks;
mod vocabulary;

use kernels::Format;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The shape of a tiny model, and how it is to be written.
#[derive(Clone, Debug)]
pub struct Tiny {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
    /// From `LETTERS` on the vocabulary is a real one, and the model can read and write text.
    pub vocab: usize,
    pub context: usize,
    pub experts: usize,
    pub active: usize,
    pub neurons: usize,
    /// `Some`: every fourth layer global without rotation, the others windowed with it.
    pub window: Option<usize>,
    pub softmax: bool,
    pub tied: bool,
    /// How far gates are pushed towards silence: at 0 half of the neurons fire, at 0.35 about one in five, at 1.5 hardly any.
    pub silence: f32,
    /// PowerInfer's order of `down`, GGUF only.
    pub down_by_neuron: bool,
    pub seed: u64,
}

impl Default for Tiny {
    fn default() -> Tiny {
        Tiny {
            layers: 3,
            width: 64,
            heads: 4,
            kv_heads: 2,
            head_width: 16,
            vocab: 96,
            context: 512,
            experts: 4,
            active: 2,
            neurons: 32,
            window: None,
            softmax: false,
            tied: true,
            silence: 0.0,
            down_by_neuron: false,
            seed: 1,
        }
    }
}

/// A matrix of f32 by its name in safetensors files; `shape` as there.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub weights: Vec<f32>,
}

impl Tiny {
    /// The same with a vocabulary that an engine can open.
    pub fn speaking() -> Tiny {
        Tiny { vocab: 288, ..Tiny::wide() }
    }

    /// A shape whose widths are whole blocks of every format.
    pub fn wide() -> Tiny {
        Tiny {
            layers: 2,
            width: 256,
            heads: 4,
            kv_heads: 2,
            head_width: 64,
            experts: 3,
            neurons: 512,
            ..Tiny::default()
        }
    }

    /// All tensors in the order of the layers, by their names in safetensors files, `down` by output.
    pub fn tensors(&self) -> Vec<Tensor> {
        let (h, q, kv) = (self.width, self.heads * self.head_width, self.kv_heads * self.head_width);
        let mut seed = self.seed;
        let mut tensor = |name: String, shape: &[usize]| {
            let (count, fan) = (shape.iter().product(), *shape.last().unwrap());
            let norm = shape.len() == 1;
            let scale = if norm { 0.1 } else { 1.7 / (fan as f32).sqrt() };
            let mut weights: Vec<f32> =
                (0..count).map(|_| scale * uniform(&mut seed) + if norm { 1.0 } else { 0.0 }).collect();
            if self.silence > 0.0 {
                // The first number of every residual is large, and every gate is against it.
                let first = match name.as_str() {
                    "model.embed_tokens.weight" => Some(3.0),
                    gate if gate.ends_with("gate.weight") => Some(-self.silence),
                    _ => None,
                };
                weights.iter_mut().step_by(fan).for_each(|w| *w = first.unwrap_or(*w));
            }
            Tensor { name, shape: shape.to_vec(), weights }
        };
        let mut all = vec![tensor("model.embed_tokens.weight".into(), &[self.vocab, h])];
        for l in 0..self.layers {
            let mut add =
                |name: &str, shape: &[usize]| all.push(tensor(format!("model.layers.{l}.{name}.weight"), shape));
            add("input_layernorm", &[h]);
            add("self_attn.q_proj", &[q, h]);
            add("self_attn.k_proj", &[kv, h]);
            add("self_attn.v_proj", &[kv, h]);
            add("self_attn.o_proj", &[h, q]);
            add("post_attention_layernorm", &[h]);
            add("block_sparse_moe.primary_router", &[self.experts, h]);
            for e in 0..self.experts {
                add(&format!("block_sparse_moe.experts.{e}.gate"), &[self.neurons, h]);
                add(&format!("block_sparse_moe.experts.{e}.up"), &[self.neurons, h]);
                add(&format!("block_sparse_moe.experts.{e}.down"), &[h, self.neurons]);
            }
        }
        all.push(tensor("model.norm.weight".into(), &[h]));
        if !self.tied {
            all.push(tensor("lm_head.weight".into(), &[self.vocab, h]));
        }
        all
    }

    /// Which layers have a window.
    pub fn windowed(&self) -> Vec<bool> {
        (0..self.layers).map(|l| self.window.is_some() && l % 4 != 0).collect()
    }

    pub fn config_json(&self) -> Map<String, Value> {
        let windowed: Vec<u8> = self.windowed().into_iter().map(u8::from).collect();
        let rotary = if self.window.is_some() { windowed.clone() } else { vec![1; self.layers] };
        let config = json!({
            "architectures": ["SmallThinkerForCausalLM"],
            "model_name": "tiny",
            "bos_token_id": 0,
            "eos_token_id": [0, 2],
            "head_dim": self.head_width,
            "hidden_size": self.width,
            "max_position_embeddings": self.context,
            "moe_ffn_hidden_size": self.neurons,
            "moe_num_active_primary_experts": self.active,
            "moe_num_primary_experts": self.experts,
            "moe_primary_router_apply_softmax": self.softmax,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_layout": rotary,
            "rope_scaling": null,
            "rope_theta": 10000.0,
            "sliding_window_layout": windowed,
            "sliding_window_size": self.window.unwrap_or(4096),
            "tie_word_embeddings": self.tied,
            "use_cache": false,
            "vocab_size": self.vocab,
        });
        config.as_object().unwrap().clone()
    }

    /// A folder with `config.json` and one safetensors file.
    pub fn write_folder(&self, folder: &Path, format: Format) -> PathBuf {
        write_config(folder, &self.config_json());
        if self.vocab >= vocabulary::LETTERS {
            std::fs::write(folder.join("tokenizer.json"), vocabulary::tokenizer_json(self.vocab).to_string()).unwrap();
        }
        let tensors: Vec<_> = self.tensors().iter().map(|t| Entry::of(t, format)).collect();
        std::fs::write(folder.join("model.safetensors"), safetensors(&tensors)).unwrap();
        folder.to_path_buf()
    }

    /// A folder whose tensors are dealt out to `shards` files with an index.
    pub fn write_sharded(&self, folder: &Path, format: Format, shards: usize) -> PathBuf {
        write_config(folder, &self.config_json());
        let tensors: Vec<_> = self.tensors().iter().map(|t| Entry::of(t, format)).collect();
        let mut index = Map::new();
        for (s, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
            let name = format!("model-{:05}-of-{shards:05}.safetensors", s + 1);
            std::fs::write(folder.join(&name), safetensors(part)).unwrap();
            index.extend(part.iter().map(|t| (t.name.clone(), json!(name))));
        }
        let index = json!({ "metadata": {}, "weight_map": index });
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        folder.to_path_buf()
    }

    /// A GGUF file: matrices in `format`, norms and routers f32.
    pub fn write_gguf(&self, file: &Path, format: Format) -> PathBuf {
        std::fs::write(file, self.gguf(format).bytes()).unwrap();
        file.to_path_buf()
    }

    /// The same as something to change before it is written.
    pub fn gguf(&self, format: Format) -> Gguf {
        let u32_keys = [
            ("block_count", self.layers),
            ("context_length", self.context),
            ("embedding_length", self.width),
            ("feed_forward_length", self.neurons),
            ("expert_feed_forward_length", self.neurons),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_width),
            ("attention.value_length", self.head_width),
            ("expert_count", self.experts),
            ("expert_used_count", self.active),
            ("expert_gating_func", if self.softmax { 1 } else { 2 }),
        ];
        let mut keys = vec![("general.architecture".to_string(), Key::Text("smallthinker".into()))];
        keys.push(("general.name".into(), Key::Text("tiny".into())));
        keys.extend(u32_keys.map(|(k, n)| (format!("smallthinker.{k}"), Key::Count(n as u32))));
        if let Some(window) = self.window {
            keys.push(("smallthinker.attention.sliding_window".into(), Key::Count(window as u32)));
        }
        keys.push(("smallthinker.attention.layer_norm_rms_epsilon".into(), Key::Real(1e-6)));
        keys.push(("smallthinker.rope.freq_base".into(), Key::Real(10000.0)));
        let tokens = vocabulary::tokens(self.vocab);
        let types = (0..self.vocab).map(|i| if i < 3 { 3 } else { 1 }).collect();
        keys.push(("tokenizer.ggml.model".into(), Key::Text("gpt2".into())));
        keys.push(("tokenizer.ggml.pre".into(), Key::Text("qwen2".into())));
        keys.push(("tokenizer.ggml.tokens".into(), Key::Texts(tokens)));
        keys.push(("tokenizer.ggml.token_type".into(), Key::Counts(types)));
        keys.push(("tokenizer.ggml.merges".into(), Key::Texts(vec![])));
        keys.push(("tokenizer.ggml.bos_token_id".into(), Key::Count(0)));
        keys.push(("tokenizer.ggml.eos_token_id".into(), Key::Count(2)));
        keys.push(("tokenizer.ggml.add_bos_token".into(), Key::Bool(false)));
        Gguf { version: 3, alignment: 32, keys, tensors: self.gguf_tensors(format) }
    }

    fn gguf_tensors(&self, format: Format) -> Vec<Entry> {
        let mut stacked: Vec<Entry> = vec![];
        for t in self.tensors() {
            let down = t.name.ends_with("down.weight");
            let t = if down && self.down_by_neuron { transposed(&t) } else { t };
            let (name, experts) = gguf_name(&t.name);
            let kept = t.shape.len() == 1 || name.ends_with("ffn_gate_inp.weight");
            let mut entry = Entry::of(&t, if kept { Format::F32 } else { format });
            entry.shape.reverse();
            entry.name = name;
            match stacked.iter_mut().find(|s| s.name == entry.name) {
                Some(stack) => {
                    stack.shape[2] += 1;
                    stack.bytes.extend(entry.bytes);
                }
                None => {
                    entry.shape.extend(experts.then_some(1));
                    stacked.push(entry);
                }
            }
        }
        stacked
    }
}

/// A number in -1..1 (splitmix64).
pub fn uniform(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn transposed(t: &Tensor) -> Tensor {
    let [rows, width] = t.shape[..] else { panic!("a matrix") };
    let weights = (0..rows * width).map(|i| t.weights[i % rows * width + i / rows]).collect();
    Tensor { name: t.name.clone(), shape: vec![width, rows], weights }
}

/// The name in GGUF files, and whether all experts of a layer share it.
fn gguf_name(name: &str) -> (String, bool) {
    let simple = match name {
        "model.embed_tokens.weight" => "token_embd.weight",
        "model.norm.weight" => "output_norm.weight",
        "lm_head.weight" => "output.weight",
        _ => "",
    };
    if !simple.is_empty() {
        return (simple.into(), false);
    }
    let parts: Vec<&str> = name.split('.').collect();
    let layer = parts[2];
    let (short, expert) = match parts[3..parts.len() - 1] {
        ["input_layernorm"] => ("attn_norm", false),
        ["self_attn", "q_proj"] => ("attn_q", false),
        ["self_attn", "k_proj"] => ("attn_k", false),
        ["self_attn", "v_proj"] => ("attn_v", false),
        ["self_attn", "o_proj"] => ("attn_output", false),
        ["post_attention_layernorm"] => ("ffn_norm", false),
        ["block_sparse_moe", "primary_router"] => ("ffn_gate_inp", false),
        ["block_sparse_moe", "experts", _, "gate"] => ("ffn_gate_exps", true),
        ["block_sparse_moe", "experts", _, "up"] => ("ffn_up_exps", true),
        ["block_sparse_moe", "experts", _, "down"] => ("ffn_down_exps", true),
        _ => panic!("{name} is no tensor of this family"),
    };
    (format!("blk.{layer}.{short}.weight"), expert)
}

pub fn write_config(folder: &Path, config: &Map<String, Value>) {
    std::fs::write(folder.join("config.json"), Value::Object(config.clone()).to_string()).unwrap();
}

/// A tensor as a container holds it: `shape` in the container's own order.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub format: Format,
    pub bytes: Vec<u8>,
}

impl Entry {
    /// Rounded to `format`; a format nobody can write gets random blocks of the same size of numbers.
    pub fn of(tensor: &Tensor, format: Format) -> Entry {
        let mut bytes = vec![0; format.row_bytes(tensor.weights.len()).expect("whole blocks")];
        if format.encodes() {
            format.encode(&tensor.weights, &mut bytes);
        } else {
            blocks::random(format, &tensor.weights, &mut bytes);
        }
        Entry { name: tensor.name.clone(), shape: tensor.shape.clone(), format, bytes }
    }
}

/// A safetensors file of these tensors.
pub fn safetensors(tensors: &[Entry]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut at = 0;
    for t in tensors {
        let end = at + t.bytes.len();
        header.insert(t.name.clone(), json!({ "dtype": t.format.name(), "shape": t.shape, "data_offsets": [at, end] }));
        at = end;
    }
    safetensors_of(&header, tensors.iter().flat_map(|t| t.bytes.iter().copied()))
}

/// A safetensors file of any header and data.
pub fn safetensors_of(header: &Map<String, Value>, data: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut text = Value::Object(header.clone()).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.bytes());
    file.extend(data);
    file
}

/// A metadata value.
#[derive(Clone, Debug)]
pub enum Key {
    Count(u32),
    Real(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Counts(Vec<i32>),
    Bools(Vec<bool>),
}

/// A GGUF file before it is written.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub version: u32,
    pub alignment: usize,
    pub keys: Vec<(String, Key)>,
    pub tensors: Vec<Entry>,
}

impl Gguf {
    /// Puts or replaces a key.
    pub fn set(&mut self, name: &str, value: Key) {
        self.remove(name);
        self.keys.push((name.to_string(), value));
    }

    pub fn remove(&mut self, name: &str) {
        self.keys.retain(|(k, _)| k != name);
    }

    pub fn tensor(&mut self, name: &str) -> &mut Entry {
        self.tensors.iter_mut().find(|t| t.name == name).expect(name)
    }

    /// Offsets as a writer gives them: one tensor after the other, aligned.
    pub fn offsets(&self) -> Vec<u64> {
        let mut at = 0usize;
        let next = |t: &Entry| {
            let here = at;
            at = (at + t.bytes.len()).next_multiple_of(self.alignment);
            here as u64
        };
        self.tensors.iter().map(next).collect()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(&self.offsets())
    }

    /// The file with these offsets in its header, whatever they say.
    pub fn bytes_with(&self, offsets: &[u64]) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.keys.len() as u64).to_le_bytes());
        for (name, value) in &self.keys {
            string(&mut file, name);
            key(&mut file, value);
        }
        for (t, offset) in self.tensors.iter().zip(offsets) {
            string(&mut file, &t.name);
            file.extend((t.shape.len() as u32).to_le_bytes());
            file.extend(t.shape.iter().flat_map(|d| (*d as u64).to_le_bytes()));
            file.extend(type_number(t.format).to_le_bytes());
            file.extend(offset.to_le_bytes());
        }
        for t in &self.tensors {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
            file.extend(&t.bytes);
        }
        file
    }
}

/// The number of a format in GGUF files.
pub fn type_number(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4_0 => 2,
        Format::Q4_1 => 3,
        Format::Q8_0 => 8,
        Format::Q3_K => 11,
        Format::Q4_K => 12,
        Format::Q5_K => 13,
        Format::Q6_K => 14,
        Format::BF16 => 30,
    }
}

fn string(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.bytes());
}

fn key(file: &mut Vec<u8>, value: &Key) {
    let head = |file: &mut Vec<u8>, kind: u32| file.extend(kind.to_le_bytes());
    let list = |file: &mut Vec<u8>, kind: u32, len: usize| {
        file.extend(9u32.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend((len as u64).to_le_bytes());
    };
    match value {
        Key::Count(n) => (head(file, 4), file.extend(n.to_le_bytes())).1,
        Key::Real(x) => (head(file, 6), file.extend(x.to_le_bytes())).1,
        Key::Bool(b) => (head(file, 7), file.push(*b as u8)).1,
        Key::Text(t) => (head(file, 8), string(file, t)).1,
        Key::Texts(l) => {
            list(file, 8, l.len());
            l.iter().for_each(|t| string(file, t));
        }
        Key::Counts(l) => {
            list(file, 5, l.len());
            l.iter().for_each(|n| file.extend(n.to_le_bytes()));
        }
        Key::Bools(l) => {
            list(file, 7, l.len());
            l.iter().for_each(|b| file.push(*b as u8));
        }
    }
}
