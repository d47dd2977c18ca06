//! Dot products of float rows: a lane is every sixteenth number of one row ([`Order::Lanes`](crate::Order)) or a row
//! ([`Order::Sequence`](crate::Order)). Activations are taken as given.
// Registers are named by row and vector everywhere in here, whichever array they are in.
#![expect(clippy::needless_range_loop)]

use std::ops::Range;

use super::dot::prefetch_row;
use super::vector::Vector;
use crate::format::{BF16, Block, F16, F32};
use crate::layout::LANES;
use crate::{Activations, Columns, Pick, Rows};

/// Rows that are asked for ahead of time, for one vector of activations; a multiple of the rows summed together.
const AHEAD: usize = 4;

/// Bytes of weights that stay in the second-level cache while all vectors of activations pass over them.
const BLOCK_BYTES: usize = 96 * 1024;

/// How a vector comes by plain numbers.
pub(super) trait Float: Block {
    /// `LANES` successive numbers.
    unsafe fn load<V: Vector>(from: *const u8) -> V::F;
    /// Numbers in a piece of four bytes: one or two.
    const EACH: usize = 4 / Self::BYTES;
    /// Number `which` of each lane's piece.
    unsafe fn part<V: Vector>(pieces: V::I, which: usize) -> V::F;
}

impl Float for F32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V::F {
        // SAFETY: the caller's.
        unsafe { V::load_f(from.cast()) }
    }

    #[inline(always)]
    unsafe fn part<V: Vector>(pieces: V::I, _: usize) -> V::F {
        // SAFETY: arithmetic only.
        unsafe { V::as_f(pieces) }
    }
}

impl Float for F16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V::F {
        // SAFETY: the caller's.
        unsafe { V::halves(from) }
    }

    #[inline(always)]
    unsafe fn part<V: Vector>(pieces: V::I, which: usize) -> V::F {
        // SAFETY: arithmetic only.
        unsafe { V::low_halves(V::shr(pieces, 16 * which as i32)) }
    }
}

impl Float for BF16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V::F {
        // SAFETY: the caller's.
        unsafe { V::brains(from) }
    }

    #[inline(always)]
    unsafe fn part<V: Vector>(pieces: V::I, which: usize) -> V::F {
        // SAFETY: arithmetic only.
        unsafe {
            match which {
                0 => V::as_f(V::shl(pieces, 16)),
                _ => V::as_f(V::and(pieces, V::splat(0xffff_0000_u32 as i32))),
            }
        }
    }
}

#[repr(align(64))]
struct Sums<const R: usize, const T: usize>([[[f32; LANES]; T]; R]);

/// Products of `R` rows and `T` vectors.
#[inline(always)]
unsafe fn tile<V: Vector, B: Float, const R: usize, const T: usize>(
    rows: [*const u8; R],
    width: usize,
    x: [*const f32; T],
) -> [[f32; T]; R] {
    let whole = width / LANES * LANES;
    let rest = width - whole;
    let mut sums = Sums([[[0.0; LANES]; T]; R]);
    // SAFETY: the caller's: rows and vectors have `width` numbers.
    unsafe {
        // The last numbers, filled up with zeros: adding zero changes no sum.
        let mut last_w = [[0u8; 4 * LANES]; R];
        let mut last_x = [[0f32; LANES]; T];
        if rest > 0 {
            for r in 0..R {
                rows[r].add(whole * B::BYTES).copy_to_nonoverlapping(last_w[r].as_mut_ptr(), rest * B::BYTES);
            }
            for t in 0..T {
                x[t].add(whole).copy_to_nonoverlapping(last_x[t].as_mut_ptr(), rest);
            }
        }
        for lane in (0..LANES).step_by(V::LANES) {
            let mut sum = [[V::splat_f(0.0); T]; R];
            for at in (lane..whole).step_by(LANES) {
                let mut w = [sum[0][0]; R];
                for r in 0..R {
                    w[r] = B::load::<V>(rows[r].add(at * B::BYTES));
                }
                for t in 0..T {
                    let x = V::load_f(x[t].add(at));
                    for r in 0..R {
                        sum[r][t] = V::fma(w[r], x, sum[r][t]);
                    }
                }
            }
            if rest > lane {
                for r in 0..R {
                    let w = B::load::<V>(last_w[r].as_ptr().add(lane * B::BYTES));
                    for t in 0..T {
                        sum[r][t] = V::fma(w, V::load_f(last_x[t].as_ptr().add(lane)), sum[r][t]);
                    }
                }
            }
            for r in 0..R {
                for t in 0..T {
                    V::store_f(sums.0[r][t].as_mut_ptr().add(lane), sum[r][t]);
                }
            }
        }
        let mut totals = [[0.0; T]; R];
        for r in 0..R {
            for t in 0..T {
                totals[r][t] = V::total(sums.0[r][t].as_ptr());
            }
        }
        totals
    }
}

