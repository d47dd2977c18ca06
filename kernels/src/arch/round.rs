//! Rounding of activations: a block of 32 at a time, written for the compiler to turn into vectors.

use crate::activations::{Group, SILENT, scale_of};
use crate::format::RUN;
use crate::layout::LANES;

/// As the scalar `round`, without branches inside a block.
#[inline(always)]
pub(super) fn round(x: &[f32], groups: &mut [Group]) {
    for (b, block) in x.chunks_exact(RUN).enumerate() {
        let block: &[f32; RUN] = block.try_into().expect("chunks are exact");
        let group = &mut groups[b / LANES];
        let lane = b % LANES;
        // Magnitudes compare as their bits do, NaN above all; signed integers, for those have a maximum everywhere.
        let mut most = 0i32;
        for x in block {
            most = most.max((x.to_bits() & 0x7fff_ffff) as i32);
        }
        let largest = f32::from_bits(most as u32);
        if largest < SILENT {
            continue;
        }
        if !largest.is_finite() {
            group.scales[lane] = f32::NAN;
            continue;
        }
        group.scales[lane] = scale_of(largest);
        let inverse = 127.0 / largest;
        let mut codes = [0i32; RUN];
        for (code, x) in codes.iter_mut().zip(block) {
            // SAFETY: the product lies within -127 and 127, give or take a rounding.
            *code = unsafe { (x * inverse).round_ties_even().to_int_unchecked() };
        }
        let first: i32 = codes[..RUN / 2].iter().sum();
        group.first[lane] = first;
        group.whole[lane] = first + codes[RUN / 2..].iter().sum::<i32>();
        for (k, four) in codes.as_chunks::<4>().0.iter().enumerate() {
            let bytes = four.map(|code| code as i8);
            group.codes[k][4 * lane..4 * lane + 4].copy_from_slice(&bytes);
        }
    }
}
