//! Where a weight was, who computed with it and how the work was cut cannot change what is computed: the same logits to
//! the bit over instruction sets, numbers of threads, steps of a prompt, layouts, containers, sizes of the cache, silent
//! neurons left out or not, the ways a conversation comes about, and over slots for experts, policies, loaders, and reads
//! that come late, out of order or at the second try.

mod tiny;
mod unruly;

use kernels::attend::KvFormat;
use kernels::{Format, Isa};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thermocline::checkpoint::pack::{self, PackOptions, Silent};
use thermocline::checkpoint::{Checkpoint, Quant, Relay};
use thermocline::engine::{Engine, Options, Placement, PolicyName, Session, Share, Slots};
use tiny::Tiny;
use unruly::{Fate, Log, Unruly};

/// Repeatable choices.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        ((tiny::uniform(&mut self.0) + 1.0) * 0.5 * n as f32) as usize % n
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn tokens(&mut self, count: usize, vocab: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(vocab) as u32).collect()
    }

    /// A model whose rows are whole blocks of `format`.
    fn model(&mut self, format: Format) -> Tiny {
        let wide = format.block_weights() == 256;
        let (heads, head_width) =
            if wide { self.of(&[(4, 64), (8, 32), (2, 128)]) } else { self.of(&[(4, 16), (2, 32), (6, 16), (4, 48)]) };
        let experts = if wide { 2 + self.below(2) } else { 2 + self.below(6) };
        Tiny {
            layers: if wide { 2 } else { 2 + self.below(4) },
            width: if wide { 256 } else { self.of(&[32, 64, 96, 160]) },
            heads,
            head_width,
            kv_heads: self.of(&[1, 2, heads / 2, heads]),
            vocab: 288,
            context: 1024,
            experts,
            active: 1 + self.below(experts),
            neurons: if wide { 256 } else { self.of(&[32, 64, 96, 160]) },
            window: self.of(&[None, Some(1), Some(3), Some(20), Some(270)]),
            softmax: self.of(&[false, true]),
            tied: self.of(&[false, true]),
            silence: self.of(&[0.0, 0.35, 1.5]),
            down_by_neuron: self.of(&[false, true]),
            seed: self.below(1 << 20) as u64,
        }
    }
}

/// Everything that may differ.
#[derive(Clone, Copy, Debug)]
struct Way {
    isa: Isa,
    threads: (usize, usize),
    chunk: usize,
    relay: Relay,
    rewind: usize,
    skip: bool,
}

/// The plainest: scalar, one thread, all tokens at once, weights as they lie.
const PLAIN: Way = Way { isa: Isa::SCALAR, threads: (1, 1), chunk: 1024, relay: Relay::Never, rewind: 0, skip: true };

const CHUNKS: [usize; 6] = [1, 2, 7, 16, 64, 1024];
const THREADS: [(usize, usize); 7] = [(2, 2), (1, 3), (3, 1), (4, 4), (2, 4), (1, 2), (3, 3)];

fn open(path: &Path, way: Way, cache: (KvFormat, KvFormat), quant: Quant) -> Engine {
    Engine::open(path, &options(way, cache, quant), &mut |_, _| {}).unwrap()
}

fn options(way: Way, cache: (KvFormat, KvFormat), quant: Quant) -> Options {
    Options {
        quant: Some(quant),
        relay: way.relay,
        context: Some(1024),
        threads: Some(way.threads.0),
        threads_batch: Some(way.threads.1),
        isa: Some(way.isa),
        keys: cache.0,
        values: cache.1,
        chunk: way.chunk,
        rewind: way.rewind,
        skip: way.skip,
        ..Options::default()
    }
}

/// Bits of the logits of all `tokens`, fed at once.
fn feed(session: &mut Session, tokens: &[u32]) -> Vec<u32> {
    let mut out = Vec::new();
    session.feed(tokens, 0..tokens.len(), &mut |_, row| out.extend(row.iter().map(|l| l.to_bits()))).unwrap();
    out
}

