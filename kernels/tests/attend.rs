//! Attention: close to the naive formula in f64, and the same bits for every instruction set, split, chunk and ring.

use std::ops::Range;

use thermocline_kernels::Isa;
use thermocline_kernels::attend::{self, BLOCK, KvFormat, KvHead, Queries, Ring, Scratch, Span};

/// Numbers in -1..1 from a seed.
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

/// A whole context: queries, keys and values of positions from 0 on.
struct Case {
    positions: usize,
    group: usize,
    width: usize,
    window: Option<usize>,
    keys: KvFormat,
    values: KvFormat,
    q: Vec<f32>, // [positions, group, width]
    k: Vec<f32>, // [positions, width]
    v: Vec<f32>,
}

impl Case {
    fn new(positions: usize, group: usize, width: usize, window: Option<usize>, format: KvFormat) -> Case {
        let seed = (positions * 31 + group * 7 + width) as u64;
        // Scores spread over some ten units, so that weights differ by orders of magnitude.
        let q = numbers(seed, positions * group * width).iter().map(|x| x * 6.0).collect();
        let k = numbers(seed + 1, positions * width).iter().map(|x| x * 1.5).collect();
        let v = numbers(seed + 2, positions * width);
        Case { positions, group, width, window, keys: format, values: format, q, k, v }
    }

    /// Stores positions in chunks into a ring and attends to those chunks, as an engine would. The ring holds garbage at
    /// first. `split`: whether blocks are computed apart, in any order, and merged.
    fn run(&self, isa: Isa, capacity: usize, chunks: &[usize], split: bool, from: usize) -> Vec<f32> {
        let row = self.group * self.width;
        let keys = Ring::new(self.keys, self.width, capacity);
        let values = Ring::new(self.values, self.width, capacity);
        let mut key_bytes = vec![0xff; keys.bytes()];
        let mut value_bytes = vec![0xff; values.bytes()];
        let mut out = vec![f32::NAN; self.positions * row];
        let mut queries = Queries::new(isa);
        let mut scratch = Scratch::new();
        let mut chunks = chunks.iter().cycle();
        let mut first = 0;
        while first < self.positions {
            let next = chunks.next().expect("a cycle has no end");
            let tokens = if first < from { from - first } else { *next }.min(self.positions - first).min(capacity);
            let rows = first * self.width..(first + tokens) * self.width;
            keys.store_keys(isa, first, &self.k[rows.clone()], self.width, &mut key_bytes);
            values.store_values(isa, first, &self.v[rows], self.width, &mut value_bytes);
            if first >= from {
                let span = Span { first, tokens, window: self.window };
                queries.fill(span, self.group, self.width, &self.q[first * row..], row);
                let head = KvHead::new(keys, &key_bytes, values, &value_bytes);
                let mut folded = vec![0.0; queries.partial_len()];
                if split {
                    let (blocks, len) = (span.blocks(), queries.partial_len());
                    let mut partials = vec![f32::NAN; blocks.len() * len];
                    let middle = blocks.start + blocks.len() / 2;
                    for part in [middle..blocks.end, blocks.start..middle] {
                        let place = (part.start - blocks.start) * len..(part.end - blocks.start) * len;
                        attend::attend_blocks(&queries, &head, part, &mut partials[place], &mut scratch);
                    }
                    for partial in partials.chunks_exact(len) {
                        attend::merge(&queries, &mut folded, partial);
                    }
                } else {
                    folded.copy_from_slice(attend::attend(&queries, &head, &mut scratch));
                }
                for t in 0..tokens {
                    queries.finish(&folded, t, &mut out[(first + t) * row..][..row]);
                }
            }
            first += tokens;
        }
        out[from * row..].to_vec()
    }

    /// The formula, in f64, over keys and values as their formats hold them.
    fn naive(&self, wanted: Range<usize>) -> Vec<f64> {
        let held = |format, rows: &[f32], key: bool| {
            let ring = Ring::new(format, self.width, self.positions);
            let mut bytes = vec![0; ring.bytes()];
            let mut out = vec![0.0; rows.len()];
            match key {
                true => ring.store_keys(Isa::SCALAR, 0, rows, self.width, &mut bytes),
                false => ring.store_values(Isa::SCALAR, 0, rows, self.width, &mut bytes),
            }
            for (p, out) in out.chunks_exact_mut(self.width).enumerate() {
                match key {
                    true => ring.load_key(p, &bytes, out),
                    false => ring.load_value(p, &bytes, out),
                }
            }
            out
        };
        let (k, v) = (held(self.keys, &self.k, true), held(self.values, &self.v, false));
        let mut out = Vec::new();
        for p in wanted {
            let oldest = self.window.map_or(0, |w| (p + 1).saturating_sub(w));
            for g in 0..self.group {
                let q = &self.q[(p * self.group + g) * self.width..][..self.width];
                let scores: Vec<f64> = (oldest..=p)
                    .map(|p| {
                        let k = &k[p * self.width..][..self.width];
                        let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                        dot / (self.width as f64).sqrt()
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                out.extend((0..self.width).map(|c| {
                    let weighted =
                        scores.iter().zip(oldest..).map(|(s, p)| (s - most).exp() * f64::from(v[p * self.width + c]));
                    weighted.sum::<f64>() / sum
                }));
            }
        }
        out
    }
}

fn close(ours: &[f32], theirs: &[f64], what: &str) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        // Values are below 1, scores below some 30: an error of 30 · 2^-23 in a score is one of 4e-6 in a weight.
        assert!((f64::from(*a) - b).abs() < 1e-5, "{what}: element {i} is {a}, not {b}");
    }
}

