//! 64-bit ARM.

pub(crate) mod lanes_neon;
