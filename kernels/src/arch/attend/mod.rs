//! Attention over one block of positions, written once for all instruction sets. What is computed, in which order, is
//! defined in [`crate::attend`].
//!
//! Queries come in panels of as many as keep their sums in registers. A few panels (one token) read keys and values as
//! they are stored, each byte once; many (a prompt) have them decoded once for all.

// Loops over registers, by a constant number of them, read best as what they are.
#![allow(clippy::needless_range_loop)]

mod panel;
mod stored;

use std::marker::PhantomData;
use std::ops::Range;

use self::panel::{Next, Score, Stretch, Weigh, share};
use self::stored::{F16, F32, Q8, Stored};
use super::exp;
use super::lanes::{Lanes, Loop};
use crate::attend::{BLOCK, KvFormat, Panel, Queries, Scratch, TILE};

/// From so many panels on, decoding keys and values once pays.
const DECODE: usize = 3;
/// Positions whose values are taken through all columns before the next: 16 KiB of f16 at a head width of 128, so that
/// every line is fetched from memory once.
const STRETCH: usize = 64;

/// Partial results of all queries over one block.
pub(crate) struct Apply<'a> {
    pub queries: &'a Queries,
    /// The block's first position.
    pub start: usize,
    pub key_format: KvFormat,
    /// The block's tiles.
    pub keys: &'a [u8],
    pub value_format: KvFormat,
    /// The block's rows.
    pub values: &'a [u8],
    /// What will be read after this block, if that is known.
    pub after: &'a [u8],
    pub partial: &'a mut [f32],
    pub scratch: &'a mut Scratch,
}

impl Loop for Apply<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let mut scores = std::mem::take(&mut self.scratch.scores);
        let mut decoded = std::mem::take(&mut self.scratch.decoded);
        let head_width = self.queries.head_width();
        grow(&mut scores, self.queries.len() * BLOCK + TILE);
        grow(&mut decoded, (2 * head_width).max(2 * STRETCH) * 64 + 64);
        // Rows of scores begin on a cache line where that can be had.
        let skip = scores.as_ptr().align_offset(64).min(TILE);
        let rows = &mut scores[skip..][..self.queries.len() * BLOCK];
        let skip = decoded.as_ptr().align_offset(64).min(64);
        let room = &mut decoded[skip..];

        match self.key_format {
            KvFormat::F32 => self.scores::<L, F32>(lanes, rows, room),
            KvFormat::F16 => self.scores::<L, F16>(lanes, rows, room),
            KvFormat::Q8_0 => self.scores::<L, Q8>(lanes, rows, room),
        }
        self.weights(lanes, rows);
        match self.value_format {
            KvFormat::F32 => self.values::<L, F32>(lanes, rows, room),
            KvFormat::F16 => self.values::<L, F16>(lanes, rows, room),
            KvFormat::Q8_0 => self.values::<L, Q8>(lanes, rows, room),
        }
        (self.scratch.scores, self.scratch.decoded) = (scores, decoded);
    }
}

fn grow<T: Copy + Default>(room: &mut Vec<T>, len: usize) {
    if room.len() < len {
        room.resize(len, T::default());
    }
}

/// Calls a function with the size of a panel as a constant.
macro_rules! with_count {
    ($L:ident, $count:expr, $N:ident => $call:expr) => {
        with_count!(@ $L, $count, $N => $call; 1 2 3 4 5 6 7 8)
    };
    (@ $L:ident, $count:expr, $N:ident => $call:expr; $($n:literal)*) => {
        match $count {
            // The constant keeps sizes this instruction set never has from being compiled for it.
            $($n if const { $n <= $L::QUERIES } => {
                const $N: usize = $n;
                $call
            })*
            _ => unreachable!("a panel larger than the instruction set's"),
        }
    };
}

