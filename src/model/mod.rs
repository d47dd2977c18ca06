//! (being built)

pub mod reference;
