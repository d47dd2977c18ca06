//! Dot products of quantised rows run after run ([`Order::Sequence`](crate::Order)): a lane is a row. Weights are unpacked
//! once for all vectors of activations.

// Registers are named by vector everywhere in here, whichever array they are in.
#![expect(clippy::needless_range_loop)]

use super::place::Stacked;
use super::products::{OneRun, add_products};
use super::unpack::{Panel, Unpack};
use super::vector::Vector;
use crate::format::RUN;
use crate::layout::LANES;
use crate::{Activations, Columns, Pick, Rows};

/// [`dot_rows`](crate::dot_rows) of quantised rows as files have them in [`Order::Sequence`](crate::Order): as many rows at
/// a time as there are lanes, a lane each.
#[inline(always)]
pub(super) unsafe fn rows<V: Vector, B: Unpack>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    let count = pick.count(w.len());
    let rows_from = |from: usize| {
        let mut rows = [std::ptr::null(); LANES];
        for (lane, row) in rows.iter_mut().enumerate().take(V::LANES) {
            // Lanes without a row of their own repeat the last one.
            *row = w.row_at(pick.row((from + lane).min(count - 1)));
        }
        rows
    };
    let runs = w.width() / RUN;
    let mut panels = Vec::with_capacity(if x.t() > 1 { runs } else { 0 });
    for from in (0..count).step_by(V::LANES) {
        let n = V::LANES.min(count - from);
        let (rows, next) = (rows_from(from), rows_from(from + V::LANES));
        // SAFETY: the verb has checked that picked rows exist and that the output has a place for each product.
        unsafe {
            if x.t() == 1 {
                let mut sum = V::splat_f(0.0);
                each_run::<V, B>(&rows, &next, runs, |b, w| {
                    let side = OneRun { group: x.groups(0).as_ptr().add(b / LANES), lane: b % LANES };
                    sum = add_products::<V, B>(sum, w, side);
                });
                store_some::<V>(sum, out.at(0).add(from), n);
                continue;
            }
            panels.clear();
            each_run::<V, B>(&rows, &next, runs, |_, w| panels.push(*w));
            let mut t = 0;
            while x.t() - t >= 4 {
                panels_and_vectors::<V, B, 4>(&panels, x, t, from, n, out);
                t += 4;
            }
            while x.t() > t {
                panels_and_vectors::<V, B, 1>(&panels, x, t, from, n, out);
                t += 1;
            }
        }
    }
}

/// Visits the runs of as many rows as there are lanes, one after the other; meanwhile the rows that come next are asked for,
/// since no hardware guesses this way of reading.
#[inline(always)]
unsafe fn each_run<V: Vector, B: Unpack>(
    rows: &[*const u8; LANES],
    next: &[*const u8; LANES],
    runs: usize,
    mut visit: impl FnMut(usize, &Panel<V>),
) {
    let mut blocks = *rows;
    let mut asked = 0;
    // SAFETY: the caller's: the rows have `runs` runs.
    unsafe {
        for block in 0..runs / B::RUNS {
            while asked < (block + 1) * B::BYTES {
                for row in next.iter().take(V::LANES) {
                    V::prefetch(row.wrapping_add(asked));
                }
                asked += 64;
            }
            let mut place = Stacked::<V, B>::new(&blocks);
            for run in 0..B::RUNS {
                place.run = run;
                visit(block * B::RUNS + run, &B::unpack::<V>(&place));
            }
            for block in blocks.iter_mut().take(V::LANES) {
                *block = block.wrapping_add(B::BYTES);
            }
        }
    }
}

/// Products of rows unpacked run by run and vectors `t..t + T`.
#[inline(always)]
unsafe fn panels_and_vectors<V: Vector, B: Unpack, const T: usize>(
    panels: &[Panel<V>],
    x: &Activations,
    t: usize,
    column: usize,
    n: usize,
    out: &mut Columns,
) {
    // SAFETY: the caller's: the vectors have as many runs as there are panels.
    unsafe {
        let mut groups = [x.groups(t).as_ptr(); T];
        for i in 1..T {
            groups[i] = x.groups(t + i).as_ptr();
        }
        let mut sum = [V::splat_f(0.0); T];
        for (b, w) in panels.iter().enumerate() {
            for i in 0..T {
                let side = OneRun { group: groups[i].add(b / LANES), lane: b % LANES };
                sum[i] = add_products::<V, B>(sum[i], w, side);
            }
        }
        for i in 0..T {
            store_some::<V>(sum[i], out.at(t + i).add(column), n);
        }
    }
}

/// The first `n` lanes.
#[inline(always)]
unsafe fn store_some<V: Vector>(v: V::F, to: *mut f32, n: usize) {
    let mut all = [0.0; LANES];
    // SAFETY: the caller's: `n` numbers may be written there, and no vector has more than sixteen.
    unsafe {
        V::store_f(all.as_mut_ptr(), v);
        to.copy_from_nonoverlapping(all.as_ptr(), n);
    }
}
