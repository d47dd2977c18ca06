//! One layer's parts, all of them on the host or all on an accelerator.

use super::attention::{Attention, Turns};
use super::kv::LayerKv;
use super::norm::Norm;
use super::router::Router;
use super::there;
use super::vector::{Home, Vector};
use crate::checkpoint::{Part, Weights};
use crate::config::Config;
use crate::error::Result;
use crate::host::{Host, Share};
use candle_core::Tensor;

/// One layer but its experts.
pub struct Block {
    /// All of it lies on the accelerator, or none.
    pub away: bool,
    pub router: Router,
    pub norm_in: Norm,
    pub attention: Attends,
    pub norm_ffn: Norm,
}

pub enum Attends {
    Here(Attention),
    There(Box<there::Attention>),
}

impl Block {
    pub fn new(config: &Config, weights: &Weights, layer: u16, home: Home<'_>) -> Result<Block> {
        let norm = |part| Norm::new(weights, part, config.norm_epsilon, home);
        Ok(Block {
            away: home.is_some(),
            router: Router::new(config, layer, weights, home)?,
            norm_in: norm(Part::NormIn(layer))?,
            attention: match home {
                None => Attends::Here(Attention::new(config, layer, weights)),
                Some(accelerator) => {
                    Attends::There(Box::new(there::Attention::new(accelerator, config, layer, weights)?))
                }
            },
            norm_ffn: norm(Part::NormFfn(layer))?,
        })
    }
}

impl Attends {
    pub fn forward<'a>(
        &self,
        host: &Host,
        h: &Vector<'_>,
        sequences: impl Iterator<Item = (&'a mut LayerKv, &'a Turns)>,
    ) -> Result<Tensor> {
        match self {
            Attends::Here(attention) => attention.forward(host, h, sequences),
            Attends::There(attention) => host.timed(Share::Attend, || attention.forward(h.tensor(), sequences)),
        }
    }
}
