//! Small things done to vectors between the matrices: norms, sums, softmax, and the exponential they rest on.
//!
//! One order of sums on every instruction set (element i goes to lane i mod 16, then the tree l + 8, l + 4, l + 2,
//! l + 1), fused multiply-add throughout, and no call into a mathematics library whose last bit could differ.

use crate::arch::exp;
use crate::arch::lanes::{self, Lanes, Loop};
use crate::isa::Isa;

/// e^x to within 1.1 units in the last place, the same bits everywhere. 0 below -87.3365 (so also at -∞), infinite
/// above 88.72284.
pub fn exp(x: f32) -> f32 {
    exp::exp_one(x)
}

/// [`exp`] of each element.
pub fn exp_all(isa: Isa, x: &mut [f32]) {
    lanes::run(isa, Exp(x));
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Makes probabilities of a few numbers: e^(x - max), divided by their sum in ascending order. Nothing happens to an
/// empty slice.
pub fn softmax(x: &mut [f32]) {
    let max = x.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = exp(*x - max);
        sum += *x;
    }
    for x in x.iter_mut() {
        *x /= sum;
    }
}

/// `out[i] = (x[i] · 1 / sqrt(mean(x²) + epsilon)) · weight[i]`.
///
/// Panics unless `x`, `weight` and `out` have one length.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(
        x.len() == weight.len() && x.len() == out.len(),
        "a norm of {} numbers with {} weights into {}",
        x.len(),
        weight.len(),
        out.len()
    );
    lanes::run(isa, RmsNorm { x, weight, epsilon, out });
}

/// `y[i] += x[i]`.
///
/// Panics unless `x` and `y` have one length.
pub fn add(isa: Isa, x: &[f32], y: &mut [f32]) {
    assert!(x.len() == y.len(), "{} numbers added to {}", x.len(), y.len());
    lanes::run(isa, Add { x, y });
}

/// `y[i] = a · x[i] + y[i]`, rounded once.
///
/// Panics unless `x` and `y` have one length.
pub fn axpy(isa: Isa, a: f32, x: &[f32], y: &mut [f32]) {
    assert!(x.len() == y.len(), "{} numbers added to {}", x.len(), y.len());
    lanes::run(isa, Axpy { a, x, y });
}

struct Exp<'a>(&'a mut [f32]);

impl Loop for Exp<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (whole, rest) = self.0.as_chunks_mut::<16>();
        for x in whole {
            lanes.store(exp::exp(lanes, lanes.load(x)), x);
        }
        for x in rest {
            *x = exp::exp_one(*x);
        }
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Loop for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (x, x_rest) = self.x.as_chunks::<16>();
        let mut squares = lanes.splat(0.0);
        for x in x {
            let x = lanes.load(x);
            squares = lanes.fma(x, x, squares);
        }
        let mut rest = [0.0; 16];
        lanes.store(squares, &mut rest);
        for (sum, &x) in rest.iter_mut().zip(x_rest) {
            *sum = x.mul_add(x, *sum);
        }
        let mean = lanes.sum(lanes.load(&rest)) / self.x.len() as f32;
        let inverse = 1.0 / (mean + self.epsilon).sqrt();

        let (weight, weight_rest) = self.weight.as_chunks::<16>();
        let (out, out_rest) = self.out.as_chunks_mut::<16>();
        for ((x, w), out) in x.iter().zip(weight).zip(out) {
            lanes.store(lanes.mul(lanes.mul(lanes.load(x), lanes.splat(inverse)), lanes.load(w)), out);
        }
        for ((x, w), out) in x_rest.iter().zip(weight_rest).zip(out_rest) {
            *out = (x * inverse) * w;
        }
    }
}

struct Add<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Loop for Add<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (x, x_rest) = self.x.as_chunks::<16>();
        let (y, y_rest) = self.y.as_chunks_mut::<16>();
        for (x, y) in x.iter().zip(y) {
            lanes.store(lanes.add(lanes.load(y), lanes.load(x)), y);
        }
        for (x, y) in x_rest.iter().zip(y_rest) {
            *y += x;
        }
    }
}

struct Axpy<'a> {
    a: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Loop for Axpy<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (x, x_rest) = self.x.as_chunks::<16>();
        let (y, y_rest) = self.y.as_chunks_mut::<16>();
        let a = lanes.splat(self.a);
        for (x, y) in x.iter().zip(y) {
            lanes.store(lanes.fma(a, lanes.load(x), lanes.load(y)), y);
        }
        for (x, y) in x_rest.iter().zip(y_rest) {
            *y = self.a.mul_add(*x, *y);
        }
    }
}
