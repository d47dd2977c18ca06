//! NEON with `smmla`, which multiplies two rows of eight bytes with two vectors of eight: twice the products of `sdot`.
//! Only products of many vectors differ from those of [`neon::dotprod`]; one vector leaves half of it unused.

// Registers are named by row and vector everywhere in here, whichever array they are in.
#![expect(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::neon::{self, Quad, Sdot, transpose};
use crate::activations::Group;
use crate::arch::dot::{self, InFile, InLanes, Lay};
use crate::arch::products::{ManyRuns, add_scaled, less};
use crate::arch::unpack::{Panel, Unpack, UnpackLanes};
use crate::arch::vector::Vector;
use crate::arch::{DotRows, Verbs};
use crate::format::{Format, RUN};
use crate::layout::LANES;
use crate::{Activations, Columns, Layout, Order, Pick, Rows};

type V = Quad<Sdot>;

/// Bytes of weights that stay in the second-level cache while all vectors of activations pass over them.
const BLOCK_BYTES: usize = 96 * 1024;

/// Two vectors of activations side by side: for each four lanes of a group and each eight codes of theirs, eight bytes of
/// the first vector and eight of the second, lane by lane.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Pair([[[[i8; 16]; 4]; 4]; LANES / 4]);

/// Eight codes of two rows (or vectors) for four lanes: one register per lane, the first row below the second.
#[inline(always)]
unsafe fn paired(first: [int32x4_t; 2], second: [int32x4_t; 2]) -> [int32x4_t; 4] {
    // SAFETY: see `Vector`.
    unsafe {
        let long = |v| vreinterpretq_s64_s32(v);
        let (a, b) = (long(vzip1q_s32(first[0], first[1])), long(vzip1q_s32(second[0], second[1])));
        let (c, d) = (long(vzip2q_s32(first[0], first[1])), long(vzip2q_s32(second[0], second[1])));
        [
            vreinterpretq_s32_s64(vzip1q_s64(a, b)),
            vreinterpretq_s32_s64(vzip2q_s64(a, b)),
            vreinterpretq_s32_s64(vzip1q_s64(c, d)),
            vreinterpretq_s32_s64(vzip2q_s64(c, d)),
        ]
    }
}

#[inline(always)]
unsafe fn pair(x: [&Group; 2]) -> Pair {
    let mut all = Pair([[[[0; 16]; 4]; 4]; LANES / 4]);
    for (part, all) in all.0.iter_mut().enumerate() {
        for (k, all) in all.iter_mut().enumerate() {
            // SAFETY: see `Vector`; groups have eight lines of 64 bytes, and each place sixteen.
            unsafe {
                let codes = |x: &Group, k: usize| V::load(x.codes[k].as_ptr().cast::<u8>().add(16 * part));
                let two = |x: &Group| [codes(x, 2 * k), codes(x, 2 * k + 1)];
                for (place, lane) in all.iter_mut().zip(paired(two(x[0]), two(x[1]))) {
                    vst1q_s8(place.as_mut_ptr(), vreinterpretq_s8_s32(lane));
                }
            }
        }
    }
    all
}

#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // The intrinsic is not stable. SAFETY: see `Vector`; the instruction touches registers only.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Products of two panels and two vectors, added to their sums: `sums[r][t]`.
#[inline(always)]
unsafe fn add_products<B: Unpack>(
    sums: &mut [[float32x4_t; 2]; 2],
    panels: &[Panel<V>; 2],
    weights: &[[int32x4_t; 4]; 4],
    pair: &Pair,
    x: [*const Group; 2],
    lane: usize,
) {
    // SAFETY: the caller's: groups and pair belong to the same vectors, and `lane` is a multiple of four below sixteen.
    unsafe {
        let products = |pieces: Range<usize>| {
            let mut sums = [V::splat(0); 4];
            for k in pieces {
                for l in 0..4 {
                    let x = V::load(pair.0[lane / 4][k][l].as_ptr().cast());
                    sums[l] = smmla(sums[l], weights[k][l], x);
                }
            }
            // From row and vector within lane to lane within row and vector.
            transpose(sums)
        };
        let (first, last) = (products(0..2), products(2..4));
        for t in 0..2 {
            let side = ManyRuns { group: x[t], lane };
            let first_sum = V::load((&raw const (*x[t]).first).cast::<u8>().add(4 * lane));
            let whole_sum = V::load((&raw const (*x[t]).whole).cast::<u8>().add(4 * lane));
            for r in 0..2 {
                let i = 2 * r + t;
                let products = if B::SCALES {
                    let first = V::add(first[i], less::<V, B>(first_sum));
                    let last = V::add(last[i], less::<V, B>(V::sub(whole_sum, first_sum)));
                    V::add(V::mul(first, panels[r].scales[0]), V::mul(last, panels[r].scales[1]))
                } else {
                    V::add(V::add(first[i], last[i]), less::<V, B>(whole_sum))
                };
                sums[r][t] = add_scaled::<V, B>(sums[r][t], &panels[r], products, side);
            }
        }
    }
}

