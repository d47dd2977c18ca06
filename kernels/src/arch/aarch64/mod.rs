//! 64-bit ARM: NEON, the same with `sdot`, and with `smmla` besides.

pub(super) mod i8mm;
pub(crate) mod lanes_neon;
pub(super) mod neon;
