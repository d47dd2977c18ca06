//! Dot products of quantised rows and many vectors in [`Order::Lanes`](crate::Order): rows are unpacked once, some at a time,
//! into memory that stays in the second-level cache while all vectors pass over it, four by four.

// Registers are named by row and vector everywhere in here, whichever array they are in.
#![expect(clippy::needless_range_loop)]

use std::ops::Range;

use super::dot::{Lay, Sums, totals, unpack_row};
use super::products::{add_products_each, many_runs};
use super::unpack::{Panel, Unpack};
use super::vector::Vector;
use crate::activations::Group;
use crate::format::RUN;
use crate::layout::LANES;
use crate::{Activations, Columns, Pick, Rows};

/// Bytes of unpacked weights: with the activations of four vectors they fit into half a megabyte of cache, and each is
/// read often enough that unpacking does not count.
const BLOCK_BYTES: usize = 96 * 1024;

/// [`dot_rows`](crate::dot_rows) of quantised rows in [`Order::Lanes`](crate::Order).
#[inline(always)]
pub(super) unsafe fn lanes<V: Vector, B: Unpack, L: Lay<B>>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    let count = pick.count(w.len());
    let runs = w.width() / RUN;
    let panels_each = runs.div_ceil(LANES) * (LANES / V::LANES);
    let rows_each = (BLOCK_BYTES / (panels_each * size_of::<Panel<V>>())).max(4);
    let mut panels = Vec::with_capacity(rows_each.min(count) * panels_each);
    // SAFETY: the verb has checked that picked rows exist and that the output has a place for each product.
    unsafe {
        for from in (0..count).step_by(rows_each) {
            let rows = from..count.min(from + rows_each);
            panels.clear();
            for j in rows.clone() {
                unpack_row::<V, B, L>(w.row_at(pick.row(j)), runs, &mut panels);
            }
            let mut t = 0;
            while x.t() - t >= 4 {
                rows_and_vectors::<V, B, 4>(&panels, rows.clone(), panels_each, x, t, out);
                t += 4;
            }
            while x.t() > t {
                rows_and_vectors::<V, B, 1>(&panels, rows.clone(), panels_each, x, t, out);
                t += 1;
            }
        }
    }
}

/// Products of some rows and vectors `t..t + T`.
#[inline(always)]
unsafe fn rows_and_vectors<V: Vector, B: Unpack, const T: usize>(
    panels: &[Panel<V>],
    rows: Range<usize>,
    panels_each: usize,
    x: &Activations,
    t: usize,
    out: &mut Columns,
) {
    // SAFETY: as for `lanes`; there are `panels_each` panels for each row.
    unsafe {
        let mut vectors = [x.groups(t).as_ptr(); T];
        for i in 1..T {
            vectors[i] = x.groups(t + i).as_ptr();
        }
        let row = |j: usize| panels.as_ptr().add((j - rows.start) * panels_each);
        for j in rows.clone().step_by(V::ROWS) {
            if V::ROWS == 2 {
                // The last of an odd number of rows is multiplied twice, written once.
                let two = [row(j), row((j + 1).min(rows.end - 1))];
                let totals = tile::<V, B, 2, T>(two, panels_each, vectors);
                for (r, totals) in totals.into_iter().enumerate().take(rows.end - j) {
                    for i in 0..T {
                        out.at(t + i).add(j + r).write(totals[i]);
                    }
                }
            } else {
                let [totals] = tile::<V, B, 1, T>([row(j)], panels_each, vectors);
                for i in 0..T {
                    out.at(t + i).add(j).write(totals[i]);
                }
            }
        }
    }
}

/// Products of `R` rows and `T` vectors.
#[inline(always)]
unsafe fn tile<V: Vector, B: Unpack, const R: usize, const T: usize>(
    rows: [*const Panel<V>; R],
    panels_each: usize,
    x: [*const Group; T],
) -> [[f32; T]; R] {
    let parts = LANES / V::LANES;
    let mut sums = [const { [const { Sums([0.0; LANES]) }; T] }; R];
    // SAFETY: the caller's: rows have as many panels, vectors as many groups.
    unsafe {
        for part in 0..parts {
            let lane = part * V::LANES;
            let mut sum = [[V::splat_f(0.0); R]; T];
            for g in 0..panels_each / parts {
                let mut panels = [rows[0].add(g * parts + part).read(); R];
                for r in 1..R {
                    panels[r] = rows[r].add(g * parts + part).read();
                }
                sum = add_products_each::<V, B, _, R, T>(sum, &panels, many_runs(x, g, lane));
            }
            for r in 0..R {
                for t in 0..T {
                    V::store_f(sums[r][t].0.as_mut_ptr().add(lane), sum[t][r]);
                }
            }
        }
        totals::<V, R, T>(&sums)
    }
}
