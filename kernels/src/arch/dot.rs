//! Dot products of quantised rows and one vector in [`Order::Lanes`](crate::Order): a lane is a run of the row.

// Rows, vectors and registers are named by number: closures would not be compiled for the instructions around them.
#![expect(clippy::needless_range_loop)]

use std::marker::PhantomData;

use super::place::{Listed, Successive};
use super::products::{ManyRuns, add_products, add_products_each, many_runs};
use super::unpack::{Panel, Unpack, UnpackLanes};
use super::vector::Vector;
use crate::activations::Group;
use crate::format::RUN;
use crate::layout::LANES;
use crate::{Activations, Columns, Pick, Rows};

/// Bytes that are asked for ahead of time, in whole rows: they cover the latency of memory at its full bandwidth.
const AHEAD: usize = 6 << 10;

/// [`dot_rows`](crate::dot_rows) of quantised rows in [`Order::Lanes`](crate::Order).
#[inline(always)]
pub(super) unsafe fn lanes<V: Vector, B: Unpack, L: Lay<B>>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    // SAFETY: the verb has checked that picked rows exist and that the output has a place for each product.
    unsafe {
        match x.t() {
            1 => some::<V, B, L, 1, 1>(w, pick, x, out),
            2 => some::<V, B, L, 1, 2>(w, pick, x, out),
            3 => some::<V, B, L, 1, 3>(w, pick, x, out),
            // Eight products, as many sums and half the codes are what 32 registers hold; sets with fewer have ROWS 1. Two rows
            // share what they load of the vectors, but are unpacked again for the next four of them.
            4 if V::ROWS == 2 => some::<V, B, L, 2, 4>(w, pick, x, out),
            5..=6 if V::ROWS == 2 && L::CHEAP => some::<V, B, L, 2, 3>(w, pick, x, out),
            7..=FEW if V::ROWS == 2 && L::CHEAP => some::<V, B, L, 2, 4>(w, pick, x, out),
            5..=6 if V::ROWS == 2 => some::<V, B, L, 1, 6>(w, pick, x, out),
            7..=FEW if V::ROWS == 2 => some::<V, B, L, 1, 8>(w, pick, x, out),
            4..=FEW => some::<V, B, L, 1, 4>(w, pick, x, out),
            _ => super::many::lanes::<V, B, L>(w, pick, x, out),
        }
    }
}

/// Vectors for which rows are not worth unpacking into memory: what is read from there costs more than unpacking again.
const FEW: usize = 8;

