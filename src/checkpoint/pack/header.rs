//! The keys of a packed file, as they are written.

use super::plan::Plan;
use super::{ALIGNMENT, ARCHITECTURE, I8, LAYOUT_VERSION, Source, part_name};
use crate::checkpoint::gguf::{self, Key, Vector};
use crate::checkpoint::{Checkpoint, DownOrder, GgufText, Part, TextFiles, TextSource};
use crate::config::{Config, Gating};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::io::ErrorKind;
use std::path::Path;

/// Bytes of a SHA-256 in hexadecimal.
pub(super) const HEX: usize = 64;

/// Files of text that a folder may hold.
const TEXT_FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"];
/// A real `tokenizer.json` has 11 MB.
const MOST_TEXT: u64 = 256 << 20;

/// Everything in the header that is known before a weight is read.
pub(super) struct Facts {
    keys: Vec<(String, Key)>,
}

impl Facts {
    /// Fails where a file of text cannot be read.
    pub fn of(checkpoint: &Checkpoint, plan: &Plan, quant: &str, source: &Source) -> Result<Facts> {
        let mut keys = vec![];
        let mut put = |name: &str, value: Key| keys.push((name.to_string(), value));
        put("general.architecture", Key::Text(ARCHITECTURE.into()));
        put("general.alignment", Key::Count(ALIGNMENT as u32));
        if let Some(name) = &checkpoint.config.name {
            put("general.name", Key::Text(name.clone()));
        }
        put("thermocline.layout_version", Key::Count(LAYOUT_VERSION));
        put("thermocline.quant", Key::Text(quant.into()));
        put("thermocline.source.name", Key::Text(source.name.clone()));
        put("thermocline.source.container", Key::Text(source.container.clone()));
        put("thermocline.source.bytes", Key::Size(source.bytes));
        if let Some(key) = &source.key {
            put("thermocline.source.key", Key::Text(key.clone()));
        }
        if let Some(path) = source.path.as_deref().and_then(Path::to_str) {
            put("thermocline.source.path", Key::Text(path.into()));
        }
        config(&checkpoint.config, checkpoint.down, &mut put);
        parts(checkpoint, plan, &mut put);
        match &checkpoint.text {
            TextSource::Gguf(text) => vocabulary(text, &mut put),
            TextSource::Kept(kept) => files(kept, &mut put),
            TextSource::Folder(folder) => files(&read_files(folder)?, &mut put),
        }
        Ok(Facts { keys })
    }

    /// The header with these hashes: the source's, and one for each run. Its length does not depend on them.
    pub fn bytes(&self, plan: &Plan, source: &str, runs: &[String]) -> Vec<u8> {
        assert!(source.len() == HEX && runs.len() == plan.runs.len() && runs.iter().all(|r| r.len() == HEX));
        let mut keys = self.keys.clone();
        keys.push(("thermocline.source.sha256".into(), Key::Text(source.into())));
        keys.push(("thermocline.run.sha256".into(), Key::Texts(runs.to_vec())));
        keys.push((SELF.into(), Key::Texts(vec!["0".repeat(HEX)])));
        let vectors: Vec<Vector<'_>> = plan
            .runs
            .iter()
            .map(|run| Vector { name: &run.name, kind: I8, len: run.bytes, offset: run.offset })
            .collect();
        let mut header = gguf::write(&keys, &vectors, ALIGNMENT as usize);
        let size = header.len() as u64 + plan.data_bytes;
        let parsed = gguf::parse(&header, size).expect("what was written can be read");
        let hash = super::hex(&Sha256::digest(&header));
        let at = parsed.lists[SELF].range.end - HEX;
        header[at..at + HEX].copy_from_slice(hash.as_bytes());
        header
    }
}

/// The hash of the header, taken with zeros in its own place.
pub(super) const SELF: &str = "thermocline.header.sha256";

