//! The verbs in every instruction set. What is chosen here is chosen once per call on many rows, never inside a row.
//!
//! Loops are written once (`dot`, `float`, `add`, `tiles`, `round`) over the operations of one register (`vector`) and of one
//! format (`unpack`). [`verbs!`] compiles them for an instruction set; a set that lacks something falls back on a slower one.

use std::ops::Range;

use crate::activations::Group;
use crate::isa::Set;
use crate::{Activations, Columns, Isa, Order, Pick, Rows, Tiles};

mod add;
pub(crate) mod attend;
mod dot;
pub(crate) mod exp;
mod float;
pub(crate) mod lanes;
mod many;
mod place;
mod products;
mod round;
mod scalar;
mod sequence;
mod tiles;
mod unpack;
mod vector;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// Each is unsafe for one reason: it may only be called where the processor has the instructions it was compiled for.
/// Everything else the verbs of `lib.rs` have checked.
pub(crate) type Round = unsafe fn(&[f32], &mut [Group]);
pub(crate) type DotRows = unsafe fn(Rows, Pick, &Activations, &mut Columns);
pub(crate) type AddRows = unsafe fn(Rows, &[f32], Range<usize>, &mut [f32]);
pub(crate) type AddRowsMany = unsafe fn(Rows, &Activations, Range<usize>, &mut Columns);
pub(crate) type AddTiles = unsafe fn(Tiles, &Activations, Range<usize>, &mut Columns);

