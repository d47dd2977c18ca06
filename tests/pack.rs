//! Packed files: the numbers and the answers of their source, bit for bit, and nothing else is read.
//!
//! A model of real size, by hand (packs beside it, compares logits, prints times and sizes):
//! `PACK_MODEL=path cargo test --release --test pack -- --ignored --nocapture`

mod tiny;

use kernels::{Format, Layout};
use sha2::Digest;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;
use thermocline::checkpoint::pack::{self, Event, PackOptions, Silent};
use thermocline::checkpoint::{Checkpoint, DownOrder, Form, Part, Quant, Relay, TextSource, Weights};
use thermocline::engine::{Engine, Options};
use tiny::Tiny;

/// Two threads, the jobs dealt out between them.
fn spread(n: usize, job: &(dyn Fn(usize) + Sync)) {
    std::thread::scope(|s| {
        s.spawn(|| (0..n).rev().filter(|i| i % 2 == 0).for_each(job));
        (0..n).filter(|i| i % 2 == 1).for_each(job);
    });
}

fn packed(source: &Path, to: &Path, quant: Option<Quant>) -> Checkpoint {
    let model = Checkpoint::open(source).unwrap();
    let options = PackOptions { quant, ..PackOptions::default() };
    let made = pack::pack(&model, to, &options, &spread, &mut Silent).unwrap();
    assert_eq!(made.bytes, fs::metadata(to).unwrap().len());
    assert!(!with_partial(to).exists());
    Checkpoint::open(to).unwrap()
}

fn with_partial(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.partial", path.display()))
}