fn say_what_is_missing() {
    for name in Isa::missing() {
        println!("not run here: {name}");
    }
}

#[test]
fn agrees_with_the_formula() {
    say_what_is_missing();
    for format in KvFormat::ALL {
        for (group, width, window) in
            [(1, 32, None), (6, 128, None), (7, 128, Some(100)), (3, 64, Some(300)), (9, 96, None), (17, 32, Some(1))]
        {
            let case = Case::new(BLOCK * 2 + 77, group, width, window, format);
            let from = case.positions - 5;
            let theirs = case.naive(from..case.positions);
            for isa in Isa::available() {
                let ours = case.run(isa, case.positions, &[1], false, from);
                close(&ours, &theirs, &format!("{isa} {} group {group} width {width} {window:?}", format.name()));
            }
        }
    }
}

#[test]
fn formats_of_keys_and_values_may_differ() {
    for keys in KvFormat::ALL {
        for values in KvFormat::ALL {
            let case = Case { keys, values, ..Case::new(150, 6, 64, None, KvFormat::F32) };
            let theirs = case.naive(0..150);
            for isa in Isa::available() {
                close(&case.run(isa, 150, &[150], false, 0), &theirs, &format!("{isa} {keys:?} {values:?}"));
            }
        }
    }
}

#[test]
fn same_bits_on_every_instruction_set_split_and_chunk() {
    for format in KvFormat::ALL {
        for (positions, group, width, window) in [
            (BLOCK + 40, 6, 64, None),
            (BLOCK + 40, 7, 32, Some(50)),
            (BLOCK + 3, 1, 32, Some(3)),
            (2 * BLOCK + 20, 2, 96, Some(BLOCK)),
            (70, 13, 160, None),
        ] {
            let case = Case::new(positions, group, width, window, format);
            let what = format!("{} {positions} positions, group {group} width {width} {window:?}", format.name());
            let judge = bits(&case.run(Isa::SCALAR, positions, &[1], false, 0));
            for isa in Isa::available() {
                let ways = [
                    (&[1, 2, 3, 5, 31, 64][..], true),
                    (&[positions], false),
                    (&[positions], true),
                    (&[16], false),
                    (&[1], true),
                    (&[1], false),
                ];
                // Scalar code is slow: two ways of it must do.
                for (chunks, split) in ways.into_iter().take(if isa == Isa::SCALAR { 2 } else { 6 }) {
                    let ours = bits(&case.run(isa, positions, chunks, split, 0));
                    assert!(ours == judge, "{isa} chunks {chunks:?} split {split}: {what}");
                }
            }
        }
    }
}

#[test]
fn same_bits_when_the_ring_has_wrapped() {
    let window = BLOCK - 20;
    for format in KvFormat::ALL {
        for width in [32, 128] {
            let case = Case::new(4 * BLOCK + 33, 3, width, Some(window), format);
            let from = case.positions - 2 * BLOCK;
            let judge = bits(&case.run(Isa::best(), case.positions, &[1], false, from));
            for isa in Isa::available() {
                let rings = [(BLOCK, &[1, 7, 20][..]), (2 * BLOCK, &[64, 200]), (5 * BLOCK, &[500])];
                for (capacity, chunks) in rings.into_iter().take(if isa == Isa::SCALAR { 1 } else { 3 }) {
                    let ours = bits(&case.run(isa, capacity, chunks, chunks.len() == 2, from));
                    assert!(ours == judge, "{isa} {} width {width} ring of {capacity}", format.name());
                }
            }
        }
    }
}

#[test]
fn a_cache_that_has_not_wrapped_grows_by_copying() {
    let (small, large) = (Ring::new(KvFormat::Q8_0, 64, BLOCK), Ring::new(KvFormat::Q8_0, 64, 3 * BLOCK));
    let rows = numbers(5, BLOCK * 64);
    let (mut a, mut b) = (vec![0; small.bytes()], vec![0; large.bytes()]);
    small.store_keys(Isa::best(), 0, &rows, 64, &mut a);
    large.store_keys(Isa::best(), 0, &rows, 64, &mut b);
    assert_eq!(a, b[..a.len()]);
    small.store_values(Isa::best(), 0, &rows, 64, &mut a);
    large.store_values(Isa::best(), 0, &rows, 64, &mut b);
    assert_eq!(a, b[..a.len()]);
}

