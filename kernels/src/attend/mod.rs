//! Attention of the query heads that share one kv head, over its ring of keys and values.
//!
//! The definition, the same on every instruction set. Positions are cut into blocks of [`BLOCK`], counted from 0. For one
//! query head and one block, over the visible positions p of the block:
//!
//! - the query is multiplied by f32(log2 e / sqrt(head width)); s_p = Σ_i q_i · k_pi, i ascending from +0, fused;
//! - m = max s_p; w_p = 2^(s_p - m), by our own polynomial, 0 below 2^-126;
//! - l = Σ w_p: position p to lane p mod 16, ascending, then the tree l + 8, l + 4, l + 2, l + 1;
//! - a_c = Σ_p w_p · v_pc, p ascending from +0, fused; positions that are not visible take no part.
//!
//! (m, l, a) is the block's partial result. Blocks are folded in ascending order, those that see nothing left out:
//! M = max(m, m'), f = 2^(m - M), f' = 2^(m' - M), l ← fma(l', f', l · f), a likewise, starting with a copy of the first.
//! The result is a · (1 / l). Keys and values are read as what their format decodes to, exactly.
//!
//! So how a context is split among threads, how a prompt was cut into chunks and where the ring begins change nothing:
//! [`attend`], which folds as it goes, and [`attend_blocks`] with [`merge`] give the same bits.

mod ring;

use std::ops::Range;

use crate::arch::attend::{Apply, Fold};
use crate::arch::lanes;
use crate::isa::Isa;

pub(crate) use ring::TILE;
pub use ring::{BLOCK, Buffer, KvFormat, Ring};

/// Tokens of a prompt worth handing over at once: enough for every key to be decoded once for many queries, few enough
/// for their scores to stay in a second-level cache.
pub const TOKENS: usize = 16;

/// Floats beside the weighted values in a query's partial result: m, l, and room to keep rows whole cache lines.
pub(crate) const PARTIAL: usize = 16;

/// Which consecutive positions ask, and how far back they see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The position of the first token.
    pub first: usize,
    /// How many tokens ask.
    pub tokens: usize,
    /// How many positions each token sees, itself included; all before it where there is no window.
    pub window: Option<usize>,
}

impl Span {
    /// The positions token `t` sees.
    pub fn visible(&self, t: usize) -> Range<usize> {
        let end = self.first + t + 1;
        end.saturating_sub(self.window.unwrap_or(end))..end
    }

    /// The blocks in which any token sees something.
    pub fn blocks(&self) -> Range<usize> {
        match self.tokens {
            0 => 0..0,
            n => self.visible(0).start / BLOCK..self.visible(n - 1).end.div_ceil(BLOCK),
        }
    }
}

/// Query heads of some tokens that share one kv head, scaled and laid out for the instruction set they are meant for.
/// May be shared among threads; the storage may be used again through [`Queries::fill`].
pub struct Queries {
    isa: Isa,
    span: Span,
    group: usize,
    head_width: usize,
    /// Panels of [`Queries::panels`], each [head_width, its queries].
    packed: Vec<f32>,
}

/// Some consecutive queries, few enough for one set of registers.
pub(crate) struct Panel<'a> {
    pub first: usize,
    pub count: usize,
    pub packed: &'a [f32],
}

impl Queries {
    /// Room for queries, none yet.
    pub fn new(isa: Isa) -> Queries {
        let span = Span { first: 0, tokens: 0, window: None };
        Queries { isa, span, group: 0, head_width: 0, packed: Vec::new() }
    }

