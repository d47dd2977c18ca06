//! The tokenizer out of the files beside the weights: `tokenizer.json`, `tokenizer_config.json`,
//! `chat_template.jinja` and `generation_config.json`. Only the first must exist. A packed file keeps them inside.

use super::Parts;
use super::bpe::Vocabulary;
use crate::checkpoint::TextFiles;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};

/// Where the files are.
pub enum Shelf<'a> {
    Folder(&'a Path),
    Kept(&'a TextFiles),
}

impl Shelf<'_> {
    /// What sentences call one of the files.
    fn path(&self, name: &str) -> PathBuf {
        match self {
            Shelf::Folder(folder) => folder.join(name),
            Shelf::Kept(kept) => kept.place.join(name),
        }
    }

    /// `None` when there is no such file.
    fn bytes(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>> {
        match self {
            Shelf::Kept(kept) => Ok(kept.get(name).map(|text| text.as_bytes().into())),
            Shelf::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(bytes.into())),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                Err(e) => Err(Error::Model(format!("{} cannot be read: {e}", self.path(name).display()))),
            },
        }
    }

    /// A file that may be missing (an empty object then) and otherwise holds one JSON object.
    fn json(&self, name: &str) -> Result<Value> {
        let Some(bytes) = self.bytes(name)? else { return Ok(Value::Object(Default::default())) };
        match serde_json::from_slice(&bytes) {
            Ok(object @ Value::Object(_)) => Ok(object),
            Ok(_) => Err(Error::Model(format!("{}: expected a JSON object", self.path(name).display()))),
            Err(e) => Err(Error::Model(format!("{} is damaged: {e}", self.path(name).display()))),
        }
    }
}

/// Errors (model): `tokenizer.json` missing, any file damaged, a tokenizer that is not byte-level BPE.
pub fn read(folder: &Shelf<'_>) -> Result<Parts> {
    let path = folder.path("tokenizer.json");
    let place = path.display().to_string();
    let Some(bytes) = folder.bytes("tokenizer.json")? else {
        return Err(Error::Model(format!("{place} is not there; a model folder needs it to read and write text")));
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|e| Error::Model(format!("{place} is damaged: {e}")))?;
    file.check(&place)?;
    let config = folder.json("tokenizer_config.json")?;
    let generation = folder.json("generation_config.json")?;

    let names = ["bos_token", "eos_token", "pad_token", "unk_token"];
    let named = names.iter().filter_map(|&name| Some((name.to_string(), token_text(config.get(name)?)?))).collect();
    let eos = match generation.get("eos_token_id") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(ids)) => ids.iter().map(|v| eos_id(v, folder)).collect::<Result<_>>()?,
        Some(id) => vec![eos_id(id, folder)?],
    };
    Ok(Parts {
        vocabulary: Vocabulary {
            place,
            tokens: file.model.vocab.0,
            merges: file
                .model
                .merges
                .into_iter()
                .map(Merge::pair)
                .collect::<std::result::Result<_, _>>()
                .map_err(|merge| Error::Model(format!("{}: merge {merge:?}; expected two tokens", path.display())))?,
            added: file.added_tokens.into_iter().map(|t| (t.token, t.id)).collect(),
            normalizer: file.normalizer,
            pre_tokenizer: file.pre_tokenizer.expect("checked above"),
            ignore_merges: file.model.ignore_merges,
        },
        eos,
        leading: None,
        named,
        add_bos: config.get("add_bos_token").and_then(Value::as_bool).unwrap_or(false),
        template: template(folder, &config)?,
        notes: Vec::new(),
    })
}

