//! The same bytes in another order: rows whose blocks lie in lanes, and `down` by neuron. Nothing here changes a number;
//! every re-laying has its inverse and keeps the byte count. Pictures are in `docs/KERNELS.md`.

use crate::{Format, ShapeError};

/// Blocks that lie side by side in the lanes of a vector: sixteen lanes of 32 bits, the widest vector there is.
pub(crate) const LANES: usize = 16;

/// How the blocks of a row lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// One after the other, as files have them.
    File,
    /// A lane is a block: sixteen blocks form a group; first the codes, four bytes of each block in turn, so that 32-bit
    /// lane `j` of a vector belongs to block `j`; then the sixteen scales. A shorter last group of `n` blocks is laid
    /// the same way with `n` lanes.
    Lanes,
}

/// The parts of a block that can be laid in lanes: f16 numbers first, then codes.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    /// f16 numbers at the front of the block: the scale and perhaps a minimum.
    pub halves: usize,
    /// Pieces of four bytes of codes behind them.
    pub pieces: usize,
}

impl Parts {
    /// `None` for formats whose blocks do not divide in this way.
    pub(crate) fn of(format: Format) -> Option<Parts> {
        match format {
            Format::Q4_0 => Some(Parts { halves: 1, pieces: 4 }),
            Format::Q4_1 => Some(Parts { halves: 2, pieces: 4 }),
            Format::Q8_0 => Some(Parts { halves: 1, pieces: 8 }),
            _ => None,
        }
    }

    fn block_bytes(self) -> usize {
        2 * self.halves + 4 * self.pieces
    }

    /// Where in a group of `n` blocks the bytes of block `j` lie, in the order of the block: pairs of offset and length.
    fn places(self, n: usize, j: usize) -> impl Iterator<Item = (usize, usize)> {
        let codes = self.pieces * n * 4;
        let halves = (0..self.halves).map(move |h| (codes + (h * n + j) * 2, 2));
        let pieces = (0..self.pieces).map(move |k| ((k * n + j) * 4, 4));
        halves.chain(pieces)
    }
}

impl Layout {
    /// Whether rows of this format can lie so.
    pub fn holds(self, format: Format) -> bool {
        self == Layout::File || Parts::of(format).is_some()
    }
}

/// Block `index` of a row in lanes, as it would lie in a file. The row has `blocks` blocks; bytes past those of the block
/// are zero.
pub(crate) fn block_from_lanes(parts: Parts, row: &[u8], blocks: usize, index: usize) -> [u8; 34] {
    let first = index / LANES * LANES;
    let group = &row[first * parts.block_bytes()..];
    let mut block = [0; 34];
    let mut at = 0;
    for (from, length) in parts.places(LANES.min(blocks - first), index - first) {
        block[at..at + length].copy_from_slice(&group[from..from + length]);
        at += length;
    }
    block
}

/// Re-lays whole rows from [`Layout::File`] to [`Layout::Lanes`]. `from` and `to` are equally long.
pub fn lanes_from_file(format: Format, width: usize, from: &[u8], to: &mut [u8]) -> Result<(), ShapeError> {
    let (parts, row_bytes) = check_lanes(format, width, from, to)?;
    let size = parts.block_bytes();
    for (from, to) in from.chunks_exact(row_bytes).zip(to.chunks_exact_mut(row_bytes)) {
        // A group has the same bytes in both layouts, so the shorter last one is simply the shorter last chunk.
        for (from, to) in from.chunks(LANES * size).zip(to.chunks_mut(LANES * size)) {
            let n = from.len() / size;
            for (j, block) in from.chunks_exact(size).enumerate() {
                let mut at = 0;
                for (place, length) in parts.places(n, j) {
                    to[place..place + length].copy_from_slice(&block[at..at + length]);
                    at += length;
                }
            }
        }
    }
    Ok(())
}