#[track_caller]
fn assert_same(found: &[u32], expected: &[u32], vocab: usize, what: impl Fn() -> String) {
    assert_eq!(found.len(), expected.len(), "{}", what());
    if let Some(i) = (0..found.len()).find(|&i| found[i] != expected[i]) {
        let number = |bits: u32| f32::from_bits(bits);
        panic!(
            "{}: token {}, logit {}: {:e} instead of {:e}; {} of {} differ",
            what(),
            i / vocab,
            i % vocab,
            number(found[i]),
            number(expected[i]),
            (0..found.len()).filter(|&i| found[i] != expected[i]).count(),
            found.len()
        );
    }
}

fn cache_for(draw: &mut Draw, tiny: &Tiny) -> (KvFormat, KvFormat) {
    let fits: Vec<KvFormat> =
        KvFormat::ALL.into_iter().filter(|f| tiny.head_width.is_multiple_of(f.multiple())).collect();
    (draw.of(&fits), draw.of(&fits))
}

fn say_missing() {
    for name in Isa::missing() {
        println!("NOT RUN: this processor has no {name}");
    }
}

#[test]
fn instruction_sets_threads_steps_and_layouts() {
    say_missing();
    let folder = tempfile::tempdir().unwrap();
    let mut draw = Draw(1);
    let mut ways = 0;
    for format in Format::ALL.into_iter().cycle().take(20) {
        let tiny = draw.model(format);
        let path = tiny.write_gguf(&folder.path().join("model.gguf"), format);
        let cache = cache_for(&mut draw, &tiny);
        let tokens = draw.tokens(if tiny.width == 256 { 18 } else { 70 }, tiny.vocab);
        let expected = feed(&mut open(&path, PLAIN, cache, Quant::None).session(), &tokens);
        assert!(expected.iter().all(|&l| f32::from_bits(l).is_finite()));
        for isa in Isa::available() {
            for chunk in CHUNKS {
                let way = Way {
                    isa,
                    threads: draw.of(&THREADS),
                    chunk,
                    relay: draw.of(&[Relay::Never, Relay::All]),
                    rewind: draw.of(&[0, 300]),
                    skip: draw.of(&[false, true]),
                };
                let found = feed(&mut open(&path, way, cache, Quant::None).session(), &tokens);
                assert_same(&found, &expected, tiny.vocab, || format!("{way:?} of {format} {tiny:?} {cache:?}"));
                ways += 1;
            }
        }
    }
    println!("{ways} ways of computing 20 models");
}

/// What the switch is for: the difference is time, and shows in the bytes that are read.
#[test]
fn without_skipping_all_neurons_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut draw = Draw(7);
    for (format, down_by_neuron, relay) in [
        (Format::Q4_0, false, Relay::All),
        (Format::Q8_0, false, Relay::All),
        (Format::Q4_0, true, Relay::Never),
        (Format::F32, false, Relay::All),
    ] {
        let tiny = Tiny { silence: 1.5, neurons: 160, down_by_neuron, ..draw.model(format) };
        let path = tiny.write_gguf(&folder.path().join("model.gguf"), format);
        let row = format.row_bytes(tiny.width).unwrap();
        let read = |skip| {
            let engine = open(&path, Way { relay, skip, ..PLAIN }, (KvFormat::F16, KvFormat::F16), Quant::None);
            feed(&mut engine.session(), &[7]);
            let bytes = |share| engine.spent().into_iter().find(|(s, _)| *s == share).unwrap().1.bytes as usize;
            (bytes(Share::Up), bytes(Share::Down))
        };
        let down_row = match down_by_neuron {
            true => row * tiny.neurons,
            false => format.row_bytes(tiny.neurons).unwrap() * tiny.width,
        };
        let visits = tiny.layers * tiny.active;
        assert_eq!(read(false), (visits * row * tiny.neurons, visits * down_row), "{format} {tiny:?}");
        let (up, down) = read(true);
        assert!(
            up < visits * row * tiny.neurons && down < visits * down_row,
            "{up} and {down} bytes: {format} {tiny:?}"
        );
    }
}

