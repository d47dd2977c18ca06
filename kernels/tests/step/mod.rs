//! A token through a whole model on the device, token after token, against the host's verbs put together as the forward pass
//! has them.

use super::Weights;
use super::cases::{Kind, Matrix, Random, assert_same, dots};
use super::emulated::{Buffer, launch, machine};
use super::kernels::attend::{Buffer as Kept, KvFormat, KvHead, Queries, Ring as Lies, Scratch, Span, attend};
use super::kernels::cuda::{self, Cache, DownForm, ExpertShape, Layer, Room, Step};
use super::kernels::norm::{axpy, exp, rms_norm, sigmoid};
use super::kernels::rope::{Rope, rotate};
use super::kernels::{Activations, Format, Isa, Layout, Order, Pick};

const WIDTH: usize = 96;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HEAD: usize = 32;
const EXPERTS: usize = 8;
const ACTIVE: usize = 3;
const NEURONS: usize = 64;
const VOCAB: usize = 50;
const EPSILON: f32 = 1e-6;

/// A matrix here and there.
struct Both {
    host: Matrix,
    device: Buffer,
    rows: usize,
}

impl Both {
    fn new(random: &mut Random, format: Format, rows: usize, width: usize) -> Both {
        let file = Matrix::new(random, format, rows, width, Kind::Random);
        let host = file.in_lanes().unwrap_or(file);
        Both { device: Buffer::of(&host.bytes), host, rows }
    }

    fn there(&self) -> cuda::Matrix {
        let Matrix { format, layout, width, .. } = self.host;
        cuda::Matrix { format, layout, at: self.device.address(), rows: self.rows, width }
    }

    fn product(&self, x: &[f32]) -> Vec<f32> {
        let x = Activations::new(Isa::best(), x, 1, x.len());
        dots(Isa::best(), self.host.rows(), Pick::All, &x, Order::Lanes)
    }
}

/// One layer of the host, and what of it is on the device.
struct Part {
    router: Both,
    query: Both,
    key: Both,
    value: Both,
    out: Both,
    norms: [Vec<f32>; 2],
    norms_there: [Buffer; 2],
    experts: Vec<Weights>,
    slab: Buffer,
    /// Expert -> slot.
    table: Vec<u32>,
    table_there: Buffer,
    shape: ExpertShape,
    rotary: bool,
    window: Option<usize>,
    ring: Lies,
    kept: Vec<(Kept, Kept)>,
    keys: Buffer,
    values: Buffer,
}

impl Part {
    fn new(random: &mut Random, kept: KvFormat, format: Format, rotary: bool, window: Option<usize>) -> Part {
        let matrix = |random: &mut Random, rows, width| Both::new(random, format, rows, width);
        let layout = if format == Format::Q4_0 { Layout::Lanes } else { Layout::File };
        let form = if format == Format::F32 { DownForm::Neurons } else { DownForm::Tiles };
        let shape = ExpertShape::in_order(WIDTH, NEURONS, (format, layout), (format, form)).unwrap();
        let experts: Vec<Weights> = (0..EXPERTS).map(|_| Weights::new(random, &shape, Kind::Random)).collect();
        // Experts lie in any order, and not from the first slot on.
        let table: Vec<u32> = (0..EXPERTS as u32).map(|e| (e * 5 + 2) % (EXPERTS as u32 + 3)).collect();
        let mut slab = vec![0xffu8; (EXPERTS + 3) * shape.slot_bytes];
        for (expert, slot) in experts.iter().zip(&table) {
            let at = *slot as usize * shape.slot_bytes;
            slab[at..at + shape.slot_bytes].copy_from_slice(&expert.slot(&shape));
        }
        let norms = [(); 2].map(|()| (0..WIDTH).map(|_| random.number()).collect::<Vec<f32>>());
        let ring = Lies::new(kept, HEAD, window.unwrap_or(512));
        let zeros = vec![0u8; KV_HEADS * ring.bytes()];
        Part {
            router: Both::new(random, Format::F32, EXPERTS, WIDTH),
            query: matrix(random, HEADS * HEAD, WIDTH),
            key: matrix(random, KV_HEADS * HEAD, WIDTH),
            value: matrix(random, KV_HEADS * HEAD, WIDTH),
            out: matrix(random, WIDTH, HEADS * HEAD),
            norms_there: norms.each_ref().map(|norm| Buffer::of(norm)),
            norms,
            experts,
            slab: Buffer::of(&slab),
            table_there: Buffer::of(&table),
            table,
            shape,
            rotary,
            window,
            kept: (0..KV_HEADS).map(|_| (ring.buffer(), ring.buffer())).collect(),
            ring,
            keys: Buffer::of(&zeros),
            values: Buffer::of(&zeros),
        }
    }

