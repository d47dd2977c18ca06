//! The mathematics: one forward pass, and the same again in plain f32 to judge it by.
//!
//! Activations are candle tensors between the parts and slices of `f32` inside them; weights stay where the checkpoint
//! or the expert store keeps them. Equation numbers refer to the order of operations of the SmallThinker technical
//! report (arXiv 2507.20984, section 2) as written out in `docs/MODEL.md`.

mod attention;
mod block;
mod decoder;
mod head;
mod kv;
mod linear;
mod mixture;
mod norm;
pub mod reference;
mod router;
mod step;
mod there;
mod vector;
mod whole;

pub use decoder::{Model, Step};
pub use kv::{KvCache, KvShape};
pub use step::step_bytes;
