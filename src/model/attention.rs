//! Grouped-query attention over the cache (specification 3.1, steps 2.2 to 2.7).

use super::kv::{Heads, LayerKv};
use super::linear::Linear;
use super::vector::Vector;
use crate::bridge::tensor;
use crate::checkpoint::{Part, Weights};
use crate::config::Config;
use crate::device::{Accelerator, What};
use crate::error::Result;
use crate::host::{Host, Share};
use candle_core::{Device, Tensor};
use kernels::Activations;
use kernels::attend::{self, KvHead, Queries, Scratch, Span, TOKENS};
use kernels::rope::{Angles, Rope, rotate};
use std::cell::{OnceCell, RefCell};

/// Cosines and sines for the positions of a step, shared by all layers.
pub struct Rotation {
    rope: Rope,
}

/// Where a step stands: its first position, and the angles of all of them.
pub struct Turns {
    pub first: usize,
    angles: Angles,
    /// Cosines and sines on an accelerator, `[count, head_width / 2]`.
    there: OnceCell<(Tensor, Tensor)>,
}

impl Turns {
    /// Positions of the step.
    pub fn len(&self) -> usize {
        self.angles.len()
    }

    /// Cosines and sines of a token of the step, each half a head.
    pub fn at(&self, token: usize) -> (&[f32], &[f32]) {
        self.angles.at(token)
    }

    /// Cosines and sines on the accelerator, carried there when a layer first asks.
    pub fn there(&self, accelerator: &Accelerator) -> Result<&(Tensor, Tensor)> {
        if self.there.get().is_none() {
            let rows: Vec<_> = (0..self.len()).map(|token| self.angles.at(token)).collect();
            let carry = |values: Vec<&[f32]>| {
                let table = Tensor::from_vec(values.concat(), (self.len(), values[0].len()), &Device::Cpu)?;
                accelerator.bring(What::Angles, &table)
            };
            let cos = carry(rows.iter().map(|row| row.0).collect())?;
            let _ = self.there.set((cos, carry(rows.iter().map(|row| row.1).collect())?)); // nobody else holds it
        }
        Ok(self.there.get().expect("set above"))
    }
}

impl Rotation {
    pub fn new(config: &Config) -> Rotation {
        Rotation { rope: Rope::new(config.rope_theta, config.head_width) }
    }

    /// For `count` positions from `first` on.
    pub fn at(&self, first: usize, count: usize) -> Turns {
        Turns { first, angles: self.rope.angles(first..first + count), there: OnceCell::new() }
    }
}

/// One sequence's part of a step: its cache, its rows of q, k and v, and of what comes out.
struct Own<'a> {
    kv: &'a mut Heads,
    first: usize,
    angles: &'a Angles,
    qkv: &'a mut [f32],
    out: &'a mut [f32],
}

impl Own<'_> {
    fn span(&self) -> Span {
        Span { first: self.first, tokens: self.angles.len(), window: self.kv.window }
    }
}

pub struct Attention {
    qkv: Linear, // [heads * head_width + 2 * kv_heads * head_width, width]
    out: Linear, // [width, heads * head_width]
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    rotary: bool,
}

impl Attention {
    pub fn new(config: &Config, layer: u16, weights: &Weights) -> Attention {
        let qkv = [Part::Query(layer), Part::Key(layer), Part::Value(layer)].map(|part| weights.matrix(part));
        Attention {
            qkv: Linear::new(qkv.into(), Share::Qkv),
            out: Linear::new(vec![weights.matrix(Part::AttentionOut(layer))], Share::AttentionOut),
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_width: config.head_width,
            rotary: config.layers[layer as usize].rotary,
        }
    }

