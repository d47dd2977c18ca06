//! Q3_K: 256 weights in 110 bytes. 32 bytes of third bits, 64 bytes of bit pairs, twelve bytes with sixteen 6-bit scales
//! (one per 16 weights), an f16 `d`; a weight is `d * (scale - 32) * (code - 4)`.

use super::{Block, Format, RUN, Run, Runs, decode_runs, half_at};

#[allow(non_camel_case_types)]
pub struct Q3_K;

impl Block for Q3_K {
    const FORMAT: Format = Format::Q3_K;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 110;
    const ENCODES: bool = false;

    fn encode(_: &[f32], _: &mut [u8]) {
        panic!("Q3_K is read, never written");
    }

    #[inline(always)]
    fn decode(block: &[u8], weights: &mut [f32]) {
        decode_runs::<Self>(block, weights);
    }
}

/// Scale `s` (below 16) from the twelve bytes: the low four bits of the first eight bytes and then their high four, two
/// more bits each from the last four bytes.
#[inline(always)]
fn scale(t: &[u8], s: usize) -> i32 {
    let low = if s < 8 { t[s] & 15 } else { t[s - 8] >> 4 };
    let high = t[8 + s % 4] >> (s / 4 * 2) & 3;
    i32::from(low | high << 4) - 32
}

impl Runs for Q3_K {
    const MINIMUM: bool = false;

    /// Bit pair `j` of each half's 32 bytes belongs to run `j` of the half; third bits are numbered through, run `index`
    /// has bit `index` of all 32 bytes.
    #[inline(always)]
    fn run(block: &[u8], index: usize) -> Run {
        let (half, j) = (index / 4, index % 4);
        let third = &block[..32];
        let pairs = &block[32 + 32 * half..][..32];
        let scales = [scale(&block[96..108], 2 * index), scale(&block[96..108], 2 * index + 1)];
        let mut codes = [0; RUN];
        for (l, code) in codes.iter_mut().enumerate() {
            let three = pairs[l] >> (2 * j) & 3 | (third[l] >> index & 1) << 2;
            *code = scales[l / 16] * (i32::from(three) - 4);
        }
        Run { factor: half_at(block, 108), minimum: 0.0, codes }
    }
}
