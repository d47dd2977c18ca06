//! Three operations with their gradients in one pass each. Composed of candle's own they are the same numbers,
//! but a training step would spend most of its time in their many small passes.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// The contiguous f32 values behind a custom operation's argument.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("expected a contiguous tensor, found strides {:?}", layout.stride()),
    }
}

fn owned(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// h_j = w_j x_j / sqrt(mean(x^2) + epsilon), by row of the last dimension.
pub struct RmsNorm {
    pub epsilon: f32,
}

impl RmsNorm {
    fn inverse(&self, x: &[f32]) -> f32 {
        let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
        1.0 / (mean + self.epsilon).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (values(x, lx)?, values(w, lw)?);
        let mut h = Vec::with_capacity(x.len());
        for x in x.chunks_exact(w.len()) {
            let inverse = self.inverse(x);
            h.extend(x.iter().zip(w).map(|(x, w)| w * (x * inverse)));
        }
        Ok((CpuStorage::F32(h), lx.shape().clone()))
    }

    /// With r = 1 / sqrt(..): dx = r w g - x r^3 mean(w g x), dw = sum of g x r.
    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (xs, ws, gs) = (owned(x)?, owned(w)?, owned(grad)?);
        let width = ws.len();
        let (mut dx, mut dw) = (Vec::with_capacity(xs.len()), vec![0f32; width]);
        for (x, g) in xs.chunks_exact(width).zip(gs.chunks_exact(width)) {
            let r = self.inverse(x);
            let along = (0..width).map(|j| ws[j] * g[j] * x[j]).sum::<f32>() / width as f32 * r * r * r;
            dx.extend((0..width).map(|j| r * ws[j] * g[j] - x[j] * along));
            for j in 0..width {
                dw[j] += g[j] * x[j] * r;
            }
        }
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((Some(dx), Some(Tensor::from_vec(dw, w.shape(), w.device())?)))
    }
}

/// Half-split rotation of `[batch, t, heads, head_width]` by the position, the second dimension:
/// the pair (j, j + head_width/2) turns by position * theta^(-2j / head_width).
pub struct Rotate {
    theta: f64,
    /// 1, or -1 to turn back, which is the gradient of a rotation.
    sign: f64,
}

impl Rotate {
    pub fn by_position(theta: f64) -> Rotate {
        Rotate { theta, sign: 1.0 }
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, t, heads, head_width) = layout.shape().dims4()?;
        let half = head_width / 2;
        // Angles are reduced in f64: f32 alone would lose whole turns far from the start.
        let turn = |i: usize| {
            let (position, j) = ((i / half) as f64 * self.sign, (i % half) as f64);
            let angle = position * self.theta.powf(-2.0 * j / head_width as f64);
            (angle.sin() as f32, angle.cos() as f32)
        };
        let turns: Vec<(f32, f32)> = (0..t * half).map(turn).collect();
        let mut out = values(x, layout)?.to_vec();
        for (row, heads) in out.chunks_exact_mut(heads * head_width).enumerate() {
            let turns = &turns[row % t * half..][..half];
            for head in heads.chunks_exact_mut(head_width) {
                let (first, second) = head.split_at_mut(half);
                for ((a, b), &(sin, cos)) in first.iter_mut().zip(second).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&Rotate { theta: self.theta, sign: -self.sign })?))
    }
}

/// Softmax of `scale` * scores over the keys each query may see; 0 for the others.
/// Scores are `[.., t, t]`; the query at position p sees the keys p-window+1 ..= p, or all up to p.
pub struct CausalSoftmax {
    pub scale: f32,
    pub window: Option<usize>,
}

impl CausalSoftmax {
    fn first(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let t = layout.shape().dims().last().copied().unwrap_or(1);
        let scores = values(scores, layout)?;
        let mut shares = vec![0f32; scores.len()];
        for (row, (scores, shares)) in scores.chunks_exact(t).zip(shares.chunks_exact_mut(t)).enumerate() {
            let visible = self.first(row % t)..row % t + 1;
            let (scores, shares) = (&scores[visible.clone()], &mut shares[visible]);
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (share, score) in shares.iter_mut().zip(scores) {
                *share = ((score - largest) * self.scale).exp();
            }
            let sum: f32 = shares.iter().sum();
            shares.iter_mut().for_each(|share| *share /= sum);
        }
        Ok((CpuStorage::F32(shares), layout.shape().clone()))
    }

