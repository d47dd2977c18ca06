//! Random weights, written as blocks of Q4_0 (or f32 for what stays so), a row at a time.

use half::f16;
use kernels::Format;
use std::io::{self, Write};

/// What a tensor's numbers are like.
pub enum Weights {
    /// Q4_0: normal numbers around `mean`.
    Noise { spread: f64, mean: f64 },
    /// Q4_0: rows of root mean square one whose numbers have this mean.
    Table { mean: f64 },
    /// f32: around `size`, with signs at random or without.
    Norm { size: f64, signs: bool },
    /// f32: rows that choose experts about evenly.
    Router,
}

impl Weights {
    /// GGUF's number of the type.
    pub fn kind(&self) -> u32 {
        match self.format() {
            Format::F32 => 0,
            _ => 2,
        }
    }

    fn format(&self) -> Format {
        match self {
            Weights::Noise { .. } | Weights::Table { .. } => Format::Q4_0,
            Weights::Norm { .. } | Weights::Router => Format::F32,
        }
    }

    pub fn row_bytes(&self, width: usize) -> usize {
        self.format().row_bytes(width).expect("widths of the shapes are multiples of 32")
    }

    /// All rows; how many bytes that were.
    pub fn write(&self, random: &mut Random, rows: usize, width: usize, to: &mut impl Write) -> io::Result<usize> {
        let row_bytes = self.row_bytes(width);
        let mut row = vec![0u8; row_bytes];
        let codes = match *self {
            Weights::Noise { spread, mean } => Some(Codes::new(spread, mean)),
            Weights::Table { mean } => Some(Codes::new((1.0 - mean * mean).sqrt(), mean)),
            _ => None,
        };
        for _ in 0..rows {
            match (self, &codes) {
                (_, Some(codes)) => codes.fill(random, &mut row),
                (Weights::Norm { size, signs }, _) => numbers(&mut row, || {
                    let sign = if *signs && random.bits() & 1 == 1 { -1.0 } else { 1.0 };
                    sign * size * (1.0 + 0.1 * random.normal())
                }),
                _ => numbers(&mut row, || random.normal() / (width as f64).sqrt()),
            }
            to.write_all(&row)?;
        }
        Ok(rows * row_bytes)
    }
}

fn numbers(row: &mut [u8], mut next: impl FnMut() -> f64) {
    row.as_chunks_mut::<4>().0.iter_mut().for_each(|x| *x = (next() as f32).to_le_bytes());
}

/// Q4_0 codes of normal numbers: a table from a uniform number of twelve bits to a code, and the scale.
struct Codes {
    table: Vec<u8>,
    scale: f16,
}

impl Codes {
    /// Codes spread by three, so that few fall off the ends of -8..=7.
    const SPREAD: f64 = 3.0;

    fn new(spread: f64, mean: f64) -> Codes {
        let scale = spread / Codes::SPREAD;
        let code = |i: usize| {
            let x = normal_below((i as f64 + 0.5) / 4096.0) * Codes::SPREAD + mean / scale;
            (x.round().clamp(-8.0, 7.0) + 8.0) as u8
        };
        Codes { table: (0..4096).map(code).collect(), scale: f16::from_f64(scale) }
    }

    fn fill(&self, random: &mut Random, row: &mut [u8]) {
        for block in row.as_chunks_mut::<18>().0 {
            block[..2].copy_from_slice(&self.scale.to_le_bytes());
            for pair in block[2..].as_chunks_mut::<2>().0 {
                let bits = random.bits();
                let code = |part: u64| self.table[(bits >> (16 * part)) as usize & 4095];
                pair[0] = code(0) | code(1) << 4;
                pair[1] = code(2) | code(3) << 4;
            }
        }
    }
}

/// The number below which a normal one falls with chance `p`: bisection of the distribution, to some 1e-9.
pub fn normal_below(p: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if below(middle) < p { low = middle } else { high = middle }
    }
    low
}

/// The chance that a normal number is below `x`: Marsaglia's series, exact to the last places for |x| up to 8.
fn below(x: f64) -> f64 {
    let (mut sum, mut term, mut n) = (x, x, 1.0);
    while sum + term != sum {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// A small generator (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ x >> 31
    }

    /// Normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let mut uniform = || ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let (a, b) = (uniform(), uniform());
        (-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()
    }
}