/// The checkpoint's own template and where it stands. `chat_template.jinja` wins; of a list, `default`.
fn template(folder: &Shelf<'_>, config: &Value) -> Result<Option<(String, String)>> {
    if let Some(bytes) = folder.bytes("chat_template.jinja")? {
        let place = folder.path("chat_template.jinja").display().to_string();
        let text =
            String::from_utf8(bytes.into_owned()).map_err(|_| Error::Model(format!("{place} is not UTF-8 text")))?;
        return Ok(Some((text, place)));
    }
    let place = format!("{} (chat_template)", folder.path("tokenizer_config.json").display());
    let fail = |what: String| Error::Model(format!("{place}: {what}"));
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some((text.clone(), place))),
        Some(Value::Array(list)) => {
            let name_of = |t: &Value| t.get("name").and_then(Value::as_str).unwrap_or_default().to_string();
            let chosen = match list.as_slice() {
                [only] => Some(only),
                _ => list.iter().find(|t| name_of(t) == "default"),
            };
            let Some(chosen) = chosen else {
                let names: Vec<String> = list.iter().map(name_of).collect();
                return Err(fail(format!("expected a template named \"default\", found {names:?}")));
            };
            match chosen.get("template").and_then(Value::as_str) {
                Some(text) => Ok(Some((text.to_string(), place))),
                None => Err(fail(format!("the entry {:?} has no \"template\" text", name_of(chosen)))),
            }
        }
        Some(_) => Err(fail("expected text or a list of named templates".into())),
    }
}

fn eos_id(value: &Value, folder: &Shelf<'_>) -> Result<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
        let place = folder.path("generation_config.json");
        Error::Model(format!("{}: eos_token_id is {value}; expected a token id or a list of them", place.display()))
    })
}

/// A token is written as text, or as an object with its `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
}

/// `tokenizer.json`, as far as it matters to us. Truncation, padding and post-processing are the caller's business.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Option<NormalizerWrapper>,
    #[serde(default)]
    pre_tokenizer: Option<PreTokenizerWrapper>,
    #[serde(default)]
    decoder: Option<Typed>,
    model: Model,
}

impl File {
    /// Errors: whatever this file asks of its tokenizer that byte-level BPE does not have, by name.
    fn check(&self, place: &str) -> Result<()> {
        let fail = |what: String| Err(Error::Model(format!("{place}: {what}")));
        if let Some(kind) = self.model.kind.as_deref().filter(|k| *k != "BPE") {
            return fail(format!("the tokenizer's model is {kind:?}; expected \"BPE\""));
        }
        match &self.decoder {
            Some(d) if d.kind == "ByteLevel" => {}
            Some(d) => return fail(format!("the decoder is {:?}; expected \"ByteLevel\"", d.kind)),
            None => return fail("there is no decoder; expected \"ByteLevel\"".into()),
        }
        if self.pre_tokenizer.is_none() {
            return fail("there is no pre_tokenizer; expected one that ends in \"ByteLevel\"".into());
        }
        let m = &self.model;
        let odd = [
            ("dropout", m.dropout.is_some_and(|d| d != 0.0)),
            ("continuing_subword_prefix", m.continuing_subword_prefix.as_deref().is_some_and(|s| !s.is_empty())),
            ("end_of_word_suffix", m.end_of_word_suffix.as_deref().is_some_and(|s| !s.is_empty())),
            ("byte_fallback", m.byte_fallback),
        ];
        match odd.iter().find(|(_, used)| *used) {
            Some((key, _)) => fail(format!("the BPE model uses {key:?}, which byte-level BPE does not have")),
            None => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    vocab: Tokens,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// "left right" in older files, `["left", "right"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

impl Merge {
    fn pair(self) -> std::result::Result<(String, String), String> {
        match self {
            Merge::Pair(left, right) => Ok((left, right)),
            Merge::Text(text) => match text.split_once(' ') {
                Some((left, right)) => Ok((left.to_string(), right.to_string())),
                None => Err(text),
            },
        }
    }
}

/// A JSON object of token to id, in the order of the file.
#[derive(Default)]
struct Tokens(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Tokens;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object that gives each token its id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Tokens, A::Error> {
                let mut tokens = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    tokens.push(entry);
                }
                Ok(Tokens(tokens))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