    /// d score = scale * share * (g - sum of g * share).
    fn bwd(&self, _: &Tensor, shares: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let t = shares.dims().last().copied().unwrap_or(1);
        let (all_shares, mut all) = (owned(shares)?, owned(grad)?);
        for (row, (shares, grad)) in all_shares.chunks_exact(t).zip(all.chunks_exact_mut(t)).enumerate() {
            let visible = self.first(row % t)..row % t + 1;
            grad[..visible.start].fill(0.0);
            grad[visible.end..].fill(0.0);
            let (shares, grad) = (&shares[visible.clone()], &mut grad[visible]);
            let along: f32 = shares.iter().zip(&*grad).map(|(s, g)| s * g).sum();
            grad.iter_mut().zip(shares).for_each(|(g, s)| *g = self.scale * s * (*g - along));
        }
        Ok(Some(Tensor::from_vec(all, shares.shape(), shares.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device, Var};

    /// Numbers without a pattern, between -1 and 1.
    fn noise(shape: &[usize], seed: u32) -> Var {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    /// Same values and, for a loss that weighs every element differently, the same gradients.
    fn agree(vars: &[&Var], ours: Tensor, composed: Tensor) {
        assert!(largest_difference(&ours, &composed) < 1e-5);
        let weights = noise(ours.dims(), 99);
        let grads = |y: Tensor| (y * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let (ours, composed) = (grads(ours), grads(composed));
        for var in vars {
            let (ours, composed) = (ours.get(var).unwrap(), composed.get(var).unwrap());
            assert!(largest_difference(ours, composed) < 1e-4, "{ours} {composed}");
        }
    }

    #[test]
    fn rms_norm_equals_its_composition() {
        let (x, w) = (noise(&[5, 32], 1), noise(&[32], 2));
        let root = ((x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + 1e-6).unwrap()).sqrt().unwrap();
        let composed = x.broadcast_div(&root).unwrap().broadcast_mul(&w).unwrap();
        agree(&[&x, &w], x.apply_op2(&w, RmsNorm { epsilon: 1e-6 }).unwrap(), composed);
    }

    #[test]
    fn rotation_equals_its_composition() {
        let x = noise(&[2, 7, 3, 8], 3);
        let angle = |p: usize, j: usize| p as f64 * 10_000f64.powf(-2.0 * j as f64 / 8.0);
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..28).map(|i| f(angle(i / 4, i % 4)) as f32).collect();
            Tensor::from_vec(values, (1, 7, 1, 4), &Device::Cpu).unwrap()
        };
        let (sin, cos) = (table(f64::sin), table(f64::cos));
        let (a, b) = (x.narrow(3, 0, 4).unwrap(), x.narrow(3, 4, 4).unwrap());
        let times = |x: &Tensor, y: &Tensor| x.broadcast_mul(y).unwrap();
        let first = (times(&a, &cos) - times(&b, &sin)).unwrap();
        let second = (times(&b, &cos) + times(&a, &sin)).unwrap();
        let composed = Tensor::cat(&[first, second], 3).unwrap();
        agree(&[&x], x.apply_op1(Rotate::by_position(10_000.0)).unwrap(), composed);
    }

    #[test]
    fn softmax_equals_its_composition_with_and_without_a_window() {
        for window in [None, Some(1), Some(3), Some(100)] {
            let scores = noise(&[2, 3, 6, 6], 4);
            let hidden = |i: usize| {
                let (query, key) = (i / 6, i % 6);
                if key <= query && window.is_none_or(|w| key + w > query) { 0f32 } else { f32::NEG_INFINITY }
            };
            let mask = Tensor::from_vec((0..36).map(hidden).collect(), (6, 6), &Device::Cpu).unwrap();
            let masked = (scores.as_tensor() * 0.5).unwrap().broadcast_add(&mask).unwrap();
            let composed = candle_nn::ops::softmax(&masked, D::Minus1).unwrap();
            agree(&[&scores], scores.apply_op1(CausalSoftmax { scale: 0.5, window }).unwrap(), composed);
        }
    }
}
