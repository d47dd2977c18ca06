//! Parts of a layer that lie on an accelerator: the same mathematics as `attention`, `norm` and `router`, on tensors there.

use super::attention::Turns;
use super::kv::LayerKv;
use crate::checkpoint::{Part, Weights};
use crate::config::Config;
use crate::device::{Accelerator, Weight, What};
use crate::error::Result;
use candle_core::Tensor;
use std::sync::Arc;

/// One part, carried to `accelerator`.
pub fn weight(accelerator: &Arc<Accelerator>, weights: &Weights, part: Part) -> Result<Weight> {
    let weight = Weight::new(accelerator, &weights.kind(part), &weights.lend(part)?)?;
    weights.release(part);
    Ok(weight)
}

/// Grouped-query attention over a cache on the accelerator (specification 3.1, steps 2.2 to 2.7).
pub struct Attention {
    accelerator: Arc<Accelerator>,
    query: Weight,
    key: Weight,
    value: Weight,
    out: Weight,
    rotary: bool,
}

impl Attention {
    pub fn new(accelerator: &Arc<Accelerator>, config: &Config, layer: u16, weights: &Weights) -> Result<Attention> {
        let weight = |part| weight(accelerator, weights, part);
        Ok(Attention {
            accelerator: accelerator.clone(),
            query: weight(Part::Query(layer))?,
            key: weight(Part::Key(layer))?,
            value: weight(Part::Value(layer))?,
            out: weight(Part::AttentionOut(layer))?,
            rotary: config.layers[layer as usize].rotary,
        })
    }

    /// `h` `[t, width]`, normed, sequence after sequence -> `[t, width]`; appends each one's keys and values to its cache.
    pub fn forward<'a>(
        &self,
        h: &Tensor,
        sequences: impl Iterator<Item = (&'a mut LayerKv, &'a Turns)>,
    ) -> Result<Tensor> {
        let (q, k, v) = (self.query.product(h)?, self.key.product(h)?, self.value.product(h)?);
        let (mut attended, mut start) = (vec![], 0);
        for (kv, turns) in sequences {
            let LayerKv::There(ring) = kv else { unreachable!("a layer's cache lies where the layer does") };
            let own = |x: &Tensor| x.narrow(0, start, turns.len());
            let (mut q, mut k, v) = (own(&q)?, own(&k)?, own(&v)?);
            if self.rotary {
                let (cos, sin) = turns.there(&self.accelerator)?;
                (q, k) = (self.accelerator.rotate(&q, cos, sin)?, self.accelerator.rotate(&k, cos, sin)?);
            }
            ring.store(turns.first, &k, &v)?;
            attended.push(ring.attend(&q, turns.first)?);
            start += turns.len();
        }
        let attended = if attended.len() == 1 { attended.remove(0) } else { Tensor::cat(&attended, 0)? };
        self.out.product(&attended)
    }
}

impl Attention {
    /// Queries, keys, values and what comes after.
    pub fn weights(&self) -> [&Weight; 4] {
        [&self.query, &self.key, &self.value, &self.out]
    }
}

/// RMSNorm there.
pub struct Norm {
    accelerator: Arc<Accelerator>,
    weight: Tensor,
    epsilon: f32,
    _hold: crate::device::Hold,
}

impl Norm {
    pub fn new(accelerator: &Arc<Accelerator>, weights: &Weights, part: Part, epsilon: f32) -> Result<Norm> {
        let mut values = vec![0f32; weights.kind(part).width];
        weights.kind(part).view(&weights.lend(part)?).decode_row(0, &mut values);
        let hold = accelerator.hold(4 * values.len() as u64)?;
        let width = values.len();
        let weight = accelerator.bring(What::Weights, &Tensor::from_vec(values, width, &candle_core::Device::Cpu)?)?;
        Ok(Norm { accelerator: accelerator.clone(), weight, epsilon, _hold: hold })
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.accelerator.norm(x, &self.weight, self.epsilon)
    }
}

/// `product` of a matrix there, handed to the host: `[t, rows]`.
pub fn fetched(accelerator: &Accelerator, what: What, y: &Tensor) -> Result<Vec<f32>> {
    Ok(accelerator.fetch(what, y)?.flatten_all()?.to_vec1()?)
}
