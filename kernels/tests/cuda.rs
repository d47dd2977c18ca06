//! The kernels for CUDA against the processor's, to the bit. Their sources run here as they are, on the host.

mod cases;
mod emulated;
mod step;

use cases::{Kind, Matrix, Random, assert_same};
use emulated::{Buffer, Machine, launch, machine, say};
use kernels::attend::{Buffer as Kept, KvFormat, KvHead, Queries, Ring, Scratch, Span};
use kernels::cuda::{self, Asked, Attend, Cache, DownForm, ExpertShape, Inner, Rounded, Vectors};
use kernels::{Activations, Columns, Format, Isa, Layout, Order, Pick, Rows, Tiles};
use thermocline_kernels as kernels;

const FORMATS: [Format; 6] = [Format::Q4_0, Format::Q4_1, Format::Q8_0, Format::F32, Format::F16, Format::BF16];

/// Vectors on the device, rounded there where their width allows.
struct Given {
    plain: Buffer,
    rounded: Buffer,
    t: usize,
    width: usize,
}

impl Given {
    fn room(t: usize, width: usize) -> Given {
        let rounded = Buffer::poisoned(Rounded::bytes(t, width));
        Given { plain: Buffer::poisoned(t * width * 4), rounded, t, width }
    }

    fn of(values: &[f32], t: usize, width: usize) -> Given {
        Given { plain: Buffer::of(values), ..Given::room(t, width) }
    }

    fn vectors(&self) -> Vectors {
        let (t, width) = (self.t, self.width);
        let rounded = Rounded::at(self.rounded.address(), t, width);
        Vectors { plain: self.plain.address(), rounded, t, width }
    }

    /// Codes and scales against the host's, numbers that are none being all alike.
    fn assert_rounded(&self, x: &Activations, what: &str) {
        let (t, width) = (self.t, self.width);
        let at = Rounded::at(0, t, width);
        let bytes = self.rounded.read();
        for v in 0..t {
            for i in 0..width {
                assert_eq!(bytes[v * width + i] as i8, x.code(v, i), "{what}: code {i} of vector {v}");
            }
            for b in 0..width / 32 {
                let word = |at: u64| bytes[at as usize + (v * width / 32 + b) * 4..].first_chunk().copied().unwrap();
                let (scale, whole) = (f32::from_le_bytes(word(at.scales)), i32::from_le_bytes(word(at.wholes)));
                let expected = x.scale(v, b);
                assert!(scale == expected || scale.is_nan() && expected.is_nan(), "{what}: scale {b} of vector {v}");
                let sum: i32 = (0..32).map(|i| i32::from(x.code(v, b * 32 + i))).sum();
                assert_eq!(whole, sum, "{what}: sum {b} of vector {v}");
            }
        }
    }
}

#[test]
fn rounding() {
    if machine().is_none() {
        return;
    }
    let mut random = Random::new(1);
    for width in [32, 96, 768, 2560] {
        let mut values = cases::activations(&mut random, 3, width, Kind::Random);
        values[0] = f32::NAN;
        values[width] = f32::INFINITY;
        values[2 * width..2 * width + 32].fill(2f32.powi(-101));
        values[2 * width + 5] = if width > 96 { 1e30 } else { 0.0 };
        let x = Given::of(&values, 3, width);
        launch(&cuda::round(x.vectors()).unwrap());
        x.assert_rounded(&Activations::new(Isa::SCALAR, &values, 3, width), &format!("width {width}"));
    }
}

#[test]
fn products_of_every_format_layout_and_width() {
    if machine().is_none() {
        return;
    }
    let mut random = Random::new(2);
    for format in FORMATS {
        for (width, rows) in [(32, 1), (96, 33), (512, 5), (544, 70), (800, 3), (2560, 31), (17, 9), (50, 40)] {
            if format.row_bytes(width).is_none() {
                continue;
            }
            let w = Matrix::new(&mut random, format, rows, width, Kind::Random);
            for t in [1, 3, 9] {
                let values = cases::activations(&mut random, t, width, Kind::Random);
                let x = Given::of(&values, t, width);
                if width % 32 == 0 {
                    launch(&cuda::round(x.vectors()).unwrap());
                }
                let host = Activations::new(Isa::best(), &values, t, width);
                let expected = cases::dots(Isa::best(), w.rows(), Pick::All, &host, Order::Lanes);
                for w in [Some(&w), w.in_lanes().as_ref()].into_iter().flatten() {
                    let bytes = Buffer::of(&w.bytes);
                    let matrix = cuda::Matrix { format, layout: w.layout, at: bytes.address(), rows, width };
                    let out = Buffer::poisoned(t * rows * 4);
                    let call = cuda::products(matrix, x.vectors(), out.address(), false).unwrap();
                    launch(&call);
                    assert_same(&out.floats(), &expected, || format!("{} [{rows}, {width}] {t}", call.kernel));
                    launch(&cuda::products(matrix, x.vectors(), out.address(), true).unwrap());
                    let twice: Vec<f32> = expected.iter().map(|x| x + x).collect();
                    assert_same(&out.floats(), &twice, || format!("{} added", call.kernel));
                }
            }
        }
    }
}

