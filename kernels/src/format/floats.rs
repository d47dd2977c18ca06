//! Plain floating-point numbers: a block is one number.

use super::{Block, Format, half_to_single};

/// IEEE single precision.
pub struct F32;

impl Block for F32 {
    const FORMAT: Format = Format::F32;
    const WEIGHTS: usize = 1;
    const BYTES: usize = 4;

    fn encode(weights: &[f32], block: &mut [u8]) {
        block.copy_from_slice(&weights[0].to_le_bytes());
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        weights[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    }
}

/// IEEE half precision; encoding rounds to nearest, ties to even.
pub struct F16;

impl Block for F16 {
    const FORMAT: Format = Format::F16;
    const WEIGHTS: usize = 1;
    const BYTES: usize = 2;

    fn encode(weights: &[f32], block: &mut [u8]) {
        block.copy_from_slice(&half::f16::from_f32(weights[0]).to_le_bytes());
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        weights[0] = half_to_single(u16::from_le_bytes([block[0], block[1]]));
    }
}

/// The upper half of a single-precision number; encoding rounds to nearest, ties to even.
pub struct BF16;

impl Block for BF16 {
    const FORMAT: Format = Format::BF16;
    const WEIGHTS: usize = 1;
    const BYTES: usize = 2;

    fn encode(weights: &[f32], block: &mut [u8]) {
        block.copy_from_slice(&half::bf16::from_f32(weights[0]).to_le_bytes());
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        weights[0] = f32::from_bits(u32::from(u16::from_le_bytes([block[0], block[1]])) << 16);
    }
}