/// Logits of a few tokens at every position.
fn logits(model: &Path, quant: Option<Quant>, relay: Relay) -> Vec<f32> {
    let options = Options { quant, relay, context: Some(64), threads: Some(2), chunk: 7, ..Options::default() };
    let engine = Engine::open(model, &options, &mut |_, _| {}).unwrap();
    let mut session = engine.session();
    let tokens: Vec<u32> = (0..20).map(|i| i * 37 % engine.config().vocab as u32).collect();
    let mut all = vec![];
    session.feed(&tokens, 0..tokens.len(), &mut |_, row| all.extend_from_slice(row)).unwrap();
    all
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// The same config, numbers, text and logits from the packed file; answers it.
#[track_caller]
fn same_model(source: &Path, to: &Path, quant: Option<Quant>) -> Checkpoint {
    let before = Arc::new(Checkpoint::open(source).unwrap());
    let after = packed(source, to, quant);
    assert_eq!(before.config, after.config);
    assert_eq!(before.down, after.down);
    match (&before.text, &after.text) {
        (TextSource::Gguf(a), TextSource::Gguf(b)) => assert_eq!(a, b),
        (TextSource::Folder(folder), TextSource::Kept(kept)) => {
            for (name, text) in &kept.files {
                assert_eq!(&fs::read_to_string(folder.join(name)).unwrap(), text);
            }
            assert!(kept.get("tokenizer.json").is_some());
        }
        other => panic!("{other:?}"),
    }
    let loaded = Weights::load(before.clone(), quant, Relay::Never, &spread, &mut |_, _| {}).unwrap();
    for part in before.parts() {
        let (matrix, stored) = (loaded.matrix(part), after.stored(part));
        assert_eq!((matrix.format(), matrix.len(), matrix.width()), (stored.format, stored.rows, stored.width));
        assert!(*matrix.bytes() == *stored.file_rows(0..stored.rows), "{part:?}");
    }
    let plain = logits(source, quant, Relay::Never);
    assert!(same_bits(&plain, &logits(source, quant, Relay::All)), "re-laid in memory");
    assert!(same_bits(&plain, &logits(to, None, Relay::Never)), "packed");
    assert!(same_bits(&plain, &logits(to, quant, Relay::All)), "packed, and asked for what it is");
    let weights = Weights::load(Arc::new(Checkpoint::open(to).unwrap()), None, Relay::All, &spread, &mut |_, _| {});
    assert_eq!(weights.unwrap().owned_bytes(), 0, "nothing is copied");
    pack::verify(to, &spread, &mut |_, _| {}).unwrap();
    after
}

#[test]
fn every_gguf_format_keeps_its_numbers_and_its_logits() {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    for format in [Format::F32, Format::F16, Format::BF16, Format::Q4_0, Format::Q8_0] {
        for down_by_neuron in [false, true] {
            let tiny = Tiny { down_by_neuron, tied: !down_by_neuron, window: Some(16), ..Tiny::speaking() };
            tiny.write_gguf(&source, format);
            let model = same_model(&source, &to, None);
            let lanes = if format.is_float() { Form::FILE } else { Form::Rows(Layout::Lanes) };
            let down = match (down_by_neuron, format.is_float()) {
                (true, _) => Form::FILE,
                (false, true) => Form::Neurons,
                (false, false) => Form::Tiles,
            };
            assert_eq!(model.stored(Part::Up(1, 2)).form, lanes, "{format}");
            assert_eq!(model.stored(Part::Down(1, 2)).form, down, "{format}");
            assert_eq!(model.stored(Part::Router(0)).form, Form::FILE);
        }
    }
}

/// Different formats within an expert and between layers: slots fit the largest.
#[test]
fn any_mixture_of_formats() {
    let mut gguf = Tiny { tied: false, ..Tiny::speaking() }.gguf(Format::Q8_0);
    let formats = [Format::Q3_K, Format::Q4_K, Format::Q5_K, Format::Q6_K, Format::Q4_1, Format::F16, Format::Q4_0];
    let mut seed = 7;
    let matrices = gguf.tensors.iter_mut().filter(|t| t.shape.len() > 1 && !t.name.contains("gate_inp"));
    for (i, t) in matrices.enumerate() {
        t.format = formats[i % formats.len()];
        let bytes = t.format.row_bytes(t.shape.iter().product()).unwrap();
        t.bytes = (0..bytes).map(|_| (tiny::uniform(&mut seed) * 100.0) as i32 as u8 & 0x1f).collect();
    }
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    fs::write(&source, gguf.bytes()).unwrap();
    let model = same_model(&source, &to, None);
    let slot = model.packed().unwrap().slot_bytes;
    let mut largest = 0;
    for layer in 0..2 {
        for e in 0..3 {
            let [gate, up, down] =
                [Part::Gate(layer, e), Part::Up(layer, e), Part::Down(layer, e)].map(|p| model.place(p).1);
            assert!(gate.start % 4096 == 0 && up.start % 4096 == 0 && down.start % 4096 == 0);
            assert!(gate.end <= up.start && up.end <= down.start && down.end - gate.start <= slot);
            largest = largest.max((down.end - gate.start).next_multiple_of(4096));
        }
    }
    assert_eq!(slot, largest);
}

#[test]
fn safetensors_are_rounded_while_they_are_packed() {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny");
    let dir = TempDir::new().unwrap();
    let to = dir.path().join("packed.gguf");
    for quant in [Quant::Q4_0, Quant::Q8_0, Quant::F16, Quant::None] {
        let model = same_model(&bundled, &to, Some(quant));
        let about = model.packed().unwrap();
        assert_eq!((about.quant.as_str(), about.source.name.as_str()), (quant.name(), "tiny"));
        assert_eq!(about.source.container, "safetensors");
    }
    let text = |path: &Path| Engine::open(path, &Options::default(), &mut |_, _| {}).unwrap();
    let (a, b) = (text(&bundled), text(&to));
    let prompt = "Once upon a time, 2 + 3 = 5. Привет!";
    assert_eq!(a.text().encode(prompt, true).unwrap(), b.text().encode(prompt, true).unwrap());
    assert_eq!(a.text().eos(), b.text().eos());
    assert_eq!(a.text().template().1, b.text().template().1);
}

#[test]
fn a_packed_file_can_be_packed_and_rounded_again() {
    let dir = TempDir::new().unwrap();
    let [source, once, twice] = ["model.gguf", "once.gguf", "twice.gguf"].map(|name| dir.path().join(name));
    Tiny::speaking().write_gguf(&source, Format::BF16);
    packed(&source, &once, None);
    packed(&once, &twice, None);
    let runs =
        |path: &Path| Checkpoint::open(path).unwrap().packed().unwrap().runs.clone().into_iter().map(|r| r.sha256);
    assert!(runs(&once).eq(runs(&twice)));
    for relay in [Relay::Rounded, Relay::Never] {
        let wanted = logits(&source, Some(Quant::Q4_0), relay);
        assert!(same_bits(&wanted, &logits(&once, Some(Quant::Q4_0), relay)));
    }
    packed(&once, &twice, Some(Quant::Q8_0));
    assert!(same_bits(&logits(&source, Some(Quant::Q8_0), Relay::Never), &logits(&twice, None, Relay::Never)));
    let check = Checkpoint::open(&once).unwrap();
    check.check_finite(&spread, &mut |_, _| {}).unwrap();
}

/// Two runs of packing make the same bytes, whatever the threads do.
#[test]
fn packing_is_a_function_of_the_model() {
    let dir = TempDir::new().unwrap();
    let [source, a, b] = ["model.gguf", "a.gguf", "b.gguf"].map(|name| dir.path().join(name));
    Tiny::speaking().write_gguf(&source, Format::Q4_0);
    packed(&source, &a, None);
    let model = Checkpoint::open(&source).unwrap();
    let serial = |n: usize, job: &(dyn Fn(usize) + Sync)| (0..n).for_each(job);
    pack::pack(&model, &b, &PackOptions::default(), &serial, &mut Silent).unwrap();
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap());
}

