//! Attention over one block of positions, written once for all instruction sets. What is computed, in which order, is
//! defined in [`crate::attend`].
//!
//! Queries come in panels of as many as keep their sums in registers. A few panels (one token) read keys and values as
//! they are stored, each byte once; many (a prompt) have them decoded once for all.

// Loops over registers, by a constant number of them, read best as what they are.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;
use std::ops::Range;

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
        if self.queries.panel_count() < DECODE {
            for panel in self.queries.panels() {
                let seen = self.seen(panel.first, panel.count);
                let tiles = seen.start / TILE..seen.end.div_ceil(TILE);
                let rows = &mut rows[panel.first * BLOCK..][..panel.count * BLOCK];
                score_tiles::<L, K>(lanes, &self.keys[tiles.start * stored..tiles.end * stored], tiles, &panel, rows);
            }
            return;
        }
        let seen = self.seen(0, self.queries.len());
        let (mut tile, end) = (seen.start / TILE, seen.end.div_ceil(TILE));
        while tile < end {
            let tiles = tile..(tile + L::WIDE).min(end);
            let room = &mut room[..tiles.len() * plain];
            let from = self.keys[tiles.start * stored..tiles.end * stored].chunks_exact(stored);
            for (from, into) in from.zip(room.chunks_exact_mut(plain)) {
                K::decode_tile(lanes, from, into.as_chunks_mut::<64>().0);
            }
            for panel in self.queries.panels() {
                let seen = self.seen(panel.first, panel.count);
                if seen.start < tiles.end * TILE && tiles.start * TILE < seen.end {
                    let rows = &mut rows[panel.first * BLOCK..][..panel.count * BLOCK];
                    score_tiles::<L, F32>(lanes, room, tiles.clone(), &panel, rows);
                }
            }
            tile = tiles.end;
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
        let mut at = seen.start;
        while at < seen.end {
            let stretch = at..seen.end.min((at / STRETCH + 1) * STRETCH);
            let stored = &self.values[stretch.start * K::row_bytes(width)..stretch.end * K::row_bytes(width)];
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
                let from = Stretch { stored, plain, start: stretch.start, width, column };
                match (decode, wide) {
                    (false, 2) if const { L::WIDE == 2 } => {
                        self.weigh_all::<L, K, 2, false>(lanes, from, &stretch, rows)
                    }
                    (true, 2) if const { L::WIDE == 2 } => {
                        self.weigh_all::<L, F32, 2, true>(lanes, from, &stretch, rows)
                    }
                    (false, _) => self.weigh_all::<L, K, 1, false>(lanes, from, &stretch, rows),
                    (true, _) => self.weigh_all::<L, F32, 1, true>(lanes, from, &stretch, rows),
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
        stretch: &Range<usize>,
        rows: &[f32],
    ) {
        let stride = self.queries.partial_stride();
        for panel in self.queries.panels() {
            let within = |r: Range<usize>| {
                let start = r.start.max(stretch.start);
                start..r.end.min(stretch.end).max(start)
            };
            let (first, count) = (panel.first, panel.count);
            let shared = self.shared(first, count);
            let rows = rows[first * BLOCK..].as_chunks::<BLOCK>().0;
            let sums = &mut self.partial[first * stride..][..count * stride];
            let one = |sums: &mut [f32], n: usize, range: Range<usize>| {
                if !range.is_empty() {
                    let sums = &mut sums[n * stride..][..stride];
                    let (positions, rows) = (range, &rows[n..]);
                    lanes.apart(Weigh::<K, 1, W, PLAIN> { from, positions, rows, sums, stride, stored: PhantomData });
                }
            };
            if shared.is_empty() {
                for n in 0..count {
                    one(sums, n, within(self.queries.visible(first + n, self.start)));
                }
                continue;
            }
            for n in 0..count {
                one(sums, n, within(self.queries.visible(first + n, self.start).start..shared.start));
            }
            let together = within(shared.clone());
            if !together.is_empty() {
                with_count!(L, count, N => {
                    let positions = together;
                    lanes.apart(Weigh::<K, N, W, PLAIN> { from, positions, rows, sums, stride, stored: PhantomData })
                });
            }
            for n in 0..count {
                one(sums, n, within(shared.end..self.queries.visible(first + n, self.start).end));
            }
        }
    }
}

/// Values of a stretch of positions, as stored or decoded.
#[derive(Clone, Copy)]
struct Stretch<'a> {
    stored: &'a [u8],
    /// [positions, W] vectors of the columns at hand.
    plain: &'a [[u8; 64]],
    /// The first position, counted from the block's.
    start: usize,
    width: usize,
    column: usize,
}

/// Scores of one panel for some tiles, `keys` being these tiles.
#[inline(always)]
fn score_tiles<L: Lanes, K: Stored>(lanes: L, keys: &[u8], tiles: Range<usize>, panel: &Panel, rows: &mut [f32]) {
    with_count!(L, panel.count, N => {
        let work = ScorePanel::<K, N> { keys, tiles, packed: panel.packed, rows, stored: PhantomData };
        lanes.apart(work)
    })
}

