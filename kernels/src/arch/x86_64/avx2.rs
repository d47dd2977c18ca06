//! AVX2 with FMA and F16C, with or without AVX-VNNI: eight lanes.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::arch::vector::Vector;

/// Eight lanes, with byte products by `P`.
#[derive(Clone, Copy)]
pub(crate) struct Ymm<P>(PhantomData<P>);

/// How bytes are multiplied; as the methods of [`Vector`] of the same names.
pub(crate) trait Products: Copy {
    const SIGNED_OFFSET: i32;
    const WHOLE_BYTES: bool;
    unsafe fn dot(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i;
    unsafe fn dot4<const HIGHEST: i32>(sum: __m256i, codes: [__m256i; 4], x: [__m256i; 4]) -> __m256i;
    unsafe fn signed(weights: __m256i) -> __m256i;
    unsafe fn dot_signed(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i;
}

/// Products in 16 bits, which must not saturate.
#[derive(Clone, Copy)]
pub(crate) struct Words;

impl Products for Words {
    const SIGNED_OFFSET: i32 = 0;
    const WHOLE_BYTES: bool = false;

    #[inline(always)]
    unsafe fn dot(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see `Vector`.
        unsafe {
            let pairs = _mm256_maddubs_epi16(codes, x);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn dot4<const HIGHEST: i32>(sum: __m256i, codes: [__m256i; 4], x: [__m256i; 4]) -> __m256i {
        // SAFETY: see `Vector`.
        unsafe {
            let pairs = |k: usize| _mm256_maddubs_epi16(codes[k], x[k]);
            let (low, high) = (_mm256_add_epi16(pairs(0), pairs(1)), _mm256_add_epi16(pairs(2), pairs(3)));
            let one = _mm256_set1_epi16(1);
            // Eight products of codes up to 31 and activations up to 127 stay below 2^15; of larger codes, four do.
            if 8 * HIGHEST * 127 < 1 << 15 {
                _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(low, high), one))
            } else {
                let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, one));
                _mm256_add_epi32(sum, _mm256_madd_epi16(high, one))
            }
        }
    }

    #[inline(always)]
    unsafe fn signed(weights: __m256i) -> __m256i {
        weights
    }

    #[inline(always)]
    unsafe fn dot_signed(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see `Vector`. Magnitudes up to 128 times 127, twice, stay below 2^15.
        unsafe { Self::dot(sum, _mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights)) }
    }
}

/// Products by AVX-VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Vnni;

impl Products for Vnni {
    const SIGNED_OFFSET: i32 = 128;
    const WHOLE_BYTES: bool = true;

