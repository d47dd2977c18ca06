use super::*;
use crate::checkpoint::Form;
use crate::config::Config;
use crate::experts::LayerCounts;
use crate::planner::profile::tests::config;
use kernels::Format;

const LAYERS: usize = 32;
const EXPERTS: usize = 32;

/// As the 4B is, or smaller.
fn shape(layers: usize, experts: usize) -> Config {
    let (width, neurons) = (1536, 768);
    Config { width, neurons, heads: 12, head_width: 128, vocab: 150_000, ..config(layers, experts, 4) }
}

fn kind(c: &Config, part: Part) -> Kind {
    let (rows, width) = match part {
        Part::Embedding | Part::Head => (c.vocab, c.width),
        Part::Query(_) => (c.heads * c.head_width, c.width),
        Part::AttentionOut(_) => (c.width, c.heads * c.head_width),
        Part::Key(_) | Part::Value(_) => (c.kv_heads * c.head_width, c.width),
        Part::Gate(..) | Part::Up(..) => (c.neurons, c.width),
        Part::Down(..) => (c.width, c.neurons),
        Part::Router(_) => (c.experts, c.width),
        Part::NormIn(_) | Part::NormFfn(_) | Part::OutputNorm => (1, c.width),
    };
    let format = if part.stays_f32() { Format::F32 } else { Format::Q4_0 };
    Kind { format, form: Form::FILE, rows, width }
}

/// Habits that differ by layer: some even, some with few favourites.
fn habits(c: &Config, tokens: u64) -> Profile {
    let layer = |l: usize| {
        let skew = 0.5 + (l % 5) as f64;
        let weight = |e: usize| (-skew * ((e * 7 + l * 3) % c.experts) as f64 / c.experts as f64).exp();
        let sum: f64 = (0..c.experts).map(weight).sum();
        let chosen = (0..c.experts).map(|e| (tokens as f64 * (4.0 * weight(e) / sum).min(1.0)) as u64).collect();
        LayerCounts { tokens, chosen, looked: vec![0; c.experts], fired: vec![0; c.experts], ..LayerCounts::default() }
    };
    Profile::of(c, &(0..c.layers.len()).map(layer).collect::<Vec<_>>())
}

struct Case {
    config: Config,
    work: Work,
    ground: Ground,
    room: Footprint,
}

fn case(layers: usize, experts: usize, (vram, ram): (u64, u64), speeds: Speeds) -> Case {
    let config = shape(layers, experts);
    let of = |part| kind(&config, part);
    let work = Work::of(&config, DownOrder::ByOutput, &of);
    let ground = Ground::assumed(&work, habits(&config, 10_000), speeds);
    let room = Footprint::of(&config, DownOrder::ByOutput, &of, 2 << 20, &|_| (1 << 20, 1 << 20));
    Case { room: Footprint { vram, ram, ..room }, config, work, ground }
}

impl Case {
    fn problem(&self, told: &Told) -> Hybrid {
        Hybrid::new(&self.work, &self.ground, &self.room, told)
    }
}

fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    }
}

/// Any experts in the room the plan's take, not only the hottest; whole layers; the most frequent of all; an even share: none is
/// more than a fiftieth better than the plan under the cost model.
#[test]
fn no_other_experts_there_are_better() {
    let mut random = random(3);
    for speeds in [Speeds::described(272e9, 25e9), Speeds::described(60e9, 6e9), Speeds::stand_in()] {
        for vram in [300 << 20, 700 << 20, 1500 << 20] {
            let case = case(LAYERS, EXPERTS, (vram, 8 << 30), speeds);
            let problem = case.problem(&Told::default());
            let found = problem.solve().expect("it fits");
            let (dense, head) = (found.dense(), found.head);
            let ours = |l: usize, rank: usize| rank < found.choices[l].gpu;
            let seconds = |there: &dyn Fn(usize, usize) -> bool| problem.seconds_with(&dense, head, there, usize::MAX);
            let plan = seconds(&ours);
            let without_borders = found.by_layer.iter().sum::<f64>() + found.head_seconds;
            assert!((plan / without_borders - 1.0).abs() < 1e-9, "both ways to count are one");
            let count: usize = found.choices.iter().map(|c| c.gpu).sum();
            let mut others: Vec<(String, Vec<bool>)> = vec![];
            others.push(("whole layers".into(), (0..LAYERS * EXPERTS).map(|i| i < count).collect()));
            others.push(("an even share".into(), even(count)));
            others.push(("the most frequent of all".into(), hottest(&problem, count)));
            for i in 0..200 {
                let mut places: Vec<bool> = vec![false; LAYERS * EXPERTS];
                let mut left = count;
                while left > 0 {
                    let at = random(places.len());
                    left -= usize::from(!places[at]);
                    places[at] = true;
                }
                others.push((format!("random {i}"), places));
            }
            for (name, places) in others {
                let other = seconds(&|l, rank| places[l * EXPERTS + rank]);
                assert!(other >= 0.98 * plan, "{name} takes {other}, the plan {plan} ({vram} bytes, {speeds:?})");
            }
        }
    }
}

fn even(count: usize) -> Vec<bool> {
    let share = |l: usize| count / LAYERS + usize::from(l < count % LAYERS);
    (0..LAYERS * EXPERTS).map(|i| i % EXPERTS < share(i / EXPERTS)).collect()
}

fn hottest(problem: &Hybrid, count: usize) -> Vec<bool> {
    let heat = |i: usize| problem.problem.layers[i / EXPERTS].heat[i % EXPERTS];
    let mut order: Vec<usize> = (0..LAYERS * EXPERTS).collect();
    order.sort_by(|a, b| heat(*b).total_cmp(&heat(*a)));
    let mut places = vec![false; LAYERS * EXPERTS];
    order[..count].iter().for_each(|i| places[*i] = true);
    places
}

