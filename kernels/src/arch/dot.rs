//! Dot products of quantised rows: a lane is a run of one row ([`Order::Lanes`](crate::Order)) or a row
//! ([`Order::Sequence`](crate::Order)). Weights are unpacked once for several vectors of activations.
// Registers are named by row and vector everywhere in here, whichever array they are in.
#![expect(clippy::needless_range_loop)]

use std::marker::PhantomData;

use super::place::{Listed, Stacked, Successive};
use super::unpack::{Panel, Unpack, UnpackLanes};
use super::vector::Vector;
use crate::activations::Group;
use crate::format::RUN;
use crate::layout::LANES;
use crate::{Activations, Columns, Pick, Rows};

/// Rows that are asked for ahead of time: at 1.4 KB each they cover the latency of memory at its full bandwidth.
const AHEAD: usize = 4;
/// Bytes of weights that stay in the second-level cache while all vectors of activations pass over them.
const BLOCK_BYTES: usize = 96 * 1024;

/// The rounded activations that meet a panel: those of as many runs, or of one run in all lanes.
pub(super) trait Side<V: Vector>: Copy {
    unsafe fn codes(self, k: usize) -> V::I;
    unsafe fn scale(self) -> V::F;
    unsafe fn whole(self) -> V::I;
    unsafe fn first(self) -> V::I;
}

/// Runs `lane..lane + LANES` of a group.
#[derive(Clone, Copy)]
pub(super) struct ManyRuns {
    pub group: *const Group,
    pub lane: usize,
}

impl<V: Vector> Side<V> for ManyRuns {
    #[inline(always)]
    unsafe fn codes(self, k: usize) -> V::I {
        // SAFETY: the group exists and has `LANES` lanes from `lane` on; so below.
        unsafe { V::load((&raw const (*self.group).codes[k]).cast::<u8>().add(4 * self.lane)) }
    }

    #[inline(always)]
    unsafe fn scale(self) -> V::F {
        // SAFETY: see `codes`.
        unsafe { V::load_f((&raw const (*self.group).scales).cast::<f32>().add(self.lane)) }
    }

    #[inline(always)]
    unsafe fn whole(self) -> V::I {
        // SAFETY: see `codes`.
        unsafe { V::load((&raw const (*self.group).whole).cast::<u8>().add(4 * self.lane)) }
    }

    #[inline(always)]
    unsafe fn first(self) -> V::I {
        // SAFETY: see `codes`.
        unsafe { V::load((&raw const (*self.group).first).cast::<u8>().add(4 * self.lane)) }
    }
}

/// Run `lane` of a group, in every lane.
#[derive(Clone, Copy)]
pub(super) struct OneRun {
    pub group: *const Group,
    pub lane: usize,
}

impl<V: Vector> Side<V> for OneRun {
    #[inline(always)]
    unsafe fn codes(self, k: usize) -> V::I {
        // SAFETY: the group exists and `lane` is below sixteen; so below.
        unsafe { V::splat((&raw const (*self.group).codes[k]).cast::<i32>().add(self.lane).read()) }
    }

    #[inline(always)]
    unsafe fn scale(self) -> V::F {
        // SAFETY: see `codes`.
        unsafe { V::splat_f((&raw const (*self.group).scales).cast::<f32>().add(self.lane).read()) }
    }

    #[inline(always)]
    unsafe fn whole(self) -> V::I {
        // SAFETY: see `codes`.
        unsafe { V::splat((&raw const (*self.group).whole).cast::<i32>().add(self.lane).read()) }
    }

    #[inline(always)]
    unsafe fn first(self) -> V::I {
        // SAFETY: see `codes`.
        unsafe { V::splat((&raw const (*self.group).first).cast::<i32>().add(self.lane).read()) }
    }
}

/// `sum` and the products of a panel and the activations beside it: the definition of the sums, `LANES` at a time.
#[inline(always)]
pub(super) unsafe fn add_products<V: Vector, B: Unpack>(sum: V::F, w: &Panel<V>, x: impl Side<V>) -> V::F {
    // SAFETY: the activations exist; the rest is arithmetic.
    unsafe {
        let low = [x.codes(0), x.codes(1), x.codes(2), x.codes(3)];
        let high = [x.codes(4), x.codes(5), x.codes(6), x.codes(7)];
        let (w_low, w_high) = half_codes::<V>(&w.codes);
        let products = if B::SCALES {
            let (first, whole) = (x.first(), x.whole());
            let first_products = dot4::<V, B>(less::<V, B>(first), w_low, low);
            let last_products = dot4::<V, B>(less::<V, B>(V::sub(whole, first)), w_high, high);
            V::add(V::mul(first_products, w.scales[0]), V::mul(last_products, w.scales[1]))
        } else {
            dot4::<V, B>(dot4::<V, B>(less::<V, B>(x.whole()), w_low, low), w_high, high)
        };
        let scale = x.scale();
        let sum = V::fma(V::mul_f(w.factor, scale), V::to_f(products), sum);
        if B::MINIMUM { V::fnma(V::mul_f(w.minimum, scale), V::to_f(x.whole()), sum) } else { sum }
    }
}

