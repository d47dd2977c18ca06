//! Files that are damaged, cut short, of another kind, or made to hurt: each is refused in a sentence that names the file,
//! the tensor or the key. Never a panic, never an allocation that a lying header asks for.

mod tiny;

use kernels::Format;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use thermocline::checkpoint::{Checkpoint, Part, Quant, Relay, Weights};
use thermocline::{Error, Result};
use tiny::{Entry, Gguf, Key, Tiny};

/// Opening must fail as a model, with each of `words` in the sentence.
#[track_caller]
fn refused(path: &Path, words: &[&str]) {
    let error = Checkpoint::open(path).err().expect("it opened");
    assert_eq!(error.exit_code(), 5, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{error:?} does not contain {word:?}");
    }
}

/// A folder whose config was changed.
fn folder_with(change: impl FnOnce(&mut Map<String, Value>)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let model = Tiny::default();
    model.write_folder(dir.path(), Format::F32);
    let mut config = model.config_json();
    change(&mut config);
    tiny::write_config(dir.path(), &config);
    dir
}

/// A folder whose tensors were changed.
fn folder_of(change: impl FnOnce(&mut Vec<Entry>)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let model = Tiny::default();
    tiny::write_config(dir.path(), &model.config_json());
    let mut tensors = model.tensors().iter().map(|t| Entry::of(t, Format::F32)).collect();
    change(&mut tensors);
    std::fs::write(dir.path().join("model.safetensors"), tiny::safetensors(&tensors)).unwrap();
    dir
}

/// A folder whose safetensors header was changed, its data left alone.
fn folder_header(change: impl FnOnce(&mut Map<String, Value>)) -> TempDir {
    let dir = folder_of(|_| {});
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..end]).unwrap();
    change(&mut header);
    std::fs::write(&path, tiny::safetensors_of(&header, bytes[end..].iter().copied())).unwrap();
    dir
}

