//! The ways the numbers of one matrix can lie in bytes. None changes a number, and each takes as many bytes as a file does.

use super::{DownOrder, Part, Quant};
use kernels::{
    Format, Layout, Rows, ShapeError, Tiles, file_from_lanes, file_from_tiles, lanes_from_file, tiles_from_file,
};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// How a matrix lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Row by row.
    Rows(Layout),
    /// `down` of quantised numbers, by neuron with its scales in place.
    Tiles,
    /// `down` of floats turned round: one row of outputs for each neuron.
    Neurons,
}

impl Form {
    /// As files have it.
    pub const FILE: Form = Form::Rows(Layout::File);
    pub const ALL: [Form; 4] = [Form::FILE, Form::Rows(Layout::Lanes), Form::Tiles, Form::Neurons];

    /// The word in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Form::Rows(Layout::File) => "rows",
            Form::Rows(Layout::Lanes) => "lanes",
            Form::Tiles => "tiles",
            Form::Neurons => "neurons",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Form> {
        Form::ALL.into_iter().find(|form| form.name() == name)
    }

    /// The form the kernels read fastest.
    pub(super) fn fastest(part: Part, down: DownOrder, format: Format) -> Form {
        match (part, down) {
            (Part::Down(..), DownOrder::ByNeuron) => Form::FILE,
            // 32 outputs and 32 neurons at a time: every width of a checked config is such a multiple.
            (Part::Down(..), DownOrder::ByOutput) if has_tiles(format) => Form::Tiles,
            (Part::Down(..), DownOrder::ByOutput) if format.is_float() => Form::Neurons,
            (Part::Down(..), DownOrder::ByOutput) => Form::FILE,
            _ if part.stays_f32() => Form::FILE,
            _ if Layout::Lanes.holds(format) => Form::Rows(Layout::Lanes),
            _ => Form::FILE,
        }
    }

    /// Whether such a part can lie so.
    pub(super) fn holds(self, part: Part, down: DownOrder, format: Format) -> bool {
        self == Form::FILE || self == Form::fastest(part, down, format)
    }

    /// Whether some rows of the matrix can be re-laid without the others.
    pub(super) fn by_rows(self) -> bool {
        matches!(self, Form::Rows(_))
    }

    /// Re-lays `rows` rows of `width` weights from the form of files. Forms that are not [`Form::by_rows`] need all rows.
    pub(super) fn lay(
        self,
        format: Format,
        rows: usize,
        width: usize,
        from: &[u8],
        to: &mut [u8],
    ) -> Result<(), ShapeError> {
        match self {
            Form::Rows(Layout::File) => to.copy_from_slice(from),
            Form::Rows(Layout::Lanes) => lanes_from_file(format, width, from, to)?,
            Form::Tiles => tiles_from_file(format, width, rows, from, to)?,
            Form::Neurons => turn(format.block_bytes(), rows, width, from, to),
        }
        Ok(())
    }

    /// The inverse of [`Form::lay`].
    fn unlay(self, format: Format, rows: usize, width: usize, from: &[u8], to: &mut [u8]) -> Result<(), ShapeError> {
        match self {
            Form::Rows(Layout::File) => to.copy_from_slice(from),
            Form::Rows(Layout::Lanes) => file_from_lanes(format, width, from, to)?,
            Form::Tiles => file_from_tiles(format, width, rows, from, to)?,
            Form::Neurons => turn(format.block_bytes(), width, rows, from, to),
        }
        Ok(())
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn has_tiles(format: Format) -> bool {
    matches!(format, Format::Q4_0 | Format::Q4_1 | Format::Q8_0)
}

/// `rows` rows of `width` numbers of `size` bytes become `width` rows of `rows`.
fn turn(size: usize, rows: usize, width: usize, from: &[u8], to: &mut [u8]) {
    assert!(from.len() == rows * width * size && to.len() == from.len(), "a whole matrix is turned");
    // In squares, so that both sides stay in the nearest cache.
    const SIDE: usize = 32;
    for top in (0..rows).step_by(SIDE) {
        for left in (0..width).step_by(SIDE) {
            for row in top..(top + SIDE).min(rows) {
                for column in left..(left + SIDE).min(width) {
                    let (a, b) = ((row * width + column) * size, (column * rows + row) * size);
                    to[b..b + size].copy_from_slice(&from[a..a + size]);
                }
            }
        }
    }
}

/// What the bytes of one matrix are, wherever they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub format: Format,
    pub form: Form,
    /// Rows and weights in a row as ordinary files have the matrix, whatever its form.
    pub rows: usize,
    pub width: usize,
}

impl Kind {
    /// What becomes of a part when it is packed, rounded to `quant`: what a run of the model computes with.
    pub fn packed(self, part: Part, down: DownOrder, quant: Quant) -> Kind {
        let format = if part.stays_f32() { Some(Format::F32) } else { quant.format() }.unwrap_or(self.format);
        Kind { format, form: Form::fastest(part, down, format), ..self }
    }