/// Several blocks of attention, rings that turn over twice, one token's context split among cores.
#[test]
fn long_contexts() {
    let folder = tempfile::tempdir().unwrap();
    let mut draw = Draw(2);
    for (format, window, cache) in [
        (Format::F32, None, KvFormat::F16),
        (Format::Q4_0, Some(5), KvFormat::F32),
        (Format::Q8_0, Some(270), KvFormat::Q8_0),
        (Format::F16, Some(20), KvFormat::F16),
    ] {
        let shape =
            Tiny { layers: 2, width: 64, heads: 2, head_width: 32, kv_heads: 1, neurons: 96, ..draw.model(format) };
        let tiny = Tiny { window, ..shape };
        let path = tiny.write_gguf(&folder.path().join("model.gguf"), format);
        let tokens = draw.tokens(540, tiny.vocab);
        let cache = (cache, cache);
        let expected = feed(&mut open(&path, PLAIN, cache, Quant::None).session(), &tokens);
        let cuts = [(7, (2, 3), 300), (64, (1, 2), 0), (16, (4, 4), 1024)].map(|cut| (Isa::available().collect(), cut));
        let single = [(1, (1, 1), 0), (1, (2, 2), 0)].map(|cut| (vec![Isa::best()], cut));
        for (isas, (chunk, threads, rewind)) in cuts.into_iter().chain(single) {
            for isa in isas {
                let way = Way { isa, threads, chunk, relay: Relay::All, rewind, skip: true };
                let found = feed(&mut open(&path, way, cache, Quant::None).session(), &tokens);
                assert_same(&found, &expected, tiny.vocab, || format!("{way:?} of {format} {tiny:?} {cache:?}"));
            }
        }
    }
}

/// The same stored blocks in both containers, and `down` of floats in both orders.
#[test]
fn containers_and_orders_of_floats() {
    let mut draw = Draw(3);
    for format in [Format::F32, Format::F16, Format::BF16].into_iter().cycle().take(9) {
        let folder = tempfile::tempdir().unwrap();
        // The order of a square `down` cannot be seen: it is taken for the ordinary one.
        let tiny = Tiny { down_by_neuron: false, neurons: 128, ..draw.model(format) };
        let cache = cache_for(&mut draw, &tiny);
        let tokens = draw.tokens(40, tiny.vocab);
        let down_by_neuron = Tiny { down_by_neuron: true, ..tiny.clone() };
        let paths: [PathBuf; 3] = [
            tiny.write_folder(folder.path(), format),
            write_as_folders_do(&tiny, format, &folder.path().join("ordinary.gguf")),
            write_as_folders_do(&down_by_neuron, format, &folder.path().join("by-neuron.gguf")),
        ];
        let way = Way { chunk: 16, ..PLAIN };
        let [folder, ordinary, by_neuron] =
            paths.map(|path| feed(&mut open(&path, way, cache, Quant::None).session(), &tokens));
        assert_same(&folder, &ordinary, tiny.vocab, || format!("safetensors of {format} {tiny:?}"));
        assert_same(&by_neuron, &ordinary, tiny.vocab, || format!("down by neuron of {format} {tiny:?}"));
    }
}

/// A GGUF file keeps norms and routers in f32 where a folder has them in its one format: here, the same numbers.
fn write_as_folders_do(tiny: &Tiny, format: Format, path: &Path) -> PathBuf {
    let mut gguf = tiny.gguf(format);
    for entry in gguf.tensors.iter_mut().filter(|e| e.format != format) {
        let mut weights = vec![0f32; entry.bytes.len() / 4];
        let mut rounded = vec![0; format.row_bytes(weights.len()).unwrap()];
        entry.format.decode(&entry.bytes, &mut weights);
        format.encode(&weights, &mut rounded);
        format.decode(&rounded, &mut weights);
        entry.format.encode(&weights, &mut entry.bytes);
    }
    std::fs::write(path, gguf.bytes()).unwrap();
    path.to_path_buf()
}

/// Rounded while loading, or rounded before by the same rule and stored.
#[test]
fn rounding_while_loading() {
    let mut draw = Draw(4);
    let pairs = [(Quant::Q4_0, Format::Q4_0), (Quant::Q8_0, Format::Q8_0), (Quant::F16, Format::F16)];
    for (quant, format) in pairs.into_iter().cycle().take(9) {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Tiny { down_by_neuron: false, ..draw.model(format) };
        let cache = cache_for(&mut draw, &tiny);
        let tokens = draw.tokens(40, tiny.vocab);
        let stored = tiny.write_gguf(&folder.path().join("stored.gguf"), format);
        let expected = feed(&mut open(&stored, PLAIN, cache, Quant::None).session(), &tokens);
        std::fs::remove_file(stored).unwrap();
        let floats = tiny.write_folder(folder.path(), Format::F32);
        for relay in [Relay::Never, Relay::Rounded, Relay::All] {
            let way = Way { relay, isa: Isa::best(), threads: (2, 2), chunk: 7, ..PLAIN };
            let found = feed(&mut open(&floats, way, cache, quant).session(), &tokens);
            assert_same(&found, &expected, tiny.vocab, || format!("{way:?}, {quant} of {tiny:?}"));
        }
    }
}

