//! Weighted sums of neurons with the scales of an ordinary file: the integers of 32 neurons are summed over those that
//! fire, then scaled once per output.

use std::ops::Range;

use super::vector::Vector;
use crate::format::{Q4_0, Q4_1, Q8_0, RUN};
use crate::layout::{CHUNK, LANES};
use crate::{Activations, Columns, Tiles};

/// Formats that can be laid by neuron.
pub(super) trait Tiled {
    /// Whether a byte holds two codes.
    const NIBBLES: bool;
    const OFFSET: i32;
    const MINIMUM: bool;
    /// Outputs in a whole chunk.
    const OUTPUTS: usize = if Self::NIBBLES { 2 * CHUNK } else { CHUNK };
    /// Sums a vector of codes gives rise to: four per nibble.
    const SUMS: usize = if Self::NIBBLES { 8 } else { 4 };
}

impl Tiled for Q4_0 {
    const NIBBLES: bool = true;
    const OFFSET: i32 = 8;
    const MINIMUM: bool = false;
}

impl Tiled for Q4_1 {
    const NIBBLES: bool = true;
    const OFFSET: i32 = 0;
    const MINIMUM: bool = true;
}

impl Tiled for Q8_0 {
    const NIBBLES: bool = false;
    const OFFSET: i32 = 0;
    const MINIMUM: bool = false;
}

/// What the offset of the codes takes off per unit of `h`.
#[inline(always)]
fn offset<V: Vector, B: Tiled>() -> i32 {
    if B::NIBBLES { B::OFFSET } else { V::SIGNED_OFFSET }
}

/// [`add_tiles`](crate::add_tiles).
#[inline(always)]
pub(super) unsafe fn tiles<V: Vector, B: Tiled>(w: Tiles, h: &Activations, columns: Range<usize>, out: &mut Columns) {
    // Only whole chunks go through the loops below; a shorter one at the end, or those cut by the range, do not.
    let end = (columns.end / B::OUTPUTS).min(w.width() / B::OUTPUTS) * B::OUTPUTS;
    let whole = columns.start.next_multiple_of(B::OUTPUTS)..end;
    if whole.is_empty() {
        return super::scalar::add_tiles(w, h, columns, out);
    }
    let (before, after) = (columns.start..whole.start, whole.end..columns.end);
    // SAFETY: the verb has checked the shapes, and the columns are whole chunks.
    unsafe {
        let mut out = out.slice(before.len()..before.len() + whole.len());
        // Twice eight sums are what 32 registers hold; sets with fewer have ROWS 1.
        if h.t() <= 4 * V::ROWS {
            let mut t = 0;
            while V::ROWS == 2 && t + 2 <= h.t() {
                few_vectors::<V, B, 2>(w, h, t, whole.clone(), &mut out);
                t += 2;
            }
            while t < h.t() {
                few_vectors::<V, B, 1>(w, h, t, whole.clone(), &mut out);
                t += 1;
            }
        } else {
            many_vectors::<V, B>(w, h, whole, &mut out);
        }
    }
    if !before.is_empty() {
        super::scalar::add_tiles(w, h, before.clone(), &mut out.slice(0..before.len()));
    }
    if !after.is_empty() {
        let first = after.start - columns.start;
        super::scalar::add_tiles(w, h, after.clone(), &mut out.slice(first..first + after.len()));
    }
}

/// The neurons of a block that fire for any of `T` vectors: their rows of codes and, four to a number, their weights.
struct Firing<const T: usize> {
    rows: [*const u8; RUN],
    weights: [[i32; RUN / 4]; T],
    /// Rounded up to a multiple of four, by rows of weight zero.
    n: usize,
}

