//! Both verbs for every format, one number at a time: slow, obvious, the judge of all other sets. The order of sums
//! written here is the definition.

use std::borrow::Cow;
use std::ops::Range;

use crate::activations::{Group, SILENT, scale_of};
use crate::format::{RUN, Run, Runs, for_format, half_at};
use crate::layout::LANES;
use crate::{Activations, Columns, Layout, Order, Pick, Rows, Tiles};

pub(super) fn round(x: &[f32], groups: &mut [Group]) {
    for (b, block) in x.chunks_exact(RUN).enumerate() {
        let group = &mut groups[b / LANES];
        let lane = b % LANES;
        // Magnitudes compare as their bits do, NaN above all: so one maximum finds what must be found.
        let largest = block.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().expect("32 of them");
        let largest = f32::from_bits(largest);
        if largest < SILENT {
            continue;
        }
        if !largest.is_finite() {
            group.scales[lane] = f32::NAN;
            continue;
        }
        group.scales[lane] = scale_of(largest);
        let inverse = 127.0 / largest;
        for (i, x) in block.iter().enumerate() {
            let code = (x * inverse).round_ties_even() as i8;
            group.codes[i / 4][4 * lane + i % 4] = code;
            group.whole[lane] += i32::from(code);
            if i < RUN / 2 {
                group.first[lane] += i32::from(code);
            }
        }
    }
}

pub(super) fn dot_rows(w: Rows, pick: Pick, x: &Activations, order: Order, out: &mut Columns) {
    for t in 0..x.t() {
        for (j, out) in out.row(t).iter_mut().enumerate() {
            let mut sum = Sum::new(order);
            for_format!(@runs w.format(), B => runs_of_row::<B>(w, pick.row(j), x, t, &mut sum),
                floats_of_row(w, pick.row(j), x.vector(t), &mut sum));
            *out = sum.total();
        }
    }
}

fn runs_of_row<B: Runs>(w: Rows, row: usize, x: &Activations, t: usize, sum: &mut Sum) {
    let row = w.row(row);
    let runs = B::WEIGHTS / RUN;
    for b in 0..w.width() / RUN {
        let block: Cow<[u8]> = match w.layout() {
            Layout::File => Cow::Borrowed(&row[b / runs * B::BYTES..][..B::BYTES]),
            Layout::Lanes => Cow::Owned(w.lane_block(row, b).to_vec()),
        };
        let run = B::run(&block, b % runs);
        let codes: [i8; RUN] = std::array::from_fn(|i| x.code(t, b * RUN + i));
        add_run(sum.at(b), &run, B::MINIMUM, &codes, x.scale(t, b));
    }
}

/// The product of a run of weights and 32 rounded activations, added to `sum`: one exact integer, one multiply-add; a
/// second one where the format has minima.
fn add_run(sum: &mut f32, run: &Run, minimum: bool, codes: &[i8; RUN], scale: f32) {
    let product: i32 = run.codes.iter().zip(codes).map(|(&w, &x)| w * i32::from(x)).sum();
    *sum = (run.factor * scale).mul_add(product as f32, *sum);
    if minimum {
        let codes: i32 = codes.iter().map(|&x| i32::from(x)).sum();
        *sum = (-(run.minimum * scale)).mul_add(codes as f32, *sum);
    }
}

fn floats_of_row(w: Rows, row: usize, x: &[f32], sum: &mut Sum) {
    let row = w.row(row);
    for_format!(w.format(), B => {
        for (i, (x, w)) in x.iter().zip(row.chunks_exact(B::BYTES)).enumerate() {
            let mut weight = [0.0];
            B::decode(w, &mut weight);
            let sum = sum.at(i);
            *sum = weight[0].mul_add(*x, *sum);
        }
        // In lanes, a row is thought of as filled up with zeros.
        if let Sum::Lanes(lanes) = sum {
            let rest = x.len() % LANES;
            lanes.iter_mut().skip(if rest == 0 { LANES } else { rest }).for_each(|sum| *sum = 0f32.mul_add(0.0, *sum));
        }
    })
}

/// The sums of one product: sixteen or one.
enum Sum {
    Lanes([f32; LANES]),
    Sequence(f32),
}

impl Sum {
    fn new(order: Order) -> Sum {
        match order {
            Order::Lanes => Sum::Lanes([0.0; LANES]),
            Order::Sequence => Sum::Sequence(0.0),
        }
    }

    /// The sum that block or number `i` goes to.
    fn at(&mut self, i: usize) -> &mut f32 {
        match self {
            Sum::Lanes(lanes) => &mut lanes[i % LANES],
            Sum::Sequence(sum) => sum,
        }
    }

    fn total(self) -> f32 {
        match self {
            Sum::Lanes(mut lanes) => {
                for half in [8, 4, 2, 1] {
                    for l in 0..half {
                        lanes[l] += lanes[l + half];
                    }
                }
                lanes[0]
            }
            Sum::Sequence(sum) => sum,
        }
    }
}

pub(super) fn add_rows(w: Rows, h: &[f32], columns: Range<usize>, out: &mut [f32]) {
    for_format!(w.format(), B => {
        let mut weights = [0f32; 256];
        let weights = &mut weights[..B::WEIGHTS];
        for (i, &h) in h.iter().enumerate().filter(|(_, h)| w.reads(**h)) {
            let row = w.row(i);
            for b in columns.start / B::WEIGHTS..columns.end.div_ceil(B::WEIGHTS) {
                match w.layout() {
                    Layout::File => B::decode(&row[b * B::BYTES..][..B::BYTES], weights),
                    Layout::Lanes => B::decode(&w.lane_block(row, b), weights),
                }
                for (c, weight) in (b * B::WEIGHTS..).zip(&*weights).filter(|(c, _)| columns.contains(c)) {
                    let out = &mut out[c - columns.start];
                    *out = h.mul_add(*weight, *out);
                }
            }
        }
    })
}

pub(super) fn add_tiles(w: Tiles, h: &Activations, columns: Range<usize>, out: &mut Columns) {
    for t in 0..h.t() {
        for (c, sum) in columns.clone().zip(out.row(t)) {
            for_format!(@runs w.format(), B => {
                for b in 0..w.neurons() / RUN {
                    let codes: [i8; RUN] = std::array::from_fn(|i| h.code(t, b * RUN + i));
                    add_run(sum, &tile_run(w, b, c), B::MINIMUM, &codes, h.scale(t, b));
                }
            }, unreachable!("tiles are never of a float format"));
        }
    }
}

/// The weights of 32 neurons for one output.
fn tile_run(w: Tiles, b: usize, output: usize) -> Run {
    use crate::Format::{Q4_0, Q4_1};
    let (plan, bytes) = (w.plan(), w.bytes());
    let (byte, shift) = plan.code(output);
    let codes = std::array::from_fn(|i| {
        let code = bytes[(b * RUN + i) * plan.row_bytes + byte];
        match w.format() {
            Q4_0 => i32::from(code >> shift & 15) - 8,
            Q4_1 => i32::from(code >> shift & 15),
            _ => i32::from(code as i8),
        }
    });
    let minimum = if w.format() == Q4_1 { -half_at(bytes, plan.half(1, b, output)) } else { 0.0 };
    Run { factor: half_at(bytes, plan.half(0, b, output)), minimum, codes }
}
