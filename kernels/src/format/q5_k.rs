//! Q5_K: 256 weights in 176 bytes. As Q4_K (f16 `d`, f16 `dmin`, twelve bytes of scales, then nibbles), with 32 bytes
//! before the nibbles that hold a fifth bit: bit `j` of byte `l` belongs to weight `l` of run `j`.

use super::{Block, Format, RUN, Run, Runs, decode_runs, half_at, k_scales::scale_and_minimum};

#[allow(non_camel_case_types)]
pub struct Q5_K;

impl Block for Q5_K {
    const FORMAT: Format = Format::Q5_K;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 176;
    const ENCODES: bool = false;

    fn encode(_: &[f32], _: &mut [u8]) {
        panic!("Q5_K is read, never written");
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        decode_runs::<Self>(block, weights);
    }
}

impl Runs for Q5_K {
    const MINIMUM: bool = true;

    #[inline(always)]
    fn run(block: &[u8], index: usize) -> Run {
        let (scale, minimum) = scale_and_minimum(&block[4..16], index);
        let fifth = &block[16..48];
        let nibbles = &block[48 + index / 2 * 32..][..32];
        let shift = index % 2 * 4;
        let mut codes = [0; RUN];
        for (l, code) in codes.iter_mut().enumerate() {
            *code = i32::from(nibbles[l] >> shift & 15 | (fifth[l] >> index & 1) << 4);
        }
        Run { factor: half_at(block, 0) * f32::from(scale), minimum: half_at(block, 2) * f32::from(minimum), codes }
    }
}