/// Computed whole; in turns; taken back and said differently in between.
#[test]
fn ways_a_conversation_comes_about() {
    let folder = tempfile::tempdir().unwrap();
    let mut draw = Draw(5);
    let mut lost = 0;
    for format in [Format::F32, Format::Q4_0, Format::Q8_0, Format::F16].into_iter().cycle().take(6) {
        let tiny = Tiny { layers: 3, window: draw.of(&[None, Some(3), Some(20)]), ..draw.model(format) };
        let path = tiny.write_gguf(&folder.path().join("model.gguf"), format);
        let cache = cache_for(&mut draw, &tiny);
        let tokens = draw.tokens(500, tiny.vocab);
        let expected = feed(&mut open(&path, PLAIN, cache, Quant::None).session(), &tokens);
        let rows = |range: std::ops::Range<usize>| &expected[range.start * tiny.vocab..range.end * tiny.vocab];
        for _ in 0..3 {
            let way = Way {
                isa: Isa::best(),
                threads: draw.of(&THREADS),
                chunk: draw.of(&[5, 16, 64]),
                relay: Relay::Never,
                rewind: draw.of(&[0, 10, 220]),
                skip: true,
            };
            let engine = open(&path, way, cache, Quant::None);
            let mut session = engine.session();
            let (mut at, mut high) = (0, 0);
            while at < tokens.len() {
                let next = tokens.len().min(at + 1 + draw.below(150));
                let found = feed(&mut session, &tokens[at..next]);
                assert_same(&found, rows(at..next), tiny.vocab, || {
                    format!("{at}..{next}: {way:?} of {format} {tiny:?}")
                });
                at = next;
                // Something else is said, and taken back.
                let aside = draw.tokens(draw.0 as usize % 60, tiny.vocab);
                feed(&mut session, &aside);
                let far = if draw.below(8) == 0 { 350 } else { 30 };
                let back = at - draw.below(far).min(at);
                high = high.max(at + aside.len());
                if session.truncate(back) {
                    at = back;
                } else {
                    assert!(high - back > way.rewind, "{} back, {} promised: {tiny:?}", high - back, way.rewind);
                    lost += 1;
                    (at, high) = (0, 0);
                }
                assert_eq!(session.tokens(), &tokens[..at]);
            }
        }
    }
    assert!(lost > 0, "no ring was ever turned over: the test shows nothing");
    println!("{lost} times a window had moved on");
}

/// Sessions of one engine, turn by turn and at the same time.
#[test]
fn sessions_do_not_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut draw = Draw(6);
    let tiny = Tiny { window: Some(20), silence: 0.35, ..draw.model(Format::Q4_0) };
    let path = tiny.write_gguf(&folder.path().join("model.gguf"), Format::Q4_0);
    let cache = (KvFormat::F16, KvFormat::F16);
    let texts: Vec<Vec<u32>> = (0..3).map(|i| draw.tokens(80 + 30 * i, tiny.vocab)).collect();
    let plain = open(&path, PLAIN, cache, Quant::None);
    let expected: Vec<Vec<u32>> = texts.iter().map(|text| feed(&mut plain.session(), text)).collect();

    let engine = open(&path, Way { threads: (3, 2), chunk: 16, isa: Isa::best(), ..PLAIN }, cache, Quant::None);
    let mut sessions: Vec<Session> = texts.iter().map(|_| engine.session()).collect();
    let mut found = vec![Vec::new(); texts.len()];
    while let Some(i) = (0..texts.len()).find(|&i| sessions[i].tokens().len() < texts[i].len()) {
        let i = if draw.below(2) == 0 { i } else { draw.below(texts.len()) };
        let rest = &texts[i][sessions[i].tokens().len()..];
        found[i].extend(feed(&mut sessions[i], &rest[..rest.len().min(1 + draw.below(20))]));
    }
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_same(found, expected, tiny.vocab, || format!("session {i}, in turn"));
    }

    std::thread::scope(|scope| {
        for (i, (text, expected)) in texts.iter().zip(&expected).enumerate() {
            let engine = &engine;
            scope.spawn(move || {
                let mut session = engine.session();
                let found: Vec<u32> = text.chunks(9).flat_map(|part| feed(&mut session, part)).collect();
                assert_same(&found, expected, 288, || format!("session {i}, at the same time"));
            });
        }
    });
}