struct ScorePanel<'a, K, const N: usize> {
    keys: &'a [u8],
    tiles: Range<usize>,
    packed: &'a [f32],
    rows: &'a mut [f32],
    stored: PhantomData<K>,
}

impl<K: Stored, const N: usize> Loop for ScorePanel<'_, K, N> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let packed = self.packed.as_chunks::<N>().0;
        let rows = self.rows.as_chunks_mut::<BLOCK>().0;
        let mut keys = self.keys.chunks_exact(TILE * K::row_bytes(packed.len()));
        let mut next = || keys.next().expect("a slice of as many tiles as there are numbers of tiles");
        let mut tile = self.tiles.start;
        if const { L::WIDE == 2 } {
            while tile + 2 <= self.tiles.end {
                let sums = K::scores::<L, N, 2>(lanes, [next(), next()], packed);
                for (row, sums) in rows.iter_mut().zip(sums) {
                    let row = &mut row.as_chunks_mut::<TILE>().0[tile..tile + 2];
                    lanes.store(sums[0], &mut row[0]);
                    lanes.store(sums[1], &mut row[1]);
                }
                tile += 2;
            }
        }
        while tile < self.tiles.end {
            let sums = K::scores::<L, N, 1>(lanes, [next()], packed);
            for (row, sums) in rows.iter_mut().zip(sums) {
                lanes.store(sums[0], &mut row.as_chunks_mut::<TILE>().0[tile]);
            }
            tile += 1;
        }
    }
}

/// N queries' sums over some positions, for 16 · W columns from `from.column` on.
struct Weigh<'a, K, const N: usize, const W: usize, const PLAIN: bool> {
    from: Stretch<'a>,
    positions: Range<usize>,
    rows: &'a [[f32; BLOCK]],
    sums: &'a mut [f32],
    stride: usize,
    stored: PhantomData<K>,
}

impl<K: Stored, const N: usize, const W: usize, const PLAIN: bool> Loop for Weigh<'_, K, N, W, PLAIN> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (from, stride) = (self.from, self.stride);
        let rows: &[[f32; BLOCK]; N] = self.rows.first_chunk().expect("a row of weights for every query of a panel");
        let mut acc = [[lanes.splat(0.0); W]; N];
        for (n, acc) in acc.iter_mut().enumerate() {
            let sums = self.sums[n * stride + from.column..].as_chunks::<16>().0;
            for w in 0..W {
                acc[w] = lanes.load(&sums[w]);
            }
        }
        let row_bytes = K::row_bytes(from.width);
        let (start, end) = (self.positions.start - from.start, self.positions.end.min(BLOCK) - from.start);
        let mut p = self.positions.start;
        if PLAIN {
            for plain in from.plain[start * W..end * W].as_chunks::<W>().0 {
                let mut v = [lanes.splat(0.0); W];
                for w in 0..W {
                    v[w] = lanes.load_f32_bytes(&plain[w]);
                }
                step(lanes, &mut acc, rows, p, v);
                p += 1;
            }
        } else {
            for row in from.stored[start * row_bytes..end * row_bytes].chunks_exact(row_bytes) {
                let mut v = [lanes.splat(0.0); W];
                for w in 0..W {
                    v[w] = K::value(lanes, row, from.column + 16 * w);
                }
                step(lanes, &mut acc, rows, p, v);
                p += 1;
            }
        }
        for (n, acc) in acc.iter().enumerate() {
            let sums = self.sums[n * stride + from.column..].as_chunks_mut::<16>().0;
            for w in 0..W {
                lanes.store(acc[w], &mut sums[w]);
            }
        }
    }
}

#[inline(always)]
fn step<L: Lanes, const N: usize, const W: usize>(
    lanes: L,
    acc: &mut [[L::V; W]; N],
    rows: &[[f32; BLOCK]; N],
    p: usize,
    v: [L::V; W],
) {
    for n in 0..N {
        let weight = lanes.splat(rows[n][p]);
        for w in 0..W {
            acc[n][w] = lanes.fma(weight, v[w], acc[n][w]);
        }
    }
}

/// How one format's tiles of keys and rows of values are read.
trait Stored {
    /// Bytes of one key or value.
    fn row_bytes(width: usize) -> usize;
    /// N queries ([width] rows of N) against W tiles.
    fn scores<L: Lanes, const N: usize, const W: usize>(
        lanes: L,
        tiles: [&[u8]; W],
        packed: &[[f32; N]],
    ) -> [[L::V; W]; N];
    /// A tile as f32: a vector per element.
    fn decode_tile<L: Lanes>(lanes: L, tile: &[u8], into: &mut [[u8; 64]]);
    /// Sixteen elements of a row, from `column` on.
    fn value<L: Lanes>(lanes: L, row: &[u8], column: usize) -> L::V;
}

struct F32;
struct F16;
struct Q8;

/// acc[n][w] += q[n] · k[w].
#[inline(always)]
fn multiply<L: Lanes, const N: usize, const W: usize>(lanes: L, acc: &mut [[L::V; W]; N], q: &[f32; N], k: [L::V; W]) {
    for n in 0..N {
        let q = lanes.splat(q[n]);
        for w in 0..W {
            acc[n][w] = lanes.fma(q, k[w], acc[n][w]);
        }
    }
}

