//! NEON, with or without `sdot`: four lanes.

use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

use crate::arch::vector::Vector;

/// Four lanes, with byte products by `P`.
#[derive(Clone, Copy)]
pub(crate) struct Quad<P>(PhantomData<P>);

/// How bytes are multiplied; as the methods of [`Vector`] of the same names. Codes are at most 127, so that they are
/// signed bytes too.
pub(crate) trait Products: Copy {
    unsafe fn dot(sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t;
    unsafe fn dot4<const HIGHEST: i32>(sum: int32x4_t, a: [int32x4_t; 4], b: [int32x4_t; 4]) -> int32x4_t;
}

/// Products in 16 bits, which must not overflow.
#[derive(Clone, Copy)]
pub(crate) struct Words;

/// Products of the bytes of some vectors, the low and the high half of each added up on their own, then neighbours: four
/// products times the vectors to a word, which stays below 2^15.
#[inline(always)]
unsafe fn words<const N: usize>(a: [int32x4_t; N], b: [int32x4_t; N]) -> int16x8_t {
    // SAFETY: see `Vector`.
    unsafe {
        let bytes = |v: int32x4_t| vreinterpretq_s8_s32(v);
        let mut low = vmull_s8(vget_low_s8(bytes(a[0])), vget_low_s8(bytes(b[0])));
        let mut high = vmull_high_s8(bytes(a[0]), bytes(b[0]));
        for i in 1..N {
            low = vmlal_s8(low, vget_low_s8(bytes(a[i])), vget_low_s8(bytes(b[i])));
            high = vmlal_high_s8(high, bytes(a[i]), bytes(b[i]));
        }
        vpaddq_s16(low, high)
    }
}

impl Products for Words {
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: see `Vector`. Magnitudes up to 128 times 127, twice, stay below 2^15.
        unsafe { vpadalq_s16(sum, words([a], [b])) }
    }

    #[inline(always)]
    unsafe fn dot4<const HIGHEST: i32>(sum: int32x4_t, a: [int32x4_t; 4], b: [int32x4_t; 4]) -> int32x4_t {
        // SAFETY: see `Vector`.
        unsafe {
            if 8 * HIGHEST * 127 < 1 << 15 {
                vpadalq_s16(sum, words(a, b))
            } else {
                let sum = vpadalq_s16(sum, words([a[0], a[1]], [b[0], b[1]]));
                vpadalq_s16(sum, words([a[2], a[3]], [b[2], b[3]]))
            }
        }
    }
}

/// Products by `sdot`.
#[derive(Clone, Copy)]
pub(crate) struct Sdot;

