use super::*;
use crate::config::{Gating, Layer};

pub fn config(layers: usize, experts: usize, active: usize) -> Config {
    Config {
        family: "smallthinker",
        name: None,
        layers: vec![Layer { rotary: true, window: None }; layers],
        width: 64,
        heads: 4,
        kv_heads: 2,
        head_width: 16,
        vocab: 100,
        context: 512,
        norm_epsilon: 1e-6,
        rope_theta: 1.5e6,
        experts,
        active,
        neurons: 32,
        gating: Gating::Sigmoid,
        tied: true,
        bos: None,
        eos: vec![],
        notes: vec![],
    }
}

fn counted(tokens: u64, favourite: usize) -> Profile {
    let mut chosen = vec![tokens / 3; 4];
    chosen[favourite] = tokens;
    let counts = LayerCounts {
        tokens,
        chosen,
        looked: vec![100; 4],
        fired: vec![10, 20, 30, 40],
        followers: 10,
        again: 5,
        sampled: 16,
        together: (0..16).collect(),
        next: (0..16).rev().collect(),
    };
    Profile::of(&config(2, 4, 2), &[counts.clone(), counts])
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a").join("x.json");
    assert_eq!(Profile::read(&path, &config(2, 4, 2)).unwrap(), None);
    let profile = counted(1000, 1);
    profile.write(&path).unwrap();
    assert_eq!(Profile::read(&path, &config(2, 4, 2)).unwrap(), Some(profile.clone()));
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    assert_eq!(profile.layers[0].together[0], (3, 3, 15.0 / 16.0));
    let sentence = Profile::read(&path, &config(2, 4, 1)).unwrap_err().to_string();
    assert!(sentence.contains("2 layers with 2 of 4 experts, expected 2 with 1 of 4"), "{sentence}");
}

/// Every cut and every changed byte is a sentence or a profile, never a panic.
#[test]
fn damage_is_a_sentence() {
    let text = counted(1000, 1).to_json();
    for cut in 0..text.len() - 2 {
        assert!(Profile::parse(&text[..cut]).is_err(), "{cut}");
    }
    let mut bytes = text.clone().into_bytes();
    for at in 0..bytes.len() {
        for to in [b'0', b'9', b'-', b'"', b']', b' '] {
            let was = std::mem::replace(&mut bytes[at], to);
            if let Ok(profile) = Profile::parse(std::str::from_utf8(&bytes).unwrap()) {
                assert!(profile.layers.iter().all(|l| l.chosen.len() == profile.experts));
            }
            bytes[at] = was;
        }
    }
    for (wrong, words) in [
        ("[]", "no JSON object"),
        ("{}", "does not say"),
        (r#"{"profile":"thermocline","version":2}"#, "version"),
        (r#"{"profile":"thermocline","version":1,"experts":4,"active":9,"tokens":1,"layers":[]}"#, "no choice"),
        (r#"{"profile":"thermocline","version":1,"experts":4,"active":2,"tokens":1e308,"layers":[]}"#, "`tokens`"),
        (
            r#"{"profile":"thermocline","version":1,"experts":4,"active":2,"tokens":1,"layers":[{}]}"#,
            "layer 0: `chosen`",
        ),
    ] {
        let sentence = Profile::parse(wrong).unwrap_err();
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[test]
fn what_is_older_counts_less() {
    let mut profile = counted(100_000, 0);
    profile.merge(&counted(100_000, 3));
    assert!((profile.tokens - 150_000.0).abs() < 1.0);
    let f = |e| profile.frequency(0, e);
    assert!(f(3) > f(0) && f(0) > f(1), "{:?}", profile.layers[0].chosen);
    assert!((0..4).map(f).sum::<f64>() < 2.01 && (0..4).map(f).sum::<f64>() > 1.99);
    let before = profile.clone();
    profile.merge(&Profile::even(&config(2, 4, 2)));
    assert_eq!(profile, before, "nothing was counted");
}

#[test]
fn where_nothing_is_known_all_are_alike() {
    let even = Profile::even(&config(3, 8, 2));
    assert!((0..8).all(|e| (even.frequency(1, e) - 0.25).abs() < 1e-12));
    assert!((even.firing(0) - FIRING).abs() < 1e-12);
    // A few tokens do not make an expert impossible.
    let few = counted(4, 0);
    assert!(few.frequency(0, 1) > 0.2);
}
