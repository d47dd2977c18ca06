//! Rotation of queries and keys by their position. The angles are computed in f64 by our own sine, cosine and power,
//! from additions, multiplications and divisions alone, and rounded to f32 once: the same bits everywhere.

use std::ops::Range;

use crate::arch::lanes::{self, Lanes, Loop};
use crate::isa::Isa;

/// The angles by which a head turns per position.
pub struct Rope {
    frequencies: Vec<f64>,
}

/// Cosines and sines of a run of positions.
pub struct Angles {
    half: usize,
    cos: Vec<f32>, // [positions, half]
    sin: Vec<f32>,
}

impl Rope {
    /// Frequency j of `head_width / 2` is `theta`^(-2j / `head_width`), per position.
    ///
    /// Panics unless `theta` is finite and positive and `head_width` even and not zero.
    pub fn new(theta: f64, head_width: usize) -> Rope {
        assert!(theta.is_finite() && theta > 0.0, "a rotation with base {theta}");
        assert!(head_width > 0 && head_width.is_multiple_of(2), "a rotation of heads of width {head_width}");
        let log = ln(theta);
        let frequencies = (0..head_width / 2).map(|j| exp64(-(2.0 * j as f64 / head_width as f64) * log)).collect();
        Rope { frequencies }
    }

    /// The angles of these positions.
    pub fn angles(&self, positions: Range<usize>) -> Angles {
        let half = self.frequencies.len();
        let mut angles = Angles { half, cos: Vec::new(), sin: Vec::new() };
        angles.cos.reserve(positions.len() * half);
        angles.sin.reserve(positions.len() * half);
        for position in positions {
            for frequency in &self.frequencies {
                let (sin, cos) = sin_cos(position as f64 * frequency);
                angles.cos.push(cos as f32);
                angles.sin.push(sin as f32);
            }
        }
        angles
    }
}

impl Angles {
    /// How many positions these are.
    pub fn len(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cos.is_empty()
    }

    /// Cosines and sines, each of half a head's width, of position `index`, counted from the first.
    pub fn at(&self, index: usize) -> (&[f32], &[f32]) {
        let range = index * self.half..(index + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Turns the heads of one token, one after the other in `heads`, in place. Half-split pairs (j, j + half):
/// a ← a·cos − b·sin and b ← b·cos + a·sin, each as one product and one fused multiply-add.
///
/// Panics unless `cos` and `sin` have one length, half a head's width, and `heads` is a whole number of heads.
pub fn rotate(isa: Isa, heads: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(
        !cos.is_empty() && cos.len() == sin.len() && heads.len().is_multiple_of(2 * cos.len()),
        "heads of {} numbers turned by {} cosines and {} sines",
        heads.len(),
        cos.len(),
        sin.len()
    );
    lanes::run(isa, Rotate { heads, cos, sin });
}

struct Rotate<'a> {
    heads: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Loop for Rotate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let half = self.cos.len();
        let (cos, cos_rest) = self.cos.as_chunks::<16>();
        let (sin, sin_rest) = self.sin.as_chunks::<16>();
        for head in self.heads.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            let (a, a_rest) = a.as_chunks_mut::<16>();
            let (b, b_rest) = b.as_chunks_mut::<16>();
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let (x, y, cos, sin) = (lanes.load(a), lanes.load(b), lanes.load(cos), lanes.load(sin));
                let minus = lanes.sub(lanes.splat(0.0), lanes.mul(y, sin));
                lanes.store(lanes.fma(x, cos, minus), a);
                lanes.store(lanes.fma(y, cos, lanes.mul(x, sin)), b);
            }
            for (((a, b), &cos), &sin) in a_rest.iter_mut().zip(b_rest).zip(cos_rest).zip(sin_rest) {
                let (x, y) = (*a, *b);
                *a = x.mul_add(cos, 0.0 - y * sin);
                *b = y.mul_add(cos, x * sin);
            }
        }
    }
}

/// 1.5 · 2^52: adding and subtracting it rounds to a whole number, ties to even.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// π / 2 = HIGH + LOW to 106 bits.
const QUARTER_HIGH: f64 = std::f64::consts::FRAC_PI_2;
const QUARTER_LOW: f64 = 6.123_233_995_736_766e-17;
/// ln 2 = HIGH + LOW to 106 bits.
const LN_2_HIGH: f64 = std::f64::consts::LN_2;
const LN_2_LOW: f64 = 2.319_046_813_846_3e-17;

/// Sine and cosine of an angle of up to 2^20, to some 1e-15: quarter turns taken off, then the series.
pub fn sin_cos(angle: f64) -> (f64, f64) {
    let quarters = (angle * std::f64::consts::FRAC_2_PI + ROUND) - ROUND;
    let r = quarters.mul_add(-QUARTER_LOW, quarters.mul_add(-QUARTER_HIGH, angle));
    let square = r * r;
    // Terms up to r^17 and r^16: the next is below 1e-17 at π / 4.
    let (mut sin, mut cos) = (1.0, 1.0);
    for k in (1..=8).rev() {
        let k = f64::from(k);
        cos = 1.0 - square * (1.0 / ((2.0 * k - 1.0) * (2.0 * k))) * cos;
        sin = 1.0 - square * (1.0 / ((2.0 * k) * (2.0 * k + 1.0))) * sin;
    }
    sin *= r;
    match quarters as i64 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Natural logarithm of a positive finite number, to some 1e-16 of its size.
fn ln(x: f64) -> f64 {
    // x = 2^n · m with m in [sqrt(1/2), sqrt(2)); a denormal is a base nobody has.
    let mut n = ((x.to_bits() >> 52) & 0x7ff) as i64 - 1023;
    let mut m = f64::from_bits((x.to_bits() & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m /= 2.0;
        n += 1;
    }
    // ln m = 2 artanh(z); |z| < 0.172, so z^27 / 27 is below 1e-21.
    let z = (m - 1.0) / (m + 1.0);
    let series = (0..=12).rev().fold(0.0, |sum, k| sum * (z * z) + 1.0 / f64::from(2 * k + 1));
    (n as f64).mul_add(LN_2_HIGH, (n as f64).mul_add(LN_2_LOW, 2.0 * z * series))
}

/// e^x where the result is a normal number.
fn exp64(x: f64) -> f64 {
    let n = (x * std::f64::consts::LOG2_E + ROUND) - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    // |r| ≤ 0.347: r^15 / 15! is below 1e-19.
    let series = (1..=14).rev().fold(1.0, |sum, k| 1.0 + r / f64::from(k) * sum);
    series * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_and_logarithms_agree_with_the_library() {
        for theta in [1e-3, 0.5, 1.0, 2.0, 1e4, 1e6, 1.5e6, 5e8] {
            let (ours, theirs) = (ln(theta), f64::ln(theta));
            assert!((ours - theirs).abs() <= 4e-16 * theirs.abs(), "ln {theta}: {ours} {theirs}");
            for j in 0..64 {
                let exponent = -2.0 * f64::from(j) / 128.0;
                let (ours, theirs) = (exp64(exponent * ln(theta)), theta.powf(exponent));
                assert!((ours / theirs - 1.0).abs() < 5e-15, "{theta}^{exponent}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn sines_agree_with_the_library_up_to_2_to_the_20() {
        let mut angle = 0.0;
        while angle <= 1_048_576.0 {
            let (sin, cos) = sin_cos(angle);
            assert!((sin - angle.sin()).abs() < 1e-15 && (cos - angle.cos()).abs() < 1e-15, "{angle}: {sin} {cos}");
            angle = angle * 1.000_37 + 0.000_1;
        }
    }
}
