//! The whole model in plain f32, written to be read beside the specification (section 3.1) and never optimised.
//!
//! It is the judge of `decoder.rs`, and, because every step can be differentiated, it also trains the bundled
//! model (`examples/train_tiny`). It keeps no cache: each call computes all positions from the first.
//! Numbers in brackets at the ends of lines are the specification's steps.

mod gradient;

use crate::checkpoint::{Checkpoint, DownOrder, Part};
use crate::config::{Config, Gating, Layer};
use crate::error::Result;
use candle_core::{D, DType, Device, Tensor};
use gradient::{CausalSoftmax, RmsNorm, Rotate};

/// The model: shapes in the comments are the checkpoint's, `[out, in]`.
pub struct Reference {
    config: Config,
    embed: Tensor, // [vocab, width]
    blocks: Vec<Block>,
    norm: Tensor, // [width]
    head: Tensor, // [vocab, width]
}

struct Block {
    layer: Layer,
    norm_in: Tensor,      // [width]
    query: Tensor,        // [heads * head_width, width]
    key: Tensor,          // [kv_heads * head_width, width]
    value: Tensor,        // [kv_heads * head_width, width]
    out: Tensor,          // [width, heads * head_width]
    norm_ffn: Tensor,     // [width]
    router: Tensor,       // [experts, width]
    experts: Vec<Expert>, // ascending index
}

struct Expert {
    gate: Tensor, // [neurons, width]
    up: Tensor,   // [neurons, width]
    down: Tensor, // [width, neurons]
}

/// What one forward pass computed. `n` is `batch * t`, tokens in order.
pub struct Output {
    /// `[batch, t, vocab]`
    pub logits: Tensor,
    /// One entry per layer.
    pub layers: Vec<Seen>,
}

/// What one layer chose and which of its neurons spoke: for losses and statistics.
pub struct Seen {
    /// Router logits of all experts, `[n, experts]`.
    pub router: Tensor,
    /// The chosen experts of each token, ascending: `[n, active]`, row-major.
    pub chosen: Vec<u32>,
    /// relu(gate) of each expert that was chosen at all: its index and `[tokens that chose it, neurons]`.
    pub gates: Vec<(usize, Tensor)>,
}

impl Reference {
    /// The model of an opened checkpoint, every weight decoded to f32.
    pub fn open(checkpoint: &Checkpoint) -> Result<Reference> {
        Reference::new(&checkpoint.config, |part, shape| {
            let stored = checkpoint.stored(part);
            let tensor = Tensor::from_vec(stored.decode(), (stored.rows, stored.width), &Device::Cpu)?;
            let by_neuron = matches!(part, Part::Down(..)) && checkpoint.down == DownOrder::ByNeuron;
            let tensor = if by_neuron { tensor.t()?.contiguous()? } else { tensor };
            Ok(tensor.reshape(shape)?)
        })
    }

    /// Builds the model from a lookup of its parts; shapes are the checkpoint's (specification 2.1).
    ///
    /// The lookup answers f32 tensors; it is asked for each part once, for the head only when it is not tied.
    /// Errors are the lookup's own: a missing part, a wrong shape.
    pub fn new(config: &Config, mut weight: impl FnMut(Part, &[usize]) -> Result<Tensor>) -> Result<Reference> {
        let (width, neurons) = (config.width, config.neurons);
        let (heads, kv) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let embed = weight(Part::Embedding, &[config.vocab, width])?;
        let mut blocks = Vec::with_capacity(config.layers.len());
        for (i, layer) in (0u16..).zip(&config.layers) {
            let mut experts = Vec::with_capacity(config.experts);
            for e in 0..config.experts as u16 {
                experts.push(Expert {
                    gate: weight(Part::Gate(i, e), &[neurons, width])?,
                    up: weight(Part::Up(i, e), &[neurons, width])?,
                    down: weight(Part::Down(i, e), &[width, neurons])?,
                });
            }
            blocks.push(Block {
                layer: *layer,
                norm_in: weight(Part::NormIn(i), &[width])?,
                query: weight(Part::Query(i), &[heads, width])?,
                key: weight(Part::Key(i), &[kv, width])?,
                value: weight(Part::Value(i), &[kv, width])?,
                out: weight(Part::AttentionOut(i), &[width, heads])?,
                norm_ffn: weight(Part::NormFfn(i), &[width])?,
                router: weight(Part::Router(i), &[config.experts, width])?,
                experts,
            });
        }
        let norm = weight(Part::OutputNorm, &[width])?;
        let head = if config.tied { embed.clone() } else { weight(Part::Head, &[config.vocab, width])? };
        Ok(Reference { config: config.clone(), embed, blocks, norm, head })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Logits at every position. `tokens`: `[batch, t]`, u32, each row starting at position 0.
    pub fn forward(&self, tokens: &Tensor) -> Result<Output> {
        let (batch, t) = tokens.dims2()?;
        let mut x = self.embed.index_select(&tokens.flatten_all()?, 0)?; // [n, width]                          (1)
        let mut layers = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let router = linear(&x, &block.router)?; // the raw residual, before any norm                     (2.1)
            let h = self.rms_norm(&x, &block.norm_in)?; //                                                    (2.2)
            x = (&x + self.attention(block, &h, batch, t)?)?; //                                        (2.3 - 2.7)
            let h = self.rms_norm(&x, &block.norm_ffn)?; //                                                   (2.8)
            let (y, seen) = self.mixture(block, &h, router)?; //                                       (2.9 - 2.10)
            x = (&x + y)?; //                                                                                (2.11)
            layers.push(seen);
        }
        let logits = linear(&self.rms_norm(&x, &self.norm)?, &self.head)?; //                                   (3)
        Ok(Output { logits: logits.reshape((batch, t, self.config.vocab))?, layers })
    }