fn gguf_bytes(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// A GGUF file that was changed before it was written.
fn gguf_with(change: impl FnOnce(&mut Gguf)) -> (TempDir, PathBuf) {
    let mut gguf = Tiny::default().gguf(Format::Q8_0);
    change(&mut gguf);
    gguf_bytes(&gguf.bytes())
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const UP: &str = "model.layers.1.block_sparse_moe.experts.2.up.weight";

#[test]
fn truncated_safetensors() {
    let dir = folder_of(|_| {});
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let cases: [(usize, &[&str]); 5] = [
        (0, &["model.safetensors", "found 0"]),
        (7, &["model.safetensors", "found 7"]),
        (100, &["model.safetensors", "truncated"]),
        (whole.len() - 1, &["model.safetensors", "tensor model.norm.weight", "truncated"]),
        (whole.len() / 2, &["model.safetensors", "tensor model.layers.", "truncated"]),
    ];
    for (length, words) in cases {
        std::fs::write(&path, &whole[..length]).unwrap();
        refused(dir.path(), words);
    }
    std::fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    refused(dir.path(), &["model.safetensors", "the last tensor ends at byte"]);
    std::fs::write(&path, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
    refused(dir.path(), &["model.safetensors", "announce a header of 18446744073709551615 bytes"]);
    std::fs::write(&path, [&8u64.to_le_bytes()[..], b"not json"].concat()).unwrap();
    refused(dir.path(), &["model.safetensors", "the header is damaged"]);
}

#[test]
fn truncated_gguf() {
    let whole = Tiny::default().gguf(Format::Q8_0).bytes();
    for length in [0, 3, 4, 11, 23, 24, 60, 400, 2000] {
        let (_dir, path) = gguf_bytes(&whole[..length]);
        refused(&path, &["model.gguf"]);
    }
    let (_dir, path) = gguf_bytes(&whole[..whole.len() - 1]);
    refused(&path, &["model.gguf", "tensor output_norm.weight", "truncated"]);
    let (_dir, path) = gguf_bytes(&whole[..whole.len() / 2]);
    refused(&path, &["model.gguf", "tensor ", "truncated"]);
}

#[test]
fn offsets_beyond_the_file() {
    let dir = folder_header(|h| {
        let size = h["model.norm.weight"]["data_offsets"][0].as_u64().unwrap();
        h["model.norm.weight"]["data_offsets"] = json!([size, size + (1u64 << 40)]);
        h["model.norm.weight"]["shape"] = json!([1u64 << 38]);
    });
    refused(dir.path(), &["model.safetensors", "tensor model.norm.weight", "truncated or damaged"]);

    let gguf = Tiny::default().gguf(Format::Q8_0);
    let mut offsets = gguf.offsets();
    for beyond in [1 << 40, u64::MAX - 31] {
        offsets[4] = beyond;
        let (_dir, path) = gguf_bytes(&gguf.bytes_with(&offsets));
        refused(&path, &["model.gguf", "tensor blk.0.attn_v.weight", "truncated or damaged"]);
    }
    offsets[4] = 33;
    let (_dir, path) = gguf_bytes(&gguf.bytes_with(&offsets));
    refused(&path, &["tensor blk.0.attn_v.weight", "offset 33 is not a multiple of 32"]);
}

#[test]
fn overlapping_tensors() {
    let dir = folder_header(|h| {
        let first = h["model.layers.0.self_attn.k_proj.weight"]["data_offsets"].clone();
        h["model.layers.0.self_attn.v_proj.weight"]["data_offsets"] = first;
    });
    refused(dir.path(), &["model.safetensors", "model.layers.0.self_attn.v_proj.weight", "overlap"]);

    let gguf = Tiny::default().gguf(Format::Q8_0);
    let mut offsets = gguf.offsets();
    offsets[4] = offsets[3];
    let (_dir, path) = gguf_bytes(&gguf.bytes_with(&offsets));
    refused(&path, &["model.gguf", "blk.0.attn_k.weight", "blk.0.attn_v.weight", "overlap"]);
}

#[test]
fn bytes_of_no_tensor() {
    let dir = folder_header(|h| {
        h.remove("model.layers.0.self_attn.v_proj.weight");
    });
    refused(dir.path(), &["model.safetensors", "belong to no tensor"]);
}

#[test]
fn sizes_that_overflow() {
    let dir = folder_header(|h| h[UP]["shape"] = json!([1u64 << 33, 1u64 << 33]));
    refused(dir.path(), &["model.safetensors", UP, "overflows"]);

    let (_dir, path) = gguf_with(|g| g.tensor("blk.1.ffn_up_exps.weight").shape = vec![1 << 32, 1 << 31, 32]);
    refused(&path, &["model.gguf", "tensor blk.1.ffn_up_exps.weight", "overflows"]);
    let (_dir, path) = gguf_with(|g| g.tensor("output_norm.weight").shape = vec![0]);
    refused(&path, &["tensor output_norm.weight", "hold nothing"]);
}

#[test]
fn counts_that_lie() {
    let good = Tiny::default().gguf(Format::Q8_0).bytes();
    for (at, words) in [(8, "announces 9223372036854775807 tensors"), (16, "announces 9223372036854775807 keys")] {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        let (_dir, path) = gguf_bytes(&bytes);
        refused(&path, &["model.gguf", words]);
    }
    // The length of the list of tokens: after its name, the kind of value and the kind of entry.
    let name = b"tokenizer.ggml.tokens";
    let at = good.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 8;
    for lie in [u64::MAX, 1 << 40, good.len() as u64 / 8] {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&lie.to_le_bytes());
        let (_dir, path) = gguf_bytes(&bytes);
        refused(&path, &["model.gguf", "tokenizer.ggml.tokens"]);
    }
}

#[test]
fn other_versions_and_kinds_of_gguf() {
    for (version, words) in [(1, "version 2 or 3, found 1"), (4, "found 4"), (3u32.swap_bytes(), "big-endian")] {
        let (_dir, path) = gguf_with(|g| g.version = version);
        refused(&path, &["model.gguf", words]);
    }
    let (_dir, path) = gguf_bytes(b"GGML is another, older container");
    refused(&path, &["model.gguf", "expected GGUF in its first 4 bytes"]);
    let (_dir, path) = gguf_with(|g| g.set("split.count", Key::Count(3)));
    refused(&path, &["split.count", "split over several"]);
}

#[test]
fn version_2_opens() {
    let (_dir, path) = gguf_with(|g| g.version = 2);
    Checkpoint::open(&path).unwrap();
}

#[test]
fn wrong_type_for_a_name() {
    let mut header = None;
    let dir = folder_header(|h| {
        let info = h[EMBEDDING].as_object_mut().unwrap();
        info["dtype"] = json!("I32");
        header = Some(info.clone());
    });
    refused(dir.path(), &["model.safetensors", EMBEDDING, "expected BF16, F16 or F32, found I32"]);
    let dir = folder_header(|h| h[EMBEDDING]["dtype"] = json!("INT128"));
    refused(dir.path(), &["model.safetensors", EMBEDDING, "INT128"]);

    // Types that kernels do not read, each by its name, with advice.
    let good = Tiny::default().gguf(Format::Q8_0);
    let bytes = good.bytes();
    let name = b"blk.2.ffn_gate_exps.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 3 * 8;
    for (number, called) in [(6, "Q5_0"), (7, "Q5_1"), (10, "Q2_K"), (22, "IQ2_S"), (20, "IQ4_NL"), (999, "type 999")] {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
        let (_dir, path) = gguf_bytes(&bytes);
        refused(&path, &["model.gguf", "tensor blk.2.ffn_gate_exps.weight", called, "use a Q4_0, Q4_K_M"]);
    }
    let (_dir, path) = gguf_with(|g| {
        let norm = g.tensor("blk.0.attn_norm.weight");
        (norm.format, norm.bytes) = (Format::Q8_0, vec![0; 68]);
    });
    refused(&path, &["tensor blk.0.attn_norm.weight", "norm or router, found Q8_0"]);
}

#[test]
fn wrong_shape_for_a_name() {
    let dir = folder_of(|tensors| {
        let t = tensors.iter_mut().find(|t| t.name == UP).unwrap();
        t.shape.reverse();
    });
    refused(dir.path(), &["model.safetensors", UP, "expected shape [32, 64]", "found [64, 32]"]);

    let (_dir, path) = gguf_with(|g| g.tensor("blk.0.attn_output.weight").shape = vec![32, 128]);
    refused(
        &path,
        &["model.gguf", "tensor blk.0.attn_output.weight", "expected dimensions [64, 64]", "found [32, 128]"],
    );
}

#[test]
fn missing_and_surplus_tensors() {
    let dir = folder_of(|tensors| tensors.retain(|t| t.name != UP));
    refused(dir.path(), &[dir.path().to_str().unwrap(), UP, "is missing"]);
    let dir = folder_of(|tensors| {
        tensors.push(Entry { name: "model.layers.0.self_attn.q_norm.weight".into(), ..tensors[1].clone() })
    });
    refused(dir.path(), &["model.safetensors", "self_attn.q_norm.weight has no place"]);

    let (_dir, path) = gguf_with(|g| g.tensors.retain(|t| t.name != "blk.2.attn_k.weight"));
    refused(&path, &["model.gguf", "tensor blk.2.attn_k.weight is missing"]);
    let (_dir, path) = gguf_with(|g| g.tensor("blk.2.attn_k.weight").name = "blk.2.attn_v.weight".into());
    refused(&path, &["model.gguf", "tensor blk.2.attn_v.weight is listed twice"]);
    let (_dir, path) = gguf_with(|g| {
        let bias = Entry { name: "blk.0.attn_q.bias".into(), ..g.tensor("blk.0.attn_norm.weight").clone() };
        g.tensors.push(bias);
    });
    refused(&path, &["model.gguf", "tensor blk.0.attn_q.bias has no place"]);
    let (_dir, path) = gguf_with(|g| g.tensors.retain(|t| !t.name.contains("exps")));
    refused(&path, &["model.gguf", "holds no expert weights", "blk.0.ffn_gate_exps.weight"]);
}

#[test]
fn missing_head_of_an_untied_model() {
    let dir = folder_with(|c| c["tie_word_embeddings"] = json!(false));
    refused(dir.path(), &["lm_head.weight is missing", "not tied"]);
}

#[test]
fn weights_that_are_not_numbers() {
    let spoil = |tensors: &mut Vec<Entry>| {
        let t = tensors.iter_mut().find(|t| t.name == UP).unwrap();
        let at = (5 * 64 + 7) * 4;
        t.bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        let t = tensors.iter_mut().find(|t| t.name == "model.norm.weight").unwrap();
        t.bytes[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes());
    };
    let dir = folder_of(spoil);
    let model = Checkpoint::open(dir.path()).unwrap();
    let error = model.check_finite(&serial, &mut |_, _| {}).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    for word in ["model.safetensors", UP, "row 5, column 7", "NaN"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    // Rounding notices as well, without being asked.
    let error = load(model, Quant::Q4_0).err().unwrap();
    assert!(error.to_string().contains(UP) && error.to_string().contains("NaN"), "{error}");

    let (_dir, path) = gguf_with(|g| {
        let t = g.tensor("blk.1.ffn_down_exps.weight");
        // The scale of the first block of expert 3.
        let at = t.bytes.len() / 4 * 3;
        t.bytes[at..at + 2].copy_from_slice(&0x7c00u16.to_le_bytes());
    });
    let error = Checkpoint::open(&path).unwrap().check_finite(&serial, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("blk.1.ffn_down_exps.weight (expert 3), row 0, column"), "{error}");

    let dir = folder_of(|_| {});
    Checkpoint::open(dir.path()).unwrap().check_finite(&serial, &mut |_, _| {}).unwrap();
}

fn serial(n: usize, job: &(dyn Fn(usize) + Sync)) {
    (0..n).for_each(job);
}

fn load(model: Checkpoint, quant: Quant) -> Result<Weights> {
    Weights::load(Arc::new(model), Some(quant), Relay::Never, &serial, &mut |_, _| {})
}

#[test]
fn weights_too_large_for_the_format() {
    let dir = folder_of(|tensors| {
        let t = tensors.iter_mut().find(|t| t.name == UP).unwrap();
        t.bytes[..4].copy_from_slice(&1e5f32.to_le_bytes());
    });
    let open = || Checkpoint::open(dir.path()).unwrap();
    let error = load(open(), Quant::F16).err().unwrap();
    assert!(error.to_string().contains("100000 is too large for F16"), "{error}");
    load(open(), Quant::Q8_0).unwrap();
}

#[test]
fn configs_that_do_not_add_up() {
    type Change = fn(&mut Map<String, Value>);
    let cases: &[(Change, &[&str])] = &[
        (|c| c["num_key_value_heads"] = json!(3), &["4 attention heads cannot share 3"]),
        (
            |c| c["moe_num_primary_experts"] = json!(5),
            &["primary_router.weight", "expected shape [5, 64]", "found [4, 64]"],
        ),
        (|c| c["moe_num_active_primary_experts"] = json!(9), &["9 experts are to be active", "only 4"]),
        (|c| c["vocab_size"] = json!(2), &["token id 2", "only 2 ids"]),
        (|c| c["vocab_size"] = json!(97), &[EMBEDDING, "expected shape [97, 64]", "found [96, 64]"]),
        (|c| c["head_dim"] = json!(17), &["head width", "17"]),
        (|c| c["hidden_size"] = json!(0), &["hidden width", "found 0"]),
        (|c| c["hidden_size"] = json!(-64), &["hidden_size", "found -64"]),
        (|c| c["hidden_size"] = json!(64.5), &["hidden_size", "found 64.5"]),
        (|c| c["hidden_size"] = json!("64"), &["hidden_size", "expected a whole number"]),
        (|c| c["vocab_size"] = json!(u64::MAX), &["vocabulary size: expected at most"]),
        (|c| c["num_hidden_layers"] = json!(4_000_000_000u64), &["num_hidden_layers", "4000000000"]),
        (|c| c["rope_layout"] = json!([1, 1]), &["rope_layout has 2 entries", "3 layers"]),
        (|c| c["sliding_window_layout"] = json!([0, 0, 2]), &["sliding_window_layout[2]", "found 2"]),
        (|c| (c.remove("moe_ffn_hidden_size"), ()).1, &["moe_ffn_hidden_size is missing"]),
        (|c| c["rope_scaling"] = json!({"type": "yarn", "factor": 4}), &["rope_scaling", "yarn", "not implemented"]),
        (|c| (c.insert("moe_num_secondary_experts".into(), json!(8)), ()).1, &["moe_num_secondary_experts is 8"]),
        (|c| (c.insert("use_qk_norm".into(), json!(true)), ()).1, &["use_qk_norm", "queries and keys"]),
        (|c| (c.insert("moe_enable_early_router".into(), json!(false)), ()).1, &["moe_enable_early_router"]),
        (|c| (c.insert("hidden_act".into(), json!("silu")), ()).1, &["hidden_act is \"silu\""]),
        (|c| (c.remove("architectures"), ()).1, &["architectures is missing"]),
        (|c| c["architectures"] = json!(["LlamaForCausalLM"]), &["LlamaForCausalLM", "SmallThinkerForCausalLM"]),
    ];
    for (change, words) in cases {
        let dir = folder_with(change);
        let mut words = words.to_vec();
        words.push(dir.path().to_str().unwrap());
        refused(dir.path(), &words);
    }
    let dir = folder_with(|_| {});
    std::fs::write(dir.path().join("config.json"), "{ not json").unwrap();
    refused(dir.path(), &["config.json", "not valid JSON"]);
}

#[test]
fn metadata_that_does_not_add_up() {
    type Change = fn(&mut Gguf);
    let cases: &[(Change, &[&str])] = &[
        (|g| g.set("smallthinker.attention.head_count_kv", Key::Count(3)), &["4 attention heads cannot share 3"]),
        (
            |g| g.set("smallthinker.expert_count", Key::Count(8)),
            &["blk.0.ffn_gate_inp.weight", "expected dimensions [64, 8]", "found [64, 4]"],
        ),
        (|g| g.set("smallthinker.expert_gating_func", Key::Count(7)), &["expert_gating_func", "found 7"]),
        (|g| g.set("smallthinker.attention.value_length", Key::Count(32)), &["value_length is 32"]),
        (|g| g.remove("smallthinker.embedding_length"), &["smallthinker.embedding_length is missing"]),
        (|g| g.set("smallthinker.block_count", Key::Count(u32::MAX)), &["smallthinker.block_count"]),
        (|g| g.set("smallthinker.block_count", Key::Text("three".into())), &["block_count", "found \"three\""]),
        (|g| g.set("smallthinker.rope.scaling.type", Key::Text("yarn".into())), &["rope.scaling.type is \"yarn\""]),
        (|g| g.set("smallthinker.attention.head_count", Key::Counts(vec![4, 4, 2])), &["differs from layer to layer"]),
        (|g| g.set("smallthinker.expert_shared_count", Key::Count(1)), &["expert_shared_count is 1"]),
        (|g| g.set("tokenizer.ggml.eos_token_id", Key::Count(96)), &["token id 96", "only 96 ids"]),
        (|g| g.set("general.alignment", Key::Count(33)), &["general.alignment"]),
        (|g| g.remove("general.architecture"), &["general.architecture is missing"]),
        (|g| g.keys.push(("general.name".into(), Key::Bool(true))), &["general.name is given twice"]),
    ];
    for (change, words) in cases {
        let (_dir, path) = gguf_with(change);
        let mut words = words.to_vec();
        words.push("model.gguf");
        refused(&path, &words);
    }
}

#[test]
fn a_vocabulary_longer_or_shorter_than_the_embedding() {
    let tokens = |n: usize| Key::Texts((0..n).map(|i| format!("t{i}")).collect());
    // As many ids as the key says, but fewer rows.
    let (_dir, path) = gguf_with(|g| g.set("tokenizer.ggml.tokens", tokens(120)));
    refused(&path, &["token_embd.weight", "expected dimensions [64, 120]", "found [64, 96]"]);
    let (_dir, path) = gguf_with(|g| {
        g.set("tokenizer.ggml.tokens", tokens(120));
        g.set("smallthinker.vocab_size", Key::Count(96));
    });
    refused(&path, &["tokenizer.ggml.tokens has 120 entries", "only 96 rows"]);
    // Padding rows without tokens are fine.
    let (_dir, path) = gguf_with(|g| {
        g.set("tokenizer.ggml.tokens", tokens(90));
        g.set("smallthinker.vocab_size", Key::Count(96));
    });
    Checkpoint::open(&path).unwrap();
}

#[test]
fn places_that_are_no_model() {
    let dir = TempDir::new().unwrap();
    refused(&dir.path().join("nowhere"), &["nowhere", "cannot be opened"]);
    refused(dir.path(), &["found no files"]);
    std::fs::write(dir.path().join("holiday.jpg"), b"not weights").unwrap();
    refused(dir.path(), &["is no model", "holiday.jpg", "expected config.json with model.safetensors"]);
    std::fs::write(dir.path().join("pytorch_model.bin"), b"pickled").unwrap();
    refused(dir.path(), &["pickled weights are not read"]);
    refused(&dir.path().join("holiday.jpg"), &["holiday.jpg", "expected GGUF in its first 4 bytes"]);
    std::fs::write(dir.path().join("model.safetensors"), b"").unwrap();
    refused(dir.path(), &["config.json is missing"]);
    refused(&dir.path().join("model.safetensors"), &["give the folder this file lies in"]);

    let dir = TempDir::new().unwrap();
    Tiny::default().write_gguf(&dir.path().join("a-Q4_0.gguf"), Format::Q4_0);
    Checkpoint::open(dir.path()).unwrap();
    Tiny::default().write_gguf(&dir.path().join("b-Q8_0.gguf"), Format::Q8_0);
    refused(dir.path(), &["expected one GGUF file, found 2", "a-Q4_0.gguf, b-Q8_0.gguf"]);
}

#[test]
fn the_dense_model_of_the_same_name() {
    let dir = folder_with(|c| {
        c["architectures"] = json!(["Qwen2ForCausalLM"]);
        c.insert("model_type".into(), json!("qwen2"));
    });
    refused(
        dir.path(),
        &["config.json", "Qwen2ForCausalLM", "dense", "SmallThinker-3B-Preview", "SmallThinker-4BA0.6B-Instruct"],
    );
    let (_dir, path) = gguf_with(|g| g.set("general.architecture", Key::Text("qwen2".into())));
    refused(&path, &["model.gguf", "qwen2", "dense", "SmallThinker-3B-Preview"]);
}

#[test]
fn shards_that_do_not_fit_together() {
    let write = || {
        let dir = TempDir::new().unwrap();
        Tiny::default().write_sharded(dir.path(), Format::BF16, 2);
        dir
    };
    let index = "model.safetensors.index.json";
    let second = "model-00002-of-00002.safetensors";
    let dir = write();
    Checkpoint::open(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join(second)).unwrap();
    refused(dir.path(), &[index, second, "is missing"]);

    let dir = write();
    std::fs::copy(dir.path().join("model-00001-of-00002.safetensors"), dir.path().join(second)).unwrap();
    refused(dir.path(), &[second, "is in another shard too"]);

    let dir = write();
    std::fs::remove_file(dir.path().join(index)).unwrap();
    refused(dir.path(), &["several safetensors files and no model.safetensors.index.json"]);

    let dir = write();
    std::fs::write(dir.path().join(index), r#"{"weight_map":{"a":"../../secret.safetensors"}}"#).unwrap();
    refused(dir.path(), &[index, "tensor a", "../../secret"]);
    std::fs::write(dir.path().join(index), "{}").unwrap();
    refused(dir.path(), &[index, "weight_map"]);
}

#[test]
fn an_unknown_quantisation() {
    let error: Error = "q5_k".parse::<Quant>().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    for word in ["\"q5_k\"", "q4_0, q8_0, f16, none"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!("Q4_0".parse::<Quant>().unwrap(), Quant::Q4_0);
}

#[test]
fn rows_that_are_no_whole_blocks() {
    // A norm of 64 fits, but Q6_K wants 256: said of the tensor before anything is read.
    let (_dir, path) = gguf_with(|g| {
        let t = g.tensor("blk.0.attn_q.weight");
        (t.format, t.bytes) = (Format::Q6_K, vec![0; 210 * 16]);
    });
    refused(&path, &["tensor blk.0.attn_q.weight", "rows of 64 weights are not whole blocks of Q6_K"]);
}

#[test]
fn parts_of_a_tied_head_that_differ() {
    let (same, other) = (
        |e: Entry| e,
        |mut e: Entry| {
            e.bytes[0] ^= 1;
            e
        },
    );
    let with_head = |change: fn(Entry) -> Entry| {
        folder_of(move |tensors| {
            let head = change(Entry { name: "lm_head.weight".into(), ..tensors[0].clone() });
            tensors.push(head);
        })
    };
    let dir = with_head(same);
    let model = Checkpoint::open(dir.path()).unwrap();
    assert!(!model.config.notes.iter().any(|n| n.contains("lm_head")), "{:?}", model.config.notes);
    let dir = with_head(other);
    let model = Checkpoint::open(dir.path()).unwrap();
    assert!(model.config.notes.iter().any(|n| n.contains("lm_head.weight")), "{:?}", model.config.notes);
    let (head, embedding) = (model.stored(Part::Head).bytes, model.stored(Part::Embedding).bytes);
    assert_eq!(head.as_ptr(), embedding.as_ptr(), "the embedding is used");
}
