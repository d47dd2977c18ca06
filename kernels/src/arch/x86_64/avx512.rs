//! AVX-512 F, BW, VL, DQ and VNNI: sixteen lanes.

use std::arch::x86_64::*;

use crate::arch::vector::Vector;

#[derive(Clone, Copy)]
pub(crate) struct Zmm;

/// The first `n` lanes.
#[inline(always)]
fn lanes(n: usize) -> u16 {
    if n >= 16 { !0 } else { (1 << n) - 1 }
}

// SAFETY of all that follows: the caller promises the instruction set, and addresses where they are taken (see `Vector`).
impl Vector for Zmm {
    const LANES: usize = 16;
    const SIGNED_OFFSET: i32 = 128;
    const WHOLE_BYTES: bool = true;
    // 32 registers: codes of two rows, and their sums with four vectors of activations.
    const ROWS: usize = 2;
    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_some(from: *const u8, n: usize) -> __m512i {
        unsafe { _mm512_maskz_loadu_epi32(lanes(n), from.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn widen_bytes(low: u64, high: u64) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_set_epi64x(high as i64, low as i64)) }
    }

    #[inline(always)]
    unsafe fn widen_words(words: [u64; 4]) -> __m512i {
        let [a, b, c, d] = words.map(|w| w as i64);
        unsafe { _mm512_cvtepu16_epi32(_mm256_set_epi64x(d, c, b, a)) }
    }

    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn shl(a: __m512i, by: i32) -> __m512i {
        unsafe { _mm512_sllv_epi32(a, _mm512_set1_epi32(by)) }
    }

    #[inline(always)]
    unsafe fn shr(a: __m512i, by: i32) -> __m512i {
        unsafe { _mm512_srlv_epi32(a, _mm512_set1_epi32(by)) }
    }

    #[inline(always)]
    unsafe fn shr_each(a: __m512i, by: __m512i) -> __m512i {
        unsafe { _mm512_srlv_epi32(a, by) }
    }

    #[inline(always)]
    unsafe fn shr_signed(a: __m512i, by: i32) -> __m512i {
        unsafe { _mm512_srav_epi32(a, _mm512_set1_epi32(by)) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_max_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, a: __m512i) {
        unsafe { _mm512_storeu_si512(to.cast(), a) }
    }

    #[inline(always)]
    unsafe fn load_f(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_f(to: *mut f32, a: __m512) {
        unsafe { _mm512_storeu_ps(to, a) }
    }

    #[inline(always)]
    unsafe fn splat_f(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn halves_some(from: *const u8, n: usize) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes(n), from.cast())) }
    }

    #[inline(always)]
    unsafe fn low_halves(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }
    }

    #[inline(always)]
    unsafe fn gather_halves(from: impl Fn(usize) -> *const u8) -> __m512 {
        let read = |lane| unsafe { from(lane).cast::<i16>().read_unaligned() };
        unsafe {
            let low = _mm_set_epi16(read(7), read(6), read(5), read(4), read(3), read(2), read(1), read(0));
            let high = _mm_set_epi16(read(15), read(14), read(13), read(12), read(11), read(10), read(9), read(8));
            _mm512_cvtph_ps(_mm256_set_m128i(high, low))
        }
    }

    #[inline(always)]
    unsafe fn splat_half(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(from.cast::<i16>().read_unaligned())) }
    }

    // All sixteen products at once, then one look-up per weight.
    #[inline(always)]
    unsafe fn nibble_table(factor: __m512) -> __m512 {
        unsafe {
            let all = _mm512_setr_ps(-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.);
            _mm512_mul_ps(factor, all)
        }
    }

    #[inline(always)]
    unsafe fn nibbles_times(table: __m512, codes: __m512i) -> __m512 {
        unsafe { _mm512_permutexvar_ps(codes, table) }
    }

    #[inline(always)]
    unsafe fn brains(from: *const u8) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn as_f(a: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(a) }
    }

    #[inline(always)]
    unsafe fn to_f(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn nearest(a: __m512) -> __m512i {
        unsafe { _mm512_cvtps_epi32(a) }
    }

    #[inline(always)]
    unsafe fn round_half(a: __m512) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) }
    }

    #[inline(always)]
    unsafe fn div_f(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_f(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn dot<const HIGHEST: i32>(sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, codes, x) }
    }

    #[inline(always)]
    unsafe fn signed(weights: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(weights, _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn dot_signed(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, weights, x) }
    }

    #[inline(always)]
    unsafe fn transpose(from: impl Fn(usize) -> *const u8) -> [__m512i; 4] {
        let read = |lane| unsafe { _mm_loadu_si128(from(lane).cast()) };
        unsafe {
            let mut a = [_mm512_setzero_si512(); 4];
            for (i, a) in a.iter_mut().enumerate() {
                // Four addresses to a register; a masked broadcast from memory needs no shuffle.
                let four = _mm512_castsi128_si512(read(i));
                let four = _mm512_mask_broadcast_i32x4(four, 0x00f0, read(4 + i));
                let four = _mm512_mask_broadcast_i32x4(four, 0x0f00, read(8 + i));
                *a = _mm512_mask_broadcast_i32x4(four, 0xf000, read(12 + i));
            }
            let (low, high) = (_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
            let (low2, high2) = (_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
            [
                _mm512_unpacklo_epi64(low, low2),
                _mm512_unpackhi_epi64(low, low2),
                _mm512_unpacklo_epi64(high, high2),
                _mm512_unpackhi_epi64(high, high2),
            ]
        }
    }

    #[inline(always)]
    unsafe fn interleave(a: [__m512i; 4]) -> [__m512i; 4] {
        unsafe {
            let (low, high) = (_mm512_unpacklo_epi8(a[0], a[1]), _mm512_unpackhi_epi8(a[0], a[1]));
            let (low2, high2) = (_mm512_unpacklo_epi8(a[2], a[3]), _mm512_unpackhi_epi8(a[2], a[3]));
            [
                _mm512_unpacklo_epi16(low, low2),
                _mm512_unpackhi_epi16(low, low2),
                _mm512_unpacklo_epi16(high, high2),
                _mm512_unpackhi_epi16(high, high2),
            ]
        }
    }

    #[inline(always)]
    unsafe fn total(of: *const f32) -> f32 {
        unsafe {
            let all = _mm512_loadu_ps(of);
            let eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
            super::avx2::total_of_eight(eight)
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}

crate::arch::verbs!(Zmm, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni");
