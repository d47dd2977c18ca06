//! Sixteen lanes in one 512-bit register.

use std::arch::x86_64::*;

use crate::arch::lanes::{Lanes, Loop};

/// Made by [`run`] alone, which promises AVX-512 F, BW, VL and DQ. Every `unsafe` below rests on that promise, and every
/// pointer on the length of the array it is made from.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// Runs a loop with these instructions.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and DQ, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
#[inline(never)]
pub(crate) unsafe fn run<W: Loop>(work: W) -> W::Out {
    work.run(Avx512(()))
}

impl Lanes for Avx512 {
    type V = __m512;
    // Eight queries times two vectors are sixteen sums: two fused multiply-adds a cycle, four cycles each, need eight.
    const QUERIES: usize = 8;
    const WIDE: usize = 2;

    #[inline(always)]
    fn apart<W: Loop>(self, work: W) -> W::Out {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { run(work) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> __m512 {
        // SAFETY: `Avx512` proves the instructions; sixteen f32 are one register.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, into: &mut [f32; 16]) {
        // SAFETY: `Avx512` proves the instructions; sixteen f32 are one register.
        unsafe { _mm512_storeu_ps(into.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 64]) -> __m512 {
        // SAFETY: `Avx512` proves the instructions; 64 bytes are one register, and this load needs no alignment.
        unsafe { _mm512_loadu_ps(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_f32_bytes(self, v: __m512, into: &mut [u8; 64]) {
        // SAFETY: `Avx512` proves the instructions; 64 bytes are one register, and this store needs no alignment.
        unsafe { _mm512_storeu_ps(into.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> __m512 {
        // SAFETY: `Avx512` proves the instructions; 32 bytes are one unaligned load.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store_f16(self, v: __m512, into: &mut [u8; 32]) {
        // SAFETY: `Avx512` proves the instructions; 32 bytes are one unaligned store.
        unsafe { _mm256_storeu_si256(into.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[inline(always)]
    fn splat_f16(self, from: &[u8; 2]) -> __m512 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(*from))) }
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; 16]) -> __m512 {
        // SAFETY: `Avx512` proves the instructions; 16 bytes are one unaligned load.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn prefetch(self, at: &u8) {
        // SAFETY: `Avx512` proves the instructions; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn where_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
    }

    #[inline(always)]
    fn add_exponent(self, p: __m512, t: __m512) -> __m512 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), shifted))
        }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        // SAFETY: `Avx512` proves the instructions.
        unsafe { _mm512_reduce_max_ps(v) }
    }
}