    /// The `group` heads of token t, one after the other, begin at t · `stride` of `heads`.
    ///
    /// Panics where `heads` is too short, `group`, `head_width` or a window is 0, or heads of two tokens overlap.
    pub fn fill(&mut self, span: Span, group: usize, head_width: usize, heads: &[f32], stride: usize) {
        assert!(
            group > 0 && head_width > 0 && span.window != Some(0) && stride >= group * head_width,
            "{group} heads of width {head_width}, {stride} apart, seeing {:?} positions",
            span.window
        );
        assert!(
            span.tokens == 0 || heads.len() >= (span.tokens - 1) * stride + group * head_width,
            "queries of {} tokens, {stride} apart, in {} numbers",
            span.tokens,
            heads.len()
        );
        (self.span, self.group, self.head_width) = (span, group, head_width);
        let mut packed = std::mem::take(&mut self.packed);
        packed.resize(self.len() * head_width, 0.0);
        let scale = (std::f64::consts::LOG2_E / (head_width as f64).sqrt()) as f32;
        for panel in self.cuts() {
            let place = &mut packed[panel.start * head_width..panel.end * head_width];
            for (n, query) in panel.clone().enumerate() {
                let head = &heads[query / group * stride + query % group * head_width..][..head_width];
                for (x, row) in head.iter().zip(place.chunks_exact_mut(panel.len())) {
                    row[n] = x * scale;
                }
            }
        }
        self.packed = packed;
    }

    /// Which positions ask.
    pub fn span(&self) -> Span {
        self.span
    }

    /// How many query heads there are: tokens times group.
    pub fn len(&self) -> usize {
        self.span.tokens * self.group
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.span.tokens == 0
    }

    /// Floats of a partial result for all of them.
    pub fn partial_len(&self) -> usize {
        self.len() * self.partial_stride()
    }

    pub(crate) fn partial_stride(&self) -> usize {
        self.head_width + PARTIAL
    }

    pub(crate) fn head_width(&self) -> usize {
        self.head_width
    }

    /// The panels, as even as can be.
    pub(crate) fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        self.cuts().map(|cut| Panel {
            first: cut.start,
            count: cut.len(),
            packed: &self.packed[cut.start * self.head_width..cut.end * self.head_width],
        })
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.len().div_ceil(lanes::queries(self.isa))
    }

    fn cuts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (len, count) = (self.len(), self.panel_count());
        (0..count).map(move |i| len * i / count..len * (i + 1) / count)
    }

    /// The positions query `query` sees of the block of positions from `start` on, counted from there.
    pub(crate) fn visible(&self, query: usize, start: usize) -> Range<usize> {
        let visible = self.span.visible(query / self.group);
        let within = |p: usize| p.saturating_sub(start).min(BLOCK);
        within(visible.start)..within(visible.end)
    }

    /// Writes the result of token `t`, its heads one after the other: [group · head_width].
    ///
    /// A query that saw nothing gets zeros. Panics on wrong lengths.
    pub fn finish(&self, partial: &[f32], t: usize, out: &mut [f32]) {
        assert!(
            partial.len() == self.partial_len() && t < self.span.tokens && out.len() == self.group * self.head_width,
            "token {t} of {} into {} numbers",
            self.span.tokens,
            out.len()
        );
        let rows = partial.chunks_exact(self.partial_stride()).skip(t * self.group);
        for (row, out) in rows.zip(out.chunks_exact_mut(self.head_width)) {
            let (a, rest) = row.split_at(self.head_width);
            let inverse = if rest[1] == 0.0 { 0.0 } else { 1.0 / rest[1] };
            for (out, a) in out.iter_mut().zip(a) {
                *out = a * inverse;
            }
        }
    }
}

/// Keys and values of one kv head.
#[derive(Clone, Copy)]
pub struct KvHead<'a> {
    keys: Ring,
    values: Ring,
    key_bytes: &'a [u8],
    value_bytes: &'a [u8],
}

impl<'a> KvHead<'a> {
    /// The formats of keys and values may differ.
    ///
    /// Panics where widths or capacities differ or a slice is not as long as its ring says.
    pub fn new(keys: Ring, key_bytes: &'a [u8], values: Ring, value_bytes: &'a [u8]) -> KvHead<'a> {
        assert!(
            keys.head_width() == values.head_width() && keys.capacity() == values.capacity(),
            "keys of {keys:?}, values of {values:?}"
        );
        assert!(
            key_bytes.len() == keys.bytes() && value_bytes.len() == values.bytes(),
            "{} bytes of keys and {} of values where the rings have {} and {}",
            key_bytes.len(),
            value_bytes.len(),
            keys.bytes(),
            values.bytes()
        );
        KvHead { keys, values, key_bytes, value_bytes }
    }
}

