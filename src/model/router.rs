//! Which experts each token takes, decided from the layer's input before attention (specification 3.1, steps 2.1, 2.9).

use super::linear::Linear;
use super::there;
use super::vector::{Home, Vector};
use crate::checkpoint::{Part, Weights};
use crate::config::{Config, Gating};
use crate::device::{Accelerator, Weight, What};
use crate::error::{Error, Result};
use crate::experts::{Choice, ExpertId};
use crate::host::{Host, Share};
use kernels::norm::{exp, sigmoid};
use std::sync::Arc;

pub struct Router {
    layer: u16,
    weight: Lies, // [experts, width], f32
    experts: usize,
    active: usize,
    gating: Gating,
}

enum Lies {
    Here(Linear),
    There(Arc<Accelerator>, Weight),
}

impl Router {
    pub fn new(config: &Config, layer: u16, weights: &Weights, home: Home<'_>) -> Result<Router> {
        let part = Part::Router(layer);
        let weight = match home {
            None => Lies::Here(Linear::new(vec![weights.matrix(part)], Share::Router)),
            Some(accelerator) => Lies::There(accelerator.clone(), there::weight(accelerator, weights, part)?),
        };
        Ok(Router { layer, weight, experts: config.experts, active: config.active, gating: config.gating })
    }

    /// Its matrix, where that lies on an accelerator.
    pub fn there(&self) -> Option<&Weight> {
        match &self.weight {
            Lies::Here(_) => None,
            Lies::There(_, weight) => Some(weight),
        }
    }

    /// `[t, experts]`, on the host.
    fn logits(&self, host: &Host, x: &Vector<'_>) -> Result<Vec<f32>> {
        match &self.weight {
            Lies::Here(weight) => Ok(weight.forward(host, x.here(host)?)),
            Lies::There(accelerator, weight) => host.timed(Share::Router, || {
                there::fetched(accelerator, What::Router, &weight.product(x.there(accelerator)?)?)
            }),
        }
    }

    /// `x` is the residual stream as it enters the layer, `[t, width]`.
    /// Errors when a logit is not a number: choosing would be arbitrary.
    pub fn choose(&self, host: &Host, x: &Vector<'_>) -> Result<Choice> {
        let logits = self.logits(host, x)?;
        let mut choice = Choice { layer: self.layer, active: self.active, experts: Vec::new(), weights: Vec::new() };
        for (token, logits) in logits.chunks_exact(self.experts).enumerate() {
            if logits.iter().any(|l| !l.is_finite()) {
                return Err(not_finite(self.layer, token));
            }
            self.one(logits, &mut choice);
        }
        Ok(choice)
    }

    /// The experts this router would choose first for the tokens of `x` `[t, width]` if that, which entered an earlier layer,
    /// entered its own: `times` as many for each as it will choose, each once, likeliest first. A guess.
    pub fn expect(&self, host: &Host, x: &Vector<'_>, times: usize) -> Result<Vec<ExpertId>> {
        let logits = self.logits(host, x)?;
        let orders: Vec<Vec<u16>> = logits.chunks_exact(self.experts).map(ranked).collect();
        // The first choice of every token comes before the second of any.
        let mut expected: Vec<u16> = Vec::new();
        for rank in 0..(times * self.active).min(self.experts) {
            for order in &orders {
                if !expected.contains(&order[rank]) {
                    expected.push(order[rank]);
                }
            }
        }
        Ok(expected.into_iter().map(|index| ExpertId { layer: self.layer, index }).collect())
    }

    /// Whether so many tokens leave experts of the layer alone, whatever they choose.
    pub fn leaves_some(&self, tokens: usize) -> bool {
        tokens * self.active <= self.experts
    }

    /// The largest logits win, ties go to the lower index; gating sees the winners only.
    fn one(&self, logits: &[f32], choice: &mut Choice) {
        let mut order = ranked(logits);
        order.truncate(self.active);
        let top = logits[order[0] as usize];
        let gate = |&e: &u16| match self.gating {
            Gating::Softmax => exp(logits[e as usize] - top),
            // Far below zero sigmoid(r) is exp(r) to the last bit, and a common factor keeps the sum above zero.
            Gating::Sigmoid if top < -60.0 => exp(logits[e as usize] - top),
            Gating::Sigmoid => sigmoid(logits[e as usize]),
        };
        let gates: Vec<f32> = order.iter().map(gate).collect();
        let sum: f32 = gates.iter().sum();
        choice.experts.extend(&order);
        choice.weights.extend(gates.iter().map(|g| g / sum));
    }
}

pub fn not_finite(layer: u16, token: usize) -> Error {
    Error::Runtime(format!(
        "layer {layer}: a router logit of token {token} of this step is not finite; the weights may be damaged (--check looks for that)"
    ))
}

/// Indices of `logits`, largest first, the lower of equals first.
fn ranked(logits: &[f32]) -> Vec<u16> {
    let mut order: Vec<u16> = (0..logits.len() as u16).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    order
}
