//! RMSNorm, statistics in f32 (specification 3.1, step 2.2): `h_j = w_j * x_j / sqrt(mean(x^2) + epsilon)`.

use crate::bridge::{tensor, with_slice};
use crate::checkpoint::Matrix;
use crate::error::Result;
use crate::host::{Host, Share};
use candle_core::Tensor;
use kernels::norm::rms_norm;

pub struct Norm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    /// `weight` is one row.
    pub fn new(weight: &Matrix, epsilon: f32) -> Norm {
        let mut values = vec![0f32; weight.width()];
        weight.rows().decode_row(0, &mut values);
        Norm { weight: values, epsilon }
    }

    /// `x` `[t, width]`, each row on its own.
    pub fn forward(&self, host: &Host, x: &Tensor) -> Result<Tensor> {
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
