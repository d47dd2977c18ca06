//! Norms, exponentials and rotations: close to the formula in f64, the same bits on every instruction set.

use thermocline_kernels::{Isa, norm, rope};

fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn exp_is_within_1_1_units_in_the_last_place_of_all_f32() {
    let mut worst = 0.0f64;
    // Every 977th of all 2^32 patterns, both signs, not-a-numbers too.
    for pattern in (0..=u32::MAX).step_by(977) {
        let x = f32::from_bits(pattern);
        let (ours, exact) = (norm::exp(x), f64::from(x).exp());
        if x.is_nan() {
            assert!(ours.is_nan(), "{pattern:x}");
        } else if exact < f64::from(f32::MIN_POSITIVE) * 1.000_1 {
            assert!(f64::from(ours) <= exact * 1.000_1 && (ours == 0.0 || ours >= f32::MIN_POSITIVE), "{x}: {ours}");
        } else if exact > f64::from(f32::MAX) * 1.000_001 {
            assert!(ours == f32::INFINITY, "{x}: {ours}");
        } else if ours.is_finite() {
            let unit = f64::from(ours.next_up()) - f64::from(ours);
            worst = worst.max((f64::from(ours) - exact).abs() / unit);
        } else {
            assert!(exact > f64::from(f32::MAX) * 0.999_999, "{x}: {ours}");
        }
    }
    println!("worst error of exp: {worst:.3} units in the last place");
    assert!(worst < 1.1, "{worst}");
}

#[test]
fn exp_at_the_edges() {
    assert_eq!(norm::exp(0.0), 1.0);
    assert_eq!(norm::exp(-0.0), 1.0);
    assert_eq!(norm::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(norm::exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(norm::exp(-1e30), 0.0);
    assert_eq!(norm::exp(1e30), f32::INFINITY);
    assert_eq!(norm::exp(88.9), f32::INFINITY);
    assert!(norm::exp(88.72).is_finite());
    assert!(norm::exp(f32::NAN).is_nan());
    assert_eq!(norm::sigmoid(0.0), 0.5);
    assert_eq!(norm::sigmoid(200.0), 1.0);
    assert_eq!(norm::sigmoid(-200.0), 0.0);
}

#[test]
fn exp_of_many_is_exp_of_each() {
    let mut x = numbers(1, 1003);
    for (i, x) in x.iter_mut().enumerate() {
        *x *= [1.0, 10.0, 90.0, 1e-6, 1e6][i % 5];
    }
    x[..6].copy_from_slice(&[f32::NEG_INFINITY, f32::INFINITY, 0.0, -0.0, -87.336_5, 88.722_84]);
    let judge: Vec<f32> = x.iter().map(|x| norm::exp(*x)).collect();
    for isa in Isa::available() {
        let mut ours = x.clone();
        norm::exp_all(isa, &mut ours);
        assert_eq!(bits(&ours), bits(&judge), "{isa}");
    }
}

#[test]
fn softmax_makes_probabilities() {
    let mut x = [3.0, -1.0, 3.0, f32::NEG_INFINITY];
    norm::softmax(&mut x);
    assert_eq!((x[0], x[3]), (x[2], 0.0));
    assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    norm::softmax(&mut []);
}

#[test]
fn norms_agree_with_the_formula_and_each_other() {
    for len in [1, 15, 16, 17, 33, 256, 1536, 2560, 2571] {
        let (x, weight) = (numbers(len as u64, len), numbers(99, len));
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / len as f64;
        let mut judge = vec![0.0; len];
        norm::rms_norm(Isa::SCALAR, &x, &weight, 1e-6, &mut judge);
        for i in 0..len {
            let exact = f64::from(x[i]) / (mean + 1e-6).sqrt() * f64::from(weight[i]);
            assert!((f64::from(judge[i]) - exact).abs() <= exact.abs() * 1e-6, "{len}: {} {exact}", judge[i]);
        }
        for isa in Isa::available() {
            let mut ours = vec![0.0; len];
            norm::rms_norm(isa, &x, &weight, 1e-6, &mut ours);
            assert_eq!(bits(&ours), bits(&judge), "{isa} {len}");
        }
    }
    let mut zeros = [1.0; 40];
    norm::rms_norm(Isa::best(), &[0.0; 40], &[1.0; 40], 1e-6, &mut zeros);
    assert_eq!(zeros, [0.0; 40]);
}

#[test]
fn sums_are_the_same_everywhere() {
    for len in [0, 1, 16, 50, 1536] {
        let (x, y) = (numbers(3, len), numbers(4, len));
        for isa in Isa::available() {
            let (mut sum, mut scaled) = (y.clone(), y.clone());
            norm::add(isa, &x, &mut sum);
            norm::axpy(isa, 0.37, &x, &mut scaled);
            for i in 0..len {
                assert_eq!(sum[i].to_bits(), (x[i] + y[i]).to_bits());
                assert_eq!(scaled[i].to_bits(), 0.37f32.mul_add(x[i], y[i]).to_bits());
            }
        }
    }
}

#[test]
fn rotation_agrees_with_the_formula_and_itself() {
    for width in [16, 32, 48, 128, 6] {
        let rope = rope::Rope::new(1.5e6, width);
        for first in [0, 1, 4095, 16_383, 1 << 20] {
            let angles = rope.angles(first..first + 2);
            assert_eq!(angles.len(), 2);
            let (cos, sin) = angles.at(1);
            let heads = numbers(width as u64, 3 * width);
            let mut judge = heads.clone();
            rope::rotate(Isa::SCALAR, &mut judge, cos, sin);
            let half = width / 2;
            for (before, after) in heads.chunks(width).zip(judge.chunks(width)) {
                for j in 0..half {
                    let angle = (first + 1) as f64 * 1.5e6f64.powf(-2.0 * j as f64 / width as f64);
                    let (a, b) = (f64::from(before[j]), f64::from(before[j + half]));
                    let (x, y) = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin());
                    assert!((f64::from(after[j]) - x).abs() < 3e-7 && (f64::from(after[j + half]) - y).abs() < 3e-7);
                }
            }
            for isa in Isa::available() {
                let mut ours = heads.clone();
                rope::rotate(isa, &mut ours, cos, sin);
                assert_eq!(bits(&ours), bits(&judge), "{isa} {width}");
            }
            let mut still = heads.clone();
            let none = rope.angles(0..1);
            rope::rotate(Isa::best(), &mut still, none.at(0).0, none.at(0).1);
            assert_eq!(still, heads);
        }
    }
}