/// Products of two rows and two vectors.
#[inline(always)]
unsafe fn tile<B: Unpack, L: Lay<B>>(
    rows: [*const u8; 2],
    runs: usize,
    x: [*const Group; 2],
    pairs: &[Pair],
) -> [[f32; 2]; 2] {
    let group_bytes = LANES / B::RUNS * B::BYTES;
    let mut all = [[[0.0; LANES]; 2]; 2];
    // SAFETY: the caller's: rows and vectors have `runs` runs, and there is a pair for each group.
    unsafe {
        for lane in (0..LANES).step_by(4) {
            let mut sums = [[V::splat_f(0.0); 2]; 2];
            for (g, pair) in pairs.iter().enumerate() {
                let n = LANES.min(runs - g * LANES);
                if n <= lane {
                    break;
                }
                let panel = |row: *const u8| match n {
                    LANES => L::panel::<V>(row.add(g * group_bytes), lane),
                    n => L::short_panel::<V>(row.add(g * group_bytes), n, lane),
                };
                let panels = [panel(rows[0]), panel(rows[1])];
                let mut weights = [[panels[0].codes[0]; 4]; 4];
                for k in 0..4 {
                    let two = |r: usize| [panels[r].codes[2 * k], panels[r].codes[2 * k + 1]];
                    weights[k] = paired(two(0), two(1));
                }
                add_products::<B>(&mut sums, &panels, &weights, pair, [x[0].add(g), x[1].add(g)], lane);
            }
            for r in 0..2 {
                for t in 0..2 {
                    V::store_f(all[r][t].as_mut_ptr().add(lane), sums[r][t]);
                }
            }
        }
        let mut totals = [[0.0; 2]; 2];
        for r in 0..2 {
            for t in 0..2 {
                totals[r][t] = V::total(all[r][t].as_ptr());
            }
        }
        totals
    }
}

/// [`dot_rows`](crate::dot_rows) of quantised rows in [`Order::Lanes`].
#[inline(always)]
unsafe fn lanes<B: Unpack, L: Lay<B>>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    // SAFETY: the verb has checked that picked rows exist and that the output has a place for each product.
    unsafe {
        if x.t() == 1 {
            return dot::lanes::<V, B, L>(w, pick, x, out);
        }
        let count = pick.count(w.len());
        let rows_each = (BLOCK_BYTES / w.row_bytes()).max(4);
        let mut pairs = Vec::with_capacity(x.groups(0).len());
        for from in (0..count).step_by(rows_each) {
            let to = count.min(from + rows_each);
            for t in (0..x.t()).step_by(2) {
                // The last of an odd number of vectors is multiplied twice, written once.
                let vectors = [x.groups(t), x.groups((t + 1).min(x.t() - 1))];
                pairs.clear();
                pairs.extend(vectors[0].iter().zip(vectors[1]).map(|(a, b)| pair([a, b])));
                for j in (from..to).step_by(2) {
                    let rows = [w.row_at(pick.row(j)), w.row_at(pick.row((j + 1).min(to - 1)))];
                    let totals = tile::<B, L>(rows, w.width() / RUN, vectors.map(|v| v.as_ptr()), &pairs);
                    for r in 0..2.min(to - j) {
                        for i in 0..2.min(x.t() - t) {
                            out.at(t + i).add(j + r).write(totals[r][i]);
                        }
                    }
                }
            }
        }
    }
}

// SAFETY: the features are enabled, and the verbs have checked the shapes.
#[target_feature(enable = "neon,dotprod,i8mm")]
fn lanes_of_file<B: Unpack>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    unsafe { lanes::<B, InFile>(w, pick, x, out) }
}

#[target_feature(enable = "neon,dotprod,i8mm")]
fn lanes_of_lanes<B: UnpackLanes>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    unsafe { lanes::<B, InLanes>(w, pick, x, out) }
}

/// The verbs of this instruction set: those of `sdot`, but for many vectors in lanes.
pub(crate) const VERBS: Verbs = Verbs { dot_rows: choose, ..neon::dotprod::VERBS };

fn choose(w: &Rows, order: Order) -> Option<DotRows> {
    use crate::format::{Q3_K, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0};
    match (order, w.layout(), w.format()) {
        (Order::Lanes, Layout::Lanes, Format::Q4_0) => Some(lanes_of_lanes::<Q4_0>),
        (Order::Lanes, Layout::Lanes, Format::Q4_1) => Some(lanes_of_lanes::<Q4_1>),
        (Order::Lanes, Layout::Lanes, Format::Q8_0) => Some(lanes_of_lanes::<Q8_0>),
        (Order::Lanes, Layout::File, Format::Q4_0) => Some(lanes_of_file::<Q4_0>),
        (Order::Lanes, Layout::File, Format::Q4_1) => Some(lanes_of_file::<Q4_1>),
        (Order::Lanes, Layout::File, Format::Q8_0) => Some(lanes_of_file::<Q8_0>),
        (Order::Lanes, Layout::File, Format::Q3_K) => Some(lanes_of_file::<Q3_K>),
        (Order::Lanes, Layout::File, Format::Q4_K) => Some(lanes_of_file::<Q4_K>),
        (Order::Lanes, Layout::File, Format::Q5_K) => Some(lanes_of_file::<Q5_K>),
        (Order::Lanes, Layout::File, Format::Q6_K) => Some(lanes_of_file::<Q6_K>),
        _ => (neon::dotprod::VERBS.dot_rows)(w, order),
    }
}
