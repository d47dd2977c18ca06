//! How a vector comes by the weights of `LANES` runs of 32, one to a lane, whatever the format.

use super::place::Place;
use super::vector::Vector;
use crate::format::{Q3_K, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0, RUN, Runs};
use crate::layout::LANES;

/// `LANES` runs of weights, one to a lane. Weight `4k + i` of a run is byte `i` of its lane in `codes[k]`, less an offset.
/// Fields that a format does not use are never computed: everything here is inlined.
#[derive(Clone, Copy)]
pub(super) struct Panel<V: Vector> {
    pub codes: [V::I; 8],
    pub factor: V::F,
    pub minimum: V::F,
    /// Integer scales of the first and the last sixteen weights.
    pub scales: [V::I; 2],
}

/// How the codes of a format are to be multiplied.
pub(super) trait Unpack: Runs {
    /// The largest code, for formats whose codes are not signed.
    const HIGHEST: i32;
    /// Taken off each code that is not signed: zero or a power of two.
    const OFFSET: i32 = 0;
    /// Whether codes are signed bytes.
    const SIGNED: bool = false;
    /// Whether each sixteen weights have an integer scale.
    const SCALES: bool = false;
    /// Runs per block.
    const RUNS: usize = Self::WEIGHTS / RUN;

    /// Where a block has its f16 numbers: the scale and perhaps a minimum.
    const HALVES: &'static [usize];

    /// The runs at `LANES` places.
    unsafe fn unpack<V: Vector>(from: &impl Place<V>) -> Panel<V>;
    /// The scales of the runs of a block in 16 bytes: eight of the scales and eight of the minima, or sixteen of the
    /// scales of half runs. Nothing for formats of one run.
    #[inline(always)]
    unsafe fn scales(_block: *const u8) -> [u64; 2] {
        [0; 2]
    }
}

/// Formats whose rows [`Layout::Lanes`](crate::Layout::Lanes) holds.
pub(super) trait UnpackLanes: Unpack {
    /// Lanes `first..` of a group of `n` blocks; lanes past `n` have factor zero.
    unsafe fn unpack_lanes<V: Vector>(group: *const u8, n: usize, first: usize) -> Panel<V>;
}

#[inline(always)]
unsafe fn read_u32(at: *const u8) -> u64 {
    // SAFETY: the caller's: four bytes within a block.
    u64::from(u32::from_le_bytes(unsafe { at.cast::<[u8; 4]>().read_unaligned() }))
}

/// 16 bytes of each lane's block, transposed.
#[inline(always)]
unsafe fn pieces<V: Vector>(from: &impl Place<V>, offset: impl Fn(usize) -> usize) -> [V::I; 4] {
    // SAFETY: the caller's: 16 bytes at these offsets lie within the blocks.
    unsafe { V::transpose(|lane| from.block(lane).wrapping_add(offset(from.run(lane)))) }
}

/// Low nibbles of four vectors, then their high ones.
#[inline(always)]
unsafe fn nibbles<V: Vector>(bytes: [V::I; 4]) -> [V::I; 8] {
    // SAFETY: arithmetic only.
    unsafe {
        let mask = V::splat(0x0f0f_0f0f);
        let mut codes = [mask; 8];
        for k in 0..4 {
            codes[k] = V::and(bytes[k], mask);
            codes[k + 4] = V::and(V::shr(bytes[k], 4), mask);
        }
        codes
    }
}

/// A panel of a format with one f16 scale.
#[inline(always)]
unsafe fn plain<V: Vector>(codes: [V::I; 8], factor: V::F) -> Panel<V> {
    // SAFETY: arithmetic only.
    unsafe { Panel { codes, factor, minimum: V::splat_f(0.0), scales: [V::splat(1); 2] } }
}

/// Four (or eight) vectors of codes of a group in lanes, and what lies behind them.
#[inline(always)]
unsafe fn lane_pieces<V: Vector, const K: usize>(group: *const u8, n: usize, first: usize) -> ([V::I; K], *const u8) {
    // SAFETY: the caller's: the group has `n` lanes of `K` pieces, and `first` is below `n`.
    unsafe {
        let mut pieces = [V::splat(0); K];
        for (k, piece) in pieces.iter_mut().enumerate() {
            let at = group.add(4 * (k * n + first));
            *piece = if n == LANES { V::load(at) } else { V::load_some(at, n - first) };
        }
        (pieces, group.add(4 * K * n + 2 * first))
    }
}

#[inline(always)]
unsafe fn lane_halves<V: Vector>(at: *const u8, n: usize, first: usize) -> V::F {
    // SAFETY: the caller's: `n - first` numbers lie there.
    unsafe { if n == LANES { V::halves(at) } else { V::halves_some(at, n - first) } }
}

