//! Text to tokens and back: the real Qwen2 vocabulary from both containers, and files that are not what they should be.

mod vocab;

use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;
use thermocline::Error;
use thermocline::checkpoint::{GgufText, TextSource};
use thermocline::engine::text::{TemplateOverride, Text, TextStream};
use vocab::{config, qwen2, vectors};

const ROWS: usize = 151_936;
const END_OF_TEXT: u32 = 151_643;
const IM_START: u32 = 151_644;
const IM_END: u32 = 151_645;

static FROM_GGUF: LazyLock<Text> = LazyLock::new(|| open_gguf(&qwen2()).unwrap());
static FROM_JSON: LazyLock<Text> = LazyLock::new(|| {
    let folder = folder(&[("tokenizer.json", &tokenizer_json(&qwen2()))]);
    open_folder(folder.path(), ROWS).unwrap()
});

fn open_gguf(keys: &GgufText) -> thermocline::Result<Text> {
    Text::open(&TextSource::Gguf(keys.clone()), &config(ROWS, &[]), TemplateOverride::Checkpoint)
}

fn open_folder(path: &Path, rows: usize) -> thermocline::Result<Text> {
    Text::open(&TextSource::Folder(path.to_path_buf()), &config(rows, &[]), TemplateOverride::Checkpoint)
}

