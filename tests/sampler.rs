//! The sampler, seen from outside: which tokens can come, how often, and what is refused.

use proptest::prelude::*;
use std::collections::BTreeMap;
use thermocline::Error;
use thermocline::engine::sampler::{Sampler, Sampling};

/// No cuts, no penalties.
fn plain(temperature: f32) -> Sampling {
    Sampling { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() }
}

fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

/// How often each token comes in `n` draws.
fn counts(settings: &Sampling, logits: &[f32], recent: &[u32], n: usize) -> BTreeMap<u32, usize> {
    let mut sampler = Sampler::new(settings, logits.len()).unwrap();
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        *counts.entry(sampler.sample(&mut logits.to_vec(), recent).unwrap()).or_default() += 1;
    }
    counts
}

fn drawn(settings: &Sampling, logits: &[f32]) -> Vec<u32> {
    counts(settings, logits, &[], 3000).into_keys().collect()
}

/// Every frequency within five standard deviations of its probability.
fn assert_close(counts: &BTreeMap<u32, usize>, expected: &[f64]) {
    let n: usize = counts.values().sum();
    for (id, p) in (0u32..).zip(expected) {
        let found = counts.get(&id).copied().unwrap_or(0) as f64;
        let slack = 5.0 * (n as f64 * p * (1.0 - p)).sqrt();
        assert!((found - n as f64 * p).abs() <= slack, "token {id}: {found} of {n}, expected {p}");
    }
}

#[test]
fn temperature_zero_takes_the_best_and_of_equals_the_lowest() {
    let mut sampler = Sampler::new(&Sampling { temperature: 0.0, ..Sampling::default() }, 5).unwrap();
    assert_eq!(sampler.sample(&mut [0.0, 3.0, 1.0, 3.0, 2.0], &[]).unwrap(), 1);
    assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY, -4.0, -3.0, -3.0, -9.0], &[]).unwrap(), 2);
}

#[test]
fn frequencies_follow_the_probabilities() {
    let p = [0.5, 0.25, 0.15, 0.1];
    assert_close(&counts(&plain(1.0), &logits_of(&p), &[], 20_000), &p.map(f64::from));
    // Temperature 1/2 squares the probabilities.
    let squares: Vec<f64> = p.iter().map(|p| f64::from(p * p)).collect();
    let sum: f64 = squares.iter().sum();
    let expected: Vec<f64> = squares.iter().map(|s| s / sum).collect();
    assert_close(&counts(&plain(0.5), &logits_of(&p), &[], 20_000), &expected);
}

#[test]
fn top_k_keeps_the_best_and_of_equals_the_lower_ids() {
    let logits = [1.0, 5.0, 4.0, 5.0, 4.0, 4.0];
    assert_eq!(drawn(&Sampling { top_k: 3, ..plain(1.0) }, &logits), [1, 2, 3]);
    assert_eq!(drawn(&Sampling { top_k: 1, ..plain(5.0) }, &logits), [1]);
    assert_eq!(drawn(&Sampling { top_k: 6, ..plain(5.0) }, &logits).len(), 6);
    assert_eq!(drawn(&Sampling { top_k: 600, ..plain(5.0) }, &logits).len(), 6);
}

