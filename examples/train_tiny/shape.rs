//! The bundled model's shape and first weights: the 21B's habits in small.

use crate::corpus::random::Random;
use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;
use thermocline::config::{Config, Gating, Layer};
use thermocline::model::reference::Reference;

/// Positions a query of a windowed layer sees.
pub const WINDOW: usize = 64;
pub const VOCAB: usize = 1024;

/// Layers 0 and 4 see everything and know no positions; the others see a window and rotate.
pub fn config(eos: [u32; 2]) -> Config {
    let layer = |i: usize| Layer { rotary: i % 4 != 0, window: (i % 4 != 0).then_some(WINDOW) };
    Config {
        family: "smallthinker",
        name: Some("smallthinker_thermocline_tiny".to_string()),
        layers: (0..6).map(layer).collect(),
        width: 128,
        heads: 4,
        kv_heads: 2,
        head_width: 32,
        vocab: VOCAB,
        context: 512,
        norm_epsilon: 1e-6,
        rope_theta: 10_000.0,
        experts: 16,
        active: 2,
        neurons: 64,
        gating: Gating::Softmax,
        tied: false,
        bos: Some(eos[0]),
        eos: eos.to_vec(),
        notes: Vec::new(),
    }
}

/// All weights by their names in a checkpoint.
pub type Weights = BTreeMap<String, Var>;

/// Random first weights: embeddings of size 0.3, matrices that keep the size of what passes through them, and those
/// that write to the residual smaller, since as many of them as there are layers add up.
pub fn first_weights(config: &Config, seed: u64) -> Result<Weights> {
    let mut random = Random::new(seed);
    let mut weights = Weights::new();
    let writers = (2.0 * config.layers.len() as f64).sqrt();
    Reference::new(config, |name, shape| {
        let count: usize = shape.iter().product();
        let spread = match shape {
            [_] => 0.0,
            _ if name.starts_with("model.embed") => 0.3,
            [_, inputs] if name.contains("o_proj") || name.contains("down") => 1.0 / (*inputs as f64).sqrt() / writers,
            [_, inputs] if name.starts_with("lm_head") => 0.5 / (*inputs as f64).sqrt(),
            [_, inputs, ..] => 1.0 / (*inputs as f64).sqrt(),
            [] => unreachable!("no weight of the family is a scalar"),
        };
        let value = |random: &mut Random| {
            let (u, v) = (1.0 - random.unit(), random.unit());
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() * spread) as f32
        };
        let values =
            if shape.len() == 1 { vec![1f32; count] } else { (0..count).map(|_| value(&mut random)).collect() };
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
        let tensor = var.as_tensor().clone();
        weights.insert(name.to_string(), var);
        Ok(tensor)
    })?;
    Ok(weights)
}

/// The model over these weights; training them trains it.
pub fn model(config: &Config, weights: &BTreeMap<String, Tensor>) -> Result<Reference> {
    Ok(Reference::new(config, |name, shape| match weights.get(name) {
        Some(tensor) if tensor.dims() == shape => Ok(tensor.clone()),
        Some(tensor) => {
            Err(thermocline::Error::Model(format!("{name}: expected shape {shape:?}, found {:?}", tensor.dims())))
        }
        None => Err(thermocline::Error::Model(format!("{name}: no such tensor among the weights"))),
    })?)
}

pub fn tensors(weights: &Weights) -> BTreeMap<String, Tensor> {
    weights.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
}
