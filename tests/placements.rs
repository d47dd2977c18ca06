//! Where weights lie: on a stand-in for an accelerator, in memory, on the disk. Across the border answers agree within a
//! tolerance; on one side of it to the bit; and what crosses is counted.

mod tiny;

use kernels::Format;
use kernels::attend::KvFormat;
use std::collections::BTreeSet;
use std::path::Path;
use tempfile::TempDir;
use thermocline::Error;
use thermocline::device::{Crossed, What};
use thermocline::engine::{DeviceName, Engine, Lies, OnDevice, Options, Placement, Session, Slots, Wanted};
use tiny::Tiny;

const VOCAB: usize = 288;

fn tiny() -> Tiny {
    Tiny { layers: 5, experts: 8, active: 3, vocab: VOCAB, window: Some(24), tied: false, seed: 7, ..Tiny::default() }
}

/// The same where routers choose all experts there are.
fn settled() -> Tiny {
    Tiny { active: 8, ..tiny() }
}

fn model(tiny: &Tiny, format: Format) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write_gguf(&folder.path().join("model.gguf"), format);
    (folder, path)
}

fn options(device: Option<OnDevice>, slots: Option<Slots>) -> Options {
    let placement = Placement { slots, device };
    Options {
        threads: Some(2),
        context: Some(512),
        keys: KvFormat::F32,
        values: KvFormat::F32,
        placement,
        ..Options::default()
    }
}

fn open(path: &Path, options: &Options) -> Engine {
    Engine::open(path, options, &mut |_, _| {}).unwrap()
}

fn nothing() -> OnDevice {
    OnDevice { name: DeviceName::StandIn, memory: None, dense: vec![], head: false, experts: BTreeSet::new() }
}

fn everything(tiny: &Tiny) -> OnDevice {
    let experts = (0..tiny.layers as u16).flat_map(|l| (0..tiny.experts as u16).map(move |e| (l, e))).collect();
    OnDevice { dense: vec![true; tiny.layers], head: true, experts, ..nothing() }
}

/// Each layer and each expert there or not, as a coin falls.
fn random(tiny: &Tiny, seed: &mut u64) -> OnDevice {
    let mut coin = || tiny::uniform(seed) < 0.0;
    let dense = (0..tiny.layers).map(|_| coin()).collect();
    let head = coin();
    let mut experts = everything(tiny).experts;
    experts.retain(|_| coin());
    OnDevice { dense, head, experts, ..nothing() }
}

fn tokens(count: usize, mut seed: u64) -> Vec<u32> {
    (0..count).map(|_| ((tiny::uniform(&mut seed) + 1.0) * 144.0) as u32 % VOCAB as u32).collect()
}

fn feed(session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    let mut logits = vec![];
    session.feed(tokens, 0..tokens.len(), &mut |_, row| logits.extend_from_slice(row)).unwrap();
    logits
}

/// A prompt, then token by token.
fn run(engine: &Engine, text: &[u32], prompt: usize) -> Vec<f32> {
    let mut session = engine.session();
    let mut logits = feed(&mut session, &text[..prompt]);
    text[prompt..].iter().for_each(|token| logits.extend(feed(&mut session, &[*token])));
    logits
}

/// The largest difference, as a part of the largest logit.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Floats are computed alike on both sides but for the order of sums. Of quantised weights the host rounds what it
/// multiplies them with to 8 bits, and the stand-in does not; all experts are active there, since routers of random
/// weights are so undecided that any rounding would change their minds.
#[test]
fn random_placements_agree() {
    for (format, tolerance) in [(Format::F32, 5e-6), (Format::F16, 5e-6), (Format::Q8_0, 3e-2), (Format::Q4_0, 3e-2)] {
        let tiny = if format.is_float() { tiny() } else { settled() };
        let (_folder, path) = model(&tiny, format);
        let text = tokens(70, 3); // beyond the window
        let host = run(&open(&path, &options(None, None)), &text, 50);
        let mut seed = 11;
        let placements: Vec<OnDevice> =
            [nothing(), everything(&tiny)].into_iter().chain((0..4).map(|_| random(&tiny, &mut seed))).collect();
        for device in placements {
            let logits = run(&open(&path, &options(Some(device.clone()), None)), &text, 50);
            let found = apart(&host, &logits);
            assert!(found <= tolerance, "{format}: {found} apart with {device:?}");
            assert!(found > 0.0 || device == nothing(), "{format}: nothing was computed there: {device:?}");
        }
    }
}