    /// Bytes of one row in the form of files. Panics where a row is no whole blocks, which no kind of a model is.
    pub fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.width).expect("rows are whole blocks")
    }

    /// Bytes of the whole matrix, in any form.
    pub fn bytes(&self) -> usize {
        self.rows * self.row_bytes()
    }

    /// The rows in `bytes`, which may be only some of the matrix. Panics where it lies by neuron and has no rows: ask
    /// [`Kind::tiles`] and [`Kind::neurons`] first for a `down`.
    pub fn view<'a>(&self, bytes: &'a [u8]) -> Rows<'a> {
        let Form::Rows(layout) = self.form else { panic!("a matrix by neuron ({}) has no rows", self.form) };
        Rows::new(self.format, layout, self.width, bytes).expect("the kind was checked against its bytes")
    }

    /// A `down` that is re-laid by neuron with its scales in place.
    pub fn tiles<'a>(&self, bytes: &'a [u8]) -> Option<Tiles<'a>> {
        // In the file, a row is an output and its weights are neurons.
        let tiles = || Tiles::new(self.format, self.width, self.rows, bytes);
        (self.form == Form::Tiles).then(|| tiles().expect("the kind was checked against its bytes"))
    }

    /// A `down` of floats that is turned round: one row of outputs for each neuron.
    pub fn neurons<'a>(&self, bytes: &'a [u8]) -> Option<Rows<'a>> {
        let rows = || Rows::new(self.format, Layout::File, self.rows, bytes);
        (self.form == Form::Neurons).then(|| rows().expect("the kind was checked against its bytes"))
    }
}

/// One matrix (or vector: `rows == 1`) as its file stores it, checked: `bytes` is whole and in bounds.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub format: Format,
    pub form: Form,
    /// Rows and weights in a row as ordinary files have the matrix, whatever its form.
    pub rows: usize,
    pub width: usize,
    pub bytes: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Bytes of one row in the form of files.
    pub(super) fn row_bytes(&self) -> usize {
        self.bytes.len() / self.rows
    }

    /// Some rows in the form of files: borrowed where they lie so.
    pub fn file_rows(&self, rows: Range<usize>) -> Cow<'a, [u8]> {
        let each = self.row_bytes();
        let range = rows.start * each..rows.end * each;
        if self.form == Form::FILE {
            return Cow::Borrowed(&self.bytes[range]);
        }
        let fits = "the form was checked against the format";
        if self.form.by_rows() {
            let mut file = vec![0u8; range.len()];
            self.form.unlay(self.format, rows.len(), self.width, &self.bytes[range], &mut file).expect(fits);
            return Cow::Owned(file);
        }
        let mut file = vec![0u8; self.bytes.len()];
        self.form.unlay(self.format, self.rows, self.width, self.bytes, &mut file).expect(fits);
        if range.len() < file.len() {
            file = file[range].to_vec();
        }
        Cow::Owned(file)
    }

    /// Every number, row by row as files order them.
    pub fn decode(&self) -> Vec<f32> {
        let mut weights = vec![0f32; self.rows * self.width];
        self.format.decode(&self.file_rows(0..self.rows), &mut weights);
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_comes_back() {
        let (rows, width) = (64, 96);
        for format in Format::ALL.into_iter().filter(|f| f.row_bytes(width).is_some()) {
            let file: Vec<u8> = (0..rows * format.row_bytes(width).unwrap()).map(|i| (i * 7 % 251) as u8).collect();
            for form in Form::ALL {
                let parts = [Part::Query(0), Part::Down(0, 0)];
                if !parts.iter().any(|part| form.holds(*part, DownOrder::ByOutput, format)) {
                    continue;
                }
                let mut bytes = vec![0u8; file.len()];
                form.lay(format, rows, width, &file, &mut bytes).unwrap();
                assert_eq!(bytes == file, form == Form::FILE, "{format} {form}");
                let stored = Stored { format, form, rows, width, bytes: &bytes };
                assert!(stored.file_rows(0..rows) == file, "{format} {form}");
                let row = format.row_bytes(width).unwrap();
                assert!(*stored.file_rows(3..17) == file[3 * row..17 * row], "{format} {form}");
                assert_eq!(Form::of_name(form.name()), Some(form));
            }
        }
    }

    #[test]
    fn by_neuron_only_where_no_number_changes() {
        let down = Part::Down(0, 0);
        assert_eq!(Form::fastest(down, DownOrder::ByOutput, Format::Q4_0), Form::Tiles);
        assert_eq!(Form::fastest(down, DownOrder::ByOutput, Format::BF16), Form::Neurons);
        assert_eq!(Form::fastest(down, DownOrder::ByOutput, Format::Q6_K), Form::FILE);
        assert_eq!(Form::fastest(down, DownOrder::ByNeuron, Format::Q4_0), Form::FILE);
        assert_eq!(Form::fastest(Part::Up(0, 0), DownOrder::ByOutput, Format::Q4_0), Form::Rows(Layout::Lanes));
        assert_eq!(Form::fastest(Part::Router(0), DownOrder::ByOutput, Format::F32), Form::FILE);
    }
}