/// Those of block `b` and vectors `t..t + T`; silent ones are not among them unless they are to be read.
#[inline(always)]
fn firing<const T: usize>(w: &Tiles, h: &Activations, t: usize, b: usize) -> Firing<T> {
    let codes = w.bytes().as_ptr().wrapping_add(b * RUN * w.plan().row_bytes);
    let groups: [_; T] = std::array::from_fn(|i| &h.groups(t + i)[b / LANES]);
    let mut list = Firing { rows: [codes; RUN], weights: [[0; RUN / 4]; T], n: 0 };
    let mut bytes = [[0i8; RUN]; T];
    let mut left = groups.iter().fold(0, |all, group| all | group.fires(b % LANES));
    if w.reads(0) {
        left = u32::MAX;
    }
    while left != 0 {
        let i = left.trailing_zeros() as usize;
        left &= left - 1;
        list.rows[list.n] = codes.wrapping_add(i * w.plan().row_bytes);
        for (bytes, group) in bytes.iter_mut().zip(groups) {
            bytes[list.n] = group.codes[i / 4][b % LANES * 4 + i % 4];
        }
        list.n += 1;
    }
    // What follows the last firing neuron was never written: the weight zero.
    list.n = list.n.next_multiple_of(4);
    for (weights, bytes) in list.weights.iter_mut().zip(bytes) {
        for (weight, four) in weights.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *weight = i32::from_le_bytes(four.map(|b| b as u8));
        }
    }
    list
}

/// Sums of `SUMS` times `LANES` outputs over some neurons: integers, as `LANES` outputs in each vector, and how they begin.
///
/// Where products of whole bytes fit, the last four are of bytes as they lie until [`finish`] takes off the low nibbles'
/// share: 16 times what the high ones give.
#[inline(always)]
unsafe fn begin<V: Vector, B: Tiled>(sum_of_h: i32) -> [V::I; 8] {
    // SAFETY: arithmetic only.
    unsafe {
        let low = V::splat(-offset::<V, B>() * sum_of_h);
        let high = if B::NIBBLES && V::WHOLE_BYTES { V::splat(-17 * offset::<V, B>() * sum_of_h) } else { low };
        [low, low, low, low, high, high, high, high]
    }
}

/// Adds four neurons, of rounded weights `h`.
#[inline(always)]
unsafe fn add_four<V: Vector, B: Tiled>(sums: &mut [V::I; 8], codes: [V::I; 4], h: V::I) {
    // SAFETY: arithmetic only.
    unsafe {
        let mask = V::splat(0x0f0f_0f0f);
        for i in 0..4 {
            if !B::NIBBLES {
                sums[i] = V::dot_signed(sums[i], V::signed(codes[i]), h);
                continue;
            }
            sums[i] = V::dot::<15>(sums[i], V::and(codes[i], mask), h);
            sums[i + 4] = match V::WHOLE_BYTES {
                true => V::dot::<255>(sums[i + 4], codes[i], h),
                false => V::dot::<15>(sums[i + 4], V::and(V::shr(codes[i], 4), mask), h),
            };
        }
    }
}

/// The sums, each its own.
#[inline(always)]
unsafe fn finish<V: Vector, B: Tiled>(mut sums: [V::I; 8]) -> [V::I; 8] {
    if B::NIBBLES && V::WHOLE_BYTES {
        for i in 0..4 {
            // SAFETY: arithmetic only.
            sums[i + 4] = unsafe { V::shr_signed(V::sub(sums[i + 4], sums[i]), 4) };
        }
    }
    sums
}

/// The first output of sum `i` of the vector at byte `byte` of a chunk.
#[inline(always)]
fn output<B: Tiled>(i: usize, byte: usize) -> usize {
    // Four pieces of 16 bytes in a chunk, one lane of 32 bits per output; see `TilePlan`.
    let low = 16 * (i % 4) + byte / 4;
    if i < 4 { low } else { low + CHUNK }
}

