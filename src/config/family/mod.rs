//! Families of models: how each writes its shape down, and what it calls its tensors.
//!
//! A family is plain data and a few functions from names to names; a new one is a file here and a line in [`ALL`].

mod fields;
mod smallthinker;

pub use fields::{Fields, Value};

use super::{Config, Part};

/// One family of models.
pub struct Family {
    pub name: &'static str,
    /// Entries of `architectures` in `config.json` that mean this family.
    pub architectures: &'static [&'static str],
    /// `general.architecture` in GGUF files.
    pub gguf_architecture: &'static str,
    /// The shape from `config.json`. Sentences do not name the file; the caller does.
    pub from_json: fn(Fields) -> Result<Config, String>,
    /// The shape from GGUF metadata, the ids that end a text left out (they need the vocabulary).
    pub from_gguf: fn(Fields) -> Result<Config, String>,
    /// The tensor of one part in safetensors files.
    pub tensor: fn(Part) -> String,
    /// The tensor of one part in GGUF files; all experts of a layer share one, stacked.
    pub gguf_tensor: fn(Part) -> String,
    /// A tensor that is no part of the model but harmless: the note to print, empty where nobody needs to know.
    pub surplus: fn(&str) -> Option<&'static str>,
    /// Tokens that end an answer, by their text: GGUF files name only one of them.
    pub end_tokens: &'static [&'static str],
}

/// Every family we read.
pub static ALL: &[&Family] = &[&smallthinker::FAMILY];

/// Which family a `config.json` belongs to. `architectures` decides; repository names and `model_type` do not.
pub fn of_json(fields: &Fields) -> Result<&'static Family, String> {
    let names: Vec<&str> = match fields.get("architectures") {
        Some(Value::List(list)) => {
            list.iter().filter_map(|v| if let Value::Text(t) = v { Some(t.as_str()) } else { None }).collect()
        }
        Some(Value::Text(t)) => vec![t],
        _ => vec![],
    };
    if names.is_empty() {
        return Err("the key architectures is missing, so its family is unknown".into());
    }
    let known = ALL.iter().find(|f| names.iter().any(|n| f.architectures.contains(n)));
    known.copied().ok_or_else(|| {
        unknown(&names.join(", "), &ALL.iter().flat_map(|f| f.architectures).copied().collect::<Vec<_>>())
    })
}

/// Which family a GGUF file belongs to.
pub fn of_gguf(fields: &Fields) -> Result<&'static Family, String> {
    let name = fields.text_opt("general.architecture")?.ok_or("the key general.architecture is missing")?;
    let known = ALL.iter().find(|f| f.gguf_architecture == name);
    known.copied().ok_or_else(|| unknown(name, &ALL.iter().map(|f| f.gguf_architecture).collect::<Vec<_>>()))
}

fn unknown(found: &str, known: &[&str]) -> String {
    let known = known.join(", ");
    if found.to_lowercase().starts_with("qwen2") {
        return format!(
            "architecture {found} is a dense Qwen2, expected {known}. SmallThinker-3B-Preview is such a dense model in spite of \
             its name; the sparse ones are SmallThinker-4BA0.6B-Instruct and SmallThinker-21BA3B-Instruct"
        );
    }
    format!("architecture {found} is not one this program runs, expected {known}")
}
