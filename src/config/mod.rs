//! What a model *is*, as plain data, checked at the door.
//!
//! A `Config` is built by a family (`family/*.rs`) from `config.json` or from GGUF metadata, and is
//! complete: nothing below asks a file again, and no room assumes a pattern where a list is given.

/// How a router's chosen logits become weights. Choice is always by logit; see the specification, section 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over the chosen logits only (21B).
    Softmax,
    /// Sigmoid of each chosen logit, divided by their sum (4B).
    Sigmoid,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Rotate queries and keys (RoPE, half-split), or leave positions out (NoPE).
    pub rotary: bool,
    /// `Some(n)`: a query at position p sees keys at p-n+1 ..= p. `None`: all keys up to p.
    pub window: Option<usize>,
}

/// The whole shape of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the family that read it, e.g. `"smallthinker"`.
    pub family: &'static str,
    /// The checkpoint's own name for itself, when it has one.
    pub name: Option<String>,
    pub layers: Vec<Layer>,
    /// Width of the residual stream (hidden size).
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Width of one attention head; `heads * head_width` need not equal `width`.
    pub head_width: usize,
    /// Rows of the embedding, padding rows included.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub context: usize,
    pub norm_epsilon: f32,
    pub rope_theta: f64,
    /// Experts in each layer, those chosen per token, and neurons (rows of gate and up) in each expert.
    pub experts: usize,
    pub active: usize,
    pub neurons: usize,
    pub gating: Gating,
    /// The head is the embedding (after the loader has settled what the file really holds).
    pub tied: bool,
    pub bos: Option<u32>,
    /// Every id that ends an answer.
    pub eos: Vec<u32>,
    /// Assumptions made where the file was silent, one sentence each; printed at load.
    pub notes: Vec<String>,
}