#[test]
fn top_p_keeps_the_fewest_that_reach_the_mass() {
    let logits = logits_of(&[0.1, 0.4, 0.2, 0.3]);
    for (top_p, kept) in
        [(0.0, vec![1]), (0.39, vec![1]), (0.5, vec![1, 3]), (0.8, vec![1, 2, 3]), (0.95, vec![0, 1, 2, 3])]
    {
        assert_eq!(drawn(&Sampling { top_p, ..plain(1.0) }, &logits), kept, "top-p {top_p}");
    }
    // After top-k the mass is that of what top-k left: 0.4 of 0.7 reaches a half.
    assert_eq!(drawn(&Sampling { top_k: 2, top_p: 0.5, ..plain(1.0) }, &logits), [1]);
    // Temperature comes first: a hot distribution is flatter, and more are needed.
    assert_eq!(drawn(&Sampling { top_p: 0.6, ..plain(1.0) }, &logits), [1, 3]);
    assert_eq!(drawn(&Sampling { top_p: 0.6, ..plain(100.0) }, &logits), [1, 2, 3]);
    let kept = counts(&Sampling { top_p: 0.5, ..plain(1.0) }, &logits, &[], 20_000);
    assert_close(&kept, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
}

#[test]
fn min_p_is_relative_to_the_best() {
    let logits = logits_of(&[0.05, 0.5, 0.26, 0.19]);
    assert_eq!(drawn(&Sampling { min_p: 0.5, ..plain(1.0) }, &logits), [1, 2]);
    assert_eq!(drawn(&Sampling { min_p: 1.0, ..plain(1.0) }, &logits), [1]);
    assert_eq!(drawn(&Sampling { min_p: 0.05, ..plain(1.0) }, &logits), [0, 1, 2, 3]);
}

#[test]
fn penalties_change_recent_tokens_only() {
    let best = |settings: Sampling, recent: &[u32]| {
        let mut logits = [2.0, 1.5, -1.0, -1.2];
        let mut sampler = Sampler::new(&Sampling { temperature: 0.0, ..settings }, 4).unwrap();
        let id = sampler.sample(&mut logits, recent).unwrap();
        (id, logits)
    };
    let repeat = Sampling { repeat_penalty: 2.0, ..Sampling::default() };
    assert_eq!(best(repeat.clone(), &[0, 0, 2]), (1, [1.0, 1.5, -2.0, -1.2]));
    assert_eq!(best(Sampling { repeat_last_n: 1, ..repeat.clone() }, &[0, 0, 2]), (0, [2.0, 1.5, -2.0, -1.2]));
    assert_eq!(best(Sampling { repeat_last_n: 0, ..repeat.clone() }, &[0, 0, 2]), (0, [2.0, 1.5, -1.0, -1.2]));
    assert_eq!(best(Sampling { presence_penalty: 1.0, ..Sampling::default() }, &[0, 0]), (1, [1.0, 1.5, -1.0, -1.2]));
    assert_eq!(best(Sampling { frequency_penalty: 1.0, ..Sampling::default() }, &[0, 0]), (1, [0.0, 1.5, -1.0, -1.2]));
    // Ids beyond the vocabulary may stand in a history; they are nobody's.
    assert_eq!(best(repeat, &[77]).0, 0);
}

#[test]
fn bias_forces_forbids_and_is_checked() {
    let mut settings = Sampling { logit_bias: vec![(2, 100.0)], ..Sampling::default() };
    assert_eq!(drawn(&settings, &[0.0; 4]), [2]);
    settings.logit_bias = vec![(0, f32::NEG_INFINITY), (3, f32::NEG_INFINITY)];
    assert_eq!(drawn(&settings, &[9.0, 0.0, 0.0, 9.0]), [1, 2]);
    settings.logit_bias = vec![(4, 1.0)];
    assert!(matches!(Sampler::new(&settings, 4), Err(Error::Usage(s)) if s.contains("token 4")));
}

#[test]
fn padding_is_never_drawn() {
    let mut logits = [0.0, 1.0, 50.0, 0.5, 99.0, 99.0];
    let mut sampler = Sampler::new(&plain(1.0), 4).unwrap().forbid(&[2, 5]);
    for _ in 0..500 {
        assert!([0, 1, 3].contains(&sampler.sample(&mut logits, &[]).unwrap()));
    }
    let mut greedy = Sampler::new(&plain(0.0), 4).unwrap().forbid(&[2]);
    assert_eq!(greedy.sample(&mut logits, &[]).unwrap(), 1);
}

#[test]
fn a_seed_is_a_promise() {
    let logits: Vec<f32> =
        (0..151_669u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 21) as f32).collect();
    let tokens = |settings: &Sampling| -> Vec<u32> {
        let mut sampler = Sampler::new(settings, logits.len()).unwrap();
        (0..12).map(|_| sampler.sample(&mut logits.clone(), &[]).unwrap()).collect()
    };
    let settings = Sampling { seed: 42, temperature: 1.0, ..Sampling::default() };
    assert_eq!(tokens(&settings), tokens(&settings));
    assert_ne!(tokens(&settings), tokens(&Sampling { seed: 43, ..settings.clone() }));
    // Recorded once; another machine, thread count or release of ours must draw the same.
    assert_eq!(tokens(&settings), RECORDED_TOP_K);
    let wide = Sampling { seed: 42, top_p: 0.9, ..plain(0.8) };
    assert_eq!(tokens(&wide), RECORDED_WIDE);
}

const RECORDED_TOP_K: [u32; 12] =
    [28657, 90152, 39603, 90152, 140701, 101098, 151647, 57314, 151647, 6765, 96917, 57314];