/// Vectors `t..t + T` of activations: block after block, all columns of each, so that rows are read in long runs.
#[expect(clippy::needless_range_loop, reason = "sums are named by vector and place wherever they are used")]
#[inline(always)]
unsafe fn few_vectors<V: Vector, B: Tiled, const T: usize>(
    w: Tiles,
    h: &Activations,
    t: usize,
    columns: Range<usize>,
    out: &mut Columns,
) {
    let blocks = w.neurons() / RUN;
    let per_byte = B::OUTPUTS / CHUNK;
    let bytes = columns.start / per_byte..columns.end / per_byte;
    let all = w.bytes().as_ptr();
    // SAFETY: the caller's: columns are whole chunks that exist, and the output has a number for each.
    unsafe {
        let mut list = firing::<T>(&w, h, t, 0);
        for row in &list.rows[..list.n] {
            for at in bytes.clone().step_by(CHUNK) {
                V::prefetch(row.wrapping_add(at));
            }
        }
        for b in 0..blocks {
            // Spread over the columns of this block, the lines of the next are asked for: just what the first-level cache
            // holds beside it.
            let next = if b + 1 < blocks {
                firing::<T>(&w, h, t, b + 1)
            } else {
                Firing { rows: [all; RUN], weights: [[0; RUN / 4]; T], n: 0 }
            };
            let mut next = Lines { list: next, row: 0, at: bytes.start, bytes: bytes.clone() };
            // As many lines per chunk of this block as it has rows, and all are asked for by its end.
            let each = next.list.n;
            if list.n > 0 {
                let sum_of_h: [i32; T] = std::array::from_fn(|i| h.groups(t + i)[b / LANES].whole[b % LANES]);
                for at in bytes.clone().step_by(CHUNK) {
                    next.ask::<V>(each);
                    let first = at * per_byte;
                    for half in 0..if B::MINIMUM { 2 } else { 1 } {
                        let scales = w.plan().half(half, (b + 1).min(blocks - 1), first);
                        for line in (0..2 * B::OUTPUTS).step_by(CHUNK) {
                            V::prefetch(all.wrapping_add(scales + line));
                        }
                    }
                    for byte in (0..CHUNK).step_by(4 * V::LANES) {
                        let mut sums = [[V::splat(0); 8]; T];
                        for (sums, whole) in sums.iter_mut().zip(sum_of_h) {
                            *sums = begin::<V, B>(whole);
                        }
                        for q in 0..list.n / 4 {
                            let load = |r: usize| list.rows[4 * q + r].wrapping_add(at + byte);
                            let rows = [V::load(load(0)), V::load(load(1)), V::load(load(2)), V::load(load(3))];
                            let codes = V::interleave(rows);
                            for (sums, weights) in sums.iter_mut().zip(&list.weights) {
                                add_four::<V, B>(sums, codes, V::splat(weights[q]));
                            }
                        }
                        for sums in &mut sums {
                            *sums = finish::<V, B>(*sums);
                        }
                        for s in 0..B::SUMS {
                            let c = first + output::<B>(s, byte);
                            let d = V::halves(all.add(w.plan().half(0, b, c)));
                            for i in 0..T {
                                let scale = V::splat_f(h.scale(t + i, b));
                                let out = out.at(t + i).add(c - columns.start);
                                let mut sum = V::fma(V::mul_f(d, scale), V::to_f(sums[i][s]), V::load_f(out));
                                if B::MINIMUM {
                                    let m = V::halves(all.add(w.plan().half(1, b, c)));
                                    sum = V::fma(V::mul_f(m, scale), V::to_f(V::splat(sum_of_h[i])), sum);
                                }
                                V::store_f(out, sum);
                            }
                        }
                    }
                }
            }
            // After a silent block nothing has been asked for yet.
            next.ask::<V>(usize::MAX);
            list = next.list;
        }
    }
}

/// The cache lines of some rows, row after row.
struct Lines<const T: usize> {
    list: Firing<T>,
    row: usize,
    at: usize,
    bytes: Range<usize>,
}

impl<const T: usize> Lines<T> {
    /// Asks for the next `count` of them, or those that are left.
    #[inline(always)]
    unsafe fn ask<V: Vector>(&mut self, count: usize) {
        for _ in 0..count {
            if self.row >= self.list.n {
                return;
            }
            // SAFETY: any address will do.
            unsafe { V::prefetch(self.list.rows[self.row].wrapping_add(self.at)) };
            self.at += CHUNK;
            if self.at >= self.bytes.end {
                (self.row, self.at) = (self.row + 1, self.bytes.start);
            }
        }
    }
}

/// Codes of 32 neurons and a vector's worth of outputs, interleaved once for many vectors of activations.
#[repr(align(64))]
struct Interleaved<V: Vector>([[V::I; 8]; RUN / 4]);

