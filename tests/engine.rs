//! Options an engine takes and refuses, and what it says about bytes: read, counted by hand, and kept.

mod tiny;

use kernels::attend::KvFormat;
use kernels::{Format, Isa};
use std::path::Path;
use thermocline::Error;
use thermocline::checkpoint::{Checkpoint, Quant, Relay};
use thermocline::engine::{Engine, Options};
use thermocline::experts::LayerCounts;
use thermocline::model::reference::{Reference, Seen};
use tiny::Tiny;

fn text_tiny() -> Tiny {
    Tiny { vocab: 288, ..Tiny::default() }
}

fn open(path: &Path, options: &Options) -> thermocline::Result<Engine> {
    Engine::open(path, options, &mut |_, _| {})
}

#[test]
fn options_that_make_no_sense_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = text_tiny().write_gguf(&folder.path().join("tiny.gguf"), Format::F32);
    let cases: [(Options, &[&str]); 9] = [
        (Options { threads: Some(0), ..Options::default() }, &["-t 0", "at least one thread"]),
        (Options { threads_batch: Some(0), ..Options::default() }, &["-tb 0", "at least one thread"]),
        (Options { threads: Some(5000), ..Options::default() }, &["-t 5000", "1024"]),
        (Options { threads_batch: Some(usize::MAX), ..Options::default() }, &["-tb", "1024"]),
        (Options { chunk: 0, ..Options::default() }, &["-ub", "at least 1"]),
        (Options { keys: KvFormat::Q8_0, ..Options::default() }, &["-ctk q8_0", "heads of 16"]),
        (Options { values: KvFormat::Q8_0, ..Options::default() }, &["-ctv q8_0", "heads of 16"]),
        (Options { context: Some(usize::MAX), ..Options::default() }, &["-c", "not supported"]),
        (Options { context: Some((1 << 30) + 1), ..Options::default() }, &["-c 1073741825", "1073741824"]),
    ];
    for (options, words) in cases {
        match open(&path, &options) {
            Err(Error::Usage(sentence)) => {
                assert!(words.iter().all(|w| sentence.contains(w)), "{sentence:?} lacks one of {words:?}")
            }
            Err(other) => panic!("{words:?}: expected Error::Usage, got {other:?}"),
            Ok(_) => panic!("{words:?}: expected an error"),
        }
    }
    assert!(matches!("q9_9".parse::<Quant>(), Err(Error::Usage(s)) if s.contains("q9_9") && s.contains("q4_0")));
    // 64 KiB a position, 64 TiB in all.
    let big = Tiny { kv_heads: 64, heads: 64, head_width: 256, layers: 1, ..text_tiny() };
    let path = big.write_gguf(&folder.path().join("big.gguf"), Format::F32);
    match open(&path, &Options { context: Some(1 << 30), ..Options::default() }) {
        Err(Error::Infeasible(sentence)) => assert!(sentence.contains("70368744177664 bytes"), "{sentence}"),
        Err(other) => panic!("expected Error::Infeasible, got {other:?}"),
        Ok(_) => panic!("expected an error"),
    }
}

