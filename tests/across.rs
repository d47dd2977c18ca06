//! Experts that change sides between answers: the plan knew nothing of a text's habits, then it does. What lies where changes,
//! answers stay within the tolerance between devices, and one placement has one set of bits, however it came about.

mod tiny;
mod unruly;

use kernels::Format;
use kernels::attend::KvFormat;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
use thermocline::checkpoint::{Checkpoint, Quant};
use thermocline::device::What;
use thermocline::engine::sampler::Sampling;
use thermocline::engine::{DeviceName, Engine, Lies, Limits, OnDevice, Options, Placement, Session, Slots, Wanted};
use thermocline::experts::ExpertId;
use tiny::Tiny;
use unruly::{Fate, Unruly};

const VOCAB: usize = 288;

fn tiny() -> Tiny {
    Tiny { layers: 4, experts: 12, active: 2, vocab: VOCAB, window: Some(24), tied: false, seed: 9, ..Tiny::default() }
}

fn model() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny().write_gguf(&folder.path().join("model.gguf"), Format::F32);
    (folder, path)
}

/// Attention and head there, and so many experts.
fn wanted(path: &Path, experts: u64) -> Wanted {
    let base = Wanted { name: Some(DeviceName::StandIn), ..Wanted::default() };
    let all = Engine::open(path, &with(Some(base.clone()), None), &mut |_, _| {}).unwrap();
    let none = Wanted { cpu_moe: true, ..base.clone() };
    let none = Engine::open(path, &with(Some(none), None), &mut |_, _| {}).unwrap();
    let [all, none] = [all, none].map(|engine| engine.ledger().away.clone().unwrap().total());
    let one = (all - none) / (tiny().layers * tiny().experts) as u64;
    Wanted { memory: Some(none + experts * one), ..base }
}

fn with(wanted: Option<Wanted>, slots: Option<usize>) -> Options {
    Options {
        wanted,
        placement: Placement { slots: slots.map(Slots::new), ..Placement::default() },
        threads: Some(2),
        context: Some(512),
        keys: KvFormat::F32,
        values: KvFormat::F32,
        ..Options::default()
    }
}

fn open(path: &Path, options: &Options) -> Engine {
    Engine::open(path, options, &mut |_, _| {}).unwrap()
}

fn tokens(count: usize, mut seed: u64) -> Vec<u32> {
    (0..count).map(|_| ((tiny::uniform(&mut seed) + 1.0) * 144.0) as u32 % VOCAB as u32).collect()
}

fn logits(engine: &Engine, text: &[u32]) -> Vec<f32> {
    let (mut session, mut logits) = (engine.session(), vec![]);
    session.feed(text, 0..text.len(), &mut |_, row| logits.extend_from_slice(row)).unwrap();
    logits
}

/// Lets routers show what they choose: the same few tokens again and again.
fn live(engine: &Engine) {
    let few = tokens(7, 5);
    let mut session: Session = engine.session();
    let text: Vec<u32> = few.iter().cycle().take(400).copied().collect();
    session.feed(&text, 0..0, &mut |_, _| ()).unwrap();
}

fn there(engine: &Engine) -> BTreeSet<(u16, u16)> {
    let map = engine.map();
    let cells = map.layers.iter().enumerate().flat_map(|(l, layer)| {
        let on = layer.places.iter().enumerate().filter(|(_, lies)| **lies == Lies::OnAccelerator);
        on.map(move |(e, _)| (l as u16, e as u16)).collect::<Vec<_>>()
    });
    cells.collect()
}