#[test]
fn what_is_stored_is_what_the_format_can_hold() {
    let mut rows = numbers(9, 96 * 20);
    rows[..4].copy_from_slice(&[0.0, -0.0, 65504.0, -1e-7]);
    rows[40..72].fill(0.0);
    rows[96..128].fill(1e-9);
    for format in KvFormat::ALL {
        let ring = Ring::new(format, 96, BLOCK);
        let mut judge = None;
        for isa in Isa::available() {
            let (mut keys, mut values) = (vec![0; ring.bytes()], vec![0; ring.bytes()]);
            // Rows 100 apart but for the last, and slots that wrap.
            let mut spread: Vec<f32> = rows.chunks_exact(96).flat_map(|row| [row, &[7.0; 4]].concat()).collect();
            spread.truncate(100 * 19 + 96);
            ring.store_keys(isa, BLOCK - 10, &spread, 100, &mut keys);
            ring.store_values(isa, BLOCK - 10, &spread, 100, &mut values);
            let (mut key, mut value) = ([0.0; 96], [0.0; 96]);
            for (t, row) in rows.chunks_exact(96).enumerate() {
                ring.load_key(BLOCK - 10 + t, &keys, &mut key);
                ring.load_value(BLOCK - 10 + t, &values, &mut value);
                assert_eq!(bits(&key), bits(&value));
                for (run, held) in row.chunks_exact(32).zip(key.chunks_exact(32)) {
                    let most = run.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
                    for (x, held) in run.iter().zip(held) {
                        let error = (x - held).abs();
                        match format {
                            KvFormat::F32 => assert_eq!(x.to_bits(), held.to_bits()),
                            KvFormat::F16 => assert_eq!(half(*x), *held),
                            KvFormat::Q8_0 => assert!(error <= most / 127.0 * 0.51 + 3e-8, "{x} held as {held}"),
                        }
                    }
                }
            }
            let stored = (keys, values);
            assert!(judge.get_or_insert_with(|| stored.clone()) == &stored, "{isa} {}", format.name());
        }
    }
}

/// The nearest f16, as f32, by arithmetic: eleven significant bits, no exponent below -24.
fn half(x: f32) -> f32 {
    if x == 0.0 {
        return x;
    }
    let exponent = ((x.to_bits() >> 23) & 0xff) as i32 - 127;
    let unit = 2f64.powi((exponent - 10).max(-24));
    ((f64::from(x) / unit).round_ties_even() * unit) as f32
}

#[test]
fn a_span_knows_its_blocks() {
    let span = |first, tokens, window| Span { first, tokens, window };
    assert_eq!(span(0, 1, None).blocks(), 0..1);
    assert_eq!(span(BLOCK - 1, 2, None).blocks(), 0..2);
    assert_eq!(span(2 * BLOCK, 1, Some(BLOCK)).blocks(), 1..3);
    assert_eq!(span(2 * BLOCK - 1, 1, Some(BLOCK)).blocks(), 1..2);
    assert_eq!(span(5, 0, None).blocks(), 0..0);
    assert_eq!(span(10, 4, Some(3)).visible(1), 9..12);
    assert_eq!(span(1, 4, Some(30)).visible(0), 0..2);
}

#[test]
fn broken_contracts_are_refused() {
    fn refused<T>(f: impl Fn() -> T) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| std::hint::black_box(f()))).is_err()
    }
    let ring = Ring::new(KvFormat::F16, 32, BLOCK);
    let bytes = vec![0; ring.bytes()];
    assert!(refused(|| Ring::new(KvFormat::F16, 24, 10)));
    assert!(refused(|| Ring::new(KvFormat::Q8_0, 48, 10)));
    assert!(refused(|| KvHead::new(ring, &bytes[1..], ring, &bytes)));
    assert!(refused(|| KvHead::new(ring, &bytes, Ring::new(KvFormat::F32, 32, 2 * BLOCK), &bytes)));
    let mut queries = Queries::new(Isa::best());
    queries.fill(Span { first: BLOCK, tokens: 1, window: None }, 1, 32, &[0.0; 32], 32);
    let head = KvHead::new(ring, &bytes, ring, &bytes);
    // The ring is one position too small.
    assert!(refused(|| attend::attend(&queries, &head, &mut Scratch::new()).len()));
    assert!(refused(|| Queries::new(Isa::best()).fill(
        Span { first: 0, tokens: 2, window: None },
        1,
        32,
        &[0.0; 63],
        32
    )));
    assert!(refused(|| Queries::new(Isa::best()).fill(
        Span { first: 0, tokens: 1, window: Some(0) },
        1,
        32,
        &[0.0; 32],
        32
    )));
}
