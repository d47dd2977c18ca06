//! Views of weights, validated once so that inner loops need no checks, and of the output they write to.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use crate::format::for_format;
use crate::layout::{self, Parts, TilePlan};
use crate::{Format, Layout};

/// Bytes and shapes that do not fit each other. The sentence says what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError(String);

impl ShapeError {
    pub(crate) fn new(sentence: String) -> ShapeError {
        ShapeError(sentence)
    }
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ShapeError {}

/// Rows of `width` weights in one format, borrowed, `stride` bytes apart. There is at least one row, and no row is empty.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    format: Format,
    layout: Layout,
    width: usize,
    stride: usize,
    row_bytes: usize,
    len: usize,
    silent: bool,
    /// From the first byte of the first row to the last byte of the last.
    bytes: &'a [u8],
}

impl<'a> Rows<'a> {
    /// Rows that lie one after the other and fill `bytes`.
    pub fn new(format: Format, layout: Layout, width: usize, bytes: &'a [u8]) -> Result<Rows<'a>, ShapeError> {
        let row_bytes = row_bytes(format, width)?;
        Rows::with_stride(format, layout, width, row_bytes, bytes)
    }

    /// Rows `stride` bytes apart, so that others may lie between them. `bytes` ends with the last row or one full stride
    /// after its beginning.
    pub fn with_stride(
        format: Format,
        layout: Layout,
        width: usize,
        stride: usize,
        bytes: &'a [u8],
    ) -> Result<Rows<'a>, ShapeError> {
        let row_bytes = row_bytes(format, width)?;
        if !layout.holds(format) {
            return Err(ShapeError::new(format!("{format} has no layout in lanes")));
        }
        if stride < row_bytes {
            return Err(ShapeError::new(format!(
                "{format} rows of width {width} take {row_bytes} bytes, a stride of {stride} makes them overlap"
            )));
        }
        let rest = bytes.len() % stride;
        let len = bytes.len() / stride + usize::from(rest != 0);
        if len == 0 || rest != 0 && rest != row_bytes {
            return Err(ShapeError::new(format!(
                "{} bytes are no whole number of {format} rows: width {width} takes {row_bytes} bytes, {stride} apart",
                bytes.len()
            )));
        }
        let end = (len - 1) * stride + row_bytes;
        Ok(Rows { format, layout, width, stride, row_bytes, len, silent: false, bytes: &bytes[..end] })
    }

    /// The same rows, of which sums read also those whose weight is zero: the same result, slower. It shows what leaving
    /// them out saves.
    pub fn with_silent(self) -> Rows<'a> {
        Rows { silent: true, ..self }
    }

    /// Whether a sum of these rows reads one of weight `h`.
    #[inline(always)]
    pub(crate) fn reads(&self, h: f32) -> bool {
        self.silent || h != 0.0
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Weights in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many rows there are: one or more.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of weights in a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Bytes from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The rows of a range, which must not be empty nor reach past the end.
    pub fn slice(&self, range: Range<usize>) -> Rows<'a> {
        assert!(
            range.start < range.end && range.end <= self.len,
            "rows {range:?} of {}: a slice is not empty and within",
            self.len
        );
        let bytes = &self.bytes[range.start * self.stride..(range.end - 1) * self.stride + self.row_bytes];
        Rows { len: range.len(), bytes, ..*self }
    }

    /// Row `i` as plain numbers. Panics where `out` is not as long as a row is wide, or there is no such row.
    pub fn decode_row(&self, i: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.width, "decoded row: length of the output against the width");
        let row = self.row(i);
        match self.layout {
            Layout::File => self.format.decode(row, out),
            Layout::Lanes => for_format!(self.format, B => {
                use crate::format::Block;
                for (b, out) in out.chunks_exact_mut(B::WEIGHTS).enumerate() {
                    B::decode(&self.lane_block(row, b), out);
                }
            }),
        }
    }

    /// The bytes of row `i`.
    pub(crate) fn row(&self, i: usize) -> &'a [u8] {
        assert!(i < self.len, "row {i} of {}", self.len);
        &self.bytes[i * self.stride..][..self.row_bytes]
    }

    /// The address of row `i`, for loops that have checked their indices.
    #[inline(always)]
    pub(crate) fn row_at(&self, i: usize) -> *const u8 {
        debug_assert!(i < self.len);
        self.bytes.as_ptr().wrapping_add(i * self.stride)
    }

    /// Block `b` of a row that lies in lanes, as a file would have it.
    pub(crate) fn lane_block(&self, row: &[u8], b: usize) -> [u8; 34] {
        let parts = Parts::of(self.format).expect("checked when the rows were made");
        layout::block_from_lanes(parts, row, self.width / self.format.block_weights(), b)
    }
}

impl fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} [{}, {}]", self.format, self.layout, self.len, self.width)
    }
}

/// Bytes of a row, or why there is no such row.
pub(crate) fn row_bytes(format: Format, width: usize) -> Result<usize, ShapeError> {
    match format.row_bytes(width) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        Some(_) => Err(ShapeError::new(format!("{format} rows of width 0: a row holds at least one block"))),
        None => Err(ShapeError::new(format!(
            "{format} rows of width {width}: expected a multiple of {}",
            format.block_weights()
        ))),
    }
}