/// How often those there were chosen.
fn heat(engine: &Engine) -> u64 {
    let counts = engine.counts();
    there(engine).iter().map(|(l, e)| counts[*l as usize].chosen[*e as usize]).sum()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn what_is_chosen_comes_and_what_is_not_goes() {
    let (_folder, path) = model();
    let text = tokens(40, 2);
    for slots in [None, Some(9)] {
        let engine = open(&path, &with(Some(wanted(&path, 16)), slots));
        assert_eq!(engine.rearrange(), None, "nothing was seen yet");
        let before = (there(&engine), logits(&engine, &text));
        assert_eq!(before.0.len(), 16);
        live(&engine);
        let (cold, crossed) = (heat(&engine), engine.accelerator().unwrap().crossed(What::Weights).0);
        let moved = engine.rearrange().expect("others are chosen than lie there");
        assert!(moved.moved > 0 && moved.after > 1.02 * moved.before && moved.failed.is_none(), "{moved:?}");
        assert!(moved.to_string().contains("came to the accelerator"), "{moved}");
        assert_eq!(engine.moves().across, moved.moved as u64);
        let now = there(&engine);
        assert_eq!((now.len(), now.difference(&before.0).count()), (16, moved.moved), "each in the place of another");
        assert!(heat(&engine) > cold, "{} where {cold} were", heat(&engine));
        let weights = engine.accelerator().unwrap().crossed(What::Weights).0;
        assert!(weights.bytes > crossed.bytes, "they were carried there");

        let after = logits(&engine, &text);
        assert!(apart(&before.1, &after) <= 5e-6, "{}", apart(&before.1, &after));
        let dense = vec![true; tiny().layers];
        let laid = OnDevice { name: DeviceName::StandIn, memory: None, dense, head: true, experts: now.clone() };
        let placement = Placement { slots: None, device: Some(laid) };
        let fresh = open(&path, &Options { placement, ..with(None, None) });
        assert!(bits(&logits(&fresh, &text)) == bits(&after), "one placement, one set of bits");

        // A weight has one owner.
        let at_hand: BTreeSet<(u16, u16)> = engine.experts_at_hand().iter().map(|id| (id.layer, id.index)).collect();
        assert!(at_hand.is_disjoint(&now), "{at_hand:?} here and {now:?} there");
        live(&engine);
        let again = engine.rearrange();
        assert!(again.is_none_or(|again| again.moved < moved.moved), "what has settled stays");
    }
}

#[test]
fn it_waits_for_answers_and_stays_where_it_must() {
    let (folder, path) = model();
    let engine = open(&path, &with(Some(wanted(&path, 16)), None));
    live(&engine);
    let mut session = engine.session();
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let limits = Limits { max_tokens: Some(3), ..Limits::default() };
    let mut answer = session.generate(&tokens(5, 1), &sampling, &limits).unwrap();
    assert_eq!(engine.rearrange(), None, "an answer is being written");
    answer.by_ref().for_each(drop);
    drop(answer);
    assert!(engine.rearrange().is_some(), "it is over");
    assert_eq!(engine.rearrange(), None, "nothing new was seen");

    let strict = open(&path, &Options { adjust: false, ..with(Some(wanted(&path, 16)), None) });
    live(&strict);
    assert_eq!(strict.rearrange(), None, "--strict: experts stay");

    // What was rounded for the accelerator cannot come back.
    let floats = folder.path().join("floats");
    std::fs::create_dir(&floats).unwrap();
    let tiny_folder = tiny().write_folder(&floats, Format::F32);
    let rounded = Options { quant: Some(Quant::Q8_0), ..with(Some(wanted(&path, 16)), None) };
    let rounded = open(&tiny_folder, &rounded);
    live(&rounded);
    assert_eq!(rounded.rearrange(), None, "rounded ones stay");

    // Nobody said where: nothing lies there by plan.
    let laid = OnDevice {
        name: DeviceName::StandIn,
        memory: None,
        dense: vec![],
        head: false,
        experts: BTreeSet::from([(0, 0), (1, 1)]),
    };
    let placement = Placement { slots: None, device: Some(laid) };
    let laid = open(&path, &Options { placement, ..with(None, None) });
    live(&laid);
    assert_eq!(laid.rearrange(), None, "it was laid down");
}

/// A disk that fails while an expert is read for the other side: both stay where they were, it is said, and answers go on.
#[test]
fn a_read_that_fails_leaves_all_as_it_was() {
    let (_folder, path) = model();
    let text = tokens(30, 2);
    let broken = Arc::new(AtomicBool::new(false));
    let fails = {
        let broken = broken.clone();
        move |_: ExpertId, _: usize, _: u64| if broken.load(Ordering::SeqCst) { Fate::Fails } else { Fate::Well }
    };
    let tier = Unruly::wrap(&Arc::default(), fails);
    let options = with(Some(wanted(&path, 16)), Some(6));
    let engine = Engine::with_tier(Checkpoint::open(&path).unwrap(), &options, &tier, &mut |_, _| {}).unwrap();
    let want = logits(&engine, &text);
    live(&engine);
    let before = there(&engine);
    broken.store(true, Ordering::SeqCst);
    let moved = engine.rearrange().expect("some were to move");
    let now = there(&engine);
    assert!(moved.failed.is_some() && moved.to_string().contains("others could not"), "{moved}");
    assert_eq!(now.difference(&before).count(), moved.moved, "those that were at hand moved");
    assert_eq!(now.len(), 16);
    broken.store(false, Ordering::SeqCst);
    let got = logits(&engine, &text);
    assert!(apart(&want, &got) <= 5e-6, "{}", apart(&want, &got));
}