    /// `h` `[n, width]` -> `[n, width]`. Every position sees itself and earlier ones, at most `window` of them.
    fn attention(&self, block: &Block, h: &Tensor, batch: usize, t: usize) -> Result<Tensor> {
        let Config { heads, kv_heads, head_width, rope_theta, .. } = self.config;
        let split = |w: &Tensor, count: usize| linear(h, w)?.reshape((batch, t, count, head_width)); //        (2.3)
        let (mut q, mut k) = (split(&block.query, heads)?, split(&block.key, kv_heads)?);
        let v = split(&block.value, kv_heads)?;
        if block.layer.rotary {
            q = q.apply_op1(Rotate::by_position(rope_theta))?; //                                             (2.4)
            k = k.apply_op1(Rotate::by_position(rope_theta))?;
        }
        let by_head = |x: Tensor| x.transpose(1, 2)?.contiguous(); // [batch, count, t, head_width]
        let (q, k, v) = (by_head(q)?, by_head(k)?, by_head(v)?);
        // Heads g*j .. g*j + g - 1 ask key head j: lay their queries one after the other.                    (2.5)
        let q = q.reshape((batch, kv_heads, heads / kv_heads * t, head_width))?;
        let scores = q.matmul(&k.t()?)?.reshape((batch, heads, t, t))?; //                                    (2.6)
        let scale = 1.0 / (head_width as f32).sqrt();
        let shares = scores.apply_op1(CausalSoftmax { scale, window: block.layer.window })?;
        let mixed = shares.reshape((batch, kv_heads, heads / kv_heads * t, t))?.matmul(&v)?;
        let mixed = mixed.reshape((batch, heads, t, head_width))?.transpose(1, 2)?;
        Ok(linear(&mixed.reshape((batch * t, heads * head_width))?, &block.out)?)
    }

    /// `h` `[n, width]`, `router` `[n, experts]` -> `[n, width]`.
    fn mixture(&self, block: &Block, h: &Tensor, router: Tensor) -> Result<(Tensor, Seen)> {
        let active = self.config.active;
        let chosen = choose(&router.to_vec2()?, active);
        let n = chosen.len() / active;
        let ids = Tensor::from_slice(&chosen, (n, active), h.device())?;
        let logits = router.gather(&ids, 1)?; // of the chosen experts only
        let weights = match self.config.gating {
            Gating::Softmax => candle_nn::ops::softmax(&logits, D::Minus1)?, //                               (2.9)
            Gating::Sigmoid => {
                let sigmoid = (logits.neg()?.exp()? + 1.0)?.recip()?;
                sigmoid.broadcast_div(&sigmoid.sum_keepdim(D::Minus1)?)?
            }
        };

        // Each expert computes all of its tokens at once; `place` remembers in which row an answer went.
        let mut place = vec![0u32; chosen.len()];
        let (mut gates, mut answers, mut rows_so_far) = (Vec::new(), Vec::new(), 0u32);
        for (e, expert) in block.experts.iter().enumerate() {
            let mine: Vec<usize> = (0..chosen.len()).filter(|&i| chosen[i] as usize == e).collect();
            if mine.is_empty() {
                continue;
            }
            let tokens: Vec<u32> = mine.iter().map(|&i| (i / active) as u32).collect();
            for (row, &i) in (rows_so_far..).zip(&mine) {
                place[i] = row;
            }
            rows_so_far += tokens.len() as u32;
            let h = h.index_select(&Tensor::new(tokens, h.device())?, 0)?;
            let gate = linear(&h, &expert.gate)?.relu()?;
            answers.push(linear(&(&gate * linear(&h, &expert.up)?)?, &expert.down)?); //                      (2.10)
            gates.push((e, gate));
        }
        let answers = Tensor::cat(&answers, 0)?; // [n * active, width]

        // The weight is applied to the expert's output; experts are added in ascending order.
        let mut sum: Option<Tensor> = None;
        for slot in 0..active {
            let rows: Vec<u32> = place.iter().skip(slot).step_by(active).copied().collect();
            let answer = answers.index_select(&Tensor::new(rows, h.device())?, 0)?;
            let weighted = answer.broadcast_mul(&weights.narrow(1, slot, 1)?)?;
            sum = Some(match sum {
                None => weighted,
                Some(sum) => (sum + weighted)?,
            });
        }
        let sum = sum.expect("a config with no active experts is refused at the door");
        Ok((sum, Seen { router, chosen, gates }))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        x.apply_op2(weight, RmsNorm { epsilon: self.config.norm_epsilon })
    }
}

/// `x` `[n, in]` times `weight` `[out, in]`: no bias anywhere in this family.
fn linear(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    debug_assert_eq!(weight.dtype(), DType::F32);
    x.matmul(&weight.t()?)
}

/// The `active` largest logits of each row, ties to the lower index, in ascending order of index.             (2.9)
fn choose(router: &[Vec<f32>], active: usize) -> Vec<u32> {
    let mut chosen = Vec::with_capacity(router.len() * active);
    for logits in router {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize])); // stable: ties keep the lower first
        ids.truncate(active);
        ids.sort_unstable();
        chosen.extend(ids);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_index_and_choices_ascend() {
        let rows = [vec![1.0, 3.0, 3.0, 3.0], vec![-1.0, -5.0, -0.5, 0.25]];
        assert_eq!(choose(&rows, 2), [1, 2, 2, 3]);
    }
}
