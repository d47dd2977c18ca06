//! Q4_1: 32 weights in 20 bytes. An f16 `d`, an f16 `m`, then 16 bytes of nibbles in the order of Q4_0; a weight is
//! `nibble * d + m`.

use super::{Block, Format, RUN, Run, Runs, decode_runs, half_at};

#[allow(non_camel_case_types)]
pub struct Q4_1;

impl Block for Q4_1 {
    const FORMAT: Format = Format::Q4_1;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 20;

    /// The smallest weight gets nibble 0, the largest 15.
    fn encode(weights: &[f32], block: &mut [u8]) {
        let weights = &weights[..32];
        let smallest = weights.iter().copied().fold(f32::MAX, f32::min);
        let largest = weights.iter().copied().fold(f32::MIN, f32::max);
        let d = (largest - smallest) / 15.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let nibble = |w: f32| (((w - smallest) * inverse + 0.5) as u8).min(15);
        block[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
        block[2..4].copy_from_slice(&half::f16::from_f32(smallest).to_le_bytes());
        for (j, byte) in block[4..20].iter_mut().enumerate() {
            *byte = nibble(weights[j]) | nibble(weights[j + 16]) << 4;
        }
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        decode_runs::<Self>(block, weights);
    }
}

impl Runs for Q4_1 {
    const MINIMUM: bool = true;

    #[inline(always)]
    fn run(block: &[u8], _: usize) -> Run {
        let mut codes = [0; RUN];
        for (j, &byte) in block[4..20].iter().enumerate() {
            codes[j] = i32::from(byte & 15);
            codes[j + 16] = i32::from(byte >> 4);
        }
        Run { factor: half_at(block, 0), minimum: -half_at(block, 2), codes }
    }
}