/// Bits that depend on the arguments alone.
fn mix(a: u64, b: u64) -> u64 {
    (a ^ b.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

/// Few slots or many, any policy, any number of loaders, from packed files and others, while the disk does what it likes.
#[test]
fn slots_policies_loaders_and_unruly_disks() {
    let mut draw = Draw(7);
    let (mut ways, mut missed, mut repeated, mut evicted) = (0, 0, 0, 0);
    for format in Format::ALL.into_iter().cycle().take(20) {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Tiny { layers: 2 + draw.below(4), ..draw.model(format) };
        let cache = cache_for(&mut draw, &tiny);
        let tokens = draw.tokens(if tiny.width == 256 { 18 } else { 70 }, tiny.vocab);
        let gguf = tiny.write_gguf(&folder.path().join("model.gguf"), format);
        let expected = feed(&mut open(&gguf, PLAIN, cache, Quant::None).session(), &tokens);
        let packed = folder.path().join("packed.gguf");
        pack(&gguf, &packed);
        for path in [&gguf, &gguf, &packed, &packed, &packed] {
            let (total, least) = (tiny.layers * tiny.experts, (tiny.active + 2).min(tiny.layers * tiny.experts));
            let slots = Slots {
                count: least + draw.below(total - least + 2),
                policy: draw.of(&PolicyName::ALL),
                loaders: 1 + draw.below(8),
                ahead: draw.below(4),
                verify: draw.of(&[false, true]),
            };
            let way = Way {
                isa: Isa::best(),
                threads: draw.of(&THREADS),
                chunk: draw.of(&CHUNKS),
                relay: draw.of(&[Relay::Never, Relay::All]),
                rewind: 0,
                skip: draw.of(&[false, true]),
            };
            let seed = draw.0;
            let fates = move |id: thermocline::experts::ExpertId, at: usize, before: u64| {
                let chance = mix(seed, mix((id.layer as u64) << 32 | id.index as u64, at as u64 + before));
                match chance % 40 {
                    0 if before == 0 => Fate::Fails,
                    1 if before == 0 => Fate::Short,
                    2..6 => Fate::Late(Duration::from_micros(chance / 40 % 3000)),
                    _ => Fate::Well,
                }
            };
            let options = Options {
                placement: Placement { slots: Some(slots.clone()), device: None },
                ..options(way, cache, Quant::None)
            };
            let tier = Unruly::wrap(&Arc::new(Log::default()), fates);
            let checkpoint = Checkpoint::open(path).unwrap();
            let engine = Engine::with_tier(checkpoint, &options, &tier, &mut |_, _| {}).unwrap();
            let found = feed(&mut engine.session(), &tokens);
            let name = path.file_name().unwrap();
            assert_same(&found, &expected, tiny.vocab, || format!("{slots:?} {way:?} {name:?} of {format} {tiny:?}"));
            let stats = engine.store_stats().unwrap();
            assert!(stats.resident <= slots.count.min(total), "{stats:?}");
            (ways, missed) = (ways + 1, missed + stats.misses);
            (repeated, evicted) = (repeated + stats.retries, evicted + stats.evictions);
        }
    }
    assert!(missed > 0 && repeated > 0 && evicted > 0, "the test shows nothing");
    println!("{ways} ways: {missed} experts read, {evicted} let go, {repeated} reads repeated");
}

fn pack(source: &Path, to: &Path) {
    let serial = |n: usize, job: &(dyn Fn(usize) + Sync)| (0..n).for_each(job);
    let source = Checkpoint::open(source).unwrap();
    pack::pack(&source, to, &PackOptions::default(), &serial, &mut Silent).unwrap();
}