/// The inverse of [`lanes_from_file`].
pub fn file_from_lanes(format: Format, width: usize, from: &[u8], to: &mut [u8]) -> Result<(), ShapeError> {
    let (parts, row_bytes) = check_lanes(format, width, from, to)?;
    let size = parts.block_bytes();
    for (from, to) in from.chunks_exact(row_bytes).zip(to.chunks_exact_mut(row_bytes)) {
        for (from, to) in from.chunks(LANES * size).zip(to.chunks_mut(LANES * size)) {
            let n = to.len() / size;
            for (j, block) in to.chunks_exact_mut(size).enumerate() {
                let mut at = 0;
                for (place, length) in parts.places(n, j) {
                    block[at..at + length].copy_from_slice(&from[place..place + length]);
                    at += length;
                }
            }
        }
    }
    Ok(())
}

fn check_lanes(format: Format, width: usize, from: &[u8], to: &[u8]) -> Result<(Parts, usize), ShapeError> {
    let parts = Parts::of(format).ok_or_else(|| ShapeError::new(format!("{format} has no layout in lanes")))?;
    let row_bytes = crate::rows::row_bytes(format, width)?;
    if from.is_empty() || !from.len().is_multiple_of(row_bytes) || from.len() != to.len() {
        return Err(ShapeError::new(format!(
            "re-laying {format} rows of {row_bytes} bytes: {} bytes go to {}, expected equally many whole rows",
            from.len(),
            to.len()
        )));
    }
    Ok((parts, row_bytes))
}

/// Where the weights of `down` lie when its codes are transposed to run by neuron while its scales stay as they were, one
/// per output and 32 neurons. First one row of codes per neuron, then `[neurons / 32][width]` scales (f16), then, where
/// the format has them, as many minima.
///
/// A neuron's codes are cut into chunks of 64 bytes (128 nibbles or 64 bytes of outputs). Within a chunk, 4-byte piece `i`
/// of 16-byte piece `l` holds outputs `4 (i * pieces + l)..` where there are `pieces` 16-byte pieces (four, or fewer in
/// a last chunk that is shorter): after four neurons' bytes are interleaved by two rounds of unpacking, which works
/// within 16 bytes everywhere, vector `i` holds consecutive outputs. High nibbles hold the upper half of a chunk's outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TilePlan {
    pub format: Format,
    pub neurons: usize,
    pub width: usize,
    /// Outputs per byte of codes: two for nibbles.
    pub per_byte: usize,
    /// Bytes of codes per neuron.
    pub row_bytes: usize,
}

/// Bytes of one neuron's codes that belong together.
pub(crate) const CHUNK: usize = 64;

impl TilePlan {
    pub(crate) fn new(format: Format, neurons: usize, width: usize) -> Result<TilePlan, ShapeError> {
        let per_byte = match format {
            Format::Q4_0 | Format::Q4_1 => 2,
            Format::Q8_0 => 1,
            _ => return Err(ShapeError::new(format!("{format} has no layout by neuron with its scales in place"))),
        };
        if neurons == 0 || width == 0 || !neurons.is_multiple_of(32) || !width.is_multiple_of(32) {
            return Err(ShapeError::new(format!(
                "tiles of {neurons} neurons and width {width}: both must be multiples of 32 and not zero"
            )));
        }
        neurons
            .checked_mul(width)
            .filter(|n| n.checked_mul(2).is_some())
            .ok_or_else(|| ShapeError::new(format!("tiles of {neurons} neurons and width {width} are too large")))?;
        Ok(TilePlan { format, neurons, width, per_byte, row_bytes: width / per_byte })
    }

    /// All bytes of the tiles: as many as in the file.
    pub(crate) fn bytes(&self) -> usize {
        let halves = Parts::of(self.format).expect("formats of tiles have parts").halves;
        self.neurons * self.row_bytes + self.neurons / 32 * self.width * 2 * halves
    }

    /// Byte of the code within its neuron's row, and the shift that brings it down.
    pub(crate) fn code(&self, output: usize) -> (usize, u32) {
        let outputs = CHUNK * self.per_byte;
        let first = output / outputs * outputs;
        let here = outputs.min(self.width - first);
        let pieces = here / self.per_byte / 16;
        let (within, shift) = match output - first {
            r if r >= 16 * pieces => (r - 16 * pieces, 4),
            r => (r, 0),
        };
        let (i, l, d) = (within / 4 / pieces, within / 4 % pieces, within % 4);
        (first / self.per_byte + 16 * l + 4 * i + d, shift)
    }