/// A conversation is saved and restored wherever its cache lies: with the same bits where it lay before, and elsewhere with those
/// of its numbers that were kept. Windows have gone round.
#[test]
fn a_saved_session_goes_on_anywhere() {
    let tiny = tiny();
    let (folder, path) = model(&tiny, Format::F32);
    let (file, text) = (folder.path().join("kept"), tokens(320, 8));
    let mut seed = 23;
    let placements = [None, Some(everything(&tiny)), Some(random(&tiny, &mut seed)), Some(random(&tiny, &mut seed))];
    for (format, tolerance) in [(KvFormat::F32, 5e-6), (KvFormat::F16, 2e-3)] {
        let open = |device: &Option<OnDevice>| {
            open(&path, &Options { keys: format, values: format, ..options(device.clone(), None) })
        };
        for from in &placements {
            let mut live = open(from).session();
            feed(&mut live, &text[..300]);
            let bytes = live.save(&file).unwrap();
            let expected = feed(&mut live, &text[300..]);
            for to in &placements {
                let mut session = open(to).session();
                feed(&mut session, &text[..40]); // what was there before does not matter
                assert_eq!(session.restore(&file).unwrap(), bytes);
                assert_eq!(session.tokens(), &text[..300]);
                let found = feed(&mut session, &text[300..]);
                if from == to {
                    assert!(same(&found, &expected), "{from:?}");
                }
                let apart = apart(&found, &expected);
                assert!(apart <= tolerance, "{apart} apart from {from:?} to {to:?}");
            }
        }
    }
    // Eight bits are not computed with there: such a cache is another.
    let (_folder, wide) = model(&Tiny { head_width: 32, ..tiny.clone() }, Format::F32);
    let eight =
        |device| open(&wide, &Options { keys: KvFormat::Q8_0, values: KvFormat::Q8_0, ..options(device, None) });
    let mut live = eight(None).session();
    feed(&mut live, &text[..30]);
    live.save(&file).unwrap();
    match eight(Some(everything(&tiny))).session().restore(&file) {
        Err(Error::Usage(sentence)) => {
            assert!(sentence.contains("expected q8_0/q8_0") && sentence.contains("layer 0 f16/f16"), "{sentence}");
        }
        other => panic!("expected Error::Usage, got {other:?}"),
    }
}

/// Threads, steps of a prompt, slots and their number, a packed head: nothing of the host's changes a bit of a hybrid run.
#[test]
fn the_hosts_ways_change_no_bit() {
    let tiny = tiny();
    for format in [Format::F32, Format::Q4_0] {
        let (_folder, path) = model(&tiny, format);
        let text = tokens(60, 4);
        let mut seed = 5;
        for device in [random(&tiny, &mut seed), random(&tiny, &mut seed), everything(&tiny)] {
            let expected = run(&open(&path, &options(Some(device.clone()), None)), &text, 40);
            let base = options(Some(device.clone()), None);
            let ways = [
                Options { threads: Some(1), ..base.clone() },
                Options { chunk: 7, ..base.clone() },
                Options { chunk: 1, threads: Some(3), ..base.clone() },
                options(Some(device.clone()), Some(Slots::new(5))),
                options(Some(device.clone()), Some(Slots { ahead: 0, ..Slots::new(9) })),
            ];
            for way in ways {
                let engine = open(&path, &way);
                assert!(same(&run(&engine, &text, 40), &expected), "{format}: {way:?}");
                let (map, there) = (engine.map(), device.experts.len());
                assert_eq!(map.count(Lies::OnAccelerator), there);
                let slots = engine.store_stats().map_or(0, |stats| stats.slots);
                assert!(slots <= tiny.layers * tiny.experts - there, "{slots} slots beside {there} there");
            }
        }
    }
}