#[test]
fn norms() {
    if machine().is_none() {
        return;
    }
    let mut random = Random::new(3);
    for width in [17, 64, 800, 2560] {
        let t = 2;
        let values: Vec<f32> = (0..t * width).map(|_| random.number() * 9.0).collect();
        let weight: Vec<f32> = (0..width).map(|_| random.number()).collect();
        let mut expected = vec![0.0; t * width];
        for (x, out) in values.chunks_exact(width).zip(expected.chunks_exact_mut(width)) {
            kernels::norm::rms_norm(Isa::best(), x, &weight, 1e-6, out);
        }
        let (x, w, out) = (Buffer::of(&values), Buffer::of(&weight), Given::room(t, width));
        launch(&cuda::rms_norm(x.address(), w.address(), 1e-6, out.vectors()));
        assert_same(&out.plain.floats(), &expected, || format!("width {width}"));
        if width % 32 == 0 {
            out.assert_rounded(&Activations::new(Isa::SCALAR, &expected, t, width), &format!("width {width}"));
        }
    }
}

/// Weights of one expert as files have them; `down` by output or by neuron.
struct Weights {
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Weights {
    fn new(random: &mut Random, shape: &ExpertShape, kind: Kind) -> Weights {
        let (width, neurons) = (shape.width, shape.neurons);
        let (rows, long) = if shape.down_form == DownForm::Neurons { (neurons, width) } else { (width, neurons) };
        Weights {
            gate: Matrix::new(random, shape.format, neurons, width, kind),
            up: Matrix::new(random, shape.format, neurons, width, Kind::Random),
            down: Matrix::new(random, shape.down_format, rows, long, Kind::Random),
        }
    }

    /// As it lies in a slot.
    fn slot(&self, shape: &ExpertShape) -> Vec<u8> {
        let mut slot = vec![0xff; shape.slot_bytes];
        let laid = |m: &Matrix| match shape.layout {
            Layout::File => m.bytes.clone(),
            Layout::Lanes => m.in_lanes().expect("the format lies in lanes").bytes,
        };
        let mut down = self.down.bytes.clone();
        if shape.down_form == DownForm::Tiles {
            let from = &self.down.bytes;
            kernels::tiles_from_file(shape.down_format, shape.neurons, shape.width, from, &mut down).unwrap();
        }
        for (at, bytes) in [(shape.gate_at, laid(&self.gate)), (shape.up_at, laid(&self.up)), (shape.down_at, down)] {
            slot[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        slot
    }

    /// `[tokens][width]` by the verbs of the host.
    fn compute(&self, shape: &ExpertShape, x: &Activations) -> Vec<f32> {
        let (isa, t) = (Isa::best(), x.t());
        let dots = |m: &Matrix| cases::dots(isa, m.rows(), Pick::All, x, Order::Lanes);
        let (gate, up) = (dots(&self.gate), dots(&self.up));
        let h: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| if *g > 0.0 { g * u } else { 0.0 }).collect();
        let h = Activations::new(isa, &h, t, shape.neurons);
        let mut y = vec![0.0; t * shape.width];
        let mut out = Columns::new(&mut y, t, shape.width);
        match shape.down_form {
            DownForm::Outputs => kernels::dot_rows(isa, self.down.rows(), Pick::All, &h, Order::Sequence, &mut out),
            DownForm::Neurons => kernels::add_rows_many(isa, self.down.rows(), &h, 0..shape.width, &mut out),
            DownForm::Tiles => {
                let mut bytes = self.down.bytes.clone();
                let from = &self.down.bytes;
                kernels::tiles_from_file(shape.down_format, shape.neurons, shape.width, from, &mut bytes).unwrap();
                let tiles = Tiles::new(shape.down_format, shape.neurons, shape.width, &bytes).unwrap();
                kernels::add_tiles(isa, tiles, &h, 0..shape.width, &mut out);
            }
        }
        y
    }
}

/// One layer's experts in a slab, some asked for, against the host.
fn experts(shape: ExpertShape, kind: Kind, asked: &[(usize, &[u32])], t: usize, seed: u64) {
    if machine().is_none() {
        return;
    }
    let what = format!("{shape:?}, {kind:?}, {asked:?}");
    let (width, mut random) = (shape.width, Random::new(seed));
    let weights: Vec<Weights> = asked.iter().map(|_| Weights::new(&mut random, &shape, kind)).collect();
    let count = 1 + asked.iter().map(|(slot, _)| *slot).max().unwrap();
    let mut slab = vec![0xffu8; count * shape.slot_bytes];
    for ((slot, _), weights) in asked.iter().zip(&weights) {
        slab[slot * shape.slot_bytes..][..shape.slot_bytes].copy_from_slice(&weights.slot(&shape));
    }
    let values = cases::activations(&mut random, t, width, Kind::Random);
    let host = Activations::new(Isa::best(), &values, t, width);

    // Pairs expert by expert, and each token's pairs.
    let slots: Vec<u32> = asked.iter().map(|(slot, _)| *slot as u32).collect();
    let tokens: Vec<u32> = asked.iter().flat_map(|(_, tokens)| tokens.iter().copied()).collect();
    let mut starts = vec![0u32];
    asked.iter().for_each(|(_, tokens)| starts.push(starts.last().unwrap() + tokens.len() as u32));
    let shares: Vec<f32> = tokens.iter().map(|_| random.number()).collect();
    let (mut of_token, mut pairs) = (vec![0u32], vec![]);
    for token in 0..t as u32 {
        pairs.extend((0..tokens.len() as u32).filter(|p| tokens[*p as usize] == token));
        of_token.push(pairs.len() as u32);
    }
    let mut expected = vec![0f32; t * width];
    for (e, weights) in weights.iter().enumerate() {
        let own = starts[e] as usize..starts[e + 1] as usize;
        let mine: Vec<usize> = tokens[own.clone()].iter().map(|t| *t as usize).collect();
        let y = weights.compute(&shape, &host.gather(&mine));
        for ((pair, token), y) in own.zip(mine).zip(y.chunks_exact(width)) {
            kernels::norm::axpy(Isa::best(), shares[pair], y, &mut expected[token * width..][..width]);
        }
    }

    let x = Given::of(&values, t, width);
    if width % 32 == 0 {
        launch(&cuda::round(x.vectors()).unwrap());
    }
    let slab = Buffer::of(&slab);
    let lists = [&slots, &starts, &tokens, &of_token, &pairs].map(|list| Buffer::of(list));
    let shares = Buffer::of(&shares);
    let [slots, starts, of, of_token, pairs] = lists.each_ref().map(Buffer::address);
    let most = asked.iter().map(|(_, tokens)| tokens.len()).max().unwrap();
    let asked = Asked { groups: asked.len(), most, slots, starts, tokens: of };
    let h = Given::room(tokens.len(), shape.neurons);
    let inner = Inner { plain: h.plain.address(), rounded: h.vectors().rounded };
    let y = Buffer::poisoned(tokens.len() * width * 4);
    let out = Buffer::poisoned(t * width * 4);
    launch(&shape.fire(slab.address(), asked, x.vectors(), inner));
    launch(&shape.down(slab.address(), asked, inner, y.address()));
    let of = (of_token, pairs, shares.address());
    launch(&cuda::gather(y.address(), of, out.address(), (t, width), false));
    assert_same(&out.floats(), &expected, || what.clone());
}

/// Every pair of forms there is.
fn shapes(width: usize, neurons: usize) -> Vec<ExpertShape> {
    let mut shapes = vec![];
    for format in FORMATS {
        for layout in [Layout::File, Layout::Lanes] {
            for form in [DownForm::Outputs, DownForm::Tiles, DownForm::Neurons] {
                shapes.extend(ExpertShape::in_order(width, neurons, (format, layout), (format, form)));
            }
        }
    }
    assert!(!shapes.is_empty());
    shapes
}

#[test]
fn experts_of_one_token() {
    for (i, shape) in shapes(288, 96).into_iter().enumerate() {
        experts(shape, Kind::Random, &[(3, &[0]), (0, &[0]), (5, &[0])], 1, i as u64);
    }
    // Floats of widths that are no whole runs.
    for (i, shape) in shapes(50, 37).into_iter().enumerate() {
        experts(shape, Kind::Random, &[(0, &[0]), (1, &[0])], 1, i as u64);
    }
}

#[test]
fn experts_of_many_tokens() {
    for (i, shape) in shapes(160, 96).into_iter().enumerate() {
        // One expert has more tokens than go together, one has none of the first.
        let many: Vec<u32> = (0..11).collect();
        experts(shape, Kind::Random, &[(1, &many), (0, &[2, 5]), (2, &[1, 2, 3, 4, 10])], 11, i as u64);
    }
}

#[test]
fn the_shape_of_the_models() {
    let tiles = (Format::Q4_0, DownForm::Tiles);
    let shape = ExpertShape::in_order(2560, 768, (Format::Q4_0, Layout::Lanes), tiles).unwrap();
    assert_eq!(shape.slot_bytes, 3 * 2560 * 768 / 32 * 18);
    experts(shape, Kind::Random, &[(1, &[0]), (0, &[0])], 1, 7);
    let shape = ExpertShape::in_order(1536, 1088, (Format::Q4_0, Layout::Lanes), tiles).unwrap();
    experts(shape, Kind::Random, &[(0, &[0])], 1, 8); // more neurons than one round takes
}

#[test]
fn none_fire_and_silence_has_no_sign() {
    for shape in shapes(128, 64) {
        experts(shape, Kind::Zeros, &[(0, &[0]), (1, &[0])], 1, 9);
    }
}

#[test]
fn all_fire() {
    // Gates of one sign times activations of that sign.
    for shape in shapes(128, 64) {
        experts(shape, Kind::Largest, &[(0, &[0, 1])], 2, 10);
    }
}

/// Attention of `tokens` positions from `first` on, over a ring that holds all before them.
fn attention(format: KvFormat, (kv_heads, group, width): (usize, usize, usize), span: Span, positions: usize) {
    if machine().is_none() {
        return;
    }
    let what = format!("{format:?} {kv_heads} x {group} x {width}, {span:?}, room for {positions}");
    let ring = Ring::new(format, width, positions);
    let (heads, end, isa) = (kv_heads * group, span.first + span.tokens, Isa::best());
    let mut random = Random::new((span.first * 31 + group) as u64);
    let numbers =
        |random: &mut Random, n: usize, by: f32| -> Vec<f32> { (0..n).map(|_| random.number() * by).collect() };
    let (k, v) = (numbers(&mut random, end * kv_heads * width, 1.5), numbers(&mut random, end * kv_heads * width, 1.0));
    let q = numbers(&mut random, span.tokens * heads * width, 6.0);

    let row = kv_heads * width;
    let mut kept: Vec<(Kept, Kept)> = (0..kv_heads).map(|_| (ring.buffer(), ring.buffer())).collect();
    let zeros = vec![0u8; kv_heads * ring.bytes()];
    let (keys, values) = (Buffer::of(&zeros), Buffer::of(&zeros));
    let cache = Cache {
        format,
        kv_heads,
        head_width: width,
        capacity: ring.capacity(),
        keys: keys.address(),
        values: values.address(),
        head_bytes: ring.bytes(),
    };
    // In steps, as prompts come.
    for first in (0..end).step_by(200) {
        let t = 200.min(end - first);
        let rows = first * row..(first + t) * row;
        for (head, (keys, values)) in kept.iter_mut().enumerate() {
            ring.store_keys(isa, first, &k[rows.clone()][head * width..], row, keys);
            ring.store_values(isa, first, &v[rows.clone()][head * width..], row, values);
        }
        let (k, v) = (Buffer::of(&k[rows.clone()]), Buffer::of(&v[rows]));
        launch(&cache.keep(k.address(), v.address(), first, t).unwrap());
    }
    for (head, (k, v)) in kept.iter().enumerate() {
        let of = head * ring.bytes()..(head + 1) * ring.bytes();
        assert!(keys.read()[of.clone()] == **k && values.read()[of] == **v, "{what}: the cache of head {head}");
    }

    let mut expected = vec![0f32; span.tokens * heads * width];
    for (head, (keys, values)) in kept.iter().enumerate() {
        let mut queries = Queries::new(isa);
        queries.fill(span, group, width, &q[head * group * width..], heads * width);
        let mut scratch = Scratch::new();
        let folded = kernels::attend::attend(&queries, &KvHead::new(ring, keys, ring, values), &mut scratch);
        for t in 0..span.tokens {
            let at = (t * heads + head * group) * width;
            queries.finish(folded, t, &mut expected[at..at + group * width]);
        }
    }

    let attend = Attend { cache, span, heads };
    let (q, partial) = (Buffer::of(&q), Buffer::poisoned(attend.partial_len() * 4));
    let out = Given::room(span.tokens, heads * width);
    launch(&attend.blocks(q.address(), partial.address()).unwrap());
    launch(&cuda::fold(attend, partial.address(), out.vectors()));
    assert_same(&out.plain.floats(), &expected, || what.clone());
    if width % 32 == 0 {
        out.assert_rounded(&Activations::new(isa, &expected, span.tokens, heads * width), &what);
    }
}

#[test]
fn attention_is_the_hosts() {
    let span = |first, tokens, window| Span { first, tokens, window };
    attention(KvFormat::F16, (2, 7, 128), span(700, 1, None), 1024);
    attention(KvFormat::F16, (1, 7, 128), span(0, 1, None), 1024);
    attention(KvFormat::F32, (1, 9, 64), span(300, 3, None), 1024); // more heads than go together
    attention(KvFormat::F16, (2, 6, 64), span(1100, 5, Some(300)), 512); // wrapped, with a window
    attention(KvFormat::F16, (1, 1, 16), span(255, 2, Some(256)), 512);
    attention(KvFormat::F32, (1, 2, 256), span(260, 1, None), 512);
    attention(KvFormat::F16, (1, 3, 48), span(510, 4, Some(20)), 256);
}

#[test]
fn rotation_is_the_hosts() {
    if machine().is_none() {
        return;
    }
    let (t, heads, half) = (3, 5, 24);
    let mut random = Random::new(11);
    let mut values: Vec<f32> = (0..t * heads * 2 * half).map(|_| random.number()).collect();
    let angles = kernels::rope::Rope::new(1.5e6, 2 * half).angles(4090..4090 + t);
    let (mut cos, mut sin) = (vec![], vec![]);
    (0..t).for_each(|i| (cos.extend_from_slice(angles.at(i).0), sin.extend_from_slice(angles.at(i).1)).0);
    let (turned, cos, sin) = (Buffer::of(&values), Buffer::of(&cos), Buffer::of(&sin));
    launch(&cuda::rotate(turned.address(), cos.address(), sin.address(), (t, heads, half)));
    for (i, heads) in values.chunks_exact_mut(heads * 2 * half).enumerate() {
        kernels::rope::rotate(Isa::best(), heads, angles.at(i).0, angles.at(i).1);
    }
    assert_same(&turned.floats(), &values, || "turned".to_string());
}

#[test]
fn what_has_no_kernel_is_refused_by_name() {
    let q6 = ExpertShape::in_order(256, 256, (Format::Q6_K, Layout::File), (Format::Q6_K, DownForm::Outputs));
    assert!(q6.unwrap_err().to_string().contains("Q6_K"));
    let ragged = ExpertShape::in_order(64, 40, (Format::F32, Layout::File), (Format::Q8_0, DownForm::Neurons));
    assert!(ragged.is_ok(), "nothing is rounded by neuron");
    let cache = Cache {
        format: KvFormat::Q8_0,
        kv_heads: 1,
        head_width: 32,
        capacity: 256,
        keys: 0,
        values: 0,
        head_bytes: 1 << 20,
    };
    assert!(cache.keep(0, 0, 0, 1).unwrap_err().to_string().contains("q8_0"));
    let rows: Rows = Rows::new(Format::F32, Layout::File, 4, &[0; 16]).unwrap();
    assert_eq!(rows.len(), 1);
}

/// Not a test: the time of one layer's experts on a device, beside what its memory gives to a copy. `scripts/gpu_check`
/// asks for it.
#[test]
#[ignore = "measures a device: scripts/gpu_check"]
fn speed_of_a_layer() {
    let Some(Machine::Device(driver)) = machine() else {
        return say("NOT RUN: no device (THERMOCLINE_PTX)");
    };
    let room = 1 << 30;
    let (from, to) = (Buffer::poisoned(room), Buffer::poisoned(room));
    driver.copy(to.address(), from.address(), room);
    let copy = driver.timed(|| (0..10).for_each(|_| driver.copy(to.address(), from.address(), room))) / 10.0;
    let ceiling = 2.0 * room as f64 / copy / 1e3; // GB/s, read and written
    drop((from, to));
    println!("{}: a copy moves {ceiling:.0} GB/s", driver.name);
    println!("| shape | experts | firing | us | GB/s | of a copy |\n|---|---:|---:|---:|---:|---:|");
    for (name, width, experts, active) in [("21b", 2560, 64, 6), ("4b", 1536, 32, 4)] {
        for firing in [1.0f32, 0.4] {
            one_layer(driver, name, (width, experts, active), firing, ceiling);
        }
    }
}

/// Experts by turns over a slab far larger than the caches of a device.
fn one_layer(
    driver: &emulated::Driver,
    name: &str,
    (width, count, active): (usize, usize, usize),
    firing: f32,
    ceiling: f64,
) {
    let tiles = (Format::Q4_0, DownForm::Tiles);
    let shape = ExpertShape::in_order(width, 768, (Format::Q4_0, Layout::Lanes), tiles).unwrap();
    let mut random = Random::new(12);
    // Gates are ones of either sign; activations are all ones, so a sign decides about firing.
    let one = |random: &mut Random| {
        let mut weights = Weights::new(random, &shape, Kind::Random);
        let row = weights.gate.bytes.len() / shape.neurons;
        for row in weights.gate.bytes.chunks_exact_mut(row) {
            let code = if (random.below(1000) as f32) < firing * 1000.0 { 0x99 } else { 0x77 };
            for block in row.as_chunks_mut::<18>().0 {
                block[..2].copy_from_slice(&half::f16::ONE.to_le_bytes());
                block[2..].fill(code);
            }
        }
        weights.slot(&shape)
    };
    let slab = Buffer::of(&(0..count).flat_map(|_| one(&mut random)).collect::<Vec<u8>>());
    let x = Given::of(&vec![1f32; width], 1, width);
    launch(&cuda::round(x.vectors()).unwrap());
    let (h, y) = (Given::room(active, shape.neurons), Buffer::poisoned(active * width * 4));
    let out = Buffer::poisoned(width * 4);
    let steps = count / active;
    let slots: Vec<Buffer> =
        (0..steps).map(|s| Buffer::of(&(0..active).map(|e| (s * active + e) as u32).collect::<Vec<_>>())).collect();
    let zeros = Buffer::of(&vec![0u32; active]);
    let ascending = Buffer::of(&(0..=active as u32).collect::<Vec<_>>());
    let (whole, shares) = (Buffer::of(&[0, active as u32]), Buffer::of(&vec![1f32; active]));
    let inner = Inner { plain: h.plain.address(), rounded: h.vectors().rounded };
    let step = |s: usize| {
        let slots = slots[s % steps].address();
        let asked = Asked { groups: active, most: 1, slots, starts: ascending.address(), tokens: zeros.address() };
        driver.launch(&shape.fire(slab.address(), asked, x.vectors(), inner));
        driver.launch(&shape.down(slab.address(), asked, inner, y.address()));
        let of = (whole.address(), ascending.address(), shares.address());
        driver.launch(&cuda::gather(y.address(), of, out.address(), (1, width), false));
    };
    (0..steps).for_each(&step);
    driver.wait();
    let turns = 500;
    let us = driver.timed(|| (0..turns).for_each(&step)) / turns as f64;
    let fired = h.plain.floats().iter().filter(|h| **h != 0.0).count() as f64 / (active * shape.neurons) as f64;
    let bytes = active as f64 * shape.gate_bytes().unwrap() as f64 * (1.0 + 2.0 * fired);
    let speed = bytes / us / 1e3;
    let percent = 100.0 * speed / ceiling;
    println!("| {name} | {active} of {count} | {:.0} % | {us:.1} | {speed:.0} | {percent:.0} % |", 100.0 * fired);
}
