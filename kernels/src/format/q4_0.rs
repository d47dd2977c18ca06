//! Q4_0: 32 weights in 18 bytes. An f16 `d`, then 16 bytes whose low nibbles are weights 0..16 and whose high nibbles are
//! weights 16..32; a weight is `(nibble - 8) * d`.

use super::{Block, Format, RUN, Run, Runs, decode_runs, half_at};

#[allow(non_camel_case_types)]
pub struct Q4_0;

impl Block for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 18;

    /// The weight of largest magnitude (the first of them) gets nibble 0. Multiplication and addition stay apart: fused,
    /// an exact tie could fall to the other side.
    fn encode(weights: &[f32], block: &mut [u8]) {
        let mut extreme = 0f32;
        for &w in &weights[..32] {
            if w.abs() > extreme.abs() {
                extreme = w;
            }
        }
        let d = extreme / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let nibble = |w: f32| ((w * inverse + 8.5) as u8).min(15);
        block[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
        for (j, byte) in block[2..18].iter_mut().enumerate() {
            *byte = nibble(weights[j]) | nibble(weights[j + 16]) << 4;
        }
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        decode_runs::<Self>(block, weights);
    }
}

impl Runs for Q4_0 {
    const MINIMUM: bool = false;

    #[inline(always)]
    fn run(block: &[u8], _: usize) -> Run {
        let mut codes = [0; RUN];
        for (j, &byte) in block[2..18].iter().enumerate() {
            codes[j] = i32::from(byte & 15) - 8;
            codes[j + 16] = i32::from(byte >> 4) - 8;
        }
        Run { factor: half_at(block, 0), minimum: 0.0, codes }
    }
}