impl Apply<'_> {
    /// From the first position any query of the panel sees to the last.
    #[inline(always)]
    fn seen(&self, first: usize, count: usize) -> Range<usize> {
        // Later queries belong to later tokens, which begin and end no earlier.
        self.queries.visible(first, self.start).start..self.queries.visible(first + count - 1, self.start).end
    }

    /// The positions all queries of the panel see.
    #[inline(always)]
    fn shared(&self, first: usize, count: usize) -> Range<usize> {
        self.queries.visible(first + count - 1, self.start).start..self.queries.visible(first, self.start).end
    }

    /// Scores of every panel, for every tile it sees anything of; those of other positions are garbage.
    #[inline(always)]
    fn scores<L: Lanes, K: Stored>(&self, lanes: L, rows: &mut [f32], room: &mut [u8]) {
        let width = self.queries.head_width();
        let (stored, plain) = (TILE * K::row_bytes(width), TILE * F32::row_bytes(width));
        let decode = self.queries.panel_count() >= DECODE;
        let seen = self.seen(0, self.queries.len());
        let (first, end) = (seen.start / TILE, seen.end.div_ceil(TILE));
        let keys = &self.keys[first * stored..end * stored];
        let values = stretch_from(self.values, seen.start, seen.end);
        for (step, keys_here) in keys.chunks(L::WIDE * stored).enumerate() {
            let tile = first + step * L::WIDE;
            let wide = keys_here.len() / stored;
            if decode {
                for (from, into) in keys_here.chunks_exact(stored).zip(room.chunks_exact_mut(plain)) {
                    K::decode_tile(lanes, from, into.as_chunks_mut::<64>().0);
                }
            }
            for panel in self.queries.panels() {
                let seen = self.seen(panel.first, panel.count);
                if seen.start >= (tile + wide) * TILE || seen.end <= tile * TILE {
                    continue;
                }
                let rows = &mut rows[panel.first * BLOCK..][..panel.count * BLOCK];
                if decode {
                    let keys = &room[..wide * plain];
                    with_count!(L, panel.count, N => score::<L, F32, N>(lanes, keys, tile, &panel, rows, Next::NOTHING));
                } else {
                    // While these keys are worked on, the next come, and by and by the first values.
                    let next = match panel.first {
                        0 => Next(
                            keys.chunks(L::WIDE * stored).nth(step + 1).unwrap_or_default(),
                            share(values, step, step + 1, (end - first).div_ceil(L::WIDE)),
                        ),
                        _ => Next::NOTHING,
                    };
                    with_count!(L, panel.count, N => score::<L, K, N>(lanes, keys_here, tile, &panel, rows, next));
                }
            }
        }
    }

    /// Scores become weights; largest score and sum of weights go to the partial result.
    #[inline(always)]
    fn weights<L: Lanes>(&mut self, lanes: L, rows: &mut [f32]) {
        let width = self.queries.head_width();
        let partials = self.partial.chunks_exact_mut(self.queries.partial_stride());
        for (query, (row, partial)) in rows.as_chunks_mut::<BLOCK>().0.iter_mut().zip(partials).enumerate() {
            partial.fill(0.0);
            let seen = self.queries.visible(query, self.start);
            if seen.is_empty() {
                continue;
            }
            let tiles = seen.start / TILE..seen.end.div_ceil(TILE);
            row[tiles.start * TILE..seen.start].fill(f32::NEG_INFINITY);
            row[seen.end..tiles.end * TILE].fill(f32::NEG_INFINITY);
            let row = &mut row.as_chunks_mut::<TILE>().0[tiles];

            let largest = row.iter().fold(lanes.splat(f32::NEG_INFINITY), |m, s| lanes.max(lanes.load(s), m));
            let m = lanes.largest(largest);
            let mut sum = lanes.splat(0.0);
            for s in row {
                let w = exp::exp2(lanes, lanes.sub(lanes.load(s), lanes.splat(m)));
                sum = lanes.add(sum, w);
                lanes.store(w, s);
            }
            (partial[width], partial[width + 1]) = (m, lanes.sum(sum));
        }
    }

    /// Weighted values, into the partial result, which holds zeros.
    #[inline(always)]
    fn values<L: Lanes, K: Stored>(&mut self, lanes: L, rows: &[f32], room: &mut [u8]) {
        let width = self.queries.head_width();
        let decode = self.queries.panel_count() >= DECODE;
        let seen = self.seen(0, self.queries.len());
        let (values, after) = (self.values, self.after);
        let mut at = seen.start;
        while at < seen.end {
            let stretch = at..seen.end.min((at / STRETCH + 1) * STRETCH);
            let stored = &values[stretch.start * K::row_bytes(width)..stretch.end * K::row_bytes(width)];
            // While these values are worked on, the next come, or after the last the first keys of the next block.
            let next = if stretch.end < seen.end { stretch_from(values, stretch.end, seen.end) } else { after };
            let mut column = 0;
            while column < width {
                let wide = L::WIDE.min((width - column) / 16);
                let plain = &mut room.as_chunks_mut::<64>().0[..stretch.len() * wide];
                if decode {
                    for (row, plain) in stored.chunks_exact(K::row_bytes(width)).zip(plain.chunks_exact_mut(wide)) {
                        for (w, plain) in plain.iter_mut().enumerate() {
                            lanes.store_f32_bytes(K::value(lanes, row, column + 16 * w), plain);
                        }
                    }
                }
                let next = share(next, column, column + wide * 16, width);
                let from = Stretch { stored, plain, start: stretch.start, end: stretch.end, width, column, next };
                match (decode, wide) {
                    (false, 2) if const { L::WIDE == 2 } => self.weigh_all::<L, K, 2, false>(lanes, from, rows),
                    (true, 2) if const { L::WIDE == 2 } => self.weigh_all::<L, F32, 2, true>(lanes, from, rows),
                    (false, _) => self.weigh_all::<L, K, 1, false>(lanes, from, rows),
                    (true, _) => self.weigh_all::<L, F32, 1, true>(lanes, from, rows),
                }
                column += wide * 16;
            }
            at = stretch.end;
        }
    }

    /// All queries' sums over a stretch of positions, for 16 · W columns.
    #[inline(always)]
    fn weigh_all<L: Lanes, K: Stored, const W: usize, const PLAIN: bool>(
        &mut self,
        lanes: L,
        from: Stretch,
        rows: &[f32],
    ) {
        let (queries, start, stride) = (self.queries, self.start, self.queries.partial_stride());
        for panel in queries.panels() {
            let (first, count) = (panel.first, panel.count);
            let (seen, shared) = (self.seen(first, count), self.shared(first, count));
            if seen.start >= from.end || seen.end <= from.start {
                continue;
            }
            let rows = rows[first * BLOCK..].as_chunks::<BLOCK>().0;
            let from = if first == 0 { from } else { Stretch { next: &[], ..from } };
            let sums = &mut self.partial[first * stride..][..count * stride];
            let all = |sums: &mut [f32], positions: Range<usize>| {
                with_count!(L, count, N => weigh::<L, K, N, W, PLAIN>(lanes, from, positions, rows, sums, stride));
            };
            if shared == seen {
                all(sums, shared);
                continue;
            }
            // What only some see comes one query at a time, before and after what all see. Where they see nothing in
            // common, everything comes so.
            let shared = if shared.is_empty() { BLOCK..BLOCK } else { shared };
            let alone = |sums: &mut [f32], n: usize, positions: Range<usize>| {
                let (rows, sums) = (&rows[n..], &mut sums[n * stride..][..stride]);
                weigh::<L, K, 1, W, PLAIN>(lanes, from, positions, rows, sums, stride);
            };
            for n in 0..count {
                let seen = queries.visible(first + n, start);
                alone(sums, n, seen.start..seen.end.min(shared.start));
            }
            all(sums, shared.clone());
            for n in 0..count {
                alone(sums, n, shared.end..queries.visible(first + n, start).end);
            }
        }
    }
}

