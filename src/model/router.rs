//! Which experts each token takes, decided from the layer's input before attention (specification 3.1, steps 2.1, 2.9).

use super::linear::Linear;
use crate::checkpoint::Matrix;
use crate::config::Gating;
use crate::error::{Error, Result};
use crate::experts::{Choice, ExpertId};
use crate::host::{Host, Share};
use kernels::Activations;
use kernels::norm::{exp, sigmoid};

pub struct Router {
    layer: u16,
    weight: Linear, // [experts, width], f32
    active: usize,
    gating: Gating,
}

impl Router {
    pub fn new(layer: u16, weight: Matrix, active: usize, gating: Gating) -> Router {
        Router { layer, weight: Linear::new(vec![weight], Share::Router), active, gating }
    }

    /// `x` is the residual stream as it enters the layer, `[t, width]`.
    /// Errors when a logit is not a number: choosing would be arbitrary.
    pub fn choose(&self, host: &Host, x: &Activations) -> Result<Choice> {
        let logits = self.weight.forward(host, x);
        let experts = self.weight.rows();
        let mut choice = Choice { layer: self.layer, active: self.active, experts: Vec::new(), weights: Vec::new() };
        for (token, logits) in logits.chunks_exact(experts).enumerate() {
            if logits.iter().any(|l| !l.is_finite()) {
                return Err(Error::Runtime(format!(
                    "layer {}: a router logit of token {token} of this step is not finite; the weights may be damaged (--check looks for that)",
                    self.layer
                )));
            }
            self.one(logits, &mut choice);
        }
        Ok(choice)
    }

    /// The experts this router would choose first for the tokens of `x` `[t, width]` if that, which entered an earlier layer,
    /// entered its own: `times` as many for each as it will choose, each once, likeliest first. A guess, never an error.
    pub fn expect(&self, host: &Host, x: &Activations, times: usize) -> Vec<ExpertId> {
        let logits = self.weight.forward(host, x);
        let orders: Vec<Vec<u16>> = logits.chunks_exact(self.weight.rows()).map(ranked).collect();
        // The first choice of every token comes before the second of any.
        let mut expected: Vec<u16> = Vec::new();
        for rank in 0..(times * self.active).min(self.weight.rows()) {
            for order in &orders {
                if !expected.contains(&order[rank]) {
                    expected.push(order[rank]);
                }
            }
        }
        expected.into_iter().map(|index| ExpertId { layer: self.layer, index }).collect()
    }

    /// Whether so many tokens leave experts of the layer alone, whatever they choose.
    pub fn leaves_some(&self, tokens: usize) -> bool {
        tokens * self.active <= self.weight.rows()
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

/// Indices of `logits`, largest first, the lower of equals first.
fn ranked(logits: &[f32]) -> Vec<u16> {
    let mut order: Vec<u16> = (0..logits.len() as u16).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    order
}
