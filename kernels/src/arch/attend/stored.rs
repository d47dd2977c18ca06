//! How the tiles of keys and rows of values of each format are read.

use super::panel::Next;
use crate::arch::lanes::Lanes;
use crate::attend::TILE;

/// One format. What it decodes to is exact, so that keys and values may as well be decoded first and read as [`F32`].
pub(super) trait Stored {
    /// Bytes of one key or value.
    fn row_bytes(width: usize) -> usize;
    /// N queries ([width] rows of N) against W tiles, while what comes next is fetched.
    fn scores<L: Lanes, const N: usize, const W: usize>(
        lanes: L,
        tiles: [&[u8]; W],
        packed: &[[f32; N]],
        next: Next,
    ) -> [[L::V; W]; N];
    /// A tile as f32: a vector per element.
    fn decode_tile<L: Lanes>(lanes: L, tile: &[u8], into: &mut [[u8; 64]]);
    /// Sixteen elements of a row, from `column` on.
    fn value<L: Lanes>(lanes: L, row: &[u8], column: usize) -> L::V;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Q8;

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

/// Scores of keys that are loaded `BYTES` at a time.
#[inline(always)]
fn scores_of<L: Lanes, const N: usize, const W: usize, const BYTES: usize>(
    lanes: L,
    tiles: [&[u8]; W],
    packed: &[[f32; N]],
    next: Next,
    load: impl Fn(L, &[u8; BYTES]) -> L::V,
) -> [[L::V; W]; N] {
    let mut acc = [[lanes.splat(0.0); W]; N];
    let packed = packed.as_chunks::<16>().0;
    let tiles = tiles.map(|tile| tile.as_chunks::<BYTES>().0.as_chunks::<16>().0);
    let tiles = tiles.map(|tile| &tile[..packed.len()]);
    for (run, q) in packed.iter().enumerate() {
        for (part, q) in q.as_chunks::<4>().0.iter().enumerate() {
            // A few lines at a time: a burst of them would hold up the loads behind it.
            if W == 2 || part % 2 == 0 {
                next.fetch(lanes, (run * 4 + part) * W / 2, packed.len() * 4 * W / 2);
            }
            for (i, q) in q.iter().enumerate() {
                let mut k = [lanes.splat(0.0); W];
                for w in 0..W {
                    k[w] = load(lanes, &tiles[w][run][part * 4 + i]);
                }
                multiply(lanes, &mut acc, q, k);
            }
        }
    }
    acc
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
        next: Next,
    ) -> [[L::V; W]; N] {
        scores_of(lanes, tiles, packed, next, L::load_f32_bytes)
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
        next: Next,
    ) -> [[L::V; W]; N] {
        scores_of(lanes, tiles, packed, next, L::load_f16)
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

/// Bytes of 32 elements of a tile: 16 scales, then 32 times 16 numbers.
const RUN: usize = 34 * TILE;

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
        next: Next,
    ) -> [[L::V; W]; N] {
        let mut acc = [[lanes.splat(0.0); W]; N];
        let packed = packed.as_chunks::<32>().0;
        let tiles = tiles.map(|tile| &tile.as_chunks::<RUN>().0[..packed.len()]);
        for (run, q) in packed.iter().enumerate() {
            next.fetch(lanes, run, packed.len());
            let mut scale = [lanes.splat(0.0); W];
            for w in 0..W {
                scale[w] = lanes.load_f16(tiles[w][run].first_chunk().expect("544 bytes hold 32"));
            }
            for (i, q) in q.iter().enumerate() {
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
        for (run, into) in tile.as_chunks::<RUN>().0.iter().zip(into.as_chunks_mut::<32>().0) {
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