const RECORDED_WIDE: [u32; 12] = [20243, 79871, 37739, 82314, 131724, 96543, 150176, 61571, 146982, 5210, 93650, 62935];

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    for settings in [plain(0.0), plain(1.0), Sampling::default()] {
        let mut sampler = Sampler::new(&settings, 3).unwrap();
        let mut sentence = |mut logits: [f32; 3]| match sampler.sample(&mut logits, &[]) {
            Err(Error::Runtime(s)) => s,
            other => panic!("{other:?}"),
        };
        assert!(sentence([0.0, f32::NAN, 1.0]).contains("token 1 is NaN"));
        assert!(sentence([f32::INFINITY, 0.0, 1.0]).contains("token 0 is inf"));
        assert!(sentence([f32::NEG_INFINITY; 3]).contains("no token is left"));
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let sentence = |edit: fn(&mut Sampling)| {
        let mut settings = Sampling::default();
        edit(&mut settings);
        match Sampler::new(&settings, 10).err() {
            Some(Error::Usage(s)) => s,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(sentence(|s| s.temperature = -1.0), "temperature is -1; expected 0 (always the best token) or more");
    assert!(sentence(|s| s.temperature = f32::NAN).starts_with("temperature is NaN"));
    assert!(sentence(|s| s.top_p = 1.5).starts_with("top-p is 1.5"));
    assert!(sentence(|s| s.min_p = -0.1).starts_with("min-p is -0.1"));
    assert!(sentence(|s| s.repeat_penalty = 0.0).starts_with("repeat penalty is 0"));
    assert!(sentence(|s| s.presence_penalty = f32::INFINITY).starts_with("presence penalty"));
    assert!(sentence(|s| s.frequency_penalty = f32::NAN).starts_with("frequency penalty"));
    assert!(sentence(|s| s.logit_bias = vec![(1, f32::INFINITY)]).starts_with("logit bias of token 1 is inf"));
}

#[test]
fn logprobs_are_the_models_own() {
    let p = [0.1, 0.4, 0.2, 0.3];
    let settings =
        Sampling { temperature: 0.0, logit_bias: vec![(2, 9.0)], repeat_penalty: 3.0, ..Sampling::default() };
    let mut sampler = Sampler::new(&settings, 4).unwrap();
    let (id, logprobs) = sampler.sample_with_logprobs(&mut logits_of(&p), &[2], 2).unwrap();
    assert_eq!(id, 2);
    assert!((logprobs.chosen - 0.2f32.ln()).abs() < 1e-6);
    assert_eq!(logprobs.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3]);
    assert!((logprobs.top[1].1 - 0.3f32.ln()).abs() < 1e-6);
}

/// The rules of the module's first lines, with a sort and the library's exponential.
fn allowed(s: &Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
    let mut list: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
    list.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if s.top_k > 0 {
        list.truncate(s.top_k);
    }
    let max = f64::from(list[0].1);
    let mut weights: Vec<(u32, f64)> =
        list.iter().map(|&(id, l)| (id, ((f64::from(l) - max) / f64::from(s.temperature)).exp())).collect();
    let mass = f64::from(s.top_p) * weights.iter().map(|w| w.1).sum::<f64>();
    let mut sum = 0.0;
    let enough = weights.iter().position(|w| {
        sum += w.1;
        sum >= mass
    });
    if s.top_p < 1.0 {
        weights.truncate(enough.map_or(weights.len(), |n| n + 1));
    }
    weights.retain(|w| w.1 >= f64::from(s.min_p));
    weights
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn cuts_agree_with_a_sort(
        logits in prop::collection::vec(prop_oneof![-8.0f32..8.0, (-3i8..3).prop_map(f32::from)], 1..400),
        temperature in 0.2f32..3.0,
        top_k in prop_oneof![Just(0usize), 1usize..80],
        top_p in prop_oneof![Just(1.0f32), 0.0f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5],
        seed in any::<u64>(),
    ) {
        let settings = Sampling { temperature, top_k, top_p, min_p, seed, ..Sampling::default() };
        let expected: Vec<u32> = allowed(&settings, &logits).iter().map(|w| w.0).collect();
        let mut sampler = Sampler::new(&settings, logits.len()).unwrap();
        for _ in 0..20 {
            let id = sampler.sample(&mut logits.clone(), &[]).unwrap();
            prop_assert!(expected.contains(&id), "{} is not among {:?}", id, expected);
        }
    }
}
