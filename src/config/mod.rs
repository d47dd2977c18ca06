//! What a model *is*, as plain data, checked at the door.
//!
//! A `Config` is built by a family (`family/*.rs`) from `config.json` or from GGUF metadata, and is
//! complete: nothing below asks a file again, and no room assumes a pattern where a list is given.

pub mod family;
mod part;
pub mod placement;
pub mod size;

pub use part::{DownOrder, Part};

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

/// What a size may be at most. Real models stay far below; a damaged file does not, and with these limits no product of
/// sizes below can overflow 64 bits.
const MOST_LAYERS: usize = 1 << 10;
const MOST_EXPERTS: usize = 1 << 12;
const MOST_HEADS: usize = 1 << 12;
const MOST_HEAD_WIDTH: usize = 1 << 12;
const MOST_WIDTH: usize = 1 << 18;
const MOST_NEURONS: usize = 1 << 18;
const MOST_VOCAB: usize = 1 << 24;
const MOST_CONTEXT: usize = 1 << 30;

/// Vectors are rounded in blocks of 32, so every width that is dotted is whole blocks of 32.
const BLOCK: usize = 32;

impl Config {
    /// Refuses shapes that cannot be run, in a sentence that names the size. Called by every loader, before any tensor is
    /// looked at; nothing below checks again.
    pub fn check(&self) -> Result<(), String> {
        for (what, found, most) in [
            ("layers", self.layers.len(), MOST_LAYERS),
            ("hidden width", self.width, MOST_WIDTH),
            ("attention heads", self.heads, MOST_HEADS),
            ("key/value heads", self.kv_heads, MOST_HEADS),
            ("head width", self.head_width, MOST_HEAD_WIDTH),
            ("vocabulary size", self.vocab, MOST_VOCAB),
            ("context length", self.context, MOST_CONTEXT),
            ("experts per layer", self.experts, MOST_EXPERTS),
            ("active experts", self.active, MOST_EXPERTS),
            ("neurons per expert", self.neurons, MOST_NEURONS),
        ] {
            if found == 0 {
                return Err(format!("{what}: expected at least 1, found 0"));
            }
            if found > most {
                return Err(format!("{what}: expected at most {most}, found {found}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} attention heads cannot share {} key/value heads evenly; expected a multiple",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_width.is_multiple_of(16) {
            return Err(format!("head width: expected a multiple of 16, found {}", self.head_width));
        }
        if self.active > self.experts {
            return Err(format!("{} experts are to be active, but a layer has only {}", self.active, self.experts));
        }
        for (what, found) in [
            ("hidden width", self.width),
            ("neurons per expert", self.neurons),
            ("heads times head width", self.heads * self.head_width),
        ] {
            if !found.is_multiple_of(BLOCK) {
                return Err(format!("{what}: expected a multiple of {BLOCK}, found {found}"));
            }
        }
        if let Some(i) = self.layers.iter().position(|l| l.window == Some(0)) {
            return Err(format!("layer {i} has a sliding window of 0 positions; expected at least 1"));
        }
        if !(self.norm_epsilon.is_finite() && (0.0..1.0).contains(&self.norm_epsilon)) {
            return Err(format!("norm epsilon: expected a number from 0 to 1, found {}", self.norm_epsilon));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return Err(format!("rope theta: expected a finite number of at least 1, found {}", self.rope_theta));
        }
        for id in self.bos.iter().chain(&self.eos) {
            if *id as usize >= self.vocab {
                return Err(format!(
                    "token id {id} begins or ends a text, but the vocabulary has only {} ids",
                    self.vocab
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn small() -> Config {
        Config {
            family: "smallthinker",
            name: None,
            layers: vec![Layer { rotary: true, window: None }; 3],
            width: 64,
            heads: 4,
            kv_heads: 2,
            head_width: 16,
            vocab: 100,
            context: 512,
            norm_epsilon: 1e-6,
            rope_theta: 1.5e6,
            experts: 4,
            active: 2,
            neurons: 32,
            gating: Gating::Sigmoid,
            tied: true,
            bos: Some(0),
            eos: vec![1, 2],
            notes: vec![],
        }
    }

    #[test]
    fn a_sound_shape_passes() {
        assert_eq!(small().check(), Ok(()));
    }

    #[test]
    fn each_broken_size_is_named() {
        type Spoil = fn(&mut Config);
        let cases: &[(&str, Spoil)] = &[
            ("share 3 key/value heads", |c| c.kv_heads = 3),
            ("head width: expected a multiple of 16, found 24", |c| c.head_width = 24),
            ("head width: expected at least 1", |c| c.head_width = 0),
            ("5 experts are to be active, but a layer has only 4", |c| c.active = 5),
            ("hidden width: expected a multiple of 32, found 72", |c| c.width = 72),
            ("neurons per expert: expected a multiple of 32", |c| c.neurons = 33),
            ("layers: expected at least 1", |c| c.layers.clear()),
            ("vocabulary size: expected at most", |c| c.vocab = usize::MAX),
            ("hidden width: expected at most", |c| c.width = usize::MAX / 2),
            ("context length: expected at least 1", |c| c.context = 0),
            ("layer 1 has a sliding window of 0", |c| c.layers[1].window = Some(0)),
            ("norm epsilon", |c| c.norm_epsilon = f32::NAN),
            ("rope theta", |c| c.rope_theta = f64::INFINITY),
            ("token id 100", |c| c.eos.push(100)),
            ("token id 4000000000", |c| c.bos = Some(4_000_000_000)),
        ];
        for (expected, spoil) in cases {
            let mut config = small();
            spoil(&mut config);
            let sentence = config.check().expect_err(expected);
            assert!(sentence.contains(expected), "{sentence:?} does not contain {expected:?}");
        }
    }
}