/// Against every plan of a small case, the head there or not.
#[test]
fn the_bound_holds_with_the_head() {
    for vram in (0..160).step_by(13) {
        let case = case(2, 4, (vram << 20, 1 << 30), Speeds::described(100e9, 10e9));
        let problem = case.problem(&Told::default());
        let mut best = f64::INFINITY;
        for head in [false, true] {
            let Some(beside) = problem.beside(head) else { continue };
            let each = |dense_on_gpu| (0..=4).map(move |gpu| Choice { dense_on_gpu, gpu, disk: 0 });
            let all: Vec<Choice> = [false, true].into_iter().flat_map(each).collect();
            for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b))) {
                let everything = head && [a, b].iter().all(|c| c.dense_on_gpu && c.gpu == 4);
                if everything && let Some(whole) = problem.wholly() {
                    best = best.min(whole.seconds); // which is done in its own way
                } else if beside.fits(&[a, b]) {
                    let head = if head { problem.head_seconds.1 } else { problem.head_seconds.0 };
                    best = best.min(beside.seconds(&[a, b]) + problem.borders(&[a, b]) + head);
                }
            }
        }
        let found = problem.solve().expect("memory has room for all");
        assert!(found.bound <= best * (1.0 + 1e-9) && found.seconds >= best * (1.0 - 1e-9));
        assert!(found.seconds <= best * 1.05, "{vram} MiB: {} where {best} can be had", found.seconds);
    }
}

#[test]
fn what_is_told_is_done() {
    let case = case(4, 8, (1 << 30, 1 << 30), Speeds::described(272e9, 25e9));
    let on = LayerTold { experts: Some(Place::Accelerator), dense: Some(Place::Accelerator) };
    let off = LayerTold { experts: Some(Place::Processor), dense: Some(Place::Processor) };
    let told = Told { layers: vec![off, on, off, on], head: Some(false) };
    let found = case.problem(&told).solve().expect("it fits");
    assert_eq!(found.dense(), [false, true, false, true]);
    assert_eq!(found.choices.iter().map(|c| c.gpu).collect::<Vec<_>>(), [0, 8, 0, 8]);
    assert!(!found.head);
    let experts = found.experts(&case.ground.profile);
    assert!(experts.len() == 16 && experts.iter().all(|(l, e)| l % 2 == 1 && *e < 8));
    // What is told and does not fit is no plan.
    let small = Case { room: Footprint { vram: 1 << 20, ..case.room.clone() }, ..case };
    assert_eq!(small.problem(&told).solve(), None);
}

/// A token through a model that is wholly there is one piece of work, and the plan knows.
#[test]
fn everything_there_is_faster_than_its_parts() {
    let speeds = Speeds::described(272e9, 25e9);
    let known = case(LAYERS, EXPERTS, (8 << 30, 8 << 30), speeds);
    let whole = known.problem(&Told::default()).solve().expect("it fits");
    assert!(whole.head && whole.choices.iter().all(|c| c.dense_on_gpu && c.gpu == EXPERTS && c.disk == 0));
    let parts = case(LAYERS, EXPERTS, (8 << 30, 8 << 30), Speeds { chained: None, ..speeds });
    let parts = parts.problem(&Told::default()).solve().expect("it fits");
    assert!(whole.seconds < 0.7 * parts.seconds, "{} and {}", whole.seconds, parts.seconds);
    let kernels = (CHAINED_KERNELS * LAYERS as f64 + 2.0) * speeds.chained.unwrap();
    assert!(whole.seconds > kernels && whole.bound == whole.seconds);
    // One expert told to stay is the old way.
    let stays = LayerTold { experts: Some(Place::Processor), dense: None };
    let told = Told { layers: vec![stays], head: None };
    let found = known.problem(&told).solve().expect("it fits");
    assert!(found.choices[0].gpu == 0 && found.seconds > whole.seconds);
}

/// Layers whose attention is there lie together at the end, since each border is a way more.
#[test]
fn layers_there_lie_together() {
    let quick = Speeds { launch: 1.2e-6, ..Speeds::described(272e9, 25e9) };
    let case = case(LAYERS, EXPERTS, (60 << 20, 8 << 30), quick);
    let told = Told { layers: vec![], head: Some(false) };
    let dense = case.problem(&told).solve().expect("it fits").dense();
    let there = dense.iter().filter(|there| **there).count();
    assert!((1..LAYERS).contains(&there), "{there} layers");
    assert!(dense[LAYERS - there..].iter().all(|there| *there), "{dense:?}");
}

/// Memory that is ours and the accelerator's holds each weight once.
#[test]
fn shared_memory_is_counted_once() {
    let case = case(LAYERS, EXPERTS, (u64::MAX / 4, 800 << 20), Speeds::stand_in());
    let shared = Case { room: Footprint { shared: true, ..case.room.clone() }, ..case };
    let found = shared.problem(&Told::default()).solve().expect("the disk has the others");
    let room = &shared.room;
    let layer = |(c, l): (&Choice, &LayerBytes)| {
        let here = (shared.config.experts - c.gpu - c.disk) as u64;
        here * l.expert.0 + c.gpu as u64 * l.expert.1 + if c.dense_on_gpu { l.dense.1 } else { l.dense.0 }
    };
    let held: u64 = found.choices.iter().zip(&room.layers).map(layer).sum::<u64>() + room.head.0;
    assert!(held <= room.ram && held > room.ram * 9 / 10, "{held} of {}", room.ram);
}
