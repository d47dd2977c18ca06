//! Weighted sums of rows: four rows at a time pass over the output, so that it is loaded and stored once for four.

use std::ops::Range;

use super::float::Float;
use super::vector::Vector;

use crate::format::{BF16, Block, F16, F32, Q4_0, Q4_1, Q8_0};
use crate::{Activations, Columns, Rows};

/// Rows added in one pass over the output.
const ROWS: usize = 4;

/// Formats of which a vector can decode `LANES` successive weights at once.
pub(super) trait Decode: Block {
    /// What is the same for all weights of a block.
    type Head<V: Vector>: Copy;
    unsafe fn head<V: Vector>(block: *const u8) -> Self::Head<V>;
    /// Weights `at..at + LANES` of the block; `at` is a multiple of `LANES`.
    unsafe fn weights<V: Vector>(block: *const u8, head: Self::Head<V>, at: usize) -> V::F;
    /// Weights decoded in one step: whole blocks, and vectors of any width.
    const STEP: usize;
}

/// Codes `at..` of 16 bytes of nibbles, with something above the nibble.
#[inline(always)]
unsafe fn nibbles<V: Vector>(bytes: *const u8, at: usize) -> V::I {
    // SAFETY: the caller's: 16 bytes lie there, and `at` is below 32.
    unsafe {
        let bytes = V::bytes(bytes.add(at % 16));
        if at < 16 { bytes } else { V::shr(bytes, 4) }
    }
}

impl Decode for Q4_0 {
    type Head<V: Vector> = V::F;
    const STEP: usize = 32;

    #[inline(always)]
    unsafe fn head<V: Vector>(block: *const u8) -> V::F {
        // SAFETY: the block begins with an f16 number.
        unsafe { V::nibble_table(V::splat_half(block)) }
    }

    #[inline(always)]
    unsafe fn weights<V: Vector>(block: *const u8, table: V::F, at: usize) -> V::F {
        // SAFETY: 16 bytes of nibbles follow the scale.
        unsafe { V::nibbles_times(table, nibbles::<V>(block.add(2), at)) }
    }
}

impl Decode for Q4_1 {
    type Head<V: Vector> = (V::F, V::F);
    const STEP: usize = 32;

    #[inline(always)]
    unsafe fn head<V: Vector>(block: *const u8) -> (V::F, V::F) {
        // SAFETY: the block begins with two f16 numbers.
        unsafe { (V::splat_half(block), V::splat_half(block.add(2))) }
    }

    #[inline(always)]
    unsafe fn weights<V: Vector>(block: *const u8, (d, m): (V::F, V::F), at: usize) -> V::F {
        // SAFETY: 16 bytes of nibbles follow. The product is exact, so that fusing it with the addition changes nothing.
        unsafe { V::fma(d, V::to_f(V::and(nibbles::<V>(block.add(4), at), V::splat(15))), m) }
    }
}

impl Decode for Q8_0 {
    type Head<V: Vector> = V::F;
    const STEP: usize = 32;

    #[inline(always)]
    unsafe fn head<V: Vector>(block: *const u8) -> V::F {
        // SAFETY: the block begins with an f16 number.
        unsafe { V::splat_half(block) }
    }

    #[inline(always)]
    unsafe fn weights<V: Vector>(block: *const u8, d: V::F, at: usize) -> V::F {
        // SAFETY: 32 bytes follow the scale.
        unsafe { V::mul_f(d, V::to_f(V::signed_bytes(block.add(2 + at)))) }
    }
}

macro_rules! decode_floats {
    ($($B:ty),*) => {$(
        impl Decode for $B {
            type Head<V: Vector> = ();
            const STEP: usize = 32;

            #[inline(always)]
            unsafe fn head<V: Vector>(_: *const u8) {}

            #[inline(always)]
            unsafe fn weights<V: Vector>(block: *const u8, _: (), at: usize) -> V::F {
                // SAFETY: the caller's: these numbers lie there.
                unsafe { <$B as Float>::load::<V>(block.add(at * <$B>::BYTES)) }
            }
        }
    )*};
}
decode_floats!(F32, F16, BF16);