#[test]
fn what_is_assumed_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny { context: 8192, ..text_tiny() };
    let path = tiny.write_gguf(&folder.path().join("tiny.gguf"), Format::F32);
    let noted = |options: Options, words: &str| {
        let engine = open(&path, &options).unwrap();
        let found = engine.notes().iter().any(|n| n.contains(words));
        (found, engine.session().capacity())
    };
    let small = Options { threads: Some(1), ..Options::default() };
    assert_eq!(noted(small.clone(), "context:"), (false, 4096));
    assert_eq!(noted(Options { context: Some(0), ..small.clone() }, "context:"), (false, 8192));
    assert_eq!(noted(Options { context: Some(100), ..small.clone() }, "context:"), (false, 100));
    assert_eq!(noted(Options { context: Some(9000), ..small.clone() }, "made for 8192"), (true, 9000));
    assert!(noted(Options { threads: Some(300), ..small.clone() }, "more threads than cores").0);
    assert!(!noted(small, "threads").0);
    for isa in Isa::available() {
        let options = Options { isa: Some(isa), threads: Some(2), threads_batch: Some(1), ..Options::default() };
        let engine = open(&path, &options).unwrap();
        assert_eq!((engine.isa(), engine.threads()), (isa.name(), (2, 1)));
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut gguf = text_tiny().gguf(Format::F32);
    gguf.tensor("blk.1.ffn_gate_exps.weight").bytes[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
    let path = folder.path().join("nan.gguf");
    std::fs::write(&path, gguf.bytes()).unwrap();
    match open(&path, &Options { check: true, ..Options::default() }) {
        Err(Error::Model(sentence)) => assert!(sentence.contains("blk.1.ffn_gate_exps"), "{sentence}"),
        Err(other) => panic!("expected Error::Model, got {other:?}"),
        Ok(_) => panic!("expected an error"),
    }
    // A router that answers no number cannot choose.
    let mut gguf = text_tiny().gguf(Format::F32);
    gguf.tensor("blk.2.ffn_gate_inp.weight").bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&path, gguf.bytes()).unwrap();
    let mut session = open(&path, &Options::default()).unwrap().session();
    match session.feed(&[3, 4], 0..0, &mut |_, _| {}) {
        Err(Error::Runtime(sentence)) => {
            assert!(sentence.contains("layer 2") && sentence.contains("--check"), "{sentence}")
        }
        other => panic!("expected Error::Runtime, got {other:?}"),
    }
    assert!(session.tokens().is_empty());
}

/// Neurons of the last token's experts that fire, by layer: as the reference sees them.
fn firing(layer: &Seen, active: usize) -> usize {
    let last = layer.chosen.len() - active;
    let gates = layer.gates.iter().filter(|(e, _)| layer.chosen[last..].contains(&(*e as u32)));
    let fires = |gate: &candle_core::Tensor| {
        let rows = gate.to_vec2::<f32>().unwrap();
        rows.last().unwrap().iter().filter(|&&g| g > 0.0).count()
    };
    gates.map(|(_, gate)| fires(gate)).sum()
}

/// Bytes of weights and cache one decoded token reads, from shapes and firing neurons; of `down` by neuron, whether only
/// those of firing neurons.
fn by_hand(tiny: &Tiny, format: Format, layers: &[Seen], position: usize, options: &Options) -> usize {
    let row = |width: usize| format.row_bytes(width).unwrap();
    let (heads, kv) = (tiny.heads * tiny.head_width, tiny.kv_heads * tiny.head_width);
    let cached = options.keys.bytes(tiny.head_width) + options.values.bytes(tiny.head_width);
    let mut sum = tiny.vocab * row(tiny.width); // the head
    for (seen, windowed) in layers.iter().zip(tiny.windowed()) {
        let fired = firing(seen, tiny.active);
        let all = tiny.active * tiny.neurons;
        assert!(fired * 10 < all * 8, "{fired} of {all}: the way of many firing neurons is another");
        let visible = if windowed { tiny.window.unwrap().min(position + 1) } else { position + 1 };
        sum += tiny.experts * tiny.width * 4; // the router, f32
        sum += (heads + 2 * kv) * row(tiny.width) + tiny.width * row(heads);
        sum += visible * cached * tiny.kv_heads;
        sum += (all + fired) * row(tiny.width); // gate, and up where a gate speaks
        sum += if tiny.down_by_neuron { fired * row(tiny.width) } else { tiny.active * tiny.width * row(tiny.neurons) };
    }
    sum
}

