//! What the bytes of one block of a format mean. `decode` is the definition; every loop must agree with it. Layouts follow
//! the GGUF formats of the same names, little-endian throughout.

mod floats;
mod k_scales;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_k;
mod q6_k;
mod q8_0;

pub use floats::{BF16, F16, F32};
pub use q3_k::Q3_K;
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::Q4_K;
pub use q5_k::Q5_K;
pub use q6_k::Q6_K;
pub use q8_0::Q8_0;

/// Weights that share one rounding of the activations and one integer sum, whatever the format.
pub const RUN: usize = 32;

/// How numbers are stored. One file each under `format/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q8_0,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// What one block of a format means. `decode` is the definition; all else must agree with it.
pub trait Block {
    const FORMAT: Format;
    /// Weights per block.
    const WEIGHTS: usize;
    /// Bytes per block.
    const BYTES: usize;
    /// Whether [`Block::encode`] exists. The K formats are read, never written.
    const ENCODES: bool = true;

    /// `WEIGHTS` numbers into `BYTES` bytes, by the reference rule of the format.
    fn encode(weights: &[f32], block: &mut [u8]);
    /// `BYTES` bytes into `WEIGHTS` numbers.
    fn decode(block: &[u8], weights: &mut [f32]);
}

/// A run of 32 weights as integers: weight `i` is `factor * codes[i] - minimum`. Scales of sub-blocks shorter than a run
/// are folded into the codes, which keeps the sum of a run an exact integer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    pub factor: f32,
    pub minimum: f32,
    pub codes: [i32; RUN],
}

/// A format whose products are integer sums, 32 weights at a time.
pub(crate) trait Runs: Block {
    /// Whether runs have a minimum of their own; where false, `Run::minimum` is zero and no term is added for it.
    const MINIMUM: bool;
    /// Run `index` of a block, `index < WEIGHTS / 32`.
    fn run(block: &[u8], index: usize) -> Run;
}

/// `Block::decode` for every format of runs: the product of factor and code is exact in an f32 (their significant bits
/// add up to 24 at most), so only the subtraction of a minimum rounds.
#[inline(always)]
fn decode_runs<B: Runs>(block: &[u8], weights: &mut [f32]) {
    for (index, out) in weights[..B::WEIGHTS].chunks_exact_mut(RUN).enumerate() {
        let run = B::run(block, index);
        for (weight, &code) in out.iter_mut().zip(&run.codes) {
            let product = run.factor * code as f32;
            *weight = if B::MINIMUM { product - run.minimum } else { product };
        }
    }
}

/// `$body` with `$B` standing for the type of the format, whichever it is.
macro_rules! for_format {
    ($format:expr, $B:ident => $body:expr) => {{
        use $crate::format::*;
        match $format {
            Format::F32 => for_format!(@ F32, $B, $body),
            Format::F16 => for_format!(@ F16, $B, $body),
            Format::BF16 => for_format!(@ BF16, $B, $body),
            _ => for_format!(@runs $format, $B => $body, unreachable!("floats are matched above")),
        }
    }};
    (@runs $format:expr, $B:ident => $body:expr, $floats:expr) => {{
        use $crate::format::*;
        match $format {
            Format::Q4_0 => for_format!(@ Q4_0, $B, $body),
            Format::Q4_1 => for_format!(@ Q4_1, $B, $body),
            Format::Q8_0 => for_format!(@ Q8_0, $B, $body),
            Format::Q3_K => for_format!(@ Q3_K, $B, $body),
            Format::Q4_K => for_format!(@ Q4_K, $B, $body),
            Format::Q5_K => for_format!(@ Q5_K, $B, $body),
            Format::Q6_K => for_format!(@ Q6_K, $B, $body),
            Format::F32 | Format::F16 | Format::BF16 => $floats,
        }
    }};
    (@ $T:ty, $B:ident, $body:expr) => {{
        type $B = $T;
        $body
    }};
}
pub(crate) use for_format;