/// `down` by neuron with its scales in place: `neurons` times `width` weights that an ordinary file has as `width` rows of
/// `neurons`. See [`tiles_from_file`](crate::tiles_from_file).
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    plan: TilePlan,
    silent: bool,
    bytes: &'a [u8],
}

impl<'a> Tiles<'a> {
    /// Both numbers are multiples of 32; the bytes are as many as in the file.
    pub fn new(format: Format, neurons: usize, width: usize, bytes: &'a [u8]) -> Result<Tiles<'a>, ShapeError> {
        let plan = TilePlan::new(format, neurons, width)?;
        if bytes.len() != plan.bytes() {
            return Err(ShapeError::new(format!(
                "{format} tiles of {neurons} neurons and width {width}: expected {} bytes, found {}",
                plan.bytes(),
                bytes.len()
            )));
        }
        Ok(Tiles { plan, silent: false, bytes })
    }

    /// As [`Rows::with_silent`].
    pub fn with_silent(self) -> Tiles<'a> {
        Tiles { silent: true, ..self }
    }

    /// Whether a sum reads a neuron whose rounded activation is `code`.
    #[inline(always)]
    pub(crate) fn reads(&self, code: i8) -> bool {
        self.silent || code != 0
    }

    pub fn format(&self) -> Format {
        self.plan.format
    }

    /// Weights that each output sums over.
    pub fn neurons(&self) -> usize {
        self.plan.neurons
    }

    /// Outputs.
    pub fn width(&self) -> usize {
        self.plan.width
    }

    pub(crate) fn plan(&self) -> &TilePlan {
        &self.plan
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Which rows a product is wanted of.
#[derive(Clone, Copy, Debug)]
pub enum Pick<'a> {
    /// Every row, in order.
    All,
    /// These rows, in any order: output `j` is of row `pick[j]`.
    These(&'a [u32]),
}

impl Pick<'_> {
    /// How many products of rows there will be, out of `rows`.
    pub fn count(&self, rows: usize) -> usize {
        match self {
            Pick::All => rows,
            Pick::These(pick) => pick.len(),
        }
    }

    /// The row behind output `j`.
    #[inline(always)]
    pub(crate) fn row(&self, j: usize) -> usize {
        match self {
            Pick::All => j,
            Pick::These(pick) => pick[j] as usize,
        }
    }
}

/// In which order the terms of a product are added. It is part of what is computed; see `docs/KERNELS.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Sixteen sums, block `b` (or number `i`) going to sum `b mod 16`, then one tree. For every matrix but `down`.
    Lanes,
    /// One sum from the first block to the last. For `down` by output, so that `down` by neuron gives the same bits.
    Sequence,
}

/// Where results go: `t` rows of `columns` numbers, `stride` numbers apart.
pub struct Columns<'a> {
    first: *mut f32,
    stride: usize,
    columns: usize,
    t: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> Columns<'a> {
    /// The whole of `values`, which holds `t` rows of `stride` numbers.
    pub fn new(values: &'a mut [f32], t: usize, stride: usize) -> Columns<'a> {
        assert_eq!(Some(values.len()), t.checked_mul(stride), "output of {t} rows of {stride} numbers");
        Columns { first: values.as_mut_ptr(), stride, columns: stride, t, borrow: PhantomData }
    }

    /// `t` rows of `columns` numbers, the first at `first`, `stride` numbers apart.
    ///
    /// # Safety
    /// All `t * columns` numbers are initialised, lie in one allocation that lives for `'a`, and are reached through
    /// nothing else during that time. What lies between the rows may be used by others.
    pub unsafe fn from_raw(first: *mut f32, stride: usize, columns: usize, t: usize) -> Columns<'a> {
        assert!(columns <= stride || t <= 1, "{columns} columns, {stride} apart, overlap");
        Columns { first, stride, columns, t, borrow: PhantomData }
    }

    /// Rows of output, one per vector of activations.
    pub fn t(&self) -> usize {
        self.t
    }

    /// Numbers in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Row `t`.
    pub fn row(&mut self, t: usize) -> &mut [f32] {
        assert!(t < self.t, "row {t} of {}", self.t);
        // SAFETY: the row lies within what `new` borrowed or `from_raw` was promised, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(t * self.stride), self.columns) }
    }

    /// A part of the columns, of all rows.
    pub fn slice(&mut self, range: Range<usize>) -> Columns<'_> {
        assert!(range.start <= range.end && range.end <= self.columns, "columns {range:?} of {}", self.columns);
        // SAFETY: `range.start` is at most `columns`, so the pointer stays within or one past the allocation.
        let first = unsafe { self.first.add(range.start) };
        Columns { first, stride: self.stride, columns: range.len(), t: self.t, borrow: PhantomData }
    }

    /// The address of number 0 of row `t`, for loops that have checked their indices.
    #[inline(always)]
    pub(crate) fn at(&mut self, t: usize) -> *mut f32 {
        debug_assert!(t < self.t);
        self.first.wrapping_add(t * self.stride)
    }
}
