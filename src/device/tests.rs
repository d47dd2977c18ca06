//! Each operation against plain loops in f64, as the stand-in computes it and as a real device would.

use super::*;
use crate::checkpoint::{DownOrder, Form, Kind};
use kernels::Format;

/// The stand-in, and the processor used as a real device is.
fn both() -> [Arc<Accelerator>; 2] {
    [true, false].map(|plodding| Accelerator::of(DeviceName::StandIn, Device::Cpu, plodding, None))
}

/// Numbers in -1..1.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i * 7919 + seed * 104729 + 13) % 2003) as f32 / 1001.0 - 1.0).sin()).collect()
}

fn tensor(values: &[f32], width: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / width, width), &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Blocks of random weights, and what they decode to.
fn matrix(format: Format, rows: usize, width: usize, seed: usize) -> (Kind, Vec<u8>, Vec<f32>) {
    let mut bytes = vec![0; format.row_bytes(rows * width).unwrap()];
    format.encode(&numbers(rows * width, seed), &mut bytes);
    let mut weights = vec![0f32; rows * width];
    format.decode(&bytes, &mut weights);
    (Kind { format, form: Form::FILE, rows, width }, bytes, weights)
}

/// `x` `[t, width]` times a matrix of rows.
fn product(weights: &[f32], x: &[f32], width: usize) -> Vec<f32> {
    let dot = |x: &[f32], row: &[f32]| x.iter().zip(row).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>() as f32;
    x.chunks(width).flat_map(|x| weights.chunks(width).map(move |row| dot(x, row))).collect()
}

#[track_caller]
fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{i}: {a} beside {b}, the largest is {largest}");
    }
}

/// candle rounds what it multiplies quantised weights with; the stand-in rounds nothing.
fn tolerance(accelerator: &Accelerator, format: Format) -> f32 {
    match (accelerator.plodding, format) {
        (false, Format::BF16) => 2e-2,
        (false, Format::F16) => 2e-3,
        (false, format) if !format.is_float() => 2e-2,
        _ => 1e-5,
    }
}

#[test]
fn products_of_every_format_that_can_be_written() {
    let (rows, width) = (64, 512);
    for format in Format::ALL.into_iter().filter(|format| format.encodes()) {
        let (kind, bytes, weights) = matrix(format, rows, width, 1);
        for accelerator in both() {
            let weight = Weight::new(&accelerator, &kind, &bytes).unwrap();
            for t in [1, 3] {
                let x = numbers(t * width, 2);
                let y = weight.product(&tensor(&x, width)).unwrap();
                close(&values(&y), &product(&weights, &x, width), tolerance(&accelerator, format));
            }
            assert_eq!(accelerator.crossed(What::Weights).0, Crossed { times: 1, bytes: bytes.len() as u64 });
        }
    }
}

