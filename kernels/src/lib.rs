//! Rows of numbers: sparse, exact kernels for quantised weights. No threads, no files.
//!
//! A weight matrix is a list of rows, and there are two things to do with rows: take the dot product of each with a
//! vector ([`dot_rows`]), or add a weighted sum of them to a vector ([`add_rows`]; [`add_tiles`] is the same for weights of
//! the sum that are rounded). Every format and every instruction set offers these, with the same bits: the order of sums
//! belongs to the format and the verb, never to the layout, the instruction set or the number of threads.

mod activations;
mod arch;
pub mod attend;
pub mod cuda;
mod format;
mod isa;
mod layout;
pub mod norm;
pub mod rope;
mod rows;

use std::ops::Range;

pub use activations::Activations;
pub use format::{Block, Format};
pub use isa::Isa;
pub use layout::{Layout, file_from_lanes, file_from_tiles, lanes_from_file, tiles_from_file};
pub use rows::{Columns, Order, Pick, Rows, ShapeError, Tiles};

/// `out[t][i] = w[i] · x[t]` for all rows, or `out[t][j] = w[pick[j]] · x[t]` for those picked.
///
/// Quantised weights meet the rounded activations, floats the given ones. Panics where the shapes do not fit each other.
pub fn dot_rows(isa: Isa, w: Rows, pick: Pick, x: &Activations, order: Order, out: &mut Columns) {
    assert_eq!(w.width(), x.width(), "dot_rows: width of the rows against width of the activations");
    assert_eq!(out.t(), x.t(), "dot_rows: rows of output against vectors of activations");
    assert_eq!(out.columns(), pick.count(w.len()), "dot_rows: columns of output against rows wanted");
    if let Pick::These(pick) = pick {
        let highest = pick.iter().copied().max().unwrap_or(0);
        assert!((highest as usize) < w.len(), "dot_rows: row {highest} of {}", w.len());
    }
    let verb = arch::dot_rows(isa, &w, order);
    // SAFETY: `isa` proves that the processor has the instructions the verb was compiled for; the shapes were checked above.
    unsafe { verb(w, pick, x, out) }
}

/// `out[c] += Σ_i h[i] · w[i][c]` for `c` in `columns`, `i` ascending, one multiply-add each. `out` has a place for each
/// column. Rows with `h[i] == 0` are not read.
///
/// Panics where the shapes do not fit each other.
pub fn add_rows(isa: Isa, w: Rows, h: &[f32], columns: Range<usize>, out: &mut [f32]) {
    assert_eq!(h.len(), w.len(), "add_rows: weights of the sum against rows");
    assert!(columns.start <= columns.end && columns.end <= w.width(), "add_rows: columns {columns:?} of {}", w.width());
    assert_eq!(out.len(), columns.len(), "add_rows: output against columns");
    let verb = arch::add_rows(isa, &w);
    // SAFETY: `isa` proves that the processor has the instructions the verb was compiled for; the shapes were checked above.
    unsafe { verb(w, h, columns, out) }
}

/// [`add_rows`] for each vector of `h`, as given: `out[t][c] += Σ_i h[t][i] · w[i][c]`, the same bits. Rows whose weight is
/// zero in all vectors are not read.
///
/// Panics where the shapes do not fit each other.
pub fn add_rows_many(isa: Isa, w: Rows, h: &Activations, columns: Range<usize>, out: &mut Columns) {
    assert_eq!(h.width(), w.len(), "add_rows_many: width of the activations against rows");
    assert!(
        columns.start <= columns.end && columns.end <= w.width(),
        "add_rows_many: columns {columns:?} of {}",
        w.width()
    );
    assert_eq!(out.t(), h.t(), "add_rows_many: rows of output against vectors of activations");
    assert_eq!(out.columns(), columns.len(), "add_rows_many: output against columns");
    match arch::add_rows_many(isa, &w) {
        // SAFETY: `isa` proves that the processor has the instructions the verb was compiled for; the shapes were checked above.
        Some(verb) if h.t() > 1 => unsafe { verb(w, h, columns, out) },
        _ => (0..h.t()).for_each(|t| add_rows(isa, w, h.vector(t), columns.clone(), out.row(t))),
    }
}

/// `out[t][c] += Σ_i h[t][i] · w[i][c]` for `c` in `columns`, with `h` rounded per 32 neurons and the sum of each 32 an
/// integer. Begun from zero, it equals [`dot_rows`] of the matrix by output with [`Order::Sequence`], bit for bit. Neurons
/// that are silent in all vectors are not read.
///
/// Panics where the shapes do not fit each other.
pub fn add_tiles(isa: Isa, w: Tiles, h: &Activations, columns: Range<usize>, out: &mut Columns) {
    assert_eq!(h.width(), w.neurons(), "add_tiles: width of the activations against neurons");
    assert!(
        columns.start <= columns.end && columns.end <= w.width(),
        "add_tiles: columns {columns:?} of {}",
        w.width()
    );
    assert_eq!(out.t(), h.t(), "add_tiles: rows of output against vectors of activations");
    assert_eq!(out.columns(), columns.len(), "add_tiles: output against columns");
    let verb = arch::add_tiles(isa, &w);
    // SAFETY: `isa` proves that the processor has the instructions the verb was compiled for; the shapes were checked above.
    unsafe { verb(w, h, columns, out) }
}