    fn layer(&self) -> Layer {
        Layer {
            router: self.router.there(),
            norm_in: self.norms_there[0].address(),
            query: self.query.there(),
            key: self.key.there(),
            value: self.value.there(),
            out: self.out.there(),
            rotary: self.rotary,
            window: self.window,
            norm_ffn: self.norms_there[1].address(),
            shape: self.shape,
            slab: self.slab.address(),
            table: self.table_there.address(),
        }
    }

    fn cache(&self) -> Cache {
        Cache {
            format: self.ring.format(),
            kv_heads: KV_HEADS,
            head_width: HEAD,
            capacity: self.ring.capacity(),
            keys: self.keys.address(),
            values: self.values.address(),
            head_bytes: self.ring.bytes(),
        }
    }

    fn normed(&self, which: usize, x: &[f32]) -> Vec<f32> {
        let mut h = vec![0f32; WIDTH];
        rms_norm(Isa::best(), x, &self.norms[which], EPSILON, &mut h);
        h
    }

    /// The layer on the host. What it chose, ascending.
    fn forward(&mut self, x: &mut [f32], position: usize, softmax: bool) -> (Vec<u32>, Vec<f32>) {
        let isa = Isa::best();
        let chosen = choose(&self.router.product(x), softmax);
        let h = self.normed(0, x);
        let (mut q, mut k, v) = (self.query.product(&h), self.key.product(&h), self.value.product(&h));
        if self.rotary {
            let angles = Rope::new(1e4, HEAD).angles(position..position + 1);
            rotate(isa, &mut q, angles.at(0).0, angles.at(0).1);
            rotate(isa, &mut k, angles.at(0).0, angles.at(0).1);
        }
        let (row, group) = (KV_HEADS * HEAD, HEADS / KV_HEADS);
        let mut attended = vec![0f32; HEADS * HEAD];
        for (head, (keys, values)) in self.kept.iter_mut().enumerate() {
            self.ring.store_keys(isa, position, &k[head * HEAD..], row, keys);
            self.ring.store_values(isa, position, &v[head * HEAD..], row, values);
            let mut queries = Queries::new(isa);
            let span = Span { first: position, tokens: 1, window: self.window };
            queries.fill(span, group, HEAD, &q[head * group * HEAD..], HEADS * HEAD);
            let mut scratch = Scratch::new();
            let folded = attend(&queries, &KvHead::new(self.ring, keys, self.ring, values), &mut scratch);
            queries.finish(folded, 0, &mut attended[head * group * HEAD..][..group * HEAD]);
        }
        x.iter_mut().zip(self.out.product(&attended)).for_each(|(x, y)| *x += y);
        let h = self.normed(1, x);
        let h = Activations::new(isa, &h, 1, WIDTH);
        let mut sum = vec![0f32; WIDTH];
        for (expert, share) in chosen.0.iter().zip(&chosen.1) {
            let y = self.experts[*expert as usize].compute(&self.shape, &h);
            axpy(isa, *share, &y, &mut sum);
        }
        x.iter_mut().zip(sum).for_each(|(x, y)| *x += y);
        chosen
    }
}

/// As the model's router has it, by expert ascending.
fn choose(logits: &[f32], softmax: bool) -> (Vec<u32>, Vec<f32>) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order.truncate(ACTIVE);
    let top = logits[order[0]];
    let gate = |e: &usize| match softmax || top < -60.0 {
        true => exp(logits[*e] - top),
        false => sigmoid(logits[*e]),
    };
    let gates: Vec<f32> = order.iter().map(gate).collect();
    let sum: f32 = gates.iter().sum();
    let mut chosen: Vec<(u32, f32)> = order.iter().zip(gates).map(|(e, g)| (*e as u32, g / sum)).collect();
    chosen.sort_by_key(|(e, _)| *e);
    chosen.into_iter().unzip()
}

