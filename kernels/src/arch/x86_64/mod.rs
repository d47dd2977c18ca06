//! x86-64: AVX2 with FMA and F16C, the same with AVX-VNNI, and AVX-512 with VNNI.

pub(super) mod avx2;
pub(super) mod avx512;
pub(crate) mod lanes_avx2;
pub(crate) mod lanes_avx512;