/// The verbs of quantised rows and tiles over one kind of register, each format compiled by itself for the instruction set
/// `$features` names.
macro_rules! rounded_verbs {
    ($V:ty, $features:literal) => {
        mod rounded {
            use std::ops::Range;

            use super::*;
            use crate::arch::{AddTiles, DotRows, dot, sequence, tiles, unpack};
            use crate::format::{Format, Q3_K, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0};
            use crate::{Activations, Columns, Layout, Order, Pick, Rows, Tiles};

            // SAFETY, here and below: the features are enabled, and the verbs have checked the shapes.
            #[target_feature(enable = $features)]
            fn of_file<B: unpack::Unpack>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
                unsafe { dot::lanes::<$V, B, dot::InFile>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            fn of_lanes<B: unpack::UnpackLanes>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
                unsafe { dot::lanes::<$V, B, dot::InLanes>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            fn in_sequence<B: unpack::Unpack>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
                unsafe { sequence::rows::<$V, B>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            fn of_tiles<B: tiles::Tiled>(w: Tiles, h: &Activations, c: Range<usize>, out: &mut Columns) {
                unsafe { tiles::tiles::<$V, B>(w, h, c, out) }
            }

            pub(super) fn dot_rows(w: &Rows, order: Order) -> Option<DotRows> {
                macro_rules! in_file {
                    ($B:ty) => {
                        match order {
                            Order::Lanes => Some(of_file::<$B>),
                            Order::Sequence => Some(in_sequence::<$B>),
                        }
                    };
                }
                match (w.layout(), w.format()) {
                    (Layout::Lanes, Format::Q4_0) if order == Order::Lanes => Some(of_lanes::<Q4_0>),
                    (Layout::Lanes, Format::Q4_1) if order == Order::Lanes => Some(of_lanes::<Q4_1>),
                    (Layout::Lanes, Format::Q8_0) if order == Order::Lanes => Some(of_lanes::<Q8_0>),
                    (Layout::File, Format::Q4_0) => in_file!(Q4_0),
                    (Layout::File, Format::Q4_1) => in_file!(Q4_1),
                    (Layout::File, Format::Q8_0) => in_file!(Q8_0),
                    (Layout::File, Format::Q3_K) => in_file!(Q3_K),
                    (Layout::File, Format::Q4_K) => in_file!(Q4_K),
                    (Layout::File, Format::Q5_K) => in_file!(Q5_K),
                    (Layout::File, Format::Q6_K) => in_file!(Q6_K),
                    _ => None,
                }
            }

            pub(super) fn add_tiles(w: &Tiles) -> Option<AddTiles> {
                match w.format() {
                    Format::Q4_0 => Some(of_tiles::<Q4_0>),
                    Format::Q4_1 => Some(of_tiles::<Q4_1>),
                    Format::Q8_0 => Some(of_tiles::<Q8_0>),
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use rounded_verbs;

/// The verbs that compute with floats, in the same way.
macro_rules! float_verbs {
    ($V:ty, $features:literal) => {
        mod floats {
            use std::ops::Range;

            use super::*;
            use crate::activations::Group;
            use crate::arch::{AddRows, AddRowsMany, DotRows, add, float, round};
            use crate::format::*;
            use crate::{Activations, Columns, Layout, Order, Pick, Rows};

            // SAFETY, here and below: the features are enabled, and the verbs have checked the shapes.
            #[target_feature(enable = $features)]
            pub(super) fn round_blocks(x: &[f32], groups: &mut [Group]) {
                unsafe { round::round::<$V>(x, groups) }
            }

            #[target_feature(enable = $features)]
            fn in_lanes<B: float::Float>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
                unsafe { float::lanes::<$V, B>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            fn in_sequence<B: float::Float>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
                unsafe { float::sequence::<$V, B>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            fn one<B: add::Decode>(w: Rows, h: &[f32], columns: Range<usize>, out: &mut [f32]) {
                unsafe { add::rows::<$V, B>(w, h, columns, out) }
            }

            #[target_feature(enable = $features)]
            fn many<B: add::Decode>(w: Rows, h: &Activations, c: Range<usize>, out: &mut Columns) {
                unsafe { add::many::<$V, B>(w, h, c, out) }
            }

            #[target_feature(enable = $features)]
            fn blocks<B: Block>(w: Rows, h: &[f32], columns: Range<usize>, out: &mut [f32]) {
                add::block_by_block::<B>(w, h, columns, out);
            }

            pub(super) fn dot_rows(w: &Rows, order: Order) -> Option<DotRows> {
                match (order, w.format()) {
                    (Order::Lanes, Format::F32) => Some(in_lanes::<F32>),
                    (Order::Lanes, Format::F16) => Some(in_lanes::<F16>),
                    (Order::Lanes, Format::BF16) => Some(in_lanes::<BF16>),
                    (Order::Sequence, Format::F32) => Some(in_sequence::<F32>),
                    (Order::Sequence, Format::F16) => Some(in_sequence::<F16>),
                    (Order::Sequence, Format::BF16) => Some(in_sequence::<BF16>),
                    _ => None,
                }
            }

            pub(super) fn add_rows(w: &Rows) -> Option<AddRows> {
                match w.format() {
                    _ if w.layout() != Layout::File => None,
                    Format::F32 => Some(one::<F32>),
                    Format::F16 => Some(one::<F16>),
                    Format::BF16 => Some(one::<BF16>),
                    Format::Q4_0 => Some(one::<Q4_0>),
                    Format::Q4_1 => Some(one::<Q4_1>),
                    Format::Q8_0 => Some(one::<Q8_0>),
                    Format::Q3_K => Some(blocks::<Q3_K>),
                    Format::Q4_K => Some(blocks::<Q4_K>),
                    Format::Q5_K => Some(blocks::<Q5_K>),
                    Format::Q6_K => Some(blocks::<Q6_K>),
                }
            }

            pub(super) fn add_rows_many(w: &Rows) -> Option<AddRowsMany> {
                match w.format() {
                    _ if w.layout() != Layout::File => None,
                    Format::F32 => Some(many::<F32>),
                    Format::F16 => Some(many::<F16>),
                    Format::BF16 => Some(many::<BF16>),
                    Format::Q4_0 => Some(many::<Q4_0>),
                    Format::Q4_1 => Some(many::<Q4_1>),
                    Format::Q8_0 => Some(many::<Q8_0>),
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use float_verbs;

/// All verbs over one kind of register.
macro_rules! verbs {
    ($V:ty, $features:literal) => {
        crate::arch::rounded_verbs!($V, $features);
        crate::arch::float_verbs!($V, $features);

        /// The verbs of this instruction set.
        pub(crate) const VERBS: crate::arch::Verbs = crate::arch::Verbs {
            round: floats::round_blocks,
            dot_rows: |w, order| rounded::dot_rows(w, order).or_else(|| floats::dot_rows(w, order)),
            add_rows: floats::add_rows,
            add_rows_many: floats::add_rows_many,
            add_tiles: rounded::add_tiles,
        };
    };
}
pub(crate) use verbs;

/// The verbs of a set that multiplies integers better than a slower one, and leaves the floats to it.
macro_rules! verbs_over {
    ($slower:path, $V:ty, $features:literal) => {
        crate::arch::rounded_verbs!($V, $features);

        /// The verbs of this instruction set.
        pub(crate) const VERBS: crate::arch::Verbs = crate::arch::Verbs {
            dot_rows: |w, order| rounded::dot_rows(w, order).or_else(|| ($slower.dot_rows)(w, order)),
            add_tiles: rounded::add_tiles,
            ..$slower
        };
    };
}
pub(crate) use verbs_over;

/// What one instruction set has; `None` where it leaves something to a slower one.
pub(crate) struct Verbs {
    round: Round,
    dot_rows: fn(&Rows, Order) -> Option<DotRows>,
    add_rows: fn(&Rows) -> Option<AddRows>,
    add_rows_many: fn(&Rows) -> Option<AddRowsMany>,
    add_tiles: fn(&Tiles) -> Option<AddTiles>,
}

const SCALAR: Verbs = Verbs {
    round: scalar::round,
    dot_rows: |_, order| match order {
        Order::Lanes => Some(|w, pick, x, out| scalar::dot_rows(w, pick, x, Order::Lanes, out)),
        Order::Sequence => Some(|w, pick, x, out| scalar::dot_rows(w, pick, x, Order::Sequence, out)),
    },
    add_rows: |_| Some(scalar::add_rows),
    add_rows_many: |_| None,
    add_tiles: |_| Some(scalar::add_tiles),
};

fn verbs_of(isa: Isa) -> &'static Verbs {
    match isa.0 {
        Set::Scalar => &SCALAR,
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => &x86_64::avx2::plain::VERBS,
        #[cfg(target_arch = "x86_64")]
        Set::AvxVnni => &x86_64::avx2::vnni::VERBS,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => &x86_64::avx512::VERBS,
        #[cfg(target_arch = "aarch64")]
        Set::Neon => &aarch64::neon::plain::VERBS,
        #[cfg(target_arch = "aarch64")]
        Set::Dotprod => &aarch64::neon::dotprod::VERBS,
        #[cfg(target_arch = "aarch64")]
        Set::I8mm => &aarch64::i8mm::VERBS,
    }
}

/// Rounds one vector, a multiple of 32 long, into groups that are zero.
pub(crate) fn round(isa: Isa) -> Round {
    verbs_of(isa).round
}

pub(crate) fn dot_rows(isa: Isa, w: &Rows, order: Order) -> DotRows {
    let slowest = || (SCALAR.dot_rows)(w, order).expect("scalar has every pair");
    (verbs_of(isa).dot_rows)(w, order).unwrap_or_else(slowest)
}

pub(crate) fn add_rows(isa: Isa, w: &Rows) -> AddRows {
    (verbs_of(isa).add_rows)(w).unwrap_or(scalar::add_rows)
}

/// `None` where vectors are best added one by one.
pub(crate) fn add_rows_many(isa: Isa, w: &Rows) -> Option<AddRowsMany> {
    (verbs_of(isa).add_rows_many)(w)
}

pub(crate) fn add_tiles(isa: Isa, w: &Tiles) -> AddTiles {
    (verbs_of(isa).add_tiles)(w).unwrap_or(scalar::add_tiles)
}
