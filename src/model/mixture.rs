//! The layer's experts behind the router's choice (specification 3.1, steps 2.8 to 2.11).

use crate::bridge::{activations, tensor};
use crate::error::Result;
use crate::experts::{Choice, Step, mixture};
use crate::host::Host;
use candle_core::Tensor;

/// `h` `[t, width]`, normed -> the weighted sum of each token's experts, `[t, width]`.
pub fn forward(host: &Host, experts: &Step<'_>, choice: &Choice, h: &Tensor) -> Result<Tensor> {
    let x = activations(host, h)?;
    tensor(mixture(host, experts, &choice.groups(), &x)?, x.width())
}