#[inline(always)]
fn half_codes<V: Vector>(codes: &[V::I; 8]) -> ([V::I; 4], [V::I; 4]) {
    ([codes[0], codes[1], codes[2], codes[3]], [codes[4], codes[5], codes[6], codes[7]])
}

#[inline(always)]
unsafe fn dot4<V: Vector, B: Unpack>(sum: V::I, w: [V::I; 4], x: [V::I; 4]) -> V::I {
    // SAFETY: arithmetic only. No format has codes above those its `HIGHEST` names; the arms are chosen at compile time.
    unsafe {
        if B::SIGNED {
            let sum = V::dot_signed(sum, w[0], x[0]);
            let sum = V::dot_signed(sum, w[1], x[1]);
            let sum = V::dot_signed(sum, w[2], x[2]);
            V::dot_signed(sum, w[3], x[3])
        } else {
            match B::HIGHEST {
                0..=7 => V::dot4::<7>(sum, w, x),
                8..=15 => V::dot4::<15>(sum, w, x),
                16..=31 => V::dot4::<31>(sum, w, x),
                _ => V::dot4::<63>(sum, w, x),
            }
        }
    }
}

/// What the offset of the codes must take off: minus offset times the sum of the activations.
#[inline(always)]
unsafe fn less<V: Vector, B: Unpack>(sum_of_x: V::I) -> V::I {
    let offset = if B::SIGNED { V::SIGNED_OFFSET } else { B::OFFSET };
    // SAFETY: arithmetic only.
    unsafe {
        match offset {
            0 => V::splat(0),
            // Offsets are powers of two.
            offset => V::sub(V::splat(0), V::shl(sum_of_x, offset.trailing_zeros() as i32)),
        }
    }
}

/// Sums of `R` rows and `T` vectors, sixteen each, aligned so that a load or store touches one cache line.
#[repr(align(64))]
struct Sums<const R: usize, const T: usize>([[[f32; LANES]; T]; R]);

