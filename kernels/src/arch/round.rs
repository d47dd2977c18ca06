//! Rounding of activations, a lane to a block of 32: no work across lanes, and the codes come out as they are to lie.

use super::vector::Vector;
use crate::activations::{Group, SILENT, scale_is_half};
use crate::format::RUN;
use crate::layout::LANES;

/// As the scalar `round`.
#[inline(always)]
pub(super) unsafe fn round<V: Vector>(x: &[f32], groups: &mut [Group]) {
    for (x, group) in x.chunks(LANES * RUN).zip(groups) {
        for lane in (0..x.len() / RUN).step_by(V::LANES) {
            // SAFETY: block `lane` exists, and groups have room for sixteen.
            unsafe { round_lanes::<V>(&x[lane * RUN..], group, lane) };
        }
    }
}

/// Rounds the first `V::LANES` blocks of `x`, or those there are, into lanes `lane..`.
#[inline(always)]
unsafe fn round_lanes<V: Vector>(x: &[f32], group: &mut Group, lane: usize) {
    const NOTHING: [f32; RUN] = [0.0; RUN];
    let block = |l: usize| x.get(l * RUN..).filter(|x| !x.is_empty()).unwrap_or(&NOTHING).as_ptr().cast::<u8>();
    let (mut largest, mut scales, mut halves) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    // SAFETY: every address is that of 32 numbers; arrays and lines of groups have room for sixteen lanes.
    unsafe {
        let mut blocks = [std::ptr::null(); LANES];
        for (l, at) in blocks.iter_mut().enumerate().take(V::LANES) {
            *at = block(l);
        }
        let mut numbers = [[V::splat(0); 4]; RUN / 4];
        let mut most = V::splat(0);
        let magnitude = V::splat(0x7fff_ffff);
        for (k, four) in numbers.iter_mut().enumerate() {
            *four = V::transpose(|l| blocks[l].wrapping_add(16 * k));
            for x in *four {
                // Magnitudes compare as their bits do, NaN above all.
                most = V::max(most, V::and(x, magnitude));
            }
        }
        let most = V::as_f(most);
        let scale = V::div_f(most, V::splat_f(127.0));
        V::store_f(largest.as_mut_ptr(), most);
        V::store_f(scales.as_mut_ptr(), scale);
        V::store_f(halves.as_mut_ptr(), V::round_half(scale));
        let mut inverses = [0f32; LANES];
        let mut bad = false;
        for l in 0..V::LANES {
            let rounds = largest[l] >= SILENT && largest[l] < f32::INFINITY;
            let scale = if scale_is_half(scales[l]) { halves[l] } else { scales[l] };
            bad |= !largest[l].is_finite();
            inverses[l] = if rounds { 127.0 / largest[l] } else { 0.0 };
            group.scales[lane + l] = if rounds { scale } else { 0.0 };
        }
        let inverse = V::load_f(inverses.as_ptr());
        let byte = V::splat(0xff);
        let (mut first, mut whole) = (V::splat(0), V::splat(0));
        for (k, four) in numbers.into_iter().enumerate() {
            let code = |x: V::I| V::nearest(V::mul_f(V::as_f(x), inverse));
            let [a, b, c, d] = [code(four[0]), code(four[1]), code(four[2]), code(four[3])];
            whole = V::add(whole, V::add(V::add(a, b), V::add(c, d)));
            if k == RUN / 8 - 1 {
                first = whole;
            }
            let low = V::or(V::and(a, byte), V::shl(V::and(b, byte), 8));
            let high = V::or(V::shl(V::and(c, byte), 16), V::shl(d, 24));
            V::store(group.codes[k].as_mut_ptr().cast::<u8>().add(4 * lane), V::or(low, high));
        }
        V::store(group.whole.as_mut_ptr().cast::<u8>().add(4 * lane), whole);
        V::store(group.first.as_mut_ptr().cast::<u8>().add(4 * lane), first);
        if bad {
            silence_bad(&largest[..V::LANES], group, lane);
        }
    }
}

/// Blocks that hold an infinity or no number at all: no codes, and a scale that shows it.
#[cold]
fn silence_bad(largest: &[f32], group: &mut Group, lane: usize) {
    for l in (0..largest.len()).filter(|l| !largest[*l].is_finite()).map(|l| lane + l) {
        group.scales[l] = f32::NAN;
        (group.whole[l], group.first[l]) = (0, 0);
        for line in &mut group.codes {
            line[4 * l..4 * l + 4].fill(0);
        }
    }
}
