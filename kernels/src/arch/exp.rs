//! 2^x and e^x by polynomial, sixteen at a time and one at a time, the same bits either way. The steps are those of any
//! textbook: split x into a whole number n and a rest, a polynomial for the rest, n into the exponent. Results below
//! 2^-126 are zero: no denormal is ever made.

use super::lanes::Lanes;

/// 1.5 · 2^23: adding it rounds to a whole number, ties to even, and leaves that number in the low bits.
const ROUND: f32 = 12_582_912.0;
/// e^r = 1 + r + r²·(..) for |r| ≤ ln 2 / 2, minimax, highest power first; relative error 2^-28.
const EXP: [f32; 5] = [
    f32::from_bits(0x3ab5_63a7),
    f32::from_bits(0x3c09_1ef0),
    f32::from_bits(0x3d2a_ac2c),
    f32::from_bits(0x3e2a_aa46),
    f32::from_bits(0x3eff_fffe),
];
/// 2^f = 1 + f·(..) for |f| ≤ 1/2, minimax, highest power first; relative error 2^-25.
const EXP2: [f32; 6] = [
    f32::from_bits(0x3924_3db3),
    f32::from_bits(0x3aaf_c326),
    f32::from_bits(0x3c1d_90e4),
    f32::from_bits(0x3d63_56d4),
    f32::from_bits(0x3e75_fdf3),
    f32::from_bits(0x3f31_7219),
];
/// ln 2 = HIGH + LOW to 48 bits.
const LN_2_HIGH: f32 = std::f32::consts::LN_2;
const LN_2_LOW: f32 = -1.904_654_3e-9;
/// Below this e^x < 2^-126.
const EXP_LEAST: f32 = -87.336_5;
/// Below this 2^x < 2^-126.
const EXP2_LEAST: f32 = -126.0;
/// The first f32 whose e^x overflows.
const EXP_MOST: f32 = 88.722_84;

/// 2^x in each lane, for x of at most 0 (or not a number); 0 below -126.
#[inline(always)]
pub(crate) fn exp2<L: Lanes>(lanes: L, x: L::V) -> L::V {
    let t = lanes.add(x, lanes.splat(ROUND));
    let f = lanes.sub(x, lanes.sub(t, lanes.splat(ROUND)));
    let mut p = lanes.splat(EXP2[0]);
    for c in &EXP2[1..] {
        p = lanes.fma(p, f, lanes.splat(*c));
    }
    p = lanes.fma(p, f, lanes.splat(1.0));
    lanes.where_less(x, lanes.splat(EXP2_LEAST), lanes.splat(0.0), lanes.add_exponent(p, t))
}

/// e^x in each lane; 0 below -87.3365, infinite above 88.72284.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(lanes: L, x: L::V) -> L::V {
    let t = lanes.fma(x, lanes.splat(std::f32::consts::LOG2_E), lanes.splat(ROUND));
    let n = lanes.sub(t, lanes.splat(ROUND));
    let r = lanes.fma(n, lanes.splat(-LN_2_HIGH), x);
    let r = lanes.fma(n, lanes.splat(-LN_2_LOW), r);
    let mut p = lanes.splat(EXP[0]);
    for c in &EXP[1..] {
        p = lanes.fma(p, r, lanes.splat(*c));
    }
    p = lanes.fma(p, r, lanes.splat(1.0));
    p = lanes.fma(p, r, lanes.splat(1.0));
    let y = lanes.where_less(x, lanes.splat(EXP_LEAST), lanes.splat(0.0), lanes.add_exponent(p, t));
    // What is too large becomes infinite, and what is not a number stays none.
    lanes.where_less(x, lanes.splat(EXP_MOST), y, lanes.add(x, lanes.splat(f32::INFINITY)))
}

/// [`exp`] of one number.
pub(crate) fn exp_one(x: f32) -> f32 {
    let t = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut p = EXP[0];
    for c in &EXP[1..] {
        p = p.mul_add(r, *c);
    }
    p = p.mul_add(r, 1.0).mul_add(r, 1.0);
    match x {
        _ if x < EXP_LEAST => 0.0,
        _ if x < EXP_MOST => add_exponent(p, t),
        _ => x + f32::INFINITY,
    }
}

/// [`exp2`] of one number.
pub(crate) fn exp2_one(x: f32) -> f32 {
    let t = x + ROUND;
    let f = x - (t - ROUND);
    let mut p = EXP2[0];
    for c in &EXP2[1..] {
        p = p.mul_add(f, *c);
    }
    if x < EXP2_LEAST { 0.0 } else { add_exponent(p.mul_add(f, 1.0), t) }
}

fn add_exponent(p: f32, t: f32) -> f32 {
    f32::from_bits(p.to_bits().wrapping_add(t.to_bits() << 23))
}