/// Products of `R` rows and `T` vectors in lanes.
#[inline(always)]
unsafe fn tile<V: Vector, B: Unpack, L: Lay<B>, const R: usize, const T: usize>(
    rows: [*const u8; R],
    runs: usize,
    x: [*const Group; T],
) -> [[f32; T]; R] {
    let whole_groups = runs / LANES;
    let rest = runs % LANES;
    let mut sums = Sums([[[0.0; LANES]; T]; R]);
    let group_bytes = LANES / B::RUNS * B::BYTES;
    // SAFETY: the caller's: each row has `runs` runs, each vector as many, in groups filled up with zeros.
    unsafe {
        for lane in (0..LANES).step_by(V::LANES) {
            let mut sum = [[V::splat_f(0.0); T]; R];
            for g in 0..whole_groups {
                let mut panels = [L::panel::<V>(rows[0].add(g * group_bytes), lane); R];
                for r in 1..R {
                    panels[r] = L::panel::<V>(rows[r].add(g * group_bytes), lane);
                }
                for t in 0..T {
                    let side = ManyRuns { group: x[t].add(g), lane };
                    for r in 0..R {
                        sum[r][t] = add_products::<V, B>(sum[r][t], &panels[r], side);
                    }
                }
            }
            if rest > lane {
                for r in 0..R {
                    let panel = L::short_panel::<V>(rows[r].add(whole_groups * group_bytes), rest, lane);
                    for t in 0..T {
                        let side = ManyRuns { group: x[t].add(whole_groups), lane };
                        sum[r][t] = add_products::<V, B>(sum[r][t], &panel, side);
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

/// [`dot_rows`](crate::dot_rows) of quantised rows in [`Order::Lanes`](crate::Order).
#[inline(always)]
pub(super) unsafe fn lanes<V: Vector, B: Unpack, L: Lay<B>>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
    let runs = w.width() / RUN;
    let count = pick.count(w.len());
    // SAFETY: the verb has checked that picked rows exist and that the output has a place for each product.
    unsafe {
        if x.t() == 1 {
            let (x, out) = (x.groups(0).as_ptr(), out.at(0));
            for j in 0..count {
                if j + AHEAD < count {
                    prefetch_row::<V>(&w, pick.row(j + AHEAD));
                }
                let [[total]] = tile::<V, B, L, 1, 1>([w.row_at(pick.row(j))], runs, [x]);
                out.add(j).write(total);
            }
            return;
        }
        let rows_each = (BLOCK_BYTES / w.row_bytes()).max(4);
        for from in (0..count).step_by(rows_each) {
            let rows = from..count.min(from + rows_each);
            let mut t = 0;
            while x.t() - t >= 4 {
                let x = [t, t + 1, t + 2, t + 3].map(|t| x.groups(t).as_ptr());
                rows_and_vectors::<V, B, L, 4>(&w, pick, rows.clone(), runs, x, t, out);
                t += 4;
            }
            if x.t() - t >= 2 {
                let x = [t, t + 1].map(|t| x.groups(t).as_ptr());
                rows_and_vectors::<V, B, L, 2>(&w, pick, rows.clone(), runs, x, t, out);
                t += 2;
            }
            if x.t() > t {
                let x = [x.groups(t).as_ptr()];
                rows_and_vectors::<V, B, L, 1>(&w, pick, rows.clone(), runs, x, t, out);
            }
        }
    }
}

/// Products of some rows and `T` vectors, the first of which is vector `t`.
#[inline(always)]
unsafe fn rows_and_vectors<V: Vector, B: Unpack, L: Lay<B>, const T: usize>(
    w: &Rows,
    pick: Pick,
    rows: std::ops::Range<usize>,
    runs: usize,
    x: [*const Group; T],
    t: usize,
    out: &mut Columns,
) {
    let mut j = rows.start;
    // SAFETY: as for `lanes`.
    unsafe {
        if V::ROWS == 2 {
            while j + 2 <= rows.end {
                let two = [w.row_at(pick.row(j)), w.row_at(pick.row(j + 1))];
                let totals = tile::<V, B, L, 2, T>(two, runs, x);
                for i in 0..T {
                    out.at(t + i).add(j).write(totals[0][i]);
                    out.at(t + i).add(j + 1).write(totals[1][i]);
                }
                j += 2;
            }
        }
        while j < rows.end {
            let [totals] = tile::<V, B, L, 1, T>([w.row_at(pick.row(j))], runs, x);
            for (i, total) in totals.into_iter().enumerate() {
                out.at(t + i).add(j).write(total);
            }
            j += 1;
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

/// [`dot_rows`](crate::dot_rows) of quantised rows as files have them in [`Order::Sequence`](crate::Order): as many rows at
/// a time as there are lanes, a lane each.
#[inline(always)]
pub(super) unsafe fn sequence<V: Vector, B: Unpack>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
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
    for from in (0..count).step_by(V::LANES) {
        let n = V::LANES.min(count - from);
        let (rows, next) = (rows_from(from), rows_from(from + V::LANES));
        let mut t = 0;
        // SAFETY: the verb has checked that picked rows exist and that the output has a place for each product.
        unsafe {
            while x.t() - t >= 4 {
                let next = if t == 0 { Some(&next) } else { None };
                rows_in_lanes::<V, B, 4>(&rows, next, n, runs, x, t, from, out);
                t += 4;
            }
            while x.t() > t {
                let next = if t == 0 { Some(&next) } else { None };
                rows_in_lanes::<V, B, 1>(&rows, next, n, runs, x, t, from, out);
                t += 1;
            }
        }
    }
}

/// Products of `n` rows (a lane each) and vectors `t..t + T`, block after block; meanwhile the rows that come next are asked
/// for, since no hardware guesses this way of reading.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the state of one loop, which this is the body of")]
unsafe fn rows_in_lanes<V: Vector, B: Unpack, const T: usize>(
    rows: &[*const u8; LANES],
    next: Option<&[*const u8; LANES]>,
    n: usize,
    runs: usize,
    x: &Activations,
    t: usize,
    column: usize,
    out: &mut Columns,
) {
    let mut blocks = *rows;
    // SAFETY: the caller's: the rows have `runs` runs, and so has each vector.
    unsafe {
        let mut groups = [x.groups(t).as_ptr(); T];
        for (i, group) in groups.iter_mut().enumerate() {
            *group = x.groups(t + i).as_ptr();
        }
        let mut sum = [V::splat_f(0.0); T];
        let mut asked = 0;
        for block in 0..runs / B::RUNS {
            if let Some(next) = next {
                while asked < (block + 1) * B::BYTES {
                    for row in next.iter().take(V::LANES) {
                        V::prefetch(row.wrapping_add(asked));
                    }
                    asked += 64;
                }
            }
            let mut place = Stacked::<V, B>::new(&blocks);
            for run in 0..B::RUNS {
                place.run = run;
                let w = B::unpack::<V>(&place);
                let b = block * B::RUNS + run;
                for i in 0..T {
                    let side = OneRun { group: groups[i].add(b / LANES), lane: b % LANES };
                    sum[i] = add_products::<V, B>(sum[i], &w, side);
                }
            }
            for block in blocks.iter_mut().take(V::LANES) {
                *block = block.wrapping_add(B::BYTES);
            }
        }
        for (i, sum) in sum.into_iter().enumerate() {
            let mut totals = [0.0; LANES];
            V::store_f(totals.as_mut_ptr(), sum);
            out.at(t + i).add(column).copy_from_nonoverlapping(totals.as_ptr(), n);
        }
    }
}