fn folder(files: &[(&str, &Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

/// The `tokenizer.json` that transformers writes for such a vocabulary.
fn tokenizer_json(keys: &GgufText) -> Value {
    let of_type = |wanted: fn(u32) -> bool| {
        (0u32..).zip(keys.tokens.iter().zip(&keys.token_types)).filter(move |(_, (_, kind))| wanted(**kind))
    };
    let vocab: serde_json::Map<String, Value> =
        of_type(|k| k == 1).map(|(id, (t, _))| (t.clone(), json!(id))).collect();
    let added: Vec<Value> = of_type(|k| k == 3)
        .map(|(id, (text, _))| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocab, "merges": keys.merges},
    })
}

/// A byte-level vocabulary of 256 bytes, three merges, padding, and three added tokens from 300 on.
fn small() -> GgufText {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut odd = '\u{100}'..;
    let mut tokens: Vec<String> =
        (0..=255u8).map(|b| if printable(b) { b as char } else { odd.next().unwrap() }.to_string()).collect();
    tokens.extend(["he", "hell", "ll"].map(String::from));
    tokens.extend((259..300).map(|i| format!("[PAD{i}]")));
    tokens.extend(["<|endoftext|>", "<|im_end|>", "<think>"].map(String::from));
    let mut token_types = vec![1; tokens.len()];
    token_types[259..300].fill(5);
    token_types[300..].copy_from_slice(&[3, 3, 4]);
    GgufText {
        model: "gpt2".into(),
        pre: "qwen2".into(),
        tokens,
        token_types,
        merges: ["h e", "l l", "he ll"].map(String::from).to_vec(),
        ..Default::default()
    }
}

fn sentence(result: thermocline::Result<Text>) -> String {
    match result {
        Err(Error::Model(sentence)) => sentence,
        Err(other) => panic!("expected Error::Model, got {other:?}"),
        Ok(_) => panic!("expected an error"),
    }
}

#[test]
fn every_vector_passes_from_the_gguf() {
    for (text, ids) in vectors() {
        assert_eq!(FROM_GGUF.encode(text, true).unwrap(), ids, "{text:?}");
        assert_eq!(FROM_GGUF.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(FROM_GGUF.decode(&ids), text);
    }
}

#[test]
fn every_vector_passes_from_the_tokenizer_json() {
    for (text, ids) in vectors() {
        assert_eq!(FROM_JSON.encode(text, true).unwrap(), ids, "{text:?}");
        assert_eq!(FROM_JSON.decode(&ids), text);
    }
}

#[test]
fn special_tokens_are_themselves_or_plain_text() {
    for text in [&*FROM_GGUF, &*FROM_JSON] {
        let written = "<|im_start|>user\nHi<|im_end|>\n";
        assert_eq!(text.encode(written, true).unwrap(), [IM_START, 872, 198, 13048, IM_END, 198]);
        let plain = text.encode(written, false).unwrap();
        assert!(plain.iter().all(|id| !text.is_special(*id)), "{plain:?}");
        assert_eq!(text.decode(&plain), written);
        // The setting of one call does not leak into the next.
        assert_eq!(text.encode("<|im_end|>", true).unwrap(), [IM_END]);
        assert_eq!(text.decode(&[IM_START, 13048, IM_END]), "Hi");
        assert_eq!(text.spelling(IM_END), b"<|im_end|>");
    }
}

#[test]
fn ends_padding_and_limits() {
    for text in [&*FROM_GGUF, &*FROM_JSON] {
        assert_eq!(text.eos(), [END_OF_TEXT, IM_END]);
        assert!(text.is_eos(IM_END) && !text.is_eos(IM_START));
        assert_eq!(text.limit(), 151_646);
        assert!(text.holes().is_empty());
        assert_eq!(text.decode(&[151_646, 151_935, u32::MAX]), "");
        assert_eq!(text.encode("[PAD151935]", true).unwrap().len(), 9);
        assert_eq!(text.id("<|im_end|>"), Some(IM_END));
        assert_eq!(text.leading(), None);
    }
}

#[test]
fn accents_are_composed_in_both_containers() {
    for text in [&*FROM_GGUF, &*FROM_JSON] {
        assert_eq!(text.encode("Cafe\u{301}", true).unwrap(), text.encode("Caf\u{e9}", true).unwrap());
    }
}

#[test]
fn decoding_agrees_with_the_tokenizers_crate_on_every_id() {
    let reference = tokenizers::Tokenizer::from_bytes(tokenizer_json(&qwen2()).to_string()).unwrap();
    for id in 0..151_646 {
        assert_eq!(FROM_JSON.decode(&[id]), reference.decode(&[id], true).unwrap(), "{id}");
    }
}

#[test]
fn long_runs_of_anything_are_encoded() {
    for run in ["a".repeat(50_000), " ".repeat(100_000), "\n".repeat(50_000), "🦙".repeat(10_000), "1".repeat(20_000)]
    {
        let ids = FROM_GGUF.encode(&run, true).unwrap();
        assert_eq!(FROM_GGUF.decode(&ids), run);
    }
}

proptest! {
    #[test]
    fn streaming_gives_what_decoding_gives(ids in prop::collection::vec(0..ROWS as u32, 0..60)) {
        let mut stream = TextStream::new();
        let mut text: String = ids.iter().map(|&id| stream.push(FROM_GGUF.piece(id))).collect();
        text.push_str(&stream.finish());
        prop_assert_eq!(text, FROM_GGUF.decode(&ids));
    }

    #[test]
    fn encoding_loses_nothing(text in "(\\PC|[ \n\t\r]|🦙|<\\|im_end\\|>){0,60}") {
        let composed = FROM_GGUF.decode(&FROM_GGUF.encode(&text, false).unwrap());
        // Encoding composes accents, once: what it made does not change again.
        prop_assert_eq!(FROM_GGUF.decode(&FROM_GGUF.encode(&composed, false).unwrap()), composed.clone());
        if text.is_ascii() {
            prop_assert_eq!(composed, text);
        }
    }
}

#[test]
fn a_gguf_that_is_not_ours_is_refused_by_name() {
    let change = |edit: fn(&mut GgufText)| {
        let mut keys = small();
        edit(&mut keys);
        sentence(open_gguf(&keys))
    };
    assert!(open_gguf(&small()).is_ok());
    assert!(change(|k| k.model = "llama".into()).contains("\"llama\""));
    assert!(change(|k| k.pre = "llama-bpe".into()).contains("\"llama-bpe\""));
    assert!(change(|k| k.tokens.clear()).contains("tokens"));
    assert!(change(|k| k.token_types.truncate(5)).contains("5 entries"));
    assert!(change(|k| k.merges[0] = "he".into()).contains("entry 0"));
    assert!(change(|k| k.merges[0] = "h nobody".into()).contains("nobody"));
    assert!(change(|k| k.tokens[65] = "x65".into()).contains("byte 0x41"));
    // Two tokens whose sum is longer than any token.
    assert!(change(|k| k.merges.push("hell hell".into())).contains("\"hellhell\""));
    // A merge into a token that is not there.
    assert!(change(|k| k.token_types[258] = 5).contains("\"ll\""));
}

#[test]
fn a_vocabulary_longer_than_the_model_is_refused() {
    let keys = small();
    let error = Text::open(&TextSource::Gguf(keys.clone()), &config(302, &[]), TemplateOverride::Checkpoint);
    assert!(sentence(error).contains("\"<think>\" has id 302, but the model's vocabulary has 302 rows"));
    let mut json = tokenizer_json(&keys);
    json["model"]["vocab"]["zz"] = json!(4_000_000_000u32);
    assert!(sentence(open_folder(folder(&[("tokenizer.json", &json)]).path(), 303)).contains("4000000000"));
}

#[test]
fn gguf_types_decide_what_a_token_is() {
    let text = open_gguf(&small()).unwrap();
    assert_eq!(text.encode("hell<think>", false).unwrap(), [257, 302]);
    assert_eq!(text.decode(&[257, 302, 301]), "hell<think>");
    assert_eq!((text.limit(), text.holes().len()), (303, 41));
    assert_eq!(text.eos(), [300, 301]);
    // Without types, the tokens of the chat format are still found.
    let mut keys = small();
    keys.token_types.clear();
    let text = open_gguf(&keys).unwrap();
    assert_eq!(text.encode("<|im_end|>", true).unwrap(), [301]);
    assert_eq!(text.eos(), [300, 301]);
}

#[test]
fn ends_come_from_every_file_that_names_one() {
    let mut keys = small();
    keys.tokens[301] = "<|stop|>".into();
    let json = tokenizer_json(&keys);
    let with = |generation: Value, tokenizer: Value| {
        let files =
            [("tokenizer.json", &json), ("generation_config.json", &generation), ("tokenizer_config.json", &tokenizer)];
        let folder = folder(&files);
        let source = TextSource::Folder(folder.path().to_path_buf());
        Text::open(&source, &config(400, &[7]), TemplateOverride::Checkpoint)
    };
    assert_eq!(with(json!({}), json!({})).unwrap().eos(), [7, 300]);
    assert_eq!(with(json!({"eos_token_id": 9}), json!({"eos_token": "<|stop|>"})).unwrap().eos(), [7, 9, 300, 301]);
    let object = json!({"eos_token": {"content": "<|stop|>", "lstrip": false}});
    assert_eq!(with(json!({"eos_token_id": [9, 8]}), object).unwrap().eos(), [7, 8, 9, 300, 301]);
    assert!(sentence(with(json!({"eos_token_id": "nine"}), json!({}))).contains("generation_config.json"));
    let leading = with(json!({}), json!({"bos_token": "<|endoftext|>", "add_bos_token": true})).unwrap().leading();
    assert_eq!(leading, Some(300));
}

#[test]
fn files_that_are_missing_or_damaged_are_named() {
    let empty = folder(&[]);
    assert!(sentence(open_folder(empty.path(), 400)).contains("tokenizer.json is not there"));
    fs::write(empty.path().join("tokenizer.json"), "{\"model\": ").unwrap();
    assert!(sentence(open_folder(empty.path(), 400)).contains("tokenizer.json is damaged"));

    let good = tokenizer_json(&small());
    let change = |edit: fn(&mut Value)| {
        let mut json = good.clone();
        edit(&mut json);
        sentence(open_folder(folder(&[("tokenizer.json", &json)]).path(), 400))
    };
    assert!(change(|j| j["model"]["type"] = json!("Unigram")).contains("Unigram"));
    assert!(change(|j| j["model"]["byte_fallback"] = json!(true)).contains("byte_fallback"));
    assert!(change(|j| j["decoder"] = json!({"type": "Metaspace"})).contains("Metaspace"));
    assert!(change(|j| j["pre_tokenizer"] = Value::Null).contains("pre_tokenizer"));
    assert!(change(|j| j["model"]["merges"] = json!(["h"])).contains("merge \"h\""));
    assert!(change(|j| j["model"]["merges"] = json!([["h", "nobody"]])).contains("nobody"));
    for file in ["tokenizer_config.json", "generation_config.json"] {
        let broken = folder(&[("tokenizer.json", &good), (file, &json!([1]))]);
        assert!(sentence(open_folder(broken.path(), 400)).contains(file));
    }
    // Merges as pairs, the newer spelling, are the same merges.
    let mut pairs = good.clone();
    pairs["model"]["merges"] = json!([["h", "e"], ["l", "l"], ["he", "ll"]]);
    let text = open_folder(folder(&[("tokenizer.json", &pairs)]).path(), 400).unwrap();
    assert_eq!(text.encode("hell", true).unwrap(), [257]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever happens to the bytes: an error or a tokenizer, no panic.
    #[test]
    fn a_damaged_tokenizer_json_never_panics(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| tokenizer_json(&small()).to_string().into_bytes());
        let mut bytes = GOOD.clone();
        for (place, byte) in places {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), bytes).unwrap();
        if let Ok(text) = open_folder(folder.path(), 400) {
            let _ = text.encode("hello <|im_end|> 'll 123\n\n", true);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever the keys of a GGUF say: an error or a tokenizer, no panic.
    #[test]
    fn damaged_gguf_keys_never_panic(
        tokens in prop::collection::vec((any::<prop::sample::Index>(), "[a-h<|>Ġé\\[\\]0-9PAD]{0,6}"), 0..4),
        types in prop::collection::vec((any::<prop::sample::Index>(), 0u32..9), 0..4),
        merges in prop::collection::vec("[a-h]{0,3} ?[a-h]{0,3}", 0..3),
        ids in any::<[Option<u32>; 3]>(),
        template in prop::option::of("[a-z{%} ]{0,20}"),
    ) {
        let mut keys = small();
        for (at, text) in tokens {
            *at.get_mut(&mut keys.tokens) = text;
        }
        for (at, kind) in types {
            *at.get_mut(&mut keys.token_types) = kind;
        }
        keys.merges.extend(merges);
        [keys.bos, keys.eos, keys.padding] = ids;
        keys.chat_template = template;
        if let Ok(text) = open_gguf(&keys) {
            let ids = text.encode("hello <|im_end|> [PAD260] 'll", true).unwrap();
            prop_assert!(ids.iter().all(|id| (*id as usize) < text.limit()));
        }
    }
}