/// Rows and few vectors, `R` and `T` at a time while the rows are in the first-level cache.
#[inline(always)]
unsafe fn some<V: Vector, B: Unpack, L: Lay<B>, const R: usize, const T: usize>(
    w: Rows,
    pick: Pick,
    x: &Activations,
    out: &mut Columns,
) {
    let (count, runs) = (pick.count(w.len()), w.width() / RUN);
    let rows_ahead = AHEAD.div_ceil(w.row_bytes()).next_multiple_of(R);
    // SAFETY: as for `lanes`.
    unsafe {
        for j in 0..rows_ahead.min(count) {
            prefetch_row::<V>(&w, pick.row(j));
        }
        for j in (0..count).step_by(R) {
            // Where fewer than `R` or `T` are left, the last is multiplied several times.
            let (mut rows, mut ahead) = ([std::ptr::null(); R], [std::ptr::null(); R]);
            for r in 0..R {
                rows[r] = w.row_at(pick.row((j + r).min(count - 1)));
                ahead[r] = w.row_at(pick.row((j + r + rows_ahead).min(count - 1)));
            }
            for first in (0..x.t()).step_by(T) {
                let mut vectors = [x.groups(first).as_ptr(); T];
                for t in 1..T {
                    vectors[t] = x.groups((first + t).min(x.t() - 1)).as_ptr();
                }
                let totals = products::<V, B, L, R, T>(rows, ahead, runs, vectors);
                for r in 0..R.min(count - j) {
                    for t in 0..T {
                        out.at((first + t).min(x.t() - 1)).add(j + r).write(totals[r][t]);
                    }
                }
                ahead = rows; // asked for once
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn prefetch_row<V: Vector>(w: &Rows, row: usize) {
    let at = w.row_at(row);
    for line in (0..w.row_bytes()).step_by(64) {
        // SAFETY: any address will do.
        unsafe { V::prefetch(at.wrapping_add(line)) };
    }
}

/// Sixteen sums, aligned so that a load or store touches one cache line.
#[repr(align(64))]
pub(super) struct Sums(pub [f32; LANES]);

/// The products of `R` rows and `T` vectors. Meanwhile later rows are asked for, group by group: all at once, the requests
/// would fill the queue that these rows' own loads wait in.
#[inline(always)]
unsafe fn products<V: Vector, B: Unpack, L: Lay<B>, const R: usize, const T: usize>(
    rows: [*const u8; R],
    ahead: [*const u8; R],
    runs: usize,
    x: [*const Group; T],
) -> [[f32; T]; R] {
    let mut sums = [const { [const { Sums([0.0; LANES]) }; T] }; R];
    // SAFETY: the caller's: rows have `runs` runs, the vectors as many, in groups filled up with zeros.
    unsafe {
        for lane in (0..LANES).step_by(V::LANES) {
            let mut sum = [[V::splat_f(0.0); R]; T];
            let mut asked = 0;
            for g in 0..runs / LANES {
                while lane == 0 && asked < (g + 1) * group_bytes::<B>() {
                    for r in 0..R {
                        V::prefetch(ahead[r].wrapping_add(asked));
                    }
                    asked += 64;
                }
                let mut panels = [L::panel::<V>(rows[0].add(g * group_bytes::<B>()), lane); R];
                for r in 1..R {
                    panels[r] = L::panel::<V>(rows[r].add(g * group_bytes::<B>()), lane);
                }
                sum = add_products_each::<V, B, _, R, T>(sum, &panels, many_runs(x, g, lane));
            }
            let (g, rest) = (runs / LANES, runs % LANES);
            if rest > lane {
                for r in 0..R {
                    let panel = L::short_panel::<V>(rows[r].add(g * group_bytes::<B>()), rest, lane);
                    for t in 0..T {
                        sum[t][r] = add_products::<V, B>(sum[t][r], &panel, ManyRuns { group: x[t].add(g), lane });
                    }
                }
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

/// The trees over sixteen sums each.
#[inline(always)]
pub(super) unsafe fn totals<V: Vector, const R: usize, const T: usize>(sums: &[[Sums; T]; R]) -> [[f32; T]; R] {
    let mut totals = [[0.0; T]; R];
    for r in 0..R {
        for t in 0..T {
            // SAFETY: sixteen sums lie there.
            totals[r][t] = unsafe { V::total(sums[r][t].0.as_ptr()) };
        }
    }
    totals
}

/// Bytes from one group of sixteen runs to the next.
#[inline(always)]
fn group_bytes<B: Unpack>() -> usize {
    LANES / B::RUNS * B::BYTES
}

/// How the blocks of a row lie.
pub(super) trait Lay<B: Unpack> {
    /// Whether unpacking twice costs less than loading vectors twice.
    const CHEAP: bool;

    /// Lanes `lane..` of a whole group.
    unsafe fn panel<V: Vector>(group: *const u8, lane: usize) -> Panel<V>;
    /// Lanes `lane..` of a last group of `n` runs. Lanes past the end have factor zero or repeat the last run: the
    /// activations there are zero, and adding zero changes no sum.
    unsafe fn short_panel<V: Vector>(group: *const u8, n: usize, lane: usize) -> Panel<V>;
}

/// [`Layout::File`](crate::Layout::File).
pub(super) struct InFile;

impl<B: Unpack> Lay<B> for InFile {
    const CHEAP: bool = false;

    #[inline(always)]
    unsafe fn panel<V: Vector>(group: *const u8, lane: usize) -> Panel<V> {
        // SAFETY: the caller's: sixteen runs lie there.
        unsafe { B::unpack(&Successive::<B>::new(group, lane)) }
    }

    #[inline(always)]
    unsafe fn short_panel<V: Vector>(group: *const u8, n: usize, lane: usize) -> Panel<V> {
        let mut listed = Listed::<B> { blocks: [group; LANES], runs: [0; LANES], format: PhantomData };
        for l in 0..LANES {
            let at = (lane + l).min(n - 1);
            listed.blocks[l] = group.wrapping_add(at / B::RUNS * B::BYTES);
            listed.runs[l] = at % B::RUNS;
        }
        // SAFETY: the caller's: `n` runs lie there.
        unsafe { B::unpack(&listed) }
    }
}

/// [`Layout::Lanes`](crate::Layout::Lanes).
pub(super) struct InLanes;

impl<B: UnpackLanes> Lay<B> for InLanes {
    const CHEAP: bool = true;

    #[inline(always)]
    unsafe fn panel<V: Vector>(group: *const u8, lane: usize) -> Panel<V> {
        // SAFETY: the caller's: sixteen runs lie there.
        unsafe { B::unpack_lanes(group, LANES, lane) }
    }

    #[inline(always)]
    unsafe fn short_panel<V: Vector>(group: *const u8, n: usize, lane: usize) -> Panel<V> {
        // SAFETY: the caller's: `n` runs lie there.
        unsafe { B::unpack_lanes(group, n, lane) }
    }
}

/// Appends the panels of one row, those of its last group filled up with zeros.
#[inline(always)]
pub(super) unsafe fn unpack_row<V: Vector, B: Unpack, L: Lay<B>>(
    row: *const u8,
    runs: usize,
    panels: &mut Vec<Panel<V>>,
) {
    // SAFETY: the caller's: the row has `runs` runs.
    unsafe {
        for first in (0..runs).step_by(LANES) {
            let group = row.add(first / LANES * group_bytes::<B>());
            let n = LANES.min(runs - first);
            for lane in (0..LANES).step_by(V::LANES) {
                panels.push(if n == LANES {
                    L::panel(group, lane)
                } else if n > lane {
                    L::short_panel(group, n, lane)
                } else {
                    let (zero, none) = (V::splat(0), V::splat_f(0.0));
                    Panel { codes: [zero; 8], factor: none, minimum: none, scales: [zero; 2] }
                });
            }
        }
    }
}
