//! Rows of numbers: sparse, exact kernels for quantised weights. No threads, no files.

mod isa;

pub use isa::Isa;

/// How numbers are stored. One file each under `format/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q8_0,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}