/// [`add_rows`](crate::add_rows) for formats decoded in vectors.
#[inline(always)]
pub(super) unsafe fn rows<V: Vector, B: Decode>(w: Rows, h: &[f32], columns: Range<usize>, out: &mut [f32]) {
    let whole = columns.start.next_multiple_of(B::STEP)..columns.end / B::STEP * B::STEP;
    if whole.is_empty() {
        return block_by_block::<B>(w, h, columns, out);
    }
    let (before, after) = (columns.start..whole.start, whole.end..columns.end);
    let (head, rest) = out.split_at_mut(before.len());
    let (body, tail) = rest.split_at_mut(whole.len());
    let mut next = 0;
    loop {
        let (n, rows) = firing(&w, h, &mut next);
        // SAFETY: the rows exist, and `body` has a number for each column of `whole`.
        unsafe {
            match n {
                0 => break,
                ROWS => {
                    for &(row, _) in firing(&w, h, &mut { next }).1.iter() {
                        prefetch::<V, B>(&w, row, &whole);
                    }
                    add::<V, B, ROWS>(&w, rows, &whole, body);
                }
                _ => {
                    for &row in &rows[..n] {
                        add::<V, B, 1>(&w, [row], &whole, body);
                    }
                }
            }
        }
    }
    block_by_block::<B>(w, h, before, head);
    block_by_block::<B>(w, h, after, tail);
}

/// The next rows that are read, with their weights, and how many they are.
#[inline(always)]
fn firing(w: &Rows, h: &[f32], next: &mut usize) -> (usize, [(usize, f32); ROWS]) {
    let mut rows = [(0, 0.0); ROWS];
    let mut n = 0;
    while *next < h.len() && n < ROWS {
        rows[n] = (*next, h[*next]);
        n += usize::from(w.reads(h[*next]));
        *next += 1;
    }
    (n, rows)
}

#[inline(always)]
unsafe fn prefetch<V: Vector, B: Block>(w: &Rows, row: usize, columns: &Range<usize>) {
    let bytes = columns.start / B::WEIGHTS * B::BYTES..columns.end / B::WEIGHTS * B::BYTES;
    for at in bytes.step_by(64) {
        // SAFETY: any address will do.
        unsafe { V::prefetch(w.row_at(row).wrapping_add(at)) };
    }
}

/// Adds `R` rows, one after the other in each column.
#[inline(always)]
unsafe fn add<V: Vector, B: Decode, const R: usize>(
    w: &Rows,
    rows: [(usize, f32); R],
    columns: &Range<usize>,
    out: &mut [f32],
) {
    // SAFETY: the caller's: the rows exist and `out` has a number for each column.
    unsafe {
        let mut h = [V::splat_f(0.0); R];
        for (h, row) in h.iter_mut().zip(rows) {
            *h = V::splat_f(row.1);
        }
        for (step, out) in columns.clone().step_by(B::STEP).zip(out.chunks_exact_mut(B::STEP)) {
            let at = step / B::WEIGHTS * B::BYTES;
            let block = |r: usize| w.row_at(rows[r].0).wrapping_add(at);
            let mut heads = [B::head::<V>(block(0)); R];
            for (r, head) in heads.iter_mut().enumerate().skip(1) {
                *head = B::head::<V>(block(r));
            }
            for c in (0..B::STEP).step_by(V::LANES) {
                let mut sum = V::load_f(out.as_ptr().add(c));
                for r in 0..R {
                    sum = V::fma(h[r], B::weights::<V>(block(r), heads[r], c), sum);
                }
                V::store_f(out.as_mut_ptr().add(c), sum);
            }
        }
    }
}

/// Columns decoded at a time for many vectors.
const STRIP: usize = 32;

