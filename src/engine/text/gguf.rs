//! The tokenizer out of a GGUF's `tokenizer.*` keys.
//!
//! Text is normalised (NFC) here too, although llama.cpp does not: the models were trained behind a tokenizer
//! that does, and the same weights must give the same answer in either container. Only text that is not
//! already in that form (accents as separate characters) is affected.

use super::Parts;
use super::bpe::Vocabulary;
use crate::checkpoint::GgufText;
use crate::error::{Error, Result};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// The seven alternatives of specification section 4.2, in order.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+",
    r"|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// Token types as GGUF numbers them.
const UNKNOWN: u32 = 2;
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;
const UNUSED: u32 = 5;

/// Tokens that are control tokens whatever type a converter gave them: a chat does not work otherwise.
const ALWAYS_CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Errors (model): a tokenizer that is not byte-level BPE with Qwen2's splitting, lists that do not fit together.
pub fn read(gguf: &GgufText) -> Result<Parts> {
    let place = "tokenizer.ggml";
    let fail = |what: String| Error::Model(format!("{place}.{what}"));
    if gguf.model != "gpt2" {
        return Err(fail(format!(
            "model is {:?}; expected \"gpt2\" (byte-level BPE), the only kind SmallThinker has",
            gguf.model
        )));
    }
    let mut notes = Vec::new();
    match gguf.pre.as_str() {
        "qwen2" => {}
        "" | "default" => notes.push("the GGUF names no pre-tokenizer: qwen2 is assumed".to_string()),
        other => return Err(fail(format!("pre is {other:?}; expected \"qwen2\""))),
    }
    if gguf.tokens.is_empty() {
        return Err(fail("tokens is missing or empty".into()));
    }
    if !gguf.token_types.is_empty() && gguf.token_types.len() != gguf.tokens.len() {
        return Err(fail(format!(
            "token_type has {} entries; expected one for each of the {} tokens",
            gguf.token_types.len(),
            gguf.tokens.len()
        )));
    }

    let (mut tokens, mut added) = (Vec::with_capacity(gguf.tokens.len()), Vec::new());
    for (id, text) in (0u32..).zip(&gguf.tokens) {
        let kind = gguf.token_types.get(id as usize).copied().unwrap_or_default();
        if kind == UNUSED || is_padding(text, id) {
            continue;
        }
        let control = matches!(kind, CONTROL | UNKNOWN) || ALWAYS_CONTROL.contains(&text.as_str());
        if control || kind == USER_DEFINED {
            added.push((AddedToken::from(text.clone(), control).normalized(false), id));
        } else {
            tokens.push((text.clone(), id));
        }
    }
    let mut merges = Vec::with_capacity(gguf.merges.len());
    for (rank, merge) in gguf.merges.iter().enumerate() {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(fail(format!("merges: entry {rank} is {merge:?}; expected two tokens and a space between")));
        };
        merges.push((left.to_string(), right.to_string()));
    }

    let spelled = |id: Option<u32>| id.and_then(|id| gguf.tokens.get(id as usize)).cloned();
    let named = [("bos_token", gguf.bos), ("eos_token", gguf.eos), ("pad_token", gguf.padding)];
    Ok(Parts {
        vocabulary: Vocabulary {
            place: place.to_string(),
            tokens,
            merges,
            added,
            normalizer: Some(NFC.into()),
            pre_tokenizer: qwen2()?,
            ignore_merges: false,
        },
        eos: gguf.eos.into_iter().collect(),
        leading: gguf.bos.filter(|_| gguf.add_bos),
        named: named.into_iter().filter_map(|(name, id)| Some((name.to_string(), spelled(id)?))).collect(),
        add_bos: gguf.add_bos,
        template: gguf.chat_template.clone().map(|t| (t, "tokenizer.chat_template".to_string())),
        notes,
    })
}

/// Converters fill the rows without a token with `[PAD151669]` and so on; older ones do not mark them unused.
fn is_padding(text: &str, id: u32) -> bool {
    text.strip_prefix("[PAD").and_then(|t| t.strip_suffix(']')).is_some_and(|number| number == id.to_string())
}

fn qwen2() -> Result<PreTokenizerWrapper> {
    let split = Split::new(SplitPattern::Regex(QWEN2.to_string()), SplitDelimiterBehavior::Isolated, false)
        .expect("the pattern is a constant of ours");
    Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, false, false).into()]).into())
}