#[test]
fn chosen_experts_in_slots_that_are_overwritten() {
    let (width, neurons) = (64, 96);
    for (format, order) in
        [(Format::F32, DownOrder::ByOutput), (Format::F32, DownOrder::ByNeuron), (Format::Q4_0, DownOrder::ByOutput)]
    {
        let (down_rows, down_width) = if order == DownOrder::ByOutput { (width, neurons) } else { (neurons, width) };
        let experts: Vec<_> = (0..4)
            .map(|e| {
                let down = matrix(format, down_rows, down_width, 10 * e + 3);
                [matrix(format, neurons, width, 10 * e + 1), matrix(format, neurons, width, 10 * e + 2), down]
            })
            .collect();
        let [gate, up, down] = &experts[0];
        let laid = Laid { gate: gate.0, up: up.0, down: down.0, order };
        let one = |e: usize, x: &[f32]| -> Vec<f32> {
            let [gate, up, down] = &experts[e];
            let (g, u) = (product(&gate.2, x, width), product(&up.2, x, width));
            let h: Vec<f32> = g.iter().zip(u).map(|(g, u)| g.max(0.0) * u).collect();
            assert!(h.contains(&0.0) && h.iter().any(|h| *h != 0.0), "some fire, some do not");
            let turned: Vec<f32> = match order {
                DownOrder::ByOutput => down.2.clone(),
                DownOrder::ByNeuron => {
                    (0..width * neurons).map(|i| down.2[i % neurons * width + i / neurons]).collect()
                }
            };
            product(&turned, &h, neurons)
        };
        for accelerator in both() {
            let slab = Slab::new(&accelerator, 3, laid.bytes()).unwrap();
            let write = |slot: usize, e: usize| {
                let [gate, up, down] = &experts[e];
                slab.write(slot, &laid, [&gate.1, &up.1, &down.1]).unwrap();
            };
            [(0, 0), (1, 1), (2, 2), (1, 3)].into_iter().for_each(|(slot, e)| write(slot, e));
            let x = numbers(3 * width, 5);
            let chosen = [
                Chosen { slot: 1, tokens: &[0, 1, 2], weights: &[0.25, 0.5, 0.125] },
                Chosen { slot: 2, tokens: &[1], weights: &[2.0] },
            ];
            let y = values(&slab.experts(&chosen, &tensor(&x, width)).unwrap());
            let (all, second) = (one(3, &x), one(2, &x[width..2 * width]));
            let mut expected = vec![0f32; 3 * width];
            for (i, y) in expected.iter_mut().enumerate() {
                *y = all[i] * [0.25, 0.5, 0.125][i / width];
                *y += if i / width == 1 { 2.0 * second[i % width] } else { 0.0 };
            }
            close(&y, &expected, tolerance(&accelerator, format));
            let only = [Chosen { slot: 0, tokens: &[0], weights: &[0.5] }];
            let y = values(&slab.experts(&only, &tensor(&x[..width], width)).unwrap());
            let expected: Vec<f32> = one(0, &x[..width]).iter().map(|y| y * 0.5).collect();
            close(&y, &expected, tolerance(&accelerator, format));
        }
    }
}

/// Attention over a ring that wraps, by windows and without, in steps of any size, after a copy, beside plain loops over
/// all positions.
#[test]
fn attention_over_a_ring() {
    let (heads, kv_heads, head_width, capacity) = (4, 2, 16, 24);
    let (width, kv_width) = (heads * head_width, kv_heads * head_width);
    for (window, steps) in [(None, vec![5, 1, 3, 1, 8]), (Some(9), vec![7, 1, 9, 1, 1, 16, 4, 1, 12])] {
        let total: usize = steps.iter().sum();
        let (q, k, v) = (numbers(total * width, 1), numbers(total * kv_width, 2), numbers(total * kv_width, 3));
        let expected = attention(&q, &k, &v, window, (heads, kv_heads, head_width));
        for accelerator in both() {
            for exact in [true, false] {
                let new = || Ring::new(&accelerator, window, capacity, (kv_heads, head_width), [exact; 2]);
                let (mut ring, mut at, mut found) = (new(), 0, vec![]);
                for (i, &n) in steps.iter().enumerate() {
                    let rows = |x: &[f32], width: usize| tensor(&x[at * width..(at + n) * width], width);
                    ring.store(at, &rows(&k, kv_width), &rows(&v, kv_width)).unwrap();
                    found.extend(values(&ring.attend(&rows(&q, width), at).unwrap()));
                    at += n;
                    if i == 2 {
                        let mut copy = new();
                        copy.copy(&ring, at).unwrap();
                        ring = copy; // and the first goes, with its memory
                    }
                }
                close(&found, &expected, if exact { 1e-5 } else { 2e-3 });
                let bytes = (2 * kv_width * capacity * if exact { 4 } else { 2 }) as u64;
                assert_eq!(accelerator.held().0, bytes);
            }
            assert_eq!(accelerator.held().0, 0);
        }
    }
}

fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    window: Option<usize>,
    (heads, kv_heads, head_width): (usize, usize, usize),
) -> Vec<f32> {
    let total = q.len() / heads / head_width;
    let mut out = vec![0f32; q.len()];
    for (p, head) in (0..total).flat_map(|p| (0..heads).map(move |h| (p, h))) {
        let kv = head * kv_heads / heads;
        let row = |x: &[f32], p: usize| x[(p * kv_heads + kv) * head_width..][..head_width].to_vec();
        let asked = &q[(p * heads + head) * head_width..][..head_width];
        let seen = window.map_or(0, |w| (p + 1).saturating_sub(w))..p + 1;
        let dot = |key: Vec<f32>| asked.iter().zip(key).map(|(a, b)| *a as f64 * b as f64).sum::<f64>();
        let scores: Vec<f64> = seen.clone().map(|s| (dot(row(k, s)) / (head_width as f64).sqrt()).exp()).collect();
        let sum: f64 = scores.iter().sum();
        for (s, score) in seen.zip(scores) {
            for (o, v) in out[(p * heads + head) * head_width..].iter_mut().zip(row(v, s)) {
                *o += (score / sum) as f32 * v;
            }
        }
    }
    out
}

#[test]
fn norms_and_rotation_are_the_kernels() {
    let (width, head_width, epsilon) = (64, 16, 1e-6);
    let isa = kernels::Isa::from_env().unwrap();
    let angles = kernels::rope::Rope::new(1e4, head_width).angles(5..8);
    let (x, weight) = (numbers(3 * width, 4), numbers(width, 6));
    let (mut normed, mut turned) = (vec![0f32; x.len()], x.clone());
    let (mut cos, mut sin) = (vec![], vec![]);
    for (t, (x, normed)) in x.chunks(width).zip(normed.chunks_mut(width)).enumerate() {
        kernels::norm::rms_norm(isa, x, &weight, epsilon, normed);
        kernels::rope::rotate(isa, &mut turned[t * width..(t + 1) * width], angles.at(t).0, angles.at(t).1);
        cos.extend(angles.at(t).0);
        sin.extend(angles.at(t).1);
    }
    for accelerator in both() {
        let x = tensor(&x, width);
        let weight = Tensor::from_slice(&weight, width, &Device::Cpu).unwrap();
        close(&values(&accelerator.norm(&x, &weight, epsilon).unwrap()), &normed, 1e-5);
        let (cos, sin) = (tensor(&cos, head_width / 2), tensor(&sin, head_width / 2));
        close(&values(&accelerator.rotate(&x, &cos, &sin).unwrap()), &turned, 1e-5);
    }
}

#[test]
fn memory_is_bounded_and_given_back() {
    let accelerator = Accelerator::open(DeviceName::StandIn, Some(1000)).unwrap();
    let hold = accelerator.hold(700).unwrap();
    let refused = accelerator.hold(400).err().unwrap();
    assert!(refused.exit_code() == 6 && refused.to_string().contains("stand-in: 400 B more"), "{refused}");
    drop(hold);
    let _all = accelerator.hold(1000).unwrap();
    assert_eq!(accelerator.held(), (1000, 1000));
}

#[test]
#[cfg(not(any(feature = "cuda", feature = "metal")))]
fn what_was_not_built_in_is_said() {
    for name in [DeviceName::Cuda(0), DeviceName::Metal] {
        let said = Accelerator::open(name, None).err().unwrap();
        assert!(said.exit_code() == 2 && said.to_string().contains("was built without"), "{said}");
    }
}

#[test]
fn why_a_device_is_missing_is_said_in_a_few_words() {
    let said = |text: &str| super::reason(candle_core::Error::Msg(text.into()).bt());
    let none = "DriverError(CUDA_ERROR_NO_DEVICE, \"<Failure when calling cuGetErrorString()>\")";
    assert_eq!(said(none), "no NVIDIA GPU answers, or there is no driver for it");
    assert_eq!(said("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"\")"), "the driver says CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!(said("something else"), "something else");
}