#[test]
fn bytes_are_counted_as_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let base =
        Tiny { layers: 4, neurons: 128, experts: 6, window: Some(10), silence: 0.35, tied: false, ..text_tiny() };
    let cases = [
        (Format::F32, false, Relay::Never),
        (Format::F32, true, Relay::Never),
        (Format::F16, true, Relay::All),
        (Format::Q8_0, false, Relay::Never),
        (Format::Q4_0, true, Relay::All),
        (Format::Q4_0, false, Relay::All),
    ];
    for (format, down_by_neuron, relay) in cases {
        // With rounded activations a gate near zero may turn its sign; all experts chosen, no near tie is among them.
        let (active, near_zero) = if format.is_float() { (2, 0) } else { (base.experts, 20) };
        let tiny = Tiny { down_by_neuron, active, ..base.clone() };
        let path = tiny.write_gguf(&folder.path().join("tiny.gguf"), format);
        let tokens: Vec<u32> = (0..31).map(|i| (i * 71 + 5) % 288).collect();
        let input = candle_core::Tensor::new(&tokens[..], &candle_core::Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let reference = Reference::open(&Checkpoint::open(&path).unwrap()).unwrap();
        let layers = reference.forward(&input).unwrap().layers;

        let options = Options { relay, threads: Some(2), quant: Some(Quant::None), ..Options::default() };
        let engine = open(&path, &options).unwrap();
        let mut session = engine.session();
        session.feed(&tokens[..30], 0..0, &mut |_, _| {}).unwrap();
        let sums = || {
            let sum = |of: &dyn Fn(&LayerCounts) -> u64| engine.counts().iter().map(of).sum::<u64>() as usize;
            (sum(&|layer| layer.fired.iter().sum()), sum(&|layer| layer.looked.iter().sum()))
        };
        let (before, (fired, looked)) = (engine.bytes_touched(), sums());
        session.feed(&tokens[30..], 0..1, &mut |_, _| {}).unwrap();
        let counted = (engine.bytes_touched() - before) as usize;
        let fires: usize = layers.iter().map(|seen| firing(seen, tiny.active)).sum();
        assert!((sums().0 - fired).abs_diff(fires) <= near_zero, "{} fired, {fires} by hand", sums().0 - fired);
        assert_eq!(sums().1 - looked, tiny.layers * tiny.active * tiny.neurons);
        let expected = by_hand(&tiny, format, &layers, 30, &options);
        let order = if down_by_neuron { "by neuron" } else { "by output" };
        println!("{format} down {order}, {relay:?}: {counted} bytes counted, {expected} by hand");
        let row = format.row_bytes(tiny.width).unwrap();
        if relay == Relay::All && !down_by_neuron {
            // Re-laid by neuron: silent neurons are not read, nor those too quiet to round to anything.
            let fired: usize = layers.iter().map(|seen| firing(seen, tiny.active)).sum();
            let code_bytes = tiny.width / 2;
            let saved = (tiny.layers * tiny.active * tiny.neurons - fired) * code_bytes;
            let all = expected - saved + near_zero * row;
            assert!((all - fired * code_bytes / 4..=all).contains(&counted), "{saved} to be saved");
        } else {
            assert!(counted.abs_diff(expected) <= near_zero * 2 * row, "{format} down {order}");
        }
    }
}

#[test]
fn the_ledger_names_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny { context: 8192, window: Some(100), layers: 5, ..text_tiny() };
    let path = tiny.write_gguf(&folder.path().join("tiny.gguf"), Format::F32);
    let engine = open(&path, &Options { context: Some(0), rewind: 1024, chunk: 413, ..Options::default() }).unwrap();
    let line = |words: &str| engine.ledger().lines.iter().find(|l| l.name.contains(words)).unwrap().bytes;
    let weights: usize = tiny.tensors().iter().map(|t| t.weights.len() * 4).sum();
    assert_eq!(line("in the file"), weights as u64);
    // Two global layers; three with a ring of 100 + 413 - 1 positions, and 1,024 more to go back by; 128 bytes each.
    assert_eq!(line("cache, 8192"), (2 * 8192 + 3 * 512) * 128);
    assert_eq!(line("rewind"), 3 * 1024 * 128);
    assert_eq!(engine.ledger().total(), engine.ledger().lines.iter().map(|l| l.bytes).sum::<u64>());
}