/// [`dot_rows`](crate::dot_rows) of float rows in [`Order::Lanes`](crate::Order).
#[inline(always)]
pub(super) unsafe fn lanes<V: Vector, B: Float>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    let count = pick.count(w.len());
    // SAFETY: the verb has checked that picked rows exist and that the output has a place for each product.
    unsafe {
        if x.t() == 1 {
            // Four rows at once hide the latency of the additions.
            return rows_and_vectors::<V, B, 4, 1>(&w, pick, 0..count, x, 0, out);
        }
        let rows_each = (BLOCK_BYTES / w.row_bytes()).max(4);
        for from in (0..count).step_by(rows_each) {
            let rows = from..count.min(from + rows_each);
            let mut t = 0;
            while x.t() - t >= 4 {
                if V::ROWS == 2 {
                    // 32 registers hold sixteen sums.
                    rows_and_vectors::<V, B, 4, 4>(&w, pick, rows.clone(), x, t, out);
                } else {
                    rows_and_vectors::<V, B, 2, 4>(&w, pick, rows.clone(), x, t, out);
                }
                t += 4;
            }
            while t < x.t() {
                rows_and_vectors::<V, B, 4, 1>(&w, pick, rows.clone(), x, t, out);
                t += 1;
            }
        }
    }
}

/// Products of some rows, `R` at a time, and vectors `t..t + T`.
#[inline(always)]
unsafe fn rows_and_vectors<V: Vector, B: Float, const R: usize, const T: usize>(
    w: &Rows,
    pick: Pick,
    rows: Range<usize>,
    x: &Activations,
    t: usize,
    out: &mut Columns,
) {
    let vectors: [usize; T] = std::array::from_fn(|i| t + i);
    let vectors = vectors.map(|t| x.vector(t).as_ptr());
    // SAFETY: as for `lanes`.
    unsafe {
        for j in rows.clone().step_by(R) {
            for ahead in j + AHEAD..rows.end.min(j + AHEAD + R) {
                prefetch_row::<V>(w, pick.row(ahead));
            }
            // Where fewer rows are left, the last is multiplied more than once, written once.
            let some: [usize; R] = std::array::from_fn(|r| (j + r).min(rows.end - 1));
            let totals = tile::<V, B, R, T>(some.map(|j| w.row_at(pick.row(j))), w.width(), vectors);
            for (r, totals) in totals.into_iter().enumerate().take(rows.end - j) {
                for i in 0..T {
                    out.at(t + i).add(j + r).write(totals[i]);
                }
            }
        }
    }
}

/// [`dot_rows`](crate::dot_rows) of float rows in [`Order::Sequence`](crate::Order): `LANES` rows at a time.
#[inline(always)]
pub(super) unsafe fn sequence<V: Vector, B: Float>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    let count = pick.count(w.len());
    for from in (0..count).step_by(V::LANES) {
        let n = V::LANES.min(count - from);
        let mut rows = [std::ptr::null(); LANES];
        for (lane, row) in rows.iter_mut().enumerate().take(V::LANES) {
            // Lanes without a row of their own repeat the last one.
            *row = w.row_at(pick.row(from + lane.min(n - 1)));
        }
        let mut t = 0;
        // SAFETY: the verb has checked that picked rows exist and that the output has a place for each product.
        unsafe {
            while x.t() - t >= 4 {
                rows_in_lanes::<V, B, 4>(&rows, n, x, t, from, out);
                t += 4;
            }
            while x.t() > t {
                rows_in_lanes::<V, B, 1>(&rows, n, x, t, from, out);
                t += 1;
            }
        }
    }
}

/// Products of `n` rows (a lane each) and vectors `t..t + T`, number after number.
#[inline(always)]
unsafe fn rows_in_lanes<V: Vector, B: Float, const T: usize>(
    rows: &[*const u8; LANES],
    n: usize,
    x: &Activations,
    t: usize,
    column: usize,
    out: &mut Columns,
) {
    // Numbers in the 16 bytes that are transposed at a time.
    let numbers = 16 / B::BYTES;
    let whole = x.width() / numbers * numbers;
    let rest = x.width() - whole;
    // SAFETY: the caller's: rows and vectors have the same width.
    unsafe {
        let mut vectors = [x.vector(t).as_ptr(); T];
        for (i, vector) in vectors.iter_mut().enumerate() {
            *vector = x.vector(t + i).as_ptr();
        }
        let mut sum = [V::splat_f(0.0); T];
        for at in (0..whole).step_by(numbers) {
            let pieces = V::transpose(|lane| rows[lane].wrapping_add(at * B::BYTES));
            for (k, piece) in pieces.into_iter().enumerate() {
                for which in 0..B::EACH {
                    let w = B::part::<V>(piece, which);
                    for (sum, x) in sum.iter_mut().zip(vectors) {
                        *sum = V::fma(w, V::splat_f(x.add(at + k * B::EACH + which).read()), *sum);
                    }
                }
            }
        }
        if rest > 0 {
            let mut last = [[0u8; 16]; LANES];
            for (last, row) in last.iter_mut().zip(rows).take(V::LANES) {
                row.add(whole * B::BYTES).copy_to_nonoverlapping(last.as_mut_ptr(), rest * B::BYTES);
            }
            let pieces = V::transpose(|lane| last[lane].as_ptr());
            for i in 0..rest {
                let w = B::part::<V>(pieces[i / B::EACH], i % B::EACH);
                for (sum, x) in sum.iter_mut().zip(vectors) {
                    *sum = V::fma(w, V::splat_f(x.add(whole + i).read()), *sum);
                }
            }
        }
        for (i, sum) in sum.into_iter().enumerate() {
            let mut totals = [0.0; LANES];
            V::store_f(totals.as_mut_ptr(), sum);
            out.at(t + i).add(column).copy_from_nonoverlapping(totals.as_ptr(), n);
        }
    }
}
