//! Loops for 64-bit x86.

pub(crate) mod lanes_avx2;
pub(crate) mod lanes_avx512;