impl Format {
    /// Every format, in the order the suites and tables walk.
    pub const ALL: [Format; 10] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q8_0,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
    ];

    /// The name used in files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q4_0 => "Q4_0",
            Format::Q4_1 => "Q4_1",
            Format::Q8_0 => "Q8_0",
            Format::Q3_K => "Q3_K",
            Format::Q4_K => "Q4_K",
            Format::Q5_K => "Q5_K",
            Format::Q6_K => "Q6_K",
        }
    }

    /// Weights per block; a row holds whole blocks.
    pub fn block_weights(self) -> usize {
        for_format!(self, B => B::WEIGHTS)
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        for_format!(self, B => B::BYTES)
    }

    /// Bytes of a row of `width` weights; `None` where that is no whole number of blocks or no `usize`.
    pub fn row_bytes(self, width: usize) -> Option<usize> {
        if !width.is_multiple_of(self.block_weights()) {
            return None;
        }
        (width / self.block_weights()).checked_mul(self.block_bytes())
    }

    /// Whether the weights are plain floating-point numbers, multiplied as such with activations that are not rounded.
    pub fn is_float(self) -> bool {
        matches!(self, Format::F32 | Format::F16 | Format::BF16)
    }

    /// Whether [`Format::encode`] can write it. The K formats are read, never written.
    pub fn encodes(self) -> bool {
        for_format!(self, B => B::ENCODES)
    }

    /// Writes `weights` by the reference rule of the format.
    ///
    /// Panics where the lengths do not fit each other, or where [`Format::encodes`] is false.
    pub fn encode(self, weights: &[f32], bytes: &mut [u8]) {
        assert_eq!(
            Some(bytes.len()),
            self.row_bytes(weights.len()),
            "{}: bytes for {} weights",
            self.name(),
            weights.len()
        );
        for_format!(self, B => {
            for (weights, block) in weights.chunks_exact(B::WEIGHTS).zip(bytes.chunks_exact_mut(B::BYTES)) {
                B::encode(weights, block);
            }
        })
    }

    /// Reads `bytes` into `weights`. Panics where the lengths do not fit each other.
    pub fn decode(self, bytes: &[u8], weights: &mut [f32]) {
        assert_eq!(
            Some(bytes.len()),
            self.row_bytes(weights.len()),
            "{}: bytes for {} weights",
            self.name(),
            weights.len()
        );
        for_format!(self, B => {
            for (weights, block) in weights.chunks_exact_mut(B::WEIGHTS).zip(bytes.chunks_exact(B::BYTES)) {
                B::decode(block, weights);
            }
        })
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The f16 at byte `at`.
#[inline(always)]
pub(crate) fn half_at(bytes: &[u8], at: usize) -> f32 {
    half_to_single(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// f16 to f32, exactly, in arithmetic that a compiler can do for many numbers at once: the bits are moved into place
/// and the exponent mended by a multiplication, which also makes subnormal numbers normal.
#[inline(always)]
pub(crate) fn half_to_single(bits: u16) -> f32 {
    const MEND: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * MEND;
    // Exponent 31 means infinite or not a number; the multiplication made it 65536 or more.
    let special = if magnitude >= 65536.0 { 0xff << 23 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | u32::from(bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (half_to_single(bits), half::f16::from_bits(bits).to_f32_const());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#06x}");
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(Format::Q4_0.row_bytes(2560), Some(1440));
        assert_eq!(Format::Q4_0.row_bytes(2561), None);
        assert_eq!(Format::Q6_K.row_bytes(128), None);
        assert_eq!(Format::F32.row_bytes(usize::MAX), None);
        for format in Format::ALL {
            assert_eq!(format.row_bytes(format.block_weights()), Some(format.block_bytes()));
            assert_eq!(format.to_string(), format!("{format:?}"));
        }
    }
}