/// Many vectors of activations: chunk after chunk, so that the outputs of all of them stay in the first-level cache.
#[inline(always)]
unsafe fn many_vectors<V: Vector, B: Tiled>(w: Tiles, h: &Activations, columns: Range<usize>, out: &mut Columns) {
    let blocks = w.neurons() / RUN;
    let per_byte = B::OUTPUTS / CHUNK;
    let bytes = columns.start / per_byte..columns.end / per_byte;
    let all = w.bytes().as_ptr();
    // SAFETY: the caller's: columns are whole chunks that exist, and the output has a number for each.
    unsafe {
        let mask = V::splat(0x0f0f_0f0f);
        let mut codes = Interleaved::<V>([[mask; 8]; RUN / 4]);
        for at in bytes.step_by(CHUNK) {
            for b in 0..blocks {
                let rows = all.add(b * RUN * w.plan().row_bytes + at);
                // Reading goes down the neurons, one line each: the next block's lines are far apart, ask for them.
                for i in 0..RUN {
                    V::prefetch(rows.wrapping_add((RUN + i) * w.plan().row_bytes));
                }
                for byte in (0..CHUNK).step_by(4 * V::LANES) {
                    for (q, codes) in codes.0.iter_mut().enumerate() {
                        let load = |r: usize| rows.add((4 * q + r) * w.plan().row_bytes + byte);
                        let four = [V::load(load(0)), V::load(load(1)), V::load(load(2)), V::load(load(3))];
                        for (i, v) in V::interleave(four).into_iter().enumerate() {
                            if B::NIBBLES {
                                codes[i] = V::and(v, mask);
                                codes[i + 4] = V::and(V::shr(v, 4), mask);
                            } else {
                                codes[i] = V::signed(v);
                            }
                        }
                    }
                    let first = at * per_byte;
                    let mut d = [V::splat_f(0.0); 8];
                    let mut m = d;
                    for i in 0..B::SUMS {
                        let c = first + output::<B>(i, byte);
                        d[i] = V::halves(all.add(w.plan().half(0, b, c)));
                        if B::MINIMUM {
                            m[i] = V::halves(all.add(w.plan().half(1, b, c)));
                        }
                    }
                    let c = first - columns.start;
                    let mut t = 0;
                    // Twice eight sums are what 32 registers hold; sets with fewer have ROWS 1.
                    while V::ROWS == 2 && t + 2 <= h.t() {
                        add_block::<V, B, 2>(&codes, &d, &m, h, t, b, c, byte, out);
                        t += 2;
                    }
                    while t < h.t() {
                        add_block::<V, B, 1>(&codes, &d, &m, h, t, b, c, byte, out);
                        t += 1;
                    }
                }
            }
        }
    }
}

/// One block of neurons, some outputs, vectors `t..t + T`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the state of one loop, which this is the body of")]
unsafe fn add_block<V: Vector, B: Tiled, const T: usize>(
    codes: &Interleaved<V>,
    d: &[V::F; 8],
    m: &[V::F; 8],
    h: &Activations,
    t: usize,
    b: usize,
    column: usize,
    byte: usize,
    out: &mut Columns,
) {
    // SAFETY: the caller's: block, vectors and columns exist.
    unsafe {
        let mut sums = [[V::splat(0); 8]; T];
        let mut groups = [h.groups(t).as_ptr().add(b / LANES); T];
        for i in 0..T {
            groups[i] = h.groups(t + i).as_ptr().add(b / LANES);
            let whole = (&raw const (*groups[i]).whole).cast::<i32>().add(b % LANES).read();
            sums[i] = [V::splat(-offset::<V, B>() * whole); 8];
        }
        for (q, codes) in codes.0.iter().enumerate() {
            for i in 0..T {
                let h = V::splat((&raw const (*groups[i]).codes[q]).cast::<i32>().add(b % LANES).read());
                for s in 0..B::SUMS {
                    sums[i][s] = match B::NIBBLES {
                        true => V::dot::<15>(sums[i][s], codes[s], h),
                        false => V::dot_signed(sums[i][s], codes[s], h),
                    };
                }
            }
        }
        for i in 0..T {
            let scale = V::splat_f(h.scale(t + i, b));
            let whole = V::to_f(V::splat((&raw const (*groups[i]).whole).cast::<i32>().add(b % LANES).read()));
            for s in 0..B::SUMS {
                let out = out.at(t + i).add(column + output::<B>(s, byte));
                let mut sum = V::fma(V::mul_f(d[s], scale), V::to_f(sums[i][s]), V::load_f(out));
                if B::MINIMUM {
                    sum = V::fma(V::mul_f(m[s], scale), whole, sum);
                }
                V::store_f(out, sum);
            }
        }
    }
}
