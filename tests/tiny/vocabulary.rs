//! A vocabulary for tiny models: three control tokens, then one token for each byte, then a few words.

use serde_json::{Value, json};

/// Vocabularies of so many tokens or more have every byte; smaller ones are names without meaning.
pub const LETTERS: usize = 3 + 256;

const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// The spellings of all tokens by id, bytes in the alphabet of byte-level BPE.
pub fn tokens(vocab: usize) -> Vec<String> {
    let mut tokens: Vec<String> = CONTROL.map(String::from).into();
    if vocab >= LETTERS {
        let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut odd = '\u{100}'..;
        let letter = |b: u8| if printable(b) { b as char } else { odd.next().expect("enough characters") };
        tokens.extend((0..=255u8).map(letter).map(String::from));
    }
    tokens.extend((tokens.len()..vocab).map(|i| format!("t{i}")));
    tokens
}

/// The same as the file beside safetensors.
pub fn tokenizer_json(vocab: usize) -> Value {
    let ids: serde_json::Map<String, Value> =
        tokens(vocab).into_iter().zip(0u32..).skip(CONTROL.len()).map(|(text, id)| (text, json!(id))).collect();
    let control = |(text, id): (&str, u32)| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": true})
    };
    json!({
        "version": "1.0",
        "added_tokens": CONTROL.into_iter().zip(0u32..).map(control).collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "vocab": ids, "merges": []},
    })
}
