//! Opens a model folder or GGUF file and answers one question: where are the bytes of tensor X?
//! Reads headers, never weights (`convert.rs` alone streams weights, to quantise).

pub mod hub;

use crate::config::Config;
use crate::error::Result;
use kernels::Format;
use std::path::{Path, PathBuf};

/// What a tensor is for. Containers map their own names onto this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Embedding,
    OutputNorm,
    Head,
    NormIn(u16),
    Query(u16),
    Key(u16),
    Value(u16),
    AttentionOut(u16),
    NormFfn(u16),
    Router(u16),
    /// (layer, expert)
    Gate(u16, u16),
    Up(u16, u16),
    Down(u16, u16),
}

/// How a `down` matrix lies in its file: `[width, neurons]` (ordinary) or `[neurons, width]` (PowerInfer's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownOrder {
    ByOutput,
    ByNeuron,
}

/// One matrix (or vector: `rows == 1`) as its file stores it, checked: `bytes` is whole and in bounds.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub format: Format,
    pub rows: usize,
    pub width: usize,
    pub bytes: &'a [u8],
}

/// Where text comes from: files beside the weights, or keys inside a GGUF.
#[derive(Clone, Debug)]
pub enum TextSource {
    /// Folder with `tokenizer.json`, `tokenizer_config.json`, maybe `chat_template.jinja`, `generation_config.json`.
    Folder(PathBuf),
    /// Vocabulary out of GGUF metadata.
    Gguf(GgufText),
}

/// The `tokenizer.*` keys of a GGUF.
#[derive(Clone, Debug, Default)]
pub struct GgufText {
    pub model: String,
    pub pre: String,
    pub tokens: Vec<String>,
    /// GGUF token types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<u32>,
    /// "left right" pairs in order of rank.
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub padding: Option<u32>,
    pub add_bos: bool,
    pub chat_template: Option<String>,
}

/// An opened checkpoint: validated headers, memory-mapped files, no weight read.
pub struct Checkpoint {
    pub config: Config,
    pub text: TextSource,
    pub down: DownOrder,
    // private: maps, catalogue
}

impl Checkpoint {
    /// `path` is a folder (safetensors, or holding one GGUF) or a `.gguf` file.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let _ = path;
        todo!("checkpoint")
    }
    /// The bytes of one part, borrowed from the map. `Head` of a tied model is the embedding.
    pub fn stored(&self, part: Part) -> Stored<'_> {
        let _ = part;
        todo!("checkpoint")
    }
}