/// What a token lets cross, by what lies where.
#[test]
fn crossings_of_a_token() {
    let tiny = tiny();
    let (_folder, path) = model(&tiny, Format::F32);
    let (layers, hidden) = (tiny.layers as u64, 4 * tiny.width as u64);
    let of = |device: OnDevice| {
        let engine = open(&path, &options(Some(device), None));
        let mut session = engine.session();
        feed(&mut session, &tokens(9, 1));
        let there = engine.accelerator().unwrap();
        let before = What::ALL.map(|what| there.crossed(what));
        feed(&mut session, &[5]);
        let of = |a: Crossed, b: Crossed| (b.times - a.times, b.bytes - a.bytes);
        let after = What::ALL.map(|what| there.crossed(what));
        before.into_iter().zip(after).map(|(a, b)| (of(a.0, b.0), of(a.1, b.1))).collect::<Vec<_>>()
    };
    type Way = (u64, u64); // times, bytes
    let crossed = |found: &[(Way, Way)], what: What| found[what as usize];
    let none = ((0, 0), (0, 0));

    // Nothing lies there: nothing crosses.
    assert!(of(nothing()).iter().all(|found| *found == none));

    // All of it: the embedding's row and the angles go there, logits come back, of routers and of the head.
    let all = of(everything(&tiny));
    assert_eq!(crossed(&all, What::Hidden), ((1, hidden), (0, 0)));
    assert_eq!(crossed(&all, What::Angles), ((2, 4 * tiny.head_width as u64), (0, 0)));
    assert_eq!(crossed(&all, What::Router), ((0, 0), (layers, layers * 4 * tiny.experts as u64)));
    assert_eq!(crossed(&all, What::Logits), ((0, 0), (1, 4 * VOCAB as u64)));
    for what in [What::Weights, What::Normed, What::Choice, What::Sum] {
        assert_eq!(crossed(&all, what), none, "{what:?}");
    }

    // Attention there and experts here: of each layer the router's logits and the normed vector come back, a sum goes there.
    let dense = of(OnDevice { experts: BTreeSet::new(), ..everything(&tiny) });
    assert_eq!(crossed(&dense, What::Hidden), ((1, hidden), (0, 0)));
    assert_eq!(crossed(&dense, What::Normed), ((0, 0), (layers, layers * hidden)));
    assert_eq!(crossed(&dense, What::Sum), ((layers, layers * hidden), (0, 0)));

    // Experts there alone: the other way round, and nothing else.
    let experts = of(OnDevice { experts: everything(&tiny).experts, ..nothing() });
    assert_eq!(crossed(&experts, What::Normed), ((layers, layers * hidden), (0, 0)));
    assert_eq!(crossed(&experts, What::Sum), ((0, 0), (layers, layers * hidden)));
    for what in [What::Hidden, What::Angles, What::Router, What::Choice, What::Logits] {
        assert_eq!(crossed(&experts, what), none, "{what:?}");
    }
}

