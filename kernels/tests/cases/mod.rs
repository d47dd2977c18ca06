//! Matrices and activations for the suites: deterministic, and awkward on purpose.
#![allow(dead_code)]

use kernels::{Activations, Columns, Format, Isa, Layout, Order, Pick, Rows, dot_rows};
use thermocline_kernels as kernels;

/// A small generator, so that a failure can be repeated.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 11) as usize % n
    }

    /// Around zero, at most one in magnitude.
    pub fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// What the numbers are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Random,
    /// Nothing but zeros.
    Zeros,
    /// Every code at the end of its range that makes integer sums largest.
    Largest,
    /// Every code at the other end.
    Smallest,
}

pub const KINDS: [Kind; 4] = [Kind::Random, Kind::Zeros, Kind::Largest, Kind::Smallest];

/// Rows of `width` weights as files have them.
pub fn weights(random: &mut Random, format: Format, rows: usize, width: usize, kind: Kind) -> Vec<u8> {
    let mut bytes = vec![0; rows * format.row_bytes(width).expect("a width of whole blocks")];
    let (size, halves): (_, &[usize]) = match format {
        Format::F32 => (4, &[]),
        Format::F16 => (2, &[0]),
        Format::BF16 => (2, &[]),
        Format::Q4_0 | Format::Q8_0 => (format.block_bytes(), &[0]),
        Format::Q4_1 | Format::Q4_K | Format::Q5_K => (format.block_bytes(), &[0, 2]),
        Format::Q3_K => (110, &[108]),
        Format::Q6_K => (210, &[208]),
    };
    for block in bytes.chunks_exact_mut(size) {
        match kind {
            Kind::Random => block.fill_with(|| random.bits() as u8),
            Kind::Zeros => continue,
            Kind::Largest => block.fill(if format == Format::Q8_0 { 127 } else { 255 }),
            Kind::Smallest => block.fill(if format == Format::Q8_0 { 128 } else { 0 }),
        }
        let number = if kind == Kind::Random { random.number() } else { 1.0 };
        match format {
            Format::F32 => block.copy_from_slice(&number.to_le_bytes()),
            Format::BF16 => block.copy_from_slice(&half::bf16::from_f32(number).to_le_bytes()),
            _ => {
                for &at in halves {
                    let number = if kind == Kind::Random { random.number() * 0.1 } else { 1.0 };
                    block[at..at + 2].copy_from_slice(&half::f16::from_f32(number).to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// `[t][width]` activations; about a third are zero, as after ReLU, and some whole blocks of 32.
pub fn activations(random: &mut Random, t: usize, width: usize, kind: Kind) -> Vec<f32> {
    let mut values = vec![0.0; t * width];
    for block in values.chunks_mut(32) {
        let silent = random.below(8) == 0;
        for x in block {
            *x = match kind {
                Kind::Random if silent || random.below(3) == 0 => 0.0,
                Kind::Random => random.number() * 3.0,
                Kind::Zeros => 0.0,
                Kind::Largest => 127.0,
                Kind::Smallest => -127.0,
            };
        }
    }
    values
}

/// Widths around the boundaries of blocks, groups of sixteen blocks and unrolled loops.
pub fn widths(format: Format) -> Vec<usize> {
    match format.block_weights() {
        1 => vec![1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 127, 130, 257, 512],
        32 => [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 23, 24, 31, 32, 33, 48, 80].map(|b| b * 32).to_vec(),
        n => [1, 2, 3, 4, 5, 6].map(|b| b * n).to_vec(),
    }
}

/// A matrix in whichever layout, owned.
pub struct Matrix {
    pub format: Format,
    pub layout: Layout,
    pub width: usize,
    pub bytes: Vec<u8>,
}

impl Matrix {
    pub fn new(random: &mut Random, format: Format, rows: usize, width: usize, kind: Kind) -> Matrix {
        Matrix { format, layout: Layout::File, width, bytes: weights(random, format, rows, width, kind) }
    }

    /// The same weights in lanes, where the format can lie so.
    pub fn in_lanes(&self) -> Option<Matrix> {
        let mut bytes = vec![0; self.bytes.len()];
        kernels::lanes_from_file(self.format, self.width, &self.bytes, &mut bytes).ok()?;
        Some(Matrix { layout: Layout::Lanes, bytes, ..*self })
    }

    pub fn rows(&self) -> Rows<'_> {
        Rows::new(self.format, self.layout, self.width, &self.bytes).expect("whole rows")
    }
}

/// `[t][picked]` products.
pub fn dots(isa: Isa, w: Rows, pick: Pick, x: &Activations, order: Order) -> Vec<f32> {
    let columns = pick.count(w.len());
    let mut out = vec![f32::NAN; x.t() * columns];
    dot_rows(isa, w, pick, x, order, &mut Columns::new(&mut out, x.t(), columns));
    out
}

/// Equal to the bit, or a message that says where not.
pub fn assert_same(ours: &[f32], theirs: &[f32], what: impl Fn() -> String) {
    assert_eq!(ours.len(), theirs.len(), "{}", what());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!(a.to_bits() == b.to_bits(), "{}: number {i} is {a:e}, expected {b:e}", what());
    }
}

/// Prints what could not be run here: a silent skip is a hole.
pub fn say_missing() {
    for name in Isa::missing() {
        println!("NOT RUN: this processor has no {name}");
    }
}
