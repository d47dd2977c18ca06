//! The kernels of `kernels/cuda` as calls: which one, for how many threads, with which arguments. Plain data, so that a
//! driver can launch it on an accelerator and the suite (`tests/cuda.rs`) the same sources on the host.
//!
//! They compute what the verbs of this crate compute, to the bit: one order of sums, the same roundings. Formats: Q4_0,
//! Q4_1, Q8_0, F32, F16, BF16; others are refused by name.
//!
//! Addresses are the device's. Whoever launches sees to it that what lies there is as long as the shapes say, and that
//! buffers begin at multiples of sixteen bytes.

mod attend;
mod experts;
mod step;

pub use attend::{Attend, Cache, fold, rotate};
pub use experts::{Asked, DownForm, ExpertShape, Inner, gather};
pub use step::{Layer, Room, Step};

use crate::format::RUN;
use crate::{Format, Layout, ShapeError};

/// Rows from which on a matrix fills a device with four of them in sixteen threads.
const TALL: usize = 16384;

/// What buffers must be aligned to.
pub const ALIGNED: u64 = 16;

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    Address(u64),
    Long(u64),
    Word(u32),
    Float(f32),
}

/// One kernel, ready to be launched.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Its name, and the file of `kernels/cuda` it is in.
    pub kernel: String,
    pub file: File,
    pub grid: [u32; 3],
    pub threads: u32,
    pub arguments: Vec<Argument>,
}

/// The files of `kernels/cuda`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum File {
    Rows,
    Experts,
    Attend,
}

/// A list of arguments.
macro_rules! arguments {
    ($($kind:ident $value:expr),* $(,)?) => { vec![$($crate::cuda::Argument::$kind($value)),*] };
}
use arguments;

/// Vectors rounded in runs of 32: codes, one scale and the sum of the codes for each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounded {
    pub codes: u64,
    pub scales: u64,
    pub wholes: u64,
}

impl Rounded {
    /// Where nothing is rounded.
    pub const NONE: Rounded = Rounded { codes: 0, scales: 0, wholes: 0 };

    /// Bytes for `t` vectors of `width` numbers; none where the width is no whole number of runs.
    pub fn bytes(t: usize, width: usize) -> usize {
        match width.is_multiple_of(RUN) {
            true => t * width + 2 * Rounded::plane(t, width),
            false => 0,
        }
    }

    /// The three parts in one buffer of [`Rounded::bytes`] bytes.
    pub fn at(address: u64, t: usize, width: usize) -> Rounded {
        let scales = address + (t * width) as u64;
        Rounded { codes: address, scales, wholes: scales + Rounded::plane(t, width) as u64 }
    }

    /// Bytes of a number for each run, in whole alignments.
    fn plane(t: usize, width: usize) -> usize {
        (t * width / RUN * 4).next_multiple_of(ALIGNED as usize)
    }
}

/// `t` vectors of `width` numbers, as they are `[t][width]` and rounded.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    pub plain: u64,
    pub rounded: Rounded,
    pub t: usize,
    pub width: usize,
}

/// A matrix of rows.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub format: Format,
    pub layout: Layout,
    pub at: u64,
    pub rows: usize,
    pub width: usize,
}

impl Matrix {
    pub fn bytes(&self) -> Result<usize, ShapeError> {
        supported("a matrix", self.format)?;
        let row = crate::rows::row_bytes(self.format, self.width)?;
        row.checked_mul(self.rows).ok_or_else(|| ShapeError::new(format!("{} rows of {row} bytes", self.rows)))
    }
}

/// Refuses formats that have no kernels.
pub fn supported(what: &str, format: Format) -> Result<(), ShapeError> {
    match format {
        Format::Q4_0 | Format::Q4_1 | Format::Q8_0 | Format::F32 | Format::F16 | Format::BF16 => Ok(()),
        _ => Err(ShapeError::new(format!(
            "{what} of {format} on an accelerator: there are kernels for Q4_0, Q4_1, Q8_0, F32, F16 and BF16"
        ))),
    }
}

/// The format as kernels' names have it.
fn word(format: Format) -> String {
    format.name().to_lowercase()
}

fn layout_word(layout: Layout) -> &'static str {
    match layout {
        Layout::File => "rows",
        Layout::Lanes => "lanes",
    }
}

/// A grid's side; shapes that do not fit are a broken contract.
fn side(n: usize) -> u32 {
    u32::try_from(n).expect("shapes were checked when the model was opened: below 2^31")
}

/// Rounds the vectors `x.plain` to `x.rounded`.
pub fn round(x: Vectors) -> Result<Launch, ShapeError> {
    if !x.width.is_multiple_of(RUN) {
        return Err(ShapeError::new(format!("rounding vectors of {} numbers: no multiple of 32", x.width)));
    }
    let runs = x.t * x.width / RUN;
    let Rounded { codes, scales, wholes } = x.rounded;
    Ok(Launch {
        kernel: "round_vectors".into(),
        file: File::Rows,
        grid: [side(runs.div_ceil(8)), 1, 1],
        threads: 256,
        arguments: arguments![Address x.plain, Word side(runs), Address codes, Address scales, Address wholes],
    })
}

/// `out[t][row] = w[row] · x[t]`, or added to what is there: [`dot_rows`](crate::dot_rows) with
/// [`Order::Lanes`](crate::Order). A quantised matrix reads `x.rounded`, floats `x.plain`.
pub fn products(w: Matrix, x: Vectors, out: u64, add: bool) -> Result<Launch, ShapeError> {
    w.bytes()?;
    if w.width != x.width {
        return Err(ShapeError::new(format!("rows of {} weights times vectors of {}", w.width, x.width)));
    }
    // For one vector: rows apart where they are few, four together where there are enough to fill a device all the same.
    let (tile, form, rows) = match x.t {
        1 if w.rows < TALL => (1, "1", 16),
        1 => (1, "tall", 64),
        _ => (8, "8", 32),
    };
    let Rounded { codes, scales, wholes } = x.rounded;
    Ok(Launch {
        kernel: format!("products_{}_{}_{form}", word(w.format), layout_word(w.layout)),
        file: File::Rows,
        grid: [side(w.rows.div_ceil(rows)), side(x.t.div_ceil(tile)), 1],
        threads: 256,
        arguments: arguments![
            Address w.at, Word side(w.rows), Word side(w.width), Address x.plain, Address codes, Address scales,
            Address wholes, Word side(x.t), Address out, Word add as u32,
        ],
    })
}

/// [`rms_norm`](crate::norm::rms_norm) of `t` vectors at `x` into `out.plain`, and rounded into `out.rounded` where the
/// width is a multiple of 32.
pub fn rms_norm(x: u64, weight: u64, epsilon: f32, out: Vectors) -> Launch {
    let Rounded { codes, scales, wholes } = out.rounded;
    Launch {
        kernel: "rms_norm".into(),
        file: File::Rows,
        grid: [side(out.t), 1, 1],
        threads: 512,
        arguments: arguments![
            Address x, Address weight, Word side(out.width), Float epsilon, Address out.plain, Address codes,
            Address scales, Address wholes,
        ],
    }
}
