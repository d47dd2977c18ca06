//! Dot products of quantised rows and one vector in [`Order::Lanes`](crate::Order): a lane is a run of the row.

use std::marker::PhantomData;

use super::place::{Listed, Successive};
use super::products::{ManyRuns, add_products};
use super::unpack::{Panel, Unpack, UnpackLanes};
use super::vector::Vector;
use crate::activations::Group;
use crate::format::RUN;
use crate::layout::LANES;
use crate::{Activations, Columns, Pick, Rows};

/// Rows that are asked for ahead of time: at 1.4 KB each they cover the latency of memory at its full bandwidth.
const AHEAD: usize = 4;

/// [`dot_rows`](crate::dot_rows) of quantised rows in [`Order::Lanes`](crate::Order).
#[inline(always)]
pub(super) unsafe fn lanes<V: Vector, B: Unpack, L: Lay<B>>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    // SAFETY: the verb has checked that picked rows exist and that the output has a place for each product.
    unsafe {
        if x.t() > 1 {
            return super::many::lanes::<V, B, L>(w, pick, x, out);
        }
        let count = pick.count(w.len());
        let (x, out) = (x.groups(0).as_ptr(), out.at(0));
        for j in 0..count {
            let ahead = w.row_at(pick.row((j + AHEAD).min(count - 1)));
            out.add(j).write(product::<V, B, L>(w.row_at(pick.row(j)), ahead, w.width() / RUN, x));
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

/// The product of a row and a vector. Meanwhile a later row is asked for, group by group: all at once, the requests would
/// fill the queue that this row's own loads wait in.
#[inline(always)]
unsafe fn product<V: Vector, B: Unpack, L: Lay<B>>(
    row: *const u8,
    ahead: *const u8,
    runs: usize,
    x: *const Group,
) -> f32 {
    let mut sums = Sums([0.0; LANES]);
    // SAFETY: the caller's: the row has `runs` runs, the vector as many, in groups filled up with zeros.
    unsafe {
        for lane in (0..LANES).step_by(V::LANES) {
            let mut sum = V::splat_f(0.0);
            for g in 0..runs / LANES {
                if lane == 0 {
                    for line in (0..group_bytes::<B>()).step_by(64) {
                        V::prefetch(ahead.wrapping_add(g * group_bytes::<B>() + line));
                    }
                }
                let panel = L::panel::<V>(row.add(g * group_bytes::<B>()), lane);
                sum = add_products::<V, B>(sum, &panel, ManyRuns { group: x.add(g), lane });
            }
            let (g, rest) = (runs / LANES, runs % LANES);
            if rest > lane {
                let panel = L::short_panel::<V>(row.add(g * group_bytes::<B>()), rest, lane);
                sum = add_products::<V, B>(sum, &panel, ManyRuns { group: x.add(g), lane });
            }
            V::store_f(sums.0.as_mut_ptr().add(lane), sum);
        }
        V::total(sums.0.as_ptr())
    }
}

/// Bytes from one group of sixteen runs to the next.
#[inline(always)]
fn group_bytes<B: Unpack>() -> usize {
    LANES / B::RUNS * B::BYTES
}

/// How the blocks of a row lie.
pub(super) trait Lay<B: Unpack> {
    /// Lanes `lane..` of a whole group.
    unsafe fn panel<V: Vector>(group: *const u8, lane: usize) -> Panel<V>;
    /// Lanes `lane..` of a last group of `n` runs. Lanes past the end have factor zero or repeat the last run: the
    /// activations there are zero, and adding zero changes no sum.
    unsafe fn short_panel<V: Vector>(group: *const u8, n: usize, lane: usize) -> Panel<V>;
}

/// [`Layout::File`](crate::Layout::File).
pub(super) struct InFile;

impl<B: Unpack> Lay<B> for InFile {
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
