//! What training minimises, and the few things candle leaves to its users.

use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Shape, Tensor, Var};
use thermocline::model::reference::Seen;

/// Weighted mean of -ln p(target), in nats; `[n, vocab]` -> `[]`. One pass each way over the widest tensor of the model.
pub struct CrossEntropy {
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
}

impl CrossEntropy {
    pub fn of(self, logits: &Tensor) -> Result<Tensor> {
        Ok(logits.apply_op1(self)?)
    }
}

/// -ln p of each target, in nats.
pub fn surprises(logits: &[f32], targets: &[u32]) -> Vec<f32> {
    let vocab = logits.len() / targets.len();
    logits
        .chunks_exact(vocab)
        .zip(targets)
        .map(|(row, &target)| {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            largest + row.iter().map(|l| (l - largest).exp()).sum::<f32>().ln() - row[target as usize]
        })
        .collect()
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("expected contiguous logits") };
        let surprises = surprises(&logits.as_slice::<f32>()?[start..end], &self.targets);
        let sum: f32 = surprises.iter().zip(&self.weights).map(|(s, w)| s * w).sum();
        Ok((CpuStorage::F32(vec![sum / self.weights.iter().sum::<f32>()]), Shape::from(())))
    }

    /// (softmax - one at the target) * weight / sum of weights.
    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let mut rows: Vec<f32> = logits.flatten_all()?.to_vec1()?;
        let factor = grad.to_scalar::<f32>()? / self.weights.iter().sum::<f32>();
        let vocab = rows.len() / self.targets.len();
        for ((row, &target), weight) in rows.chunks_exact_mut(vocab).zip(&self.targets).zip(&self.weights) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|l| *l = (*l - largest).exp());
            let scale = factor * weight / row.iter().sum::<f32>();
            row.iter_mut().for_each(|l| *l *= scale);
            row[target as usize] -= factor * weight;
        }
        Ok(Some(Tensor::from_vec(rows, logits.shape(), logits.device())?))
    }
}

/// Keeps every expert in work: experts * sum over e of (share of choices of e) * (mean probability of e), 1 when even.
///
/// It is taken over the whole batch, all domains together, so an expert may still be one domain's favourite.
pub fn balance(layers: &[Seen]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for seen in layers {
        let experts = seen.router.dim(1)?;
        let mut shares = vec![0f32; experts];
        seen.chosen.iter().for_each(|&e| shares[e as usize] += experts as f32 / seen.chosen.len() as f32);
        let shares = Tensor::new(shares, seen.router.device())?;
        let layer = (candle_nn::ops::softmax(&seen.router, D::Minus1)?.mean(0)? * shares)?.sum_all()?;
        sum = Some(match sum {
            None => layer,
            Some(sum) => (sum + layer)?,
        });
    }
    Ok((sum.expect("a model has layers") / layers.len() as f64)?)
}

/// Mean relu(gate) over the neurons of chosen experts: what silence is bought with.
pub fn loudness(layers: &[Seen]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    let mut count = 0;
    for (_, gate) in layers.iter().flat_map(|seen| &seen.gates) {
        count += gate.elem_count();
        let part = gate.sum_all()?;
        sum = Some(match sum {
            None => part,
            Some(sum) => (sum + part)?,
        });
    }
    Ok((sum.expect("tokens choose experts") / count as f64)?)
}

/// Neurons of chosen experts in this layer, and how many of them say nothing.
pub fn silence(seen: &Seen) -> Result<(usize, usize)> {
    let (mut all, mut silent) = (0, 0);
    for (_, gate) in &seen.gates {
        all += gate.elem_count();
        silent += gate.eq(0f32)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()? as usize;
    }
    Ok((all, silent))
}

/// Scales all gradients so that their common norm is at most `limit`; answers the norm before.
pub fn clip(grads: &mut GradStore, vars: &[Var], limit: f64) -> Result<f64> {
    let mut squares = 0f64;
    for var in vars {
        if let Some(grad) = grads.get(var) {
            squares += grad.sqr()?.sum_all()?.to_scalar::<f32>()? as f64;
        }
    }
    let norm = squares.sqrt();
    if norm > limit {
        for var in vars {
            if let Some(grad) = grads.remove(var) {
                grads.insert(var, (grad * (limit / norm))?);
            }
        }
    }
    Ok(norm)
}
