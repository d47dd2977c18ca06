//! The bundled model's shape and first weights: the 21B's habits in small.

use crate::corpus::random::Random;
use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;
use thermocline::Error;
use thermocline::checkpoint::Part;
use thermocline::config::{Config, Gating, Layer, family};
use thermocline::model::reference::Reference;

/// Positions a query of a windowed layer sees.
pub const WINDOW: usize = 64;
const FAMILY: &str = "smallthinker";
pub const VOCAB: usize = 1024;

/// Layers 0 and 4 see everything and know no positions; the others see a window and rotate.
pub fn config(eos: [u32; 2]) -> Config {
    let layer = |i: usize| match i % 4 {
        0 => Layer { rotary: false, window: None },
        _ => Layer { rotary: true, window: Some(WINDOW) },
    };
    Config {
        family: FAMILY,
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
    Reference::new(config, |part, shape| {
        let count: usize = shape.iter().product();
        let spread = match (part, shape) {
            (_, [] | [_]) => 0.0,
            (Part::Embedding, _) => 0.3,
            (Part::AttentionOut(_) | Part::Down(..), [.., inputs]) => 1.0 / (*inputs as f64).sqrt() / writers,
            (Part::Head, [.., inputs]) => 0.5 / (*inputs as f64).sqrt(),
            (_, [.., inputs]) => 1.0 / (*inputs as f64).sqrt(),
        };
        let value = |random: &mut Random| {
            let (u, v) = (1.0 - random.unit(), random.unit());
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() * spread) as f32
        };
        let values =
            if shape.len() == 1 { vec![1f32; count] } else { (0..count).map(|_| value(&mut random)).collect() };
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
        let tensor = var.as_tensor().clone();
        weights.insert(name(part), var);
        Ok(tensor)
    })?;
    Ok(weights)
}

/// The model over these weights; training them trains it.
pub fn model(config: &Config, weights: &BTreeMap<String, Tensor>) -> Result<Reference> {
    Ok(Reference::new(config, |part, shape| {
        let name = name(part);
        match weights.get(&name) {
            Some(tensor) if tensor.dims() == shape => Ok(tensor.clone()),
            Some(tensor) => Err(Error::Model(format!("{name}: expected shape {shape:?}, found {:?}", tensor.dims()))),
            None => Err(Error::Model(format!("{name}: no such tensor among the weights"))),
        }
    })?)
}

/// A part's name in a safetensors checkpoint of the family.
fn name(part: Part) -> String {
    let family =
        family::ALL.iter().find(|family| family.name == FAMILY).expect("the engine reads the family it is for");
    (family.tensor)(part)
}

pub fn tensors(weights: &Weights) -> BTreeMap<String, Tensor> {
    weights.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
}