impl Products for Sdot {
    #[inline(always)]
    unsafe fn dot(mut sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // The intrinsic is not stable. SAFETY: see `Vector`; the instruction touches registers only.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                sum = inout(vreg) sum,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }

    #[inline(always)]
    unsafe fn dot4<const HIGHEST: i32>(sum: int32x4_t, a: [int32x4_t; 4], b: [int32x4_t; 4]) -> int32x4_t {
        // SAFETY: see `Vector`.
        unsafe {
            let sum = Self::dot(Self::dot(sum, a[0], b[0]), a[1], b[1]);
            Self::dot(Self::dot(sum, a[2], b[2]), a[3], b[3])
        }
    }
}

/// Four f16 numbers as f32. The intrinsic is not stable.
#[inline(always)]
unsafe fn convert(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: part of NEON; the instruction touches registers only.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = out(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}

// SAFETY of all that follows: the caller promises the instruction set, and addresses where they are taken (see `Vector`).
impl<P: Products> Vector for Quad<P> {
    const LANES: usize = 4;
    const SIGNED_OFFSET: i32 = 0;
    const WHOLE_BYTES: bool = false; // codes are signed there
    // 32 registers: codes of two rows, and their sums with four vectors of activations.
    const ROWS: usize = 2;
    type I = int32x4_t;
    type F = float32x4_t;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> int32x4_t {
        unsafe { vreinterpretq_s32_u8(vld1q_u8(from)) }
    }

    #[inline(always)]
    unsafe fn load_some(from: *const u8, n: usize) -> int32x4_t {
        let mut all = [0u8; 16];
        unsafe {
            from.copy_to_nonoverlapping(all.as_mut_ptr(), 4 * n.min(4));
            Self::load(all.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn splat(x: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(x) }
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> int32x4_t {
        unsafe {
            let four = vcreate_u8(u64::from(from.cast::<u32>().read_unaligned()));
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four))))
        }
    }

    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> int32x4_t {
        unsafe {
            let four = vcreate_s8(u64::from(from.cast::<u32>().read_unaligned()));
            vmovl_s16(vget_low_s16(vmovl_s8(four)))
        }
    }

    #[inline(always)]
    unsafe fn widen_bytes(low: u64, _: u64) -> int32x4_t {
        unsafe { vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(low))))) }
    }

    #[inline(always)]
    unsafe fn widen_words(words: [u64; 4]) -> int32x4_t {
        unsafe { vreinterpretq_s32_u32(vmovl_u16(vcreate_u16(words[0]))) }
    }

    #[inline(always)]
    unsafe fn and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vandq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vorrq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vaddq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vsubq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vmulq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn shl(a: int32x4_t, by: i32) -> int32x4_t {
        unsafe { vshlq_s32(a, vdupq_n_s32(by)) }
    }

    #[inline(always)]
    unsafe fn shr(a: int32x4_t, by: i32) -> int32x4_t {
        unsafe { Self::shr_each(a, vdupq_n_s32(by)) }
    }

    #[inline(always)]
    unsafe fn shr_each(a: int32x4_t, by: int32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vnegq_s32(by))) }
    }

    #[inline(always)]
    unsafe fn shr_signed(a: int32x4_t, by: i32) -> int32x4_t {
        unsafe { vshlq_s32(a, vdupq_n_s32(-by)) }
    }

    #[inline(always)]
    unsafe fn max(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vmaxq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, a: int32x4_t) {
        unsafe { vst1q_u8(to, vreinterpretq_u8_s32(a)) }
    }

    #[inline(always)]
    unsafe fn load_f(from: *const f32) -> float32x4_t {
        unsafe { vreinterpretq_f32_u8(vld1q_u8(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_f(to: *mut f32, a: float32x4_t) {
        unsafe { vst1q_u8(to.cast(), vreinterpretq_u8_f32(a)) }
    }

    #[inline(always)]
    unsafe fn splat_f(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> float32x4_t {
        unsafe { convert(vreinterpret_u16_u8(vld1_u8(from))) }
    }

    #[inline(always)]
    unsafe fn halves_some(from: *const u8, n: usize) -> float32x4_t {
        let mut all = [0u8; 8];
        unsafe {
            from.copy_to_nonoverlapping(all.as_mut_ptr(), 2 * n.min(4));
            Self::halves(all.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn low_halves(a: int32x4_t) -> float32x4_t {
        unsafe { convert(vmovn_u32(vreinterpretq_u32_s32(a))) }
    }

    #[inline(always)]
    unsafe fn gather_halves(from: impl Fn(usize) -> *const u8) -> float32x4_t {
        let read = |lane| unsafe { u64::from(from(lane).cast::<u16>().read_unaligned()) };
        unsafe { convert(vcreate_u16(read(0) | read(1) << 16 | read(2) << 32 | read(3) << 48)) }
    }

    #[inline(always)]
    unsafe fn splat_half(from: *const u8) -> float32x4_t {
        unsafe { convert(vdup_n_u16(from.cast::<u16>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn nibble_table(factor: float32x4_t) -> float32x4_t {
        factor
    }

    #[inline(always)]
    unsafe fn nibbles_times(table: float32x4_t, codes: int32x4_t) -> float32x4_t {
        unsafe {
            let nibbles = vandq_s32(codes, vdupq_n_s32(15));
            vmulq_f32(table, vcvtq_f32_s32(vsubq_s32(nibbles, vdupq_n_s32(8))))
        }
    }

    #[inline(always)]
    unsafe fn brains(from: *const u8) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(from)))) }
    }

    #[inline(always)]
    unsafe fn as_f(a: int32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_s32(a) }
    }

    #[inline(always)]
    unsafe fn to_f(a: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(a) }
    }

    #[inline(always)]
    unsafe fn nearest(a: float32x4_t) -> int32x4_t {
        unsafe { vcvtnq_s32_f32(a) }
    }

    #[inline(always)]
    unsafe fn round_half(a: float32x4_t) -> float32x4_t {
        let halves: uint16x4_t;
        // The intrinsic is not stable.
        unsafe {
            asm!(
                "fcvtn {halves:v}.4h, {a:v}.4s",
                halves = out(vreg) halves,
                a = in(vreg) a,
                options(pure, nomem, nostack, preserves_flags)
            );
            convert(halves)
        }
    }

    #[inline(always)]
    unsafe fn div_f(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_f(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmsq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn dot<const HIGHEST: i32>(sum: int32x4_t, codes: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe { P::dot(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn dot4<const HIGHEST: i32>(sum: int32x4_t, codes: [int32x4_t; 4], x: [int32x4_t; 4]) -> int32x4_t {
        unsafe { P::dot4::<HIGHEST>(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn signed(weights: int32x4_t) -> int32x4_t {
        weights
    }

    #[inline(always)]
    unsafe fn dot_signed(sum: int32x4_t, weights: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe { P::dot(sum, weights, x) }
    }

    #[inline(always)]
    unsafe fn transpose(from: impl Fn(usize) -> *const u8) -> [int32x4_t; 4] {
        unsafe { transpose([Self::load(from(0)), Self::load(from(1)), Self::load(from(2)), Self::load(from(3))]) }
    }

    #[inline(always)]
    unsafe fn interleave(a: [int32x4_t; 4]) -> [int32x4_t; 4] {
        unsafe {
            let [a, b, c, d] = a.map(|v| vreinterpretq_u8_s32(v));
            let words = |v| vreinterpretq_u16_u8(v);
            let (low, high) = (words(vzip1q_u8(a, b)), words(vzip2q_u8(a, b)));
            let (low2, high2) = (words(vzip1q_u8(c, d)), words(vzip2q_u8(c, d)));
            [
                vreinterpretq_s32_u16(vzip1q_u16(low, low2)),
                vreinterpretq_s32_u16(vzip2q_u16(low, low2)),
                vreinterpretq_s32_u16(vzip1q_u16(high, high2)),
                vreinterpretq_s32_u16(vzip2q_u16(high, high2)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn total(of: *const f32) -> f32 {
        unsafe {
            let eight = [0, 4].map(|l| vaddq_f32(Self::load_f(of.add(l)), Self::load_f(of.add(l + 8))));
            let four = vaddq_f32(eight[0], eight[1]);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // The intrinsic is not stable. A hint: it reads nothing that a program could notice.
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) }
    }
}

/// Lane `j` of vector `k` is lane `k` of vector `j`.
#[inline(always)]
pub(super) unsafe fn transpose(v: [int32x4_t; 4]) -> [int32x4_t; 4] {
    // SAFETY: see `Vector`.
    unsafe {
        let long = |v| vreinterpretq_s64_s32(v);
        let (even, odd) = (long(vtrn1q_s32(v[0], v[1])), long(vtrn2q_s32(v[0], v[1])));
        let (even2, odd2) = (long(vtrn1q_s32(v[2], v[3])), long(vtrn2q_s32(v[2], v[3])));
        [
            vreinterpretq_s32_s64(vtrn1q_s64(even, even2)),
            vreinterpretq_s32_s64(vtrn1q_s64(odd, odd2)),
            vreinterpretq_s32_s64(vtrn2q_s64(even, even2)),
            vreinterpretq_s32_s64(vtrn2q_s64(odd, odd2)),
        ]
    }
}

/// The verbs with products in 16 bits.
pub(crate) mod plain {
    use super::{Quad, Words};
    crate::arch::verbs!(Quad<Words>, "neon");
}

/// The verbs with products by `sdot`.
pub(crate) mod dotprod {
    use super::{Quad, Sdot, plain};
    crate::arch::verbs_over!(plain::VERBS, Quad<Sdot>, "neon,dotprod");
}
