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
mod place;
mod round;
mod scalar;
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
pub(crate) type AddTiles = unsafe fn(Tiles, &Activations, Range<usize>, &mut Columns);

/// The verbs over one kind of register, each format compiled by itself for the instruction set `$features` names.
macro_rules! verbs {
    ($V:ty, $features:literal) => {
        type Register = $V;

        mod compiled {
            use std::ops::Range;

            use super::Register;
            use crate::activations::Group;
            use crate::arch::{add, dot, float, round, tiles, unpack};
            use crate::{Activations, Columns, Pick, Rows, Tiles};

            #[target_feature(enable = $features)]
            pub(super) fn round_blocks(x: &[f32], groups: &mut [Group]) {
                round::round(x, groups);
            }

            // SAFETY, here and below: the features are enabled, and the verbs have checked the shapes.
            #[target_feature(enable = $features)]
            pub(super) fn lanes_of_file<B: unpack::Unpack>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
                unsafe { dot::lanes::<Register, B, dot::InFile>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            pub(super) fn lanes_of_lanes<B: unpack::UnpackLanes>(
                w: Rows,
                pick: Pick,
                x: &Activations,
                out: &mut Columns,
            ) {
                unsafe { dot::lanes::<Register, B, dot::InLanes>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            pub(super) fn sequence<B: unpack::Unpack>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
                unsafe { dot::sequence::<Register, B>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            pub(super) fn float_lanes<B: float::Float>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
                unsafe { float::lanes::<Register, B>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            pub(super) fn float_sequence<B: float::Float>(w: Rows, pick: Pick, x: &Activations, out: &mut Columns) {
                unsafe { float::sequence::<Register, B>(w, pick, x, out) }
            }

            #[target_feature(enable = $features)]
            pub(super) fn add_rows<B: add::Decode>(w: Rows, h: &[f32], columns: Range<usize>, out: &mut [f32]) {
                unsafe { add::rows::<Register, B>(w, h, columns, out) }
            }

            #[target_feature(enable = $features)]
            pub(super) fn add_blocks<B: crate::Block>(w: Rows, h: &[f32], columns: Range<usize>, out: &mut [f32]) {
                add::block_by_block::<B>(w, h, columns, out);
            }

            #[target_feature(enable = $features)]
            pub(super) fn add_tiles<B: tiles::Tiled>(w: Tiles, h: &Activations, c: Range<usize>, out: &mut Columns) {
                unsafe { tiles::tiles::<Register, B>(w, h, c, out) }
            }
        }

        /// The verbs of this instruction set.
        pub(crate) static VERBS: crate::arch::Verbs = crate::arch::Verbs {
            round: compiled::round_blocks,
            dot_rows: |w, order| {
                use crate::format::*;
                use crate::{Layout, Order};
                macro_rules! runs {
                    ($B:ty) => {
                        match (order, w.layout()) {
                            (Order::Lanes, Layout::File) => compiled::lanes_of_file::<$B>,
                            (Order::Sequence, Layout::File) => compiled::sequence::<$B>,
                            (_, Layout::Lanes) => return None,
                        }
                    };
                }
                macro_rules! floats {
                    ($B:ty) => {
                        match order {
                            Order::Lanes => compiled::float_lanes::<$B>,
                            Order::Sequence => compiled::float_sequence::<$B>,
                        }
                    };
                }
                if order == Order::Lanes && w.layout() == Layout::Lanes {
                    return match w.format() {
                        Format::Q4_0 => Some(compiled::lanes_of_lanes::<Q4_0>),
                        Format::Q4_1 => Some(compiled::lanes_of_lanes::<Q4_1>),
                        Format::Q8_0 => Some(compiled::lanes_of_lanes::<Q8_0>),
                        _ => None,
                    };
                }
                Some(match w.format() {
                    Format::F32 => floats!(F32),
                    Format::F16 => floats!(F16),
                    Format::BF16 => floats!(BF16),
                    Format::Q4_0 => runs!(Q4_0),
                    Format::Q4_1 => runs!(Q4_1),
                    Format::Q8_0 => runs!(Q8_0),
                    Format::Q3_K => runs!(Q3_K),
                    Format::Q4_K => runs!(Q4_K),
                    Format::Q5_K => runs!(Q5_K),
                    Format::Q6_K => runs!(Q6_K),
                })
            },
            add_rows: |w| {
                use crate::Layout;
                use crate::format::*;
                if w.layout() != Layout::File {
                    return None;
                }
                Some(match w.format() {
                    Format::F32 => compiled::add_rows::<F32>,
                    Format::F16 => compiled::add_rows::<F16>,
                    Format::BF16 => compiled::add_rows::<BF16>,
                    Format::Q4_0 => compiled::add_rows::<Q4_0>,
                    Format::Q4_1 => compiled::add_rows::<Q4_1>,
                    Format::Q8_0 => compiled::add_rows::<Q8_0>,
                    Format::Q3_K => compiled::add_blocks::<Q3_K>,
                    Format::Q4_K => compiled::add_blocks::<Q4_K>,
                    Format::Q5_K => compiled::add_blocks::<Q5_K>,
                    Format::Q6_K => compiled::add_blocks::<Q6_K>,
                })
            },
            add_tiles: |w| {
                use crate::format::*;
                match w.format() {
                    Format::Q4_0 => Some(compiled::add_tiles::<Q4_0>),
                    Format::Q4_1 => Some(compiled::add_tiles::<Q4_1>),
                    Format::Q8_0 => Some(compiled::add_tiles::<Q8_0>),
                    _ => None,
                }
            },
        };
    };
}
pub(crate) use verbs;

/// What one instruction set has; `None` where it leaves something to a slower one.
pub(crate) struct Verbs {
    round: Round,
    dot_rows: fn(&Rows, Order) -> Option<DotRows>,
    add_rows: fn(&Rows) -> Option<AddRows>,
    add_tiles: fn(&Tiles) -> Option<AddTiles>,
}

static SCALAR: Verbs = Verbs {
    round: scalar::round,
    dot_rows: |_, order| match order {
        Order::Lanes => Some(|w, pick, x, out| scalar::dot_rows(w, pick, x, Order::Lanes, out)),
        Order::Sequence => Some(|w, pick, x, out| scalar::dot_rows(w, pick, x, Order::Sequence, out)),
    },
    add_rows: |_| Some(scalar::add_rows),
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
        Set::Neon | Set::Dotprod | Set::I8mm => &SCALAR,
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

pub(crate) fn add_tiles(isa: Isa, w: &Tiles) -> AddTiles {
    (verbs_of(isa).add_tiles)(w).unwrap_or(scalar::add_tiles)
}