/// The bytes of the values from position `at` to the end of its stretch, or to position `end`.
fn stretch_from(values: &[u8], at: usize, end: usize) -> &[u8] {
    let row_bytes = values.len() / BLOCK;
    &values[at * row_bytes..end.min((at / STRETCH + 1) * STRETCH) * row_bytes]
}

/// Scores of one panel for one or two tiles.
#[inline(always)]
fn score<L: Lanes, K: Stored, const N: usize>(
    lanes: L,
    keys: &[u8],
    tile: usize,
    panel: &Panel,
    rows: &mut [f32],
    next: Next,
) {
    let (packed, stored) = (panel.packed, PhantomData::<K>);
    let bytes = TILE * K::row_bytes(packed.len() / N);
    if const { L::WIDE == 2 } && keys.len() == 2 * bytes {
        let (a, b) = keys.split_at(bytes);
        lanes.apart(Score::<K, N, 2> { keys: [a, b], tile, packed, rows, next, stored });
    } else {
        lanes.apart(Score::<K, N, 1> { keys: [keys], tile, packed, rows, next, stored });
    }
}

/// Sums of one panel over those of some positions that are in the stretch at hand.
#[inline(always)]
fn weigh<L: Lanes, K: Stored, const N: usize, const W: usize, const PLAIN: bool>(
    lanes: L,
    from: Stretch,
    positions: Range<usize>,
    rows: &[[f32; BLOCK]],
    sums: &mut [f32],
    stride: usize,
) {
    let positions = positions.start.max(from.start)..positions.end.min(from.end);
    if !positions.is_empty() {
        lanes.apart(Weigh::<K, N, W, PLAIN> { from, positions, rows, sums, stride, stored: PhantomData });
    }
}

/// One partial result folded into another.
pub(crate) struct Fold<'a> {
    pub head_width: usize,
    pub into: &'a mut [f32],
    pub from: &'a [f32],
}

impl Loop for Fold<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let width = self.head_width;
        let stride = width + crate::attend::PARTIAL;
        for (into, from) in self.into.chunks_exact_mut(stride).zip(self.from.chunks_exact(stride)) {
            if from[width + 1] == 0.0 {
                continue;
            }
            if into[width + 1] == 0.0 {
                into.copy_from_slice(from);
                continue;
            }
            let (old, new) = (into[width], from[width]);
            let most = if old > new { old } else { new };
            let (keep, take) = (exp::exp2_one(old - most), exp::exp2_one(new - most));
            let (a, rest) = into.split_at_mut(width);
            (rest[0], rest[1]) = (most, from[width + 1].mul_add(take, rest[1] * keep));
            for (a, b) in a.as_chunks_mut::<16>().0.iter_mut().zip(from.as_chunks::<16>().0) {
                let kept = lanes.mul(lanes.load(a), lanes.splat(keep));
                lanes.store(lanes.fma(lanes.load(b), lanes.splat(take), kept), a);
            }
        }
    }
}
