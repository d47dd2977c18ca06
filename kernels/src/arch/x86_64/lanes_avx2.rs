//! Sixteen lanes in two 256-bit registers.

use std::arch::x86_64::*;

use crate::arch::lanes::{Lanes, Loop};

/// Made by [`run`] alone, which promises AVX2, FMA and F16C. Every `unsafe` below rests on that promise, and every
/// pointer on the length of the array it is made from.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Runs a loop with these instructions.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
pub(crate) unsafe fn run<W: Loop>(work: W) -> W::Out {
    work.run(Avx2(()))
}

#[derive(Clone, Copy)]
pub(crate) struct Pair(__m256, __m256);

impl Avx2 {
    #[inline(always)]
    fn both(self, a: Pair, b: Pair, f: impl Fn(__m256, __m256) -> __m256) -> Pair {
        Pair(f(a.0, b.0), f(a.1, b.1))
    }
}

impl Lanes for Avx2 {
    type V = Pair;
    // Six sums of two registers, two of keys, one of a query: fifteen of sixteen.
    const QUERIES: usize = 6;
    const WIDE: usize = 1;

    #[inline(always)]
    fn apart<W: Loop>(self, work: W) -> W::Out {
        // SAFETY: `Avx2` proves the instructions.
        unsafe { run(work) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        // SAFETY: `Avx2` proves the instructions.
        let v = unsafe { _mm256_set1_ps(x) };
        Pair(v, v)
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Pair {
        // SAFETY: `Avx2` proves the instructions; sixteen f32 are two registers.
        unsafe { Pair(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn store(self, v: Pair, into: &mut [f32; 16]) {
        // SAFETY: `Avx2` proves the instructions; sixteen f32 are two registers.
        unsafe {
            _mm256_storeu_ps(into.as_mut_ptr(), v.0);
            _mm256_storeu_ps(into.as_mut_ptr().add(8), v.1);
        }
    }

    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 64]) -> Pair {
        let from = from.as_ptr().cast::<f32>();
        // SAFETY: `Avx2` proves the instructions; 64 bytes are two registers, and these loads need no alignment.
        unsafe { Pair(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    fn store_f32_bytes(self, v: Pair, into: &mut [u8; 64]) {
        let into = into.as_mut_ptr().cast::<f32>();
        // SAFETY: `Avx2` proves the instructions; 64 bytes are two registers, and these stores need no alignment.
        unsafe {
            _mm256_storeu_ps(into, v.0);
            _mm256_storeu_ps(into.add(8), v.1);
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> Pair {
        let from = from.as_ptr().cast::<__m128i>();
        // SAFETY: `Avx2` proves the instructions; 32 bytes are two unaligned loads of 16.
        unsafe { Pair(_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1)))) }
    }

    #[inline(always)]
    fn store_f16(self, v: Pair, into: &mut [u8; 32]) {
        let into = into.as_mut_ptr().cast::<__m128i>();
        // SAFETY: `Avx2` proves the instructions; 32 bytes are two unaligned stores of 16.
        unsafe {
            _mm_storeu_si128(into, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
            _mm_storeu_si128(into.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1));
        }
    }

    #[inline(always)]
    fn splat_f16(self, from: &[u8; 2]) -> Pair {
        // SAFETY: `Avx2` proves the instructions.
        let v = unsafe { _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(*from))) };
        Pair(v, v)
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; 16]) -> Pair {
        // SAFETY: `Avx2` proves the instructions; 16 bytes are one unaligned load.
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            Pair(
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))),
            )
        }
    }

    #[inline(always)]
    fn prefetch(self, at: &u8) {
        // SAFETY: `Avx2` proves the instructions; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `Avx2` proves the instructions.
        self.both(a, b, |a, b| unsafe { _mm256_add_ps(a, b) })
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `Avx2` proves the instructions.
        self.both(a, b, |a, b| unsafe { _mm256_sub_ps(a, b) })
    }

    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `Avx2` proves the instructions.
        self.both(a, b, |a, b| unsafe { _mm256_mul_ps(a, b) })
    }

    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `Avx2` proves the instructions.
        self.both(a, b, |a, b| unsafe { _mm256_max_ps(a, b) })
    }

    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: `Avx2` proves the instructions.
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    fn where_less(self, a: Pair, b: Pair, yes: Pair, no: Pair) -> Pair {
        // SAFETY: `Avx2` proves the instructions.
        unsafe {
            Pair(
                _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(no.1, yes.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        }
    }

    #[inline(always)]
    fn add_exponent(self, p: Pair, t: Pair) -> Pair {
        // SAFETY: `Avx2` proves the instructions.
        self.both(p, t, |p, t| unsafe {
            let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), shifted))
        })
    }

    #[inline(always)]
    fn sum(self, v: Pair) -> f32 {
        // SAFETY: `Avx2` proves the instructions.
        unsafe {
            let v = _mm256_add_ps(v.0, v.1);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn largest(self, v: Pair) -> f32 {
        // SAFETY: `Avx2` proves the instructions.
        unsafe {
            let v = _mm256_max_ps(v.0, v.1);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
}