/// Sessions of an engine that has layers on both sides: begun again, copied, cut, and answered together.
#[test]
fn caches_on_both_sides_are_cut_and_copied() {
    let tiny = tiny();
    let (_folder, path) = model(&tiny, Format::F32);
    for dense in [vec![true, false, true, true, false], vec![true; 5]] {
        let device = OnDevice { dense, ..nothing() };
        let engine = open(&path, &Options { rewind: 40, chunk: 16, ..options(Some(device), None) });
        let text = tokens(320, 8);
        let expected = run(&engine, &text, 300);
        let row = |i: usize| &expected[i * VOCAB..(i + 1) * VOCAB];
        let mut first = engine.session();
        feed(&mut first, &text[..310]);
        assert!(first.truncate(290), "the slack is promised");
        assert!(same(&feed(&mut first, &text[290..295]), &expected[290 * VOCAB..295 * VOCAB]), "cut");
        let mut second = engine.session();
        feed(&mut second, &tokens(30, 99));
        second.copy(&first, 293).unwrap();
        assert!(same(&feed(&mut second, &text[293..294]), row(293)), "copied");
        assert!(same(&feed(&mut first, &text[295..296]), row(295)), "and the other goes on alone");
        let together =
            Session::feed_together(&mut [(&mut first, &text[296..297]), (&mut second, &text[294..296])], None).unwrap();
        assert!(same(&together, &[row(296), row(294), row(295)].concat()), "together");
        assert!(!first.truncate(3), "the window has moved on");
        assert!(same(&run(&engine, &text[..5], 5), &expected[..5 * VOCAB]));
    }
}

/// A bound that has room for one session's cache: the second fails and leaves itself and the first as they were.
#[test]
fn memory_that_runs_out_there_ends_one_step_only() {
    let tiny = tiny();
    let (_folder, path) = model(&tiny, Format::F32);
    let device = OnDevice { dense: vec![true; 5], ..nothing() };
    let free = open(&path, &options(Some(device.clone()), None));
    let text = tokens(20, 2);
    let expected = run(&free, &text, 10);
    let ledger = free.ledger().away.clone().unwrap();
    assert_eq!(free.accelerator().unwrap().held().1, ledger.total(), "the ledger is what is held");

    let bound = |memory: u64| options(Some(OnDevice { memory: Some(memory), ..device.clone() }), None);
    let engine = open(&path, &bound(ledger.total() + 1000));
    let (mut first, mut second) = (engine.session(), engine.session());
    let logits = feed(&mut first, &text[..10]);
    let failed = second.feed(&text[..10], 0..1, &mut |_, _| {}).unwrap_err();
    assert!(matches!(&failed, Error::Memory(said) if said.contains("do not fit")), "{failed}");
    assert!(second.copy(&first, 5).is_err() && second.tokens().is_empty());
    assert!(same(&logits, &expected[..10 * VOCAB]));
    assert!(same(&feed(&mut first, &text[10..12]), &expected[10 * VOCAB..12 * VOCAB]));
    drop(first);
    assert!(same(&feed(&mut second, &text[..10]), &expected[..10 * VOCAB]), "there is room again");

    let short = Engine::open(&path, &bound(ledger.total() - 1), &mut |_, _| {}).err().unwrap();
    assert!(short.exit_code() == 3 && short.to_string().contains("--vram"), "{short}");
    let engine = Engine::open(&path, &bound(ledger.total()), &mut |_, _| {}).unwrap();
    assert!(same(&run(&engine, &text, 10), &expected), "the advice is exact");
}

/// Weights that are rounded while they are loaded are rounded for the accelerator too, and `down` may lie by neuron.
#[test]
fn every_way_a_file_may_lie() {
    let text = tokens(12, 6);
    let by_neuron = Tiny { down_by_neuron: true, ..settled() };
    let (_folder, path) = model(&by_neuron, Format::Q4_0);
    let host = run(&open(&path, &options(None, None)), &text, 8);
    let there = run(&open(&path, &options(Some(everything(&by_neuron)), None)), &text, 8);
    assert!(apart(&host, &there) <= 3e-2);

    let folder = tempfile::tempdir().unwrap();
    for tied in [true, false] {
        let tiny = Tiny { tied, ..settled() };
        let path = tiny.write_folder(folder.path(), Format::F32);
        let quant = Some(thermocline::checkpoint::Quant::Q8_0);
        let of = |device| Options { quant, ..options(device, None) };
        let host = run(&open(&path, &of(None)), &text, 8);
        for device in [everything(&tiny), random(&tiny, &mut 3)] {
            let there = run(&open(&path, &of(Some(device))), &text, 8);
            assert!(apart(&host, &there) <= 3e-2, "tied {tied}: {}", apart(&host, &there));
        }
    }
}