impl Stored for F32 {
    #[inline(always)]
    fn row_bytes(width: usize) -> usize {
        width * 4
    }

    #[inline(always)]
    fn scores<L: Lanes, const N: usize, const W: usize>(
        lanes: L,
        tiles: [&[u8]; W],
        packed: &[[f32; N]],
    ) -> [[L::V; W]; N] {
        let mut acc = [[lanes.splat(0.0); W]; N];
        let tiles = tiles.map(|tile| &tile.as_chunks::<64>().0[..packed.len()]);
        for (i, q) in packed.iter().enumerate() {
            let mut k = [lanes.splat(0.0); W];
            for w in 0..W {
                k[w] = lanes.load_f32_bytes(&tiles[w][i]);
            }
            multiply(lanes, &mut acc, q, k);
        }
        acc
    }

    #[inline(always)]
    fn decode_tile<L: Lanes>(_: L, tile: &[u8], into: &mut [[u8; 64]]) {
        into.copy_from_slice(tile.as_chunks::<64>().0);
    }

    #[inline(always)]
    fn value<L: Lanes>(lanes: L, row: &[u8], column: usize) -> L::V {
        lanes.load_f32_bytes(&row.as_chunks::<64>().0[column / 16])
    }
}

impl Stored for F16 {
    #[inline(always)]
    fn row_bytes(width: usize) -> usize {
        width * 2
    }

    #[inline(always)]
    fn scores<L: Lanes, const N: usize, const W: usize>(
        lanes: L,
        tiles: [&[u8]; W],
        packed: &[[f32; N]],
    ) -> [[L::V; W]; N] {
        let mut acc = [[lanes.splat(0.0); W]; N];
        let tiles = tiles.map(|tile| &tile.as_chunks::<32>().0[..packed.len()]);
        for (i, q) in packed.iter().enumerate() {
            let mut k = [lanes.splat(0.0); W];
            for w in 0..W {
                k[w] = lanes.load_f16(&tiles[w][i]);
            }
            multiply(lanes, &mut acc, q, k);
        }
        acc
    }

    #[inline(always)]
    fn decode_tile<L: Lanes>(lanes: L, tile: &[u8], into: &mut [[u8; 64]]) {
        for (k, into) in tile.as_chunks::<32>().0.iter().zip(into) {
            lanes.store_f32_bytes(lanes.load_f16(k), into);
        }
    }

    #[inline(always)]
    fn value<L: Lanes>(lanes: L, row: &[u8], column: usize) -> L::V {
        lanes.load_f16(&row.as_chunks::<32>().0[column / 16])
    }
}

impl Stored for Q8 {
    #[inline(always)]
    fn row_bytes(width: usize) -> usize {
        width / 32 * 34
    }

    #[inline(always)]
    fn scores<L: Lanes, const N: usize, const W: usize>(
        lanes: L,
        tiles: [&[u8]; W],
        packed: &[[f32; N]],
    ) -> [[L::V; W]; N] {
        let mut acc = [[lanes.splat(0.0); W]; N];
        let packed = packed.as_chunks::<32>().0;
        // A run of 32 elements: 16 scales, then 32 times 16 numbers.
        let tiles = tiles.map(|tile| &tile.as_chunks::<{ 34 * TILE }>().0[..packed.len()]);
        for (run, packed) in packed.iter().enumerate() {
            let mut scale = [lanes.splat(0.0); W];
            for w in 0..W {
                scale[w] = lanes.load_f16(tiles[w][run].first_chunk().expect("544 bytes hold 32"));
            }
            for (i, q) in packed.iter().enumerate() {
                let mut k = [lanes.splat(0.0); W];
                for w in 0..W {
                    k[w] = lanes.mul(lanes.load_i8(&tiles[w][run].as_chunks::<TILE>().0[2 + i]), scale[w]);
                }
                multiply(lanes, &mut acc, q, k);
            }
        }
        acc
    }

    #[inline(always)]
    fn decode_tile<L: Lanes>(lanes: L, tile: &[u8], into: &mut [[u8; 64]]) {
        for (run, into) in tile.as_chunks::<{ 34 * TILE }>().0.iter().zip(into.as_chunks_mut::<32>().0) {
            let scale = lanes.load_f16(run.first_chunk().expect("544 bytes hold 32"));
            for (k, into) in run.as_chunks::<TILE>().0[2..].iter().zip(into) {
                lanes.store_f32_bytes(lanes.mul(lanes.load_i8(k), scale), into);
            }
        }
    }

    #[inline(always)]
    fn value<L: Lanes>(lanes: L, row: &[u8], column: usize) -> L::V {
        let run = &row.as_chunks::<34>().0[column / 32];
        let (scale, numbers) = run.split_first_chunk::<2>().expect("34 bytes hold 2");
        lanes.mul(lanes.load_i8(&numbers.as_chunks::<16>().0[column / 16 % 2]), lanes.splat_f16(scale))
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