impl Unpack for Q4_0 {
    const HALVES: &'static [usize] = &[0];
    const HIGHEST: i32 = 15;
    const OFFSET: i32 = 8;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(from: &impl Place<V>) -> Panel<V> {
        // SAFETY: offsets lie within the 18 bytes of a block.
        unsafe { plain(nibbles::<V>(pieces(from, |_| 2)), from.half(0)) }
    }
}

impl UnpackLanes for Q4_0 {
    #[inline(always)]
    unsafe fn unpack_lanes<V: Vector>(group: *const u8, n: usize, first: usize) -> Panel<V> {
        // SAFETY: the caller's: the group has `n` lanes of four pieces and a scale.
        unsafe {
            let (bytes, scales) = lane_pieces::<V, 4>(group, n, first);
            plain(nibbles::<V>(bytes), lane_halves::<V>(scales, n, first))
        }
    }
}

impl Unpack for Q4_1 {
    const HALVES: &'static [usize] = &[0, 2];
    const HIGHEST: i32 = 15;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(from: &impl Place<V>) -> Panel<V> {
        // SAFETY: offsets lie within the 20 bytes of a block.
        unsafe {
            let minimum = V::mul_f(from.half(1), V::splat_f(-1.0));
            Panel { minimum, ..plain(nibbles::<V>(pieces(from, |_| 4)), from.half(0)) }
        }
    }
}

impl UnpackLanes for Q4_1 {
    #[inline(always)]
    unsafe fn unpack_lanes<V: Vector>(group: *const u8, n: usize, first: usize) -> Panel<V> {
        // SAFETY: the caller's: the group has `n` lanes of four pieces, a scale and a minimum.
        unsafe {
            let (bytes, scales) = lane_pieces::<V, 4>(group, n, first);
            let minimum = V::mul_f(lane_halves::<V>(scales.add(2 * n), n, first), V::splat_f(-1.0));
            Panel { minimum, ..plain(nibbles::<V>(bytes), lane_halves::<V>(scales, n, first)) }
        }
    }
}

impl Unpack for Q8_0 {
    const HALVES: &'static [usize] = &[0];
    const HIGHEST: i32 = 255;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(from: &impl Place<V>) -> Panel<V> {
        // SAFETY: offsets lie within the 34 bytes of a block.
        unsafe {
            let (low, high) = (pieces(from, |_| 2), pieces(from, |_| 18));
            let mut codes = [low[0]; 8];
            for k in 0..4 {
                codes[k] = V::signed(low[k]);
                codes[k + 4] = V::signed(high[k]);
            }
            plain(codes, from.half(0))
        }
    }
}

impl UnpackLanes for Q8_0 {
    #[inline(always)]
    unsafe fn unpack_lanes<V: Vector>(group: *const u8, n: usize, first: usize) -> Panel<V> {
        // SAFETY: the caller's: the group has `n` lanes of eight pieces and a scale.
        unsafe {
            let (mut codes, scales) = lane_pieces::<V, 8>(group, n, first);
            for code in &mut codes {
                *code = V::signed(*code);
            }
            plain(codes, lane_halves::<V>(scales, n, first))
        }
    }
}

/// The eight 6-bit scales of Q4_K and Q5_K, a byte each, and the eight minima.
#[inline(always)]
unsafe fn scales_and_minima(block: *const u8) -> [u64; 2] {
    // SAFETY: the twelve bytes behind the two f16 numbers of a block.
    unsafe {
        let (t0, t1, t2) = (read_u32(block.add(4)), read_u32(block.add(8)), read_u32(block.add(12)));
        let (low, two) = (0x0f0f_0f0f, 0x3030_3030);
        let scales = t0 & 0x3f3f_3f3f | (t2 & low | t0 >> 2 & two) << 32;
        let minima = t1 & 0x3f3f_3f3f | (t2 >> 4 & low | t1 >> 2 & two) << 32;
        [scales, minima]
    }
}

/// Factor and minimum of Q4_K and Q5_K.
#[inline(always)]
unsafe fn k_panel<V: Vector>(from: &impl Place<V>, codes: [V::I; 8]) -> Panel<V> {
    // SAFETY: both numbers and the scales lie within the first 16 bytes of a block.
    unsafe {
        let (scales, minima) = (V::to_f(from.scale_byte(0)), V::to_f(from.scale_byte(1)));
        let factor = V::mul_f(from.half(0), scales);
        Panel { minimum: V::mul_f(from.half(1), minima), ..plain(codes, factor) }
    }
}

