//! Sixteen f32 side by side, in whatever registers an instruction set has: one of 512 bits, two of 256, four of 128, or
//! an array. Attention, norms and rotation are written once over [`Lanes`], and since every operation here rounds once,
//! as IEEE 754 says, they give the same bits on all of them.
//!
//! A value of a `Lanes` type is the proof that the processor has its instructions, as an [`Isa`] is; [`run`] turns the
//! one into the other, and compiles the loop it is given with those instructions enabled.

use crate::isa::{Isa, Set};

/// Sixteen lanes, and what attention and norms do with them. All methods must be inlined: the loop they end up in is
/// the one that has the instructions.
pub(crate) trait Lanes: Copy {
    /// Sixteen f32.
    type V: Copy;
    /// The most queries that keep their sums in registers together with what is read for them.
    const QUERIES: usize;
    /// How many vectors are worth keeping side by side per query: 1 or 2.
    const WIDE: usize;

    /// Runs a loop as a function of its own, so that it gets the registers to itself.
    fn apart<W: Loop>(self, work: W) -> W::Out;
    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; 16]) -> Self::V;
    fn store(self, v: Self::V, into: &mut [f32; 16]);
    /// Sixteen little-endian f32.
    fn load_f32_bytes(self, from: &[u8; 64]) -> Self::V;
    /// Sixteen little-endian f32.
    fn store_f32_bytes(self, v: Self::V, into: &mut [u8; 64]);
    /// Sixteen little-endian f16, exactly.
    fn load_f16(self, from: &[u8; 32]) -> Self::V;
    /// Sixteen little-endian f16, each the nearest, ties to even.
    fn store_f16(self, v: Self::V, into: &mut [u8; 32]);
    /// One little-endian f16 in all lanes.
    fn splat_f16(self, from: &[u8; 2]) -> Self::V;
    /// Sixteen signed bytes, exactly.
    fn load_i8(self, from: &[u8; 16]) -> Self::V;
    /// Says that the cache line of this byte will soon be read.
    fn prefetch(self, at: &u8);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; either zero of two, and anything where one is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `yes` where a < b, else `no` (also where one is not a number).
    fn where_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The bits of `p` plus the bits of `t` shifted left by 23, as integers: p · 2^n when n is in the low bits of `t`
    /// and nothing overflows.
    fn add_exponent(self, p: Self::V, t: Self::V) -> Self::V;
    /// The tree of all our sums: l + 8, l + 4, l + 2, l + 1.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane.
    fn largest(self, v: Self::V) -> f32;
}

/// A loop over [`Lanes`], with what it works on. `run` must be `#[inline(always)]`.
pub(crate) trait Loop {
    type Out;
    fn run<L: Lanes>(self, lanes: L) -> Self::Out;
}

/// Runs a loop in the widest registers `isa` has.
pub(crate) fn run<W: Loop>(isa: Isa, work: W) -> W::Out {
    match isa.0 {
        Set::Scalar => work.run(Scalar),
        // SAFETY: the value of `Isa` proves what AVX2 code needs.
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 | Set::AvxVnni => unsafe { super::x86_64::lanes_avx2::run(work) },
        // SAFETY: the value of `Isa` proves what AVX-512 code needs.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => unsafe { super::x86_64::lanes_avx512::run(work) },
        // SAFETY: the value of `Isa` proves what NEON code needs.
        #[cfg(target_arch = "aarch64")]
        Set::Neon | Set::Dotprod | Set::I8mm => unsafe { super::aarch64::lanes_neon::run(work) },
    }
}

/// How many queries a panel has at most on this instruction set.
pub(crate) fn queries(isa: Isa) -> usize {
    struct Count;
    impl Loop for Count {
        type Out = usize;

        #[inline(always)]
        fn run<L: Lanes>(self, _: L) -> usize {
            L::QUERIES
        }
    }
    run(isa, Count)
}

/// An array: the judge of all others.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; 16] {
    std::array::from_fn(f)
}

impl Lanes for Scalar {
    type V = [f32; 16];
    const QUERIES: usize = 1;
    const WIDE: usize = 1;

    #[inline(never)]
    fn apart<W: Loop>(self, work: W) -> W::Out {
        work.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; 16]
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::V {
        *from
    }

    #[inline(always)]
    fn store(self, v: Self::V, into: &mut [f32; 16]) {
        *into = v;
    }

    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 64]) -> Self::V {
        each(|l| f32::from_le_bytes([from[4 * l], from[4 * l + 1], from[4 * l + 2], from[4 * l + 3]]))
    }

    #[inline(always)]
    fn store_f32_bytes(self, v: Self::V, into: &mut [u8; 64]) {
        for l in 0..16 {
            into[4 * l..4 * l + 4].copy_from_slice(&v[l].to_le_bytes());
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> Self::V {
        each(|l| half::f16::from_le_bytes([from[2 * l], from[2 * l + 1]]).to_f32())
    }

    #[inline(always)]
    fn store_f16(self, v: Self::V, into: &mut [u8; 32]) {
        for l in 0..16 {
            into[2 * l..2 * l + 2].copy_from_slice(&half::f16::from_f32(v[l]).to_le_bytes());
        }
    }

    #[inline(always)]
    fn splat_f16(self, from: &[u8; 2]) -> Self::V {
        [half::f16::from_le_bytes(*from).to_f32(); 16]
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; 16]) -> Self::V {
        each(|l| f32::from(from[l].cast_signed()))
    }

    #[inline(always)]
    fn prefetch(self, _: &u8) {}

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|l| a[l] + b[l])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|l| a[l] - b[l])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|l| a[l] * b[l])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|l| a[l].mul_add(b[l], c[l]))
    }

    #[inline(always)]
    fn where_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        each(|l| if a[l] < b[l] { yes[l] } else { no[l] })
    }

    #[inline(always)]
    fn add_exponent(self, p: Self::V, t: Self::V) -> Self::V {
        each(|l| f32::from_bits(p[l].to_bits().wrapping_add(t[l].to_bits() << 23)))
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut v = v;
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                v[l] += v[l + half];
            }
        }
        v[0]
    }

    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        v.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
}
