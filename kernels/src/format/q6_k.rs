//! Q6_K: 256 weights in 210 bytes. 128 bytes of low nibbles, 64 bytes of upper bit pairs, sixteen signed scales (one per 16
//! weights), an f16 `d`; a weight is `d * scale * (code - 32)`.

use super::{Block, Format, RUN, Run, Runs, decode_runs, half_at};

#[allow(non_camel_case_types)]
pub struct Q6_K;

impl Block for Q6_K {
    const FORMAT: Format = Format::Q6_K;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 210;
    const ENCODES: bool = false;

    fn encode(_: &[f32], _: &mut [u8]) {
        panic!("Q6_K is read, never written");
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        decode_runs::<Self>(block, weights);
    }
}

impl Runs for Q6_K {
    const MINIMUM: bool = false;

    /// Of each half of 128 weights, runs 0 and 1 are the low nibbles of 64 bytes and runs 2 and 3 the high ones; bit pair
    /// `j` of the half's 32 upper bytes belongs to run `j`.
    #[inline(always)]
    fn run(block: &[u8], index: usize) -> Run {
        let (half, j) = (index / 4, index % 4);
        let low = &block[64 * half + 32 * (j % 2)..][..32];
        let high = &block[128 + 32 * half..][..32];
        let scale = |at: usize| i32::from(block[192 + 2 * index + at] as i8);
        let mut codes = [0; RUN];
        for (l, code) in codes.iter_mut().enumerate() {
            let six = low[l] >> (j / 2 * 4) & 15 | (high[l] >> (2 * j) & 3) << 4;
            *code = scale(l / 16) * (i32::from(six) - 32);
        }
        Run { factor: half_at(block, 208), minimum: 0.0, codes }
    }
}
