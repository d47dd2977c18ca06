//! Q8_0: 32 weights in 34 bytes. An f16 `d`, then 32 signed bytes; a weight is `byte * d`.

use super::{Block, Format, RUN, Run, Runs, decode_runs, half_at};

#[allow(non_camel_case_types)]
pub struct Q8_0;

impl Block for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 34;

    /// Halves round away from zero here, as the reference has it; activations round half to even.
    fn encode(weights: &[f32], block: &mut [u8]) {
        let weights = &weights[..32];
        let d = weights.iter().fold(0f32, |largest, w| largest.max(w.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        block[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
        for (byte, w) in block[2..34].iter_mut().zip(weights) {
            *byte = (w * inverse).round() as i8 as u8;
        }
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        decode_runs::<Self>(block, weights);
    }
}

impl Runs for Q8_0 {
    const MINIMUM: bool = false;

    #[inline(always)]
    fn run(block: &[u8], _: usize) -> Run {
        let mut codes = [0; RUN];
        for (code, &byte) in codes.iter_mut().zip(&block[2..34]) {
            *code = i32::from(byte as i8);
        }
        Run { factor: half_at(block, 0), minimum: 0.0, codes }
    }
}