#[test]
fn an_expert_that_is_not_there_is_refused() {
    let tiny = tiny();
    let (_folder, path) = model(&tiny, Format::F32);
    let device = OnDevice { experts: BTreeSet::from([(1, 8)]), ..nothing() };
    let refused = Engine::open(&path, &options(Some(device), None), &mut |_, _| {}).err().unwrap();
    assert!(refused.exit_code() == 2 && refused.to_string().contains("no expert 8 of layer 1"), "{refused}");
}

/// The stand-in, whatever fits.
fn there() -> Wanted {
    Wanted { name: Some(DeviceName::StandIn), ..Wanted::default() }
}

/// What flags leave open is filled as far as memory reaches, and never beyond.
#[test]
fn as_much_as_fits_goes_there() {
    let tiny = tiny();
    let (_folder, path) = model(&tiny, Format::Q8_0);
    let text = tokens(20, 4);
    let ask = |memory: Option<u64>, layers: Option<usize>, n_cpu_moe: usize| {
        let cpu_moe = n_cpu_moe == usize::MAX;
        let n_cpu_moe = Some(n_cpu_moe).filter(|_| !cpu_moe);
        let wanted = Wanted { memory, layers, cpu_moe, n_cpu_moe, ..there() };
        Engine::open(&path, &Options { wanted: Some(wanted), ..options(None, None) }, &mut |_, _| {})
    };
    let lies = |engine: &Engine| engine.map().count(Lies::OnAccelerator);
    let all = ask(None, None, 0).unwrap();
    let whole = all.ledger().away.clone().unwrap().total();
    assert_eq!(lies(&all), tiny.layers * tiny.experts);
    let expected = run(&all, &text, 15);
    assert!(same(&run(&ask(Some(whole), None, 0).unwrap(), &text, 15), &expected), "it fits exactly");
    for memory in [whole - 1, whole / 2, whole / 4, whole / 10, 1000, 0] {
        let engine = ask(Some(memory), None, 0).unwrap();
        run(&engine, &text, 15);
        let (held, peak) = engine.accelerator().unwrap().held();
        let ledger = engine.ledger().away.clone().unwrap().total();
        assert!(peak <= memory && peak <= ledger && held <= peak, "{held} and {peak} of {memory}, ledger {ledger}");
        assert!(ledger < whole, "{memory}: less memory, less there");
        assert!(memory < whole / 8 || ledger * 10 > memory * 8, "{ledger} of {memory}: room is used");
    }
    assert_eq!(lies(&ask(None, None, usize::MAX).unwrap()), 0);
    assert_eq!(lies(&ask(None, None, 2).unwrap()), 3 * tiny.experts);
    assert_eq!(lies(&ask(None, Some(2), 0).unwrap()), 2 * tiny.experts);
    let said = ask(Some(whole / 2), Some(6), 0).err().unwrap();
    assert!(said.exit_code() == 3 && said.to_string().contains("--vram"), "{said}");
}

/// Where there is no accelerator the processor does the work, which is said where something was asked for.
#[test]
#[cfg(not(any(feature = "cuda", feature = "metal")))]
fn no_accelerator_is_said_once() {
    let tiny = tiny();
    let (_folder, path) = model(&tiny, Format::F32);
    let notes = |wanted: Wanted| {
        let engine = open(&path, &Options { wanted: Some(wanted), ..options(None, None) });
        assert!(engine.accelerator().is_none());
        engine.notes().iter().filter(|note| note.contains("--features cuda")).count()
    };
    assert_eq!(notes(Wanted::default()), 0);
    assert_eq!(notes(Wanted { layers: Some(99), ..Wanted::default() }), 1);
    let named = Wanted { name: Some(DeviceName::Cuda(0)), ..Wanted::default() };
    let said =
        Engine::open(&path, &Options { wanted: Some(named), ..options(None, None) }, &mut |_, _| {}).err().unwrap();
    assert!(said.exit_code() == 2 && said.to_string().contains("built without CUDA"), "{said}");
}