/// 32 bytes of each lane's block, shifted by as much as its run demands, masked.
#[inline(always)]
unsafe fn shifted<V: Vector>(
    from: &impl Place<V>,
    offset: impl Fn(usize) -> usize + Copy,
    shift: impl Fn(usize) -> usize,
    mask: i32,
) -> [V::I; 8] {
    // SAFETY: the caller's: 32 bytes at these offsets lie within the blocks.
    unsafe {
        let (low, high) = (pieces(from, offset), pieces(from, |run| offset(run) + 16));
        let (shift, mask) = (from.by_run(shift), V::splat(mask));
        let mut codes = [mask; 8];
        for k in 0..4 {
            codes[k] = V::and(V::shr_each(low[k], shift), mask);
            codes[k + 4] = V::and(V::shr_each(high[k], shift), mask);
        }
        codes
    }
}

/// `low | high << by` throughout.
#[inline(always)]
unsafe fn joined<V: Vector>(mut low: [V::I; 8], high: [V::I; 8], by: i32) -> [V::I; 8] {
    for (low, high) in low.iter_mut().zip(high) {
        // SAFETY: arithmetic only.
        *low = unsafe { V::or(*low, V::shl(high, by)) };
    }
    low
}

impl Unpack for Q4_K {
    const HALVES: &'static [usize] = &[0, 2];
    const HIGHEST: i32 = 15;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(from: &impl Place<V>) -> Panel<V> {
        // SAFETY: offsets lie within the 144 bytes of a block.
        unsafe { k_panel(from, shifted(from, |run| 16 + run / 2 * 32, |run| run % 2 * 4, 0x0f0f_0f0f)) }
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [u64; 2] {
        // SAFETY: the caller's.
        unsafe { scales_and_minima(block) }
    }
}

impl Unpack for Q5_K {
    const HALVES: &'static [usize] = &[0, 2];
    const HIGHEST: i32 = 31;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(from: &impl Place<V>) -> Panel<V> {
        // SAFETY: offsets lie within the 176 bytes of a block.
        unsafe {
            let nibbles = shifted(from, |run| 48 + run / 2 * 32, |run| run % 2 * 4, 0x0f0f_0f0f);
            let fifth = shifted(from, |_| 16, |run| run, 0x0101_0101);
            k_panel(from, joined::<V>(nibbles, fifth, 4))
        }
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [u64; 2] {
        // SAFETY: the caller's.
        unsafe { scales_and_minima(block) }
    }
}

impl Unpack for Q6_K {
    const HALVES: &'static [usize] = &[208];
    const HIGHEST: i32 = 63;
    const OFFSET: i32 = 32;
    const SCALES: bool = true;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(from: &impl Place<V>) -> Panel<V> {
        // SAFETY: offsets lie within the 210 bytes of a block.
        unsafe {
            let low = |run: usize| 64 * (run / 4) + 32 * (run % 2);
            let nibbles = shifted(from, low, |run| run % 4 / 2 * 4, 0x0f0f_0f0f);
            let upper = shifted(from, |run| 128 + 32 * (run / 4), |run| run % 4 * 2, 0x0303_0303);
            let pairs = from.scale_word();
            let scales = [V::shr_signed(V::shl(pairs, 24), 24), V::shr_signed(V::shl(pairs, 16), 24)];
            Panel { scales, ..plain(joined::<V>(nibbles, upper, 4), from.half(0)) }
        }
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [u64; 2] {
        // SAFETY: sixteen bytes from 192 on lie within the 210 of a block.
        unsafe {
            let read = |at| read_u32(block.add(at)) | read_u32(block.add(at + 4)) << 32;
            [read(192), read(200)]
        }
    }
}

impl Unpack for Q3_K {
    const HALVES: &'static [usize] = &[108];
    const HIGHEST: i32 = 7;
    const OFFSET: i32 = 4;
    const SCALES: bool = true;

    #[inline(always)]
    unsafe fn unpack<V: Vector>(from: &impl Place<V>) -> Panel<V> {
        // SAFETY: offsets lie within the 110 bytes of a block.
        unsafe {
            let pairs = shifted(from, |run| 32 + 32 * (run / 4), |run| run % 4 * 2, 0x0303_0303);
            let third = shifted(from, |_| 0, |run| run, 0x0101_0101);
            let words = from.scale_word();
            let less = V::splat(32);
            let scales = [V::sub(V::and(words, V::splat(255)), less), V::sub(V::shr(words, 8), less)];
            Panel { scales, ..plain(joined::<V>(pairs, third, 2), from.half(0)) }
        }
    }

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> [u64; 2] {
        // Sixteen 6-bit scales: four bits of each from the first eight bytes, two from the last four.
        // SAFETY: the twelve bytes from 96 on lie within the 110 of a block.
        unsafe {
            let (t0, t1, two) = (read_u32(block.add(96)), read_u32(block.add(100)), read_u32(block.add(104)));
            let (low, pair) = (0x0f0f_0f0f, 0x0303_0303);
            let scale = |four: u64, by: u32| four & low | (two >> by & pair) << 4;
            [scale(t0, 0) | scale(t1, 2) << 32, scale(t0 >> 4, 4) | scale(t1 >> 4, 6) << 32]
        }
    }
}
