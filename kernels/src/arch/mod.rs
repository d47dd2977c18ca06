//! The verbs in every instruction set. What is chosen here is chosen once per call on many rows, never inside a row.

use std::ops::Range;

use crate::activations::Group;
use crate::{Activations, Columns, Isa, Order, Pick, Rows, Tiles};

pub(crate) mod attend;
pub(crate) mod exp;
pub(crate) mod lanes;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// Each is unsafe for one reason: it may only be called where the processor has the instructions it was compiled for.
/// Everything else the verbs of `lib.rs` have checked.
pub(crate) type Round = unsafe fn(&[f32], &mut [Group]);
pub(crate) type DotRows = unsafe fn(Rows, Pick, &Activations, Order, &mut Columns);
pub(crate) type AddRows = unsafe fn(Rows, &[f32], Range<usize>, &mut [f32]);
pub(crate) type AddTiles = unsafe fn(Tiles, &Activations, Range<usize>, &mut Columns);

/// Rounds one vector, a multiple of 32 long, into groups that are zero.
pub(crate) fn round(_isa: Isa) -> Round {
    scalar::round
}

pub(crate) fn dot_rows(_isa: Isa, _w: &Rows) -> DotRows {
    scalar::dot_rows
}

pub(crate) fn add_rows(_isa: Isa, _w: &Rows) -> AddRows {
    scalar::add_rows
}

pub(crate) fn add_tiles(_isa: Isa, _w: &Tiles) -> AddTiles {
    scalar::add_tiles
}