/// A change of a layout, or of what goes where, makes old files unreadable without a sign of it: then `LAYOUT_VERSION`
/// has to grow, and the hash here to follow.
#[test]
fn a_layout_version_means_these_bytes() {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    let mut hash = sha2::Sha256::new();
    for format in [Format::Q4_0, Format::Q4_1, Format::Q8_0, Format::BF16] {
        let mut gguf = Tiny::speaking().gguf(Format::Q8_0);
        let matrices = gguf.tensors.iter_mut().filter(|t| t.shape.len() > 1 && !t.name.contains("gate_inp"));
        for (i, t) in matrices.enumerate() {
            t.format = format;
            let bytes = format.row_bytes(t.shape.iter().product()).unwrap();
            t.bytes = (0..bytes).map(|j| (j * 7 + i * 13 + j / 256) as u8 & 0x3f).collect();
        }
        fs::write(&source, gguf.bytes()).unwrap();
        for run in &packed(&source, &to, None).packed().unwrap().runs {
            hash.update(format!("{} {:?} {}\n", run.name, run.range.end - run.range.start, run.sha256));
        }
    }
    let hash: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!((pack::LAYOUT_VERSION, &hash[..16]), (1, "bcb8f92db44438bc"));
}

#[test]
fn events_tell_size_and_time_first() {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    Tiny::speaking().write_gguf(&source, Format::Q4_0);
    let model = Checkpoint::open(&source).unwrap();
    let (mut told, mut last) = (vec![], 0);
    let mut hear = |event: &Event<'_>| match event {
        Event::Begin { name, bytes, seconds, .. } => {
            assert!(*bytes > 0 && *seconds > 0.0 && *name == "model.gguf");
            told.push("begin");
        }
        Event::Bytes { done, bytes, .. } => {
            assert!(*done > last && done <= bytes);
            last = *done;
            told.push("bytes");
        }
        Event::End { bytes, .. } => {
            assert_eq!(*bytes, last);
            told.push("end");
        }
        other => panic!("{other:?}"),
    };
    pack::pack(&model, &to, &PackOptions::default(), &spread, &mut hear).unwrap();
    assert_eq!((told[0], told[1], told[told.len() - 1]), ("begin", "bytes", "end"));
}

#[test]
fn the_summary_shows_formats_and_layouts() {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    Tiny::speaking().write_gguf(&source, Format::Q4_0);
    let (before, after) = (Checkpoint::open(&source).unwrap().summary(), packed(&source, &to, None).summary());
    assert_eq!((before.weights(), before.bytes()), (after.weights(), after.bytes()));
    let text = after.to_string();
    for word in ["packed file from model.gguf (GGUF version 3)", "Q4_0 lanes", "Q4_0 tiles", "F32"] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    assert!(!before.to_string().contains("lanes"));
    assert_eq!(after.down, DownOrder::ByOutput);
}

#[test]
#[ignore = "needs a model of real size: PACK_MODEL=path"]
fn a_model_of_real_size() {
    let source = PathBuf::from(std::env::var("PACK_MODEL").expect("PACK_MODEL names a model"));
    let to = source.with_extension("packed.gguf");
    let started = Instant::now();
    let model = Checkpoint::open(&source).unwrap();
    println!("header of the source: {:.3} s", started.elapsed().as_secs_f64());
    let quant = Quant::default_for(&model);
    let mut hear = |event: &Event<'_>| match event {
        Event::Bytes { .. } => {}
        event => println!("{event:?}"),
    };
    let options = PackOptions { quant: Some(quant), ..PackOptions::default() };
    let pool = thermocline::pool::Pool::new(2);
    let made = pack::pack(&model, &to, &options, &|n, job| pool.run(n, job), &mut hear).unwrap();
    println!("{:.1} MB in {:.1} s", made.bytes as f64 / 1e6, made.seconds);
    let started = Instant::now();
    drop(Checkpoint::open(&to).unwrap());
    println!("header of the packed file: {:.3} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    pack::verify(&to, &|n, job| pool.run(n, job), &mut |_, _| {}).unwrap();
    println!("verified in {:.1} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    let after = logits(&to, None, Relay::Rounded);
    println!("opened, 20 tokens: {:.2} s", started.elapsed().as_secs_f64());
    assert!(same_bits(&logits(&source, Some(quant), Relay::Rounded), &after));
}