    /// Byte of the f16 number `half` (0 the scale, 1 the minimum) of an output and a block of 32 neurons.
    pub(crate) fn half(&self, half: usize, block: usize, output: usize) -> usize {
        let blocks = self.neurons / 32;
        self.neurons * self.row_bytes + 2 * ((half * blocks + block) * self.width + output)
    }

    /// Pairs of (byte in the file's block, byte and shift in the tiles) would be slow to keep; `visit` is handed, for each
    /// code, the place in the file and the place in the tiles.
    fn visit_codes(&self, mut visit: impl FnMut(usize, u32, usize, u32)) {
        let parts = Parts::of(self.format).expect("formats of tiles have parts");
        let row_bytes = self.neurons / 32 * parts.block_bytes();
        for output in 0..self.width {
            let (byte, shift) = self.code(output);
            for neuron in 0..self.neurons {
                let block = output * row_bytes + neuron / 32 * parts.block_bytes() + 2 * parts.halves;
                let (from, from_shift) = match (self.per_byte, neuron % 32) {
                    (1, n) => (block + n, 0),
                    (_, n) => (block + n % 16, n as u32 / 16 * 4),
                };
                visit(from, from_shift, neuron * self.row_bytes + byte, shift);
            }
        }
    }

    fn visit_halves(&self, mut visit: impl FnMut(usize, usize)) {
        let parts = Parts::of(self.format).expect("formats of tiles have parts");
        let blocks = self.neurons / 32;
        for output in 0..self.width {
            for block in 0..blocks {
                for half in 0..parts.halves {
                    let from = (output * blocks + block) * parts.block_bytes() + 2 * half;
                    visit(from, self.half(half, block, output));
                }
            }
        }
    }
}

/// Re-lays `down` as files have it, `width` rows of `neurons` weights, to tiles: by neuron, with the scales in place.
pub fn tiles_from_file(
    format: Format,
    neurons: usize,
    width: usize,
    from: &[u8],
    to: &mut [u8],
) -> Result<(), ShapeError> {
    let plan = check_tiles(format, neurons, width, from, to)?;
    let mask = if plan.per_byte == 2 { 15 } else { 255 };
    to[..neurons * plan.row_bytes].fill(0);
    plan.visit_codes(|file, file_shift, tile, tile_shift| {
        to[tile] |= (from[file] >> file_shift & mask) << tile_shift;
    });
    plan.visit_halves(|file, tile| to[tile..tile + 2].copy_from_slice(&from[file..file + 2]));
    Ok(())
}

/// The inverse of [`tiles_from_file`].
pub fn file_from_tiles(
    format: Format,
    neurons: usize,
    width: usize,
    from: &[u8],
    to: &mut [u8],
) -> Result<(), ShapeError> {
    let plan = check_tiles(format, neurons, width, from, to)?;
    let mask = if plan.per_byte == 2 { 15 } else { 255 };
    to.fill(0);
    plan.visit_codes(|file, file_shift, tile, tile_shift| {
        to[file] |= (from[tile] >> tile_shift & mask) << file_shift;
    });
    plan.visit_halves(|file, tile| to[file..file + 2].copy_from_slice(&from[tile..tile + 2]));
    Ok(())
}

fn check_tiles(format: Format, neurons: usize, width: usize, from: &[u8], to: &[u8]) -> Result<TilePlan, ShapeError> {
    let plan = TilePlan::new(format, neurons, width)?;
    if from.len() != plan.bytes() || to.len() != plan.bytes() {
        return Err(ShapeError::new(format!(
            "re-laying {format} for {neurons} neurons and width {width}: {} bytes go to {}, expected {} both",
            from.len(),
            to.len(),
            plan.bytes()
        )));
    }
    Ok(plan)
}