/// Room a thread needs while it attends; grows to what was asked of it and stays.
#[derive(Default)]
pub struct Scratch {
    /// [queries, BLOCK]: scores, then weights.
    pub(crate) scores: Vec<f32>,
    /// Keys or values of part of a block, decoded.
    pub(crate) decoded: Vec<u8>,
    running: Vec<f32>,
    partial: Vec<f32>,
}

impl Scratch {
    /// Nothing yet.
    pub fn new() -> Scratch {
        Scratch::default()
    }
}

/// The partial results of these blocks (absolute: block b is positions b · [`BLOCK`] on), one after the other in
/// `partials`, each [`Queries::partial_len`] long. One call for a run of blocks is faster than a call for each, since the
/// next block's keys are fetched while the last values are worked on; the bits are the same.
///
/// Panics where `partials` has another length, widths differ, or the ring is too small to hold all that the first token
/// sees until the last one's position.
pub fn attend_blocks(
    queries: &Queries,
    head: &KvHead,
    blocks: Range<usize>,
    partials: &mut [f32],
    scratch: &mut Scratch,
) {
    assert!(
        partials.len() == blocks.len() * queries.partial_len(),
        "partial results of {} numbers for {} blocks of {} queries",
        partials.len(),
        blocks.len(),
        queries.len()
    );
    if !queries.is_empty() {
        for (block, partial) in blocks.clone().zip(partials.chunks_exact_mut(queries.partial_len())) {
            attend_block(queries, head, block, block + 1 < blocks.end, partial, scratch);
        }
    }
}

/// One block. `more`: the next one follows.
fn attend_block(
    queries: &Queries,
    head: &KvHead,
    block: usize,
    more: bool,
    partial: &mut [f32],
    scratch: &mut Scratch,
) {
    assert!(
        queries.head_width == head.keys.head_width(),
        "queries of width {} over heads of width {}",
        queries.head_width,
        head.keys.head_width()
    );
    let span = queries.span;
    let (oldest, end) = (span.visible(0).start, span.visible(span.tokens - 1).end);
    let capacity = head.keys.capacity();
    assert!(end - oldest <= capacity, "positions {oldest}..{end} asked of a cache of {capacity}");
    let of = |ring: Ring, block: usize, len: usize| {
        let slot = block * BLOCK % capacity;
        slot * ring.row_bytes()..(slot + len) * ring.row_bytes()
    };
    let apply = Apply {
        queries,
        start: block * BLOCK,
        key_format: head.keys.format(),
        keys: &head.key_bytes[of(head.keys, block, BLOCK)],
        value_format: head.values.format(),
        values: &head.value_bytes[of(head.values, block, BLOCK)],
        after: if more { &head.key_bytes[of(head.keys, block + 1, 2 * TILE)] } else { &[] },
        partial,
        scratch,
    };
    lanes::run(queries.isa, apply);
}

/// Folds the partial result of a later block into that of all earlier ones. A result of zeros, or of a block that saw
/// nothing, is one of nothing.
///
/// Panics unless both are [`Queries::partial_len`] long.
pub fn merge(queries: &Queries, into: &mut [f32], from: &[f32]) {
    assert!(
        into.len() == queries.partial_len() && from.len() == queries.partial_len(),
        "partial results of {} and {} numbers for {} queries",
        into.len(),
        from.len(),
        queries.len()
    );
    lanes::run(queries.isa, Fold { head_width: queries.head_width, into, from });
}

/// All blocks, folded: the partial result of everything the queries see, to be given to [`Queries::finish`].
///
/// Panics as [`attend_blocks`] does.
pub fn attend<'s>(queries: &Queries, head: &KvHead, scratch: &'s mut Scratch) -> &'s [f32] {
    let mut running = std::mem::take(&mut scratch.running);
    let mut partial = std::mem::take(&mut scratch.partial);
    running.clear();
    running.resize(queries.partial_len(), 0.0);
    partial.resize(queries.partial_len(), 0.0);
    let blocks = queries.span.blocks();
    for block in blocks.clone() {
        attend_block(queries, head, block, block + 1 < blocks.end, &mut partial, scratch);
        merge(queries, &mut running, &partial);
    }
    (scratch.running, scratch.partial) = (running, partial);
    &scratch.running
}