    /// `h` `[t, width]`, normed, sequence after sequence -> `[t, width]`; appends each one's keys and values to its cache.
    pub fn forward<'a>(
        &self,
        host: &Host,
        h: &Vector<'_>,
        sequences: impl Iterator<Item = (&'a mut LayerKv, &'a Turns)>,
    ) -> Result<Tensor> {
        let mut qkv = self.qkv.forward(host, h.here(host)?);
        let queries = self.heads * self.head_width;
        let mut attended = vec![0f32; qkv.len() / self.qkv.rows() * queries];
        let (mut rest, mut outs) = (qkv.as_mut_slice(), attended.as_mut_slice());
        let mut own = |(kv, turns): (&'a mut LayerKv, &'a Turns)| {
            let LayerKv::Here(kv) = kv else { unreachable!("a layer's cache lies where the layer does") };
            let qkv = rest.split_off_mut(..turns.len() * self.qkv.rows()).expect("a row for each token");
            let out = outs.split_off_mut(..turns.len() * queries).expect("a row for each token");
            Own { kv, first: turns.first, angles: &turns.angles, qkv, out }
        };
        // A token with little behind it is too little to be shared among cores: such sequences are handed out whole.
        let (mut short, mut long): (Vec<Own>, Vec<Own>) =
            sequences.map(&mut own).partition(|own| own.span().tokens == 1 && own.span().blocks().len() == 1);
        if short.len() == 1 {
            long.append(&mut short);
        }
        for own in &mut long {
            host.timed(Share::Rope, || self.turn_and_store(host, own));
            host.timed(Share::Attend, || self.attend(host, own));
        }
        host.timed(Share::Attend, || {
            host.pool.pieces(&mut short, 1, |_, own| {
                host.timed_within(Share::Attend, Share::Rope, || self.turn_and_store(host, &mut own[0]));
                self.attend(host, &mut own[0]);
            });
        });
        let round = || Activations::new(host.isa, &attended, attended.len() / queries, queries);
        let x = host.timed(Share::Round, round);
        tensor(self.out.forward(host, &x), self.out.rows())
    }

    fn turn_and_store(&self, host: &Host, own: &mut Own<'_>) {
        let (queries, keys) = (self.heads * self.head_width, self.kv_heads * self.head_width);
        if self.rotary {
            let angles = own.angles;
            host.pool.pieces(own.qkv, self.qkv.rows(), |token, row| {
                let (cos, sin) = angles.at(token);
                rotate(host.isa, &mut row[..queries + keys], cos, sin);
            });
        }
        self.store(host, own.kv, own.qkv, own.first);
    }

    /// Keeps the step's keys and values.
    fn store(&self, host: &Host, kv: &mut Heads, qkv: &[f32], first: usize) {
        let (queries, keys) = (self.heads * self.head_width, self.kv_heads * self.head_width);
        let stride = self.qkv.rows();
        for head in 0..self.kv_heads {
            let at = queries + head * self.head_width;
            // A head's last row ends with it, not with the token's whole row.
            let rows = |from: usize| &qkv[from..qkv.len() - (stride - from - self.head_width)];
            kv.key_ring.store_keys(host.isa, first, rows(at), stride, &mut kv.keys[head]);
            kv.value_ring.store_values(host.isa, first, rows(at + keys), stride, &mut kv.values[head]);
        }
    }

    /// Every query head of the sequence's step over what it sees.
    fn attend(&self, host: &Host, own: &mut Own<'_>) {
        let (queries, stride) = (self.heads * self.head_width, self.qkv.rows());
        let (span, kv, qkv) = (own.span(), &*own.kv, &*own.qkv);
        let Span { first, tokens, .. } = span;
        let seen = first + tokens - span.visible(0).start;
        let row = kv.key_ring.format().bytes(self.head_width) + kv.value_ring.format().bytes(self.head_width);
        host.touch(Share::Attend, seen * row * self.kv_heads);

        let group = queries / self.kv_heads; // columns of the query heads that share a kv head
        let ask = |head: usize, from: usize, tokens: usize| {
            let mut asked = Queries::new(host.isa);
            let span = Span { first: first + from, tokens, window: kv.window };
            let rows = &qkv[from * stride + head * group..];
            asked.fill(span, group / self.head_width, self.head_width, rows, stride);
            asked
        };
        let heads: Vec<KvHead> =
            (0..self.kv_heads).map(|h| KvHead::new(kv.key_ring, &kv.keys[h], kv.value_ring, &kv.values[h])).collect();

        if tokens == 1 && span.blocks().len() > 1 && host.pool.width() > 1 {
            let asked: Vec<Queries> = (0..self.kv_heads).map(|head| ask(head, 0, 1)).collect();
            return own.out.copy_from_slice(&self.attend_split(host, &heads, &asked, span));
        }
        let mut outs: Vec<Vec<f32>> =
            (0..tokens).step_by(TOKENS).map(|from| vec![0f32; TOKENS.min(tokens - from) * queries]).collect();
        host.pool.grid(&mut outs, queries, group, |part, range, out| {
            let asked = ask(range.start / group, part * TOKENS, out.t());
            SCRATCH.with_borrow_mut(|scratch| {
                let partial = attend::attend(&asked, &heads[range.start / group], scratch);
                (0..out.t()).for_each(|t| asked.finish(partial, t, out.row(t)));
            });
        });
        for (out, part) in own.out.chunks_mut(TOKENS * queries).zip(outs) {
            out.copy_from_slice(&part);
        }
    }

    /// One token, its context split among the cores. Partial results of single blocks are folded in order of position,
    /// which is what `attend` does too: the same bits.
    fn attend_split(&self, host: &Host, heads: &[KvHead], asked: &[Queries], span: Span) -> Vec<f32> {
        let (blocks, len) = (span.blocks(), asked[0].partial_len());
        let mut partials: Vec<Vec<f32>> = heads.iter().map(|_| vec![0f32; blocks.len() * len]).collect();
        let size = (blocks.len() * heads.len()).div_ceil(4 * host.pool.width()).max(1) * len;
        host.pool.grid(&mut partials, blocks.len() * len, size, |head, range, out| {
            let run = blocks.start + range.start / len..blocks.start + range.end / len;
            SCRATCH.with_borrow_mut(|scratch| {
                attend::attend_blocks(&asked[head], &heads[head], run, out.row(0), scratch);
            });
        });
        let mut out = vec![0f32; self.heads * self.head_width];
        for ((asked, partials), out) in
            asked.iter().zip(&partials).zip(out.chunks_exact_mut(self.heads * self.head_width / heads.len()))
        {
            let mut running = vec![0f32; len];
            partials.chunks_exact(len).for_each(|partial| attend::merge(asked, &mut running, partial));
            asked.finish(&running, 0, out);
        }
        out
    }
}

thread_local! {
    /// A compute thread's room for scores.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}