fn config(c: &Config, down: DownOrder, put: &mut impl FnMut(&str, Key)) {
    put("thermocline.family", Key::Text(c.family.into()));
    for (name, count) in [
        ("block_count", c.layers.len()),
        ("embedding_length", c.width),
        ("context_length", c.context),
        ("vocab_size", c.vocab),
        ("attention.head_count", c.heads),
        ("attention.head_count_kv", c.kv_heads),
        ("attention.key_length", c.head_width),
        ("expert_count", c.experts),
        ("expert_used_count", c.active),
        ("expert_feed_forward_length", c.neurons),
    ] {
        put(&format!("thermocline.{name}"), Key::Count(count as u32)); // a checked config is far below 2^32
    }
    put("thermocline.attention.layer_norm_rms_epsilon", Key::Single(c.norm_epsilon));
    put("thermocline.rope.freq_base", Key::Double(c.rope_theta));
    let gating = match c.gating {
        Gating::Softmax => "softmax",
        Gating::Sigmoid => "sigmoid",
    };
    put("thermocline.expert_gating", Key::Text(gating.into()));
    put("thermocline.tied", Key::Bool(c.tied));
    let down = match down {
        DownOrder::ByOutput => "by output",
        DownOrder::ByNeuron => "by neuron",
    };
    put("thermocline.down", Key::Text(down.into()));
    put("thermocline.layer.rotary", Key::Bools(c.layers.iter().map(|l| l.rotary).collect()));
    // 0: all positions are seen.
    put("thermocline.layer.window", Key::Sizes(c.layers.iter().map(|l| l.window.unwrap_or(0) as u64).collect()));
    if let Some(bos) = c.bos {
        put("thermocline.bos", Key::Count(bos));
    }
    put("thermocline.eos", Key::Counts(c.eos.clone()));
    put("thermocline.notes", Key::Texts(c.notes.clone()));
}

/// What lies where, in the order of `Config::parts`. A shared head is the embedding.
fn parts(checkpoint: &Checkpoint, plan: &Plan, put: &mut impl FnMut(&str, Key)) {
    let config = &checkpoint.config;
    let index = |part: Part| config.part_index(part).expect("the plan is of this config");
    let mut at = vec![None; config.part_count()];
    plan.pieces().for_each(|(run, piece)| at[index(piece.part)] = Some((run, piece)));
    if config.tied {
        at[index(Part::Head)] = at[index(Part::Embedding)];
    }
    let all: Vec<_> = at.into_iter().map(|piece| piece.expect("every part has a place")).collect();
    put("thermocline.slot_bytes", Key::Size(plan.slot_bytes));
    put("thermocline.part.name", Key::Texts(config.parts().map(|p| part_name(checkpoint.family, p)).collect()));
    put("thermocline.part.format", Key::Texts(all.iter().map(|(_, p)| p.format.name().into()).collect()));
    put("thermocline.part.layout", Key::Texts(all.iter().map(|(_, p)| p.form.name().into()).collect()));
    // Rows and weights in a row, as ordinary files have them.
    put("thermocline.part.shape", Key::Counts(all.iter().flat_map(|(_, p)| [p.rows as u32, p.width as u32]).collect()));
    put("thermocline.part.run", Key::Counts(all.iter().map(|(run, _)| *run as u32).collect()));
    put("thermocline.part.offset", Key::Sizes(all.iter().map(|(_, p)| p.offset).collect()));
}

fn vocabulary(text: &GgufText, put: &mut impl FnMut(&str, Key)) {
    for (name, value) in [("model", &text.model), ("pre", &text.pre)] {
        if !value.is_empty() {
            put(&format!("tokenizer.ggml.{name}"), Key::Text(value.clone()));
        }
    }
    put("tokenizer.ggml.tokens", Key::Texts(text.tokens.clone()));
    if !text.token_types.is_empty() {
        put("tokenizer.ggml.token_type", Key::Counts(text.token_types.clone()));
    }
    put("tokenizer.ggml.merges", Key::Texts(text.merges.clone()));
    for (name, id) in [("bos", text.bos), ("eos", text.eos), ("padding", text.padding)] {
        if let Some(id) = id {
            put(&format!("tokenizer.ggml.{name}_token_id"), Key::Count(id));
        }
    }
    put("tokenizer.ggml.add_bos_token", Key::Bool(text.add_bos));
    if let Some(template) = &text.chat_template {
        put("tokenizer.chat_template", Key::Text(template.clone()));
    }
}

/// The prefix of keys that hold a file of text each.
pub(super) const TEXT: &str = "thermocline.text.";

fn files(kept: &TextFiles, put: &mut impl FnMut(&str, Key)) {
    kept.files.iter().for_each(|(name, text)| put(&format!("{TEXT}{name}"), Key::Text(text.clone())));
}

fn read_files(folder: &Path) -> Result<TextFiles> {
    let mut files = vec![];
    for name in TEXT_FILES {
        let path = folder.join(name);
        let refuse = |what: String| Error::Model(format!("{}: {what}", path.display()));
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > MOST_TEXT => {
                return Err(refuse(format!("expected at most {MOST_TEXT} bytes, found {}", meta.len())));
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(refuse(format!("cannot be read: {e}"))),
        }
        let text = std::fs::read_to_string(&path).map_err(|e| refuse(format!("cannot be read: {e}")))?;
        files.push((name.to_string(), text));
    }
    Ok(TextFiles { place: folder.to_path_buf(), files })
}
