//! The two inner loops of attention, each a function of its own with its sums in registers: one panel of queries against
//! one or two tiles of keys, and one panel's weights against some rows of values.

use std::marker::PhantomData;
use std::ops::Range;

use super::stored::Stored;
use crate::arch::lanes::{Lanes, Loop};
use crate::attend::{BLOCK, TILE};

/// What will be read next: fetched a little at a time while something else is computed.
#[derive(Clone, Copy)]
pub(super) struct Next<'a>(pub &'a [u8], pub &'a [u8]);

impl<'a> Next<'a> {
    pub const NOTHING: Next<'static> = Next(&[], &[]);

    /// Starts to fetch part `part` of `parts`.
    #[inline(always)]
    pub fn fetch<L: Lanes>(self, lanes: L, part: usize, parts: usize) {
        for bytes in [self.0, self.1] {
            let piece = bytes.len() / parts;
            for line in bytes[part * piece..(part + 1) * piece].as_chunks::<64>().0 {
                lanes.prefetch(&line[0]);
            }
        }
    }
}

/// The bytes from `from` to `to`, in units of which `all` make the whole.
pub(super) fn share(bytes: &[u8], from: usize, to: usize, all: usize) -> &[u8] {
    &bytes[bytes.len() * from / all..bytes.len() * to / all]
}

/// Scores of N queries for W tiles.
pub(super) struct Score<'a, K, const N: usize, const W: usize> {
    pub keys: [&'a [u8]; W],
    /// The first of the tiles, counted from the block's.
    pub tile: usize,
    /// [head_width, N].
    pub packed: &'a [f32],
    /// [N, BLOCK].
    pub rows: &'a mut [f32],
    pub next: Next<'a>,
    pub stored: PhantomData<K>,
}

impl<K: Stored, const N: usize, const W: usize> Loop for Score<'_, K, N, W> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let sums = K::scores::<L, N, W>(lanes, self.keys, self.packed.as_chunks::<N>().0, self.next);
        for (row, sums) in self.rows.as_chunks_mut::<BLOCK>().0.iter_mut().zip(sums) {
            let row = &mut row.as_chunks_mut::<TILE>().0[self.tile..self.tile + W];
            for w in 0..W {
                lanes.store(sums[w], &mut row[w]);
            }
        }
    }
}

/// Values of a stretch of positions, as stored or decoded.
#[derive(Clone, Copy)]
pub(super) struct Stretch<'a> {
    pub stored: &'a [u8],
    /// [positions, W] vectors of the columns at hand.
    pub plain: &'a [[u8; 64]],
    /// The first position and the one after the last, counted from the block's.
    pub start: usize,
    pub end: usize,
    pub width: usize,
    pub column: usize,
    /// What is to be fetched meanwhile.
    pub next: &'a [u8],
}

/// Rows of values between two fetches.
const ROWS: usize = 4;

/// N queries' sums over some positions, for 16 · W columns from `from.column` on. PLAIN: values are decoded.
pub(super) struct Weigh<'a, K, const N: usize, const W: usize, const PLAIN: bool> {
    pub from: Stretch<'a>,
    pub positions: Range<usize>,
    pub rows: &'a [[f32; BLOCK]],
    /// [N, stride].
    pub sums: &'a mut [f32],
    pub stride: usize,
    pub stored: PhantomData<K>,
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
            let next = Next(from.next, &[]);
            let parts = (end - start).div_ceil(ROWS);
            for (part, some) in from.stored[start * row_bytes..end * row_bytes].chunks(ROWS * row_bytes).enumerate() {
                next.fetch(lanes, part, parts);
                for row in some.chunks_exact(row_bytes) {
                    let mut v = [lanes.splat(0.0); W];
                    for w in 0..W {
                        v[w] = K::value(lanes, row, from.column + 16 * w);
                    }
                    step(lanes, &mut acc, rows, p, v);
                    p += 1;
                }
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
