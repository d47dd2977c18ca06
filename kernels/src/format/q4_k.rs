//! Q4_K: 256 weights in 144 bytes. An f16 `d`, an f16 `dmin`, twelve bytes of scales, 128 bytes of nibbles. Run `2g` is the
//! low nibbles of bytes `32g..32g + 32`, run `2g + 1` their high nibbles; a weight is `d * scale * nibble - dmin * minimum`.

use super::{Block, Format, RUN, Run, Runs, decode_runs, half_at, k_scales::scale_and_minimum};

#[allow(non_camel_case_types)]
pub struct Q4_K;

impl Block for Q4_K {
    const FORMAT: Format = Format::Q4_K;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 144;
    const ENCODES: bool = false;

    fn encode(_: &[f32], _: &mut [u8]) {
        panic!("Q4_K is read, never written");
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        decode_runs::<Self>(block, weights);
    }
}

impl Runs for Q4_K {
    const MINIMUM: bool = true;

    #[inline(always)]
    fn run(block: &[u8], index: usize) -> Run {
        let (scale, minimum) = scale_and_minimum(&block[4..16], index);
        let nibbles = &block[16 + index / 2 * 32..][..32];
        let shift = index % 2 * 4;
        let mut codes = [0; RUN];
        for (code, &byte) in codes.iter_mut().zip(nibbles) {
            *code = i32::from(byte >> shift & 15);
        }
        Run { factor: half_at(block, 0) * f32::from(scale), minimum: half_at(block, 2) * f32::from(minimum), codes }
    }
}
