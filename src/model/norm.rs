//! RMSNorm, statistics in f32 (specification 3.1, step 2.2): `h_j = w_j * x_j / sqrt(mean(x^2) + epsilon)`.

use super::there;
use super::vector::{Home, Vector};
use crate::bridge::{tensor, with_slice};
use crate::checkpoint::{Part, Weights};
use crate::device::What;
use crate::error::Result;
use crate::host::{Host, Share};
use candle_core::Tensor;
use kernels::norm::rms_norm;

pub enum Norm {
    Here(Weight),
    There(there::Norm),
}

pub struct Weight {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    /// `part` is one row.
    pub fn new(weights: &Weights, part: Part, epsilon: f32, home: Home<'_>) -> Result<Norm> {
        if let Some(accelerator) = home {
            return Ok(Norm::There(there::Norm::new(accelerator, weights, part, epsilon)?));
        }
        let weight = weights.matrix(part);
        let mut values = vec![0f32; weight.width()];
        weight.rows().decode_row(0, &mut values);
        Ok(Norm::Here(Weight { weight: values, epsilon }))
    }

    /// Its weight, where that lies on an accelerator.
    pub fn there(&self) -> Option<&Tensor> {
        match self {
            Norm::Here(_) => None,
            Norm::There(norm) => Some(norm.weight()),
        }
    }

    /// `x` `[t, width]`, each row on its own. `x` lies where the norm does.
    pub fn forward<'a>(&self, host: &Host, x: &Vector<'a>) -> Result<Vector<'a>> {
        let normed = match self {
            Norm::Here(norm) => norm.forward(host, x.tensor())?,
            Norm::There(norm) => host.timed(Share::Norm, || norm.forward(x.tensor()))?,
        };
        Ok(Vector::new(x.home(), What::Normed, normed))
    }
}

impl Weight {
    fn forward(&self, host: &Host, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.len();
        let out = host.timed(Share::Norm, || {
            with_slice(x, |x| {
                let mut out = vec![0f32; x.len()];
                host.pool.pieces(&mut out, 16 * width, |i, out| {
                    let x = &x[i * 16 * width..][..out.len()];
                    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                        rms_norm(host.isa, x, &self.weight, self.epsilon, out);
                    }
                });
                out
            })
        })?;
        tensor(out, width)
    }
}