    #[inline(always)]
    unsafe fn dot(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see `Vector`.
        unsafe { _mm256_dpbusd_avx_epi32(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn dot4<const HIGHEST: i32>(sum: __m256i, codes: [__m256i; 4], x: [__m256i; 4]) -> __m256i {
        // SAFETY: see `Vector`.
        unsafe {
            let sum = Self::dot(Self::dot(sum, codes[0], x[0]), codes[1], x[1]);
            Self::dot(Self::dot(sum, codes[2], x[2]), codes[3], x[3])
        }
    }

    #[inline(always)]
    unsafe fn signed(weights: __m256i) -> __m256i {
        // SAFETY: see `Vector`.
        unsafe { _mm256_xor_si256(weights, _mm256_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn dot_signed(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: see `Vector`.
        unsafe { Self::dot(sum, weights, x) }
    }
}

/// Eight numbers by the tree `l + 4`, `l + 2`, `l + 1`.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn total_of_eight(eight: __m256) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// The first `n` lanes, for masked loads.
#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

// SAFETY of all that follows: the caller promises the instruction set, and addresses where they are taken (see `Vector`).
impl<P: Products> Vector for Ymm<P> {
    const LANES: usize = 8;
    const SIGNED_OFFSET: i32 = P::SIGNED_OFFSET;
    const WHOLE_BYTES: bool = P::WHOLE_BYTES;
    // 16 registers: codes of one row, and its sums with four vectors of activations.
    const ROWS: usize = 1;
    type I = __m256i;
    type F = __m256;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_some(from: *const u8, n: usize) -> __m256i {
        unsafe { _mm256_maskload_epi32(from.cast(), mask(n)) }
    }

    #[inline(always)]
    unsafe fn splat(x: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m256i {
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
    }

    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> __m256i {
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())) }
    }

    #[inline(always)]
    unsafe fn widen_bytes(low: u64, _: u64) -> __m256i {
        unsafe { _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(low as i64)) }
    }

    #[inline(always)]
    unsafe fn widen_words(words: [u64; 4]) -> __m256i {
        unsafe { _mm256_cvtepu16_epi32(_mm_set_epi64x(words[1] as i64, words[0] as i64)) }
    }

    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn shl(a: __m256i, by: i32) -> __m256i {
        unsafe { _mm256_sllv_epi32(a, _mm256_set1_epi32(by)) }
    }

    #[inline(always)]
    unsafe fn shr(a: __m256i, by: i32) -> __m256i {
        unsafe { _mm256_srlv_epi32(a, _mm256_set1_epi32(by)) }
    }

    #[inline(always)]
    unsafe fn shr_each(a: __m256i, by: __m256i) -> __m256i {
        unsafe { _mm256_srlv_epi32(a, by) }
    }

    #[inline(always)]
    unsafe fn shr_signed(a: __m256i, by: i32) -> __m256i {
        unsafe { _mm256_srav_epi32(a, _mm256_set1_epi32(by)) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_max_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, a: __m256i) {
        unsafe { _mm256_storeu_si256(to.cast(), a) }
    }

    #[inline(always)]
    unsafe fn load_f(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_f(to: *mut f32, a: __m256) {
        unsafe { _mm256_storeu_ps(to, a) }
    }

    #[inline(always)]
    unsafe fn splat_f(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn halves_some(from: *const u8, n: usize) -> __m256 {
        let mut all = [0u16; 8];
        unsafe {
            from.copy_to_nonoverlapping(all.as_mut_ptr().cast(), 2 * n.min(8));
            Self::halves(all.as_ptr().cast())
        }
    }

    #[inline(always)]
    unsafe fn low_halves(a: __m256i) -> __m256 {
        unsafe {
            // Each half's low words into its low 8 bytes, then both together.
            let pick = _mm256_setr_epi8(
                0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1,
                -1, -1, -1,
            );
            let words = _mm256_permute4x64_epi64::<0b1000>(_mm256_shuffle_epi8(a, pick));
            _mm256_cvtph_ps(_mm256_castsi256_si128(words))
        }
    }

    #[inline(always)]
    unsafe fn gather_halves(from: impl Fn(usize) -> *const u8) -> __m256 {
        let read = |lane| unsafe { from(lane).cast::<i16>().read_unaligned() };
        unsafe {
            _mm256_cvtph_ps(_mm_set_epi16(read(7), read(6), read(5), read(4), read(3), read(2), read(1), read(0)))
        }
    }

    #[inline(always)]
    unsafe fn splat_half(from: *const u8) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(from.cast::<i16>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn nibble_table(factor: __m256) -> __m256 {
        factor
    }

    #[inline(always)]
    unsafe fn nibbles_times(table: __m256, codes: __m256i) -> __m256 {
        unsafe {
            let nibbles = _mm256_and_si256(codes, _mm256_set1_epi32(15));
            _mm256_mul_ps(table, _mm256_cvtepi32_ps(_mm256_sub_epi32(nibbles, _mm256_set1_epi32(8))))
        }
    }

    #[inline(always)]
    unsafe fn brains(from: *const u8) -> __m256 {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn as_f(a: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(a) }
    }

    #[inline(always)]
    unsafe fn to_f(a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn nearest(a: __m256) -> __m256i {
        unsafe { _mm256_cvtps_epi32(a) }
    }

    #[inline(always)]
    unsafe fn round_half(a: __m256) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) }
    }

    #[inline(always)]
    unsafe fn div_f(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_f(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn dot<const HIGHEST: i32>(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe { P::dot(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn dot4<const HIGHEST: i32>(sum: __m256i, codes: [__m256i; 4], x: [__m256i; 4]) -> __m256i {
        unsafe { P::dot4::<HIGHEST>(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn signed(weights: __m256i) -> __m256i {
        unsafe { P::signed(weights) }
    }

    #[inline(always)]
    unsafe fn dot_signed(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        unsafe { P::dot_signed(sum, weights, x) }
    }

    #[inline(always)]
    unsafe fn transpose(from: impl Fn(usize) -> *const u8) -> [__m256i; 4] {
        let read = |lane| unsafe { _mm_loadu_si128(from(lane).cast()) };
        unsafe {
            let mut a = [_mm256_setzero_si256(); 4];
            for (i, a) in a.iter_mut().enumerate() {
                *a = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(read(i)), read(4 + i));
            }
            let (low, high) = (_mm256_unpacklo_epi32(a[0], a[1]), _mm256_unpackhi_epi32(a[0], a[1]));
            let (low2, high2) = (_mm256_unpacklo_epi32(a[2], a[3]), _mm256_unpackhi_epi32(a[2], a[3]));
            [
                _mm256_unpacklo_epi64(low, low2),
                _mm256_unpackhi_epi64(low, low2),
                _mm256_unpacklo_epi64(high, high2),
                _mm256_unpackhi_epi64(high, high2),
            ]
        }
    }

    #[inline(always)]
    unsafe fn interleave(a: [__m256i; 4]) -> [__m256i; 4] {
        unsafe {
            let (low, high) = (_mm256_unpacklo_epi8(a[0], a[1]), _mm256_unpackhi_epi8(a[0], a[1]));
            let (low2, high2) = (_mm256_unpacklo_epi8(a[2], a[3]), _mm256_unpackhi_epi8(a[2], a[3]));
            [
                _mm256_unpacklo_epi16(low, low2),
                _mm256_unpackhi_epi16(low, low2),
                _mm256_unpacklo_epi16(high, high2),
                _mm256_unpackhi_epi16(high, high2),
            ]
        }
    }

    #[inline(always)]
    unsafe fn total(of: *const f32) -> f32 {
        unsafe { total_of_eight(_mm256_add_ps(_mm256_loadu_ps(of), _mm256_loadu_ps(of.add(8)))) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}

/// The verbs with products in 16 bits.
pub(crate) mod plain {
    use super::{Words, Ymm};
    crate::arch::verbs!(Ymm<Words>, "avx2,fma,f16c");
}

/// The verbs with products by AVX-VNNI.
pub(crate) mod vnni {
    use super::{Vnni, Ymm, plain};
    crate::arch::verbs_over!(plain::VERBS, Ymm<Vnni>, "avx2,fma,f16c,avxvnni");
}