fn step(parts: &[Part], kept: KvFormat, softmax: bool, norm: &Buffer, head: &Both) -> Step {
    Step {
        width: WIDTH,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_width: HEAD,
        experts: EXPERTS,
        active: ACTIVE,
        softmax,
        epsilon: EPSILON,
        kept,
        layers: parts.iter().map(Part::layer).collect(),
        norm: norm.address(),
        head: head.there(),
    }
}

fn tokens(kept: KvFormat, formats: [Format; 2], softmax: bool, count: usize) {
    if machine().is_none() {
        return;
    }
    let mut random = Random::new(count as u64);
    let mut parts = [
        Part::new(&mut random, kept, formats[0], true, Some(40)),
        Part::new(&mut random, kept, formats[1], false, None),
    ];
    let (norm, head) = ((0..WIDTH).map(|_| random.number()).collect::<Vec<f32>>(), formats[0]);
    let (norm_there, head) = (Buffer::of(&norm), Both::new(&mut random, head, VOCAB, WIDTH));
    let step = step(&parts, kept, softmax, &norm_there, &head);
    let rope = Rope::new(1e4, HEAD);
    let blocks = 2;
    let (work, answer) = (Buffer::poisoned(step.work_bytes(blocks)), Buffer::poisoned(step.answer_bytes()));
    for position in 0..count {
        let mut x: Vec<f32> = (0..WIDTH).map(|_| random.number() * 2.0).collect();
        if position == 3 {
            // Two experts alike: the lower index wins. And all far below zero.
            x.fill(0.0);
        }
        let angles = rope.angles(position..position + 1);
        let ticket = Buffer::of(&step.ticket(position, &[parts[0].cache(), parts[1].cache()], angles.at(0), &x));
        let room = Room { ticket: ticket.address(), work: work.address(), answer: answer.address() };
        step.launches(room, blocks).unwrap().iter().for_each(launch);
        let (logits, chosen) = step.read(&answer.read());

        for (number, part) in parts.iter_mut().enumerate() {
            let (ids, shares) = part.forward(&mut x, position, softmax);
            let (found, counts) = chosen[number].clone().expect("logits are numbers");
            assert_eq!(found, ids, "position {position}, layer {number}: experts");
            assert_same(&counts, &shares, || format!("position {position}, layer {number}: shares"));
            assert!(ids.iter().all(|id| part.table[*id as usize] < EXPERTS as u32 + 3));
        }
        let mut h = vec![0f32; WIDTH];
        rms_norm(Isa::best(), &x, &norm, EPSILON, &mut h);
        assert_same(&logits, &head.product(&h), || format!("{kept:?} {formats:?}: logits of position {position}"));
    }
}

#[test]
fn steps_of_one_token() {
    // Beyond the window, and where a ring of 256 positions begins anew.
    tokens(KvFormat::F16, [Format::Q4_0, Format::Q8_0], true, 262);
    tokens(KvFormat::F32, [Format::Q4_1, Format::F32], false, 9);
}

#[test]
fn a_router_that_is_no_number_is_said() {
    if machine().is_none() {
        return;
    }
    let mut random = Random::new(5);
    let mut part = Part::new(&mut random, KvFormat::F16, Format::Q4_0, true, None);
    part.router.device = Buffer::of(&vec![f32::NAN; EXPERTS * WIDTH]);
    let (norm, head) = (Buffer::of(&[1f32; WIDTH]), Both::new(&mut random, Format::Q4_0, VOCAB, WIDTH));
    let step = step(std::slice::from_ref(&part), KvFormat::F16, true, &norm, &head);
    let angles = Rope::new(1e4, HEAD).angles(0..1);
    let ticket = Buffer::of(&step.ticket(0, &[part.cache()], angles.at(0), &[1.0; WIDTH]));
    let (work, answer) = (Buffer::poisoned(step.work_bytes(1)), Buffer::poisoned(step.answer_bytes()));
    let room = Room { ticket: ticket.address(), work: work.address(), answer: answer.address() };
    step.launches(room, 1).unwrap().iter().for_each(launch);
    assert_eq!(step.read(&answer.read()).1, [None]);
    let odd = Step { head_width: 48, ..step };
    assert!(odd.launches(room, 1).unwrap_err().to_string().contains("of width 48"));
}