/// [`add_rows_many`](crate::add_rows_many) for formats decoded in vectors: each weight is decoded once for all vectors.
#[inline(always)]
pub(super) unsafe fn many<V: Vector, B: Decode>(w: Rows, h: &Activations, columns: Range<usize>, out: &mut Columns) {
    let whole = columns.start.next_multiple_of(STRIP)..columns.end / STRIP * STRIP;
    if whole.is_empty() {
        return one_by_one::<B>(w, h, columns, 0, out);
    }
    one_by_one::<B>(w, h, columns.start..whole.start, 0, out);
    one_by_one::<B>(w, h, whole.end..columns.end, whole.end - columns.start, out);
    // Rows that fire for nobody are not read; one that fires for somebody adds zero to the others.
    let firing: Vec<usize> = (0..w.len()).filter(|i| (0..h.t()).any(|t| w.reads(h.vector(t)[*i]))).collect();
    let mut weights = vec![[0f32; STRIP]; firing.len()];
    // SAFETY: the rows exist, and the output has a number for each column.
    unsafe {
        for first in whole.step_by(STRIP) {
            let at = first / B::WEIGHTS * B::BYTES;
            for (weights, row) in weights.iter_mut().zip(&firing) {
                let block = w.row_at(*row).wrapping_add(at);
                V::prefetch(block.wrapping_add(STRIP / B::WEIGHTS * B::BYTES));
                let head = B::head::<V>(block);
                for c in (0..STRIP).step_by(V::LANES) {
                    V::store_f(weights.as_mut_ptr().add(c), B::weights::<V>(block, head, c));
                }
            }
            for c in (0..STRIP).step_by(2 * V::LANES) {
                let column = first - columns.start + c;
                let mut t = 0;
                // Two vectors of columns times eight of activations fill half of 32 registers; times four, of 16.
                let many = if V::ROWS == 2 { 8 } else { 4 };
                while h.t() - t >= many {
                    if V::ROWS == 2 {
                        add_decoded::<V, 8>(&weights, &firing, c, h, t, column, out);
                    } else {
                        add_decoded::<V, 4>(&weights, &firing, c, h, t, column, out);
                    }
                    t += many;
                }
                while t < h.t() {
                    add_decoded::<V, 1>(&weights, &firing, c, h, t, column, out);
                    t += 1;
                }
            }
        }
    }
}

/// Adds decoded rows to two vectors of columns, for vectors of activations `t..t + T`.
#[inline(always)]
unsafe fn add_decoded<V: Vector, const T: usize>(
    weights: &[[f32; STRIP]],
    firing: &[usize],
    c: usize,
    h: &Activations,
    t: usize,
    column: usize,
    out: &mut Columns,
) {
    // SAFETY: the caller's: vectors and columns exist.
    unsafe {
        let mut sums = [[V::splat_f(0.0); 2]; T];
        let mut vectors = [h.vector(t).as_ptr(); T];
        for (i, sums) in sums.iter_mut().enumerate() {
            vectors[i] = h.vector(t + i).as_ptr();
            let at = out.at(t + i).add(column);
            *sums = [V::load_f(at), V::load_f(at.add(V::LANES))];
        }
        for (weights, row) in weights.iter().zip(firing) {
            let at = weights.as_ptr().add(c);
            let (low, high) = (V::load_f(at), V::load_f(at.add(V::LANES)));
            for (sums, vector) in sums.iter_mut().zip(vectors) {
                let h = V::splat_f(vector.add(*row).read());
                *sums = [V::fma(h, low, sums[0]), V::fma(h, high, sums[1])];
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            let at = out.at(t + i).add(column);
            V::store_f(at, sums[0]);
            V::store_f(at.add(V::LANES), sums[1]);
        }
    }
}

/// A few columns, vector by vector; they begin at column `at` of the output.
#[inline(always)]
fn one_by_one<B: Block>(w: Rows, h: &Activations, columns: Range<usize>, at: usize, out: &mut Columns) {
    for t in 0..h.t() {
        let out = &mut out.row(t)[at..at + columns.len()];
        block_by_block::<B>(w, h.vector(t), columns.clone(), out);
    }
}

/// [`add_rows`](crate::add_rows) for any format: blocks are decoded one at a time, by loops that the compiler turns into
/// vectors of the instruction set this is inlined under.
#[inline(always)]
pub(super) fn block_by_block<B: Block>(w: Rows, h: &[f32], columns: Range<usize>, out: &mut [f32]) {
    if columns.is_empty() {
        return;
    }
    let mut weights = [0f32; 256];
    let weights = &mut weights[..B::WEIGHTS];
    let blocks = columns.start / B::WEIGHTS..columns.end.div_ceil(B::WEIGHTS);
    for (i, &h) in h.iter().enumerate() {
        if !w.reads(h) {
            continue;
        }
        let row = w.row(i);
        for b in blocks.clone() {
            B::decode(&row[b * B::BYTES..][..B::BYTES], weights);
            let first = b * B::WEIGHTS;
            let here = columns.start.max(first)..columns.end.min(first + B::WEIGHTS);
            let weights = &weights[here.start - first..here.end - first];
            let out = &mut out[here.start - columns.start..here.end - columns.start];
            for (out, w) in out.iter_mut().zip(weights) {
                *out = h.mul_add(*w, *out);
            }
        }
    }
}
