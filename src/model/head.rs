//! The last norm and the head (specification 3.1, step 3), on the host or on an accelerator.

use super::linear::Linear;
use super::norm::Norm;
use super::there;
use super::vector::{Home, Vector};
use crate::checkpoint::{Part, Weights};
use crate::config::Config;
use crate::device::{Weight, What};
use crate::error::Result;
use crate::host::{Host, Share};
use candle_core::Tensor;

pub struct Head {
    norm: Norm,
    weight: Lies, // [vocab, width]
}

enum Lies {
    Here(Linear),
    There(Weight),
}

impl Head {
    pub fn new(config: &Config, weights: &Weights, home: Home<'_>) -> Result<Head> {
        let weight = match home {
            None => Lies::Here(Linear::new(vec![weights.matrix(Part::Head)], Share::Head)),
            Some(accelerator) => Lies::There(there::weight(accelerator, weights, Part::Head)?),
        };
        Ok(Head { norm: Norm::new(weights, Part::OutputNorm, config.norm_epsilon, home)?, weight })
    }

    /// Its norm's weight and its own, where they lie on an accelerator.
    pub fn there(&self) -> Option<(&Tensor, &Weight)> {
        match &self.weight {
            Lies::Here(_) => None,
            Lies::There(weight) => Some((self.norm.there()?, weight)),
        }
    }

    /// Bytes a second at which it is read just now; `None` on an accelerator.
    pub fn pace(&self, host: &Host) -> Option<f64> {
        match &self.weight {
            Lies::Here(weight) => Some(weight.pace(host)),
            Lies::There(_) => None,
        }
    }

    /// `x` `[wanted, width]` as the last layer leaves it -> logits `[wanted, vocab]`, on the host, in `memory` if they are
    /// computed there. `accelerator` is that of the model.
    pub fn forward(&self, host: &Host, x: Vector<'_>, accelerator: Home<'_>, memory: Vec<f32>) -> Result<Vec<f32>> {
        match (&self.weight, accelerator) {
            (Lies::There(weight), Some(accelerator)) => host.timed(Share::Head, || {
                let x = self.norm.forward(host, &x.moved(Some(accelerator))?)?;
                there::fetched(accelerator, What::Logits, &weight.product(x.tensor())?)
            }),
            (Lies::Here(weight), _) => {
                let x = self.norm.forward(host, &x.moved(None)?)?;
                Ok(weight.forward_in(host, x.here(host)?, memory))
            }
            (Lies::There(_), None) => unreachable!("a head away lies on the model's accelerator"),
        }
    }
}
