//! Experts read from disks that do not play along: what can be repeated is repeated, what cannot ends the answer with a
//! sentence, and everybody else lives on. And how much is read.

mod tiny;
mod unruly;

use kernels::Format;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thermocline::checkpoint::pack::{self, PackOptions, Silent};
use thermocline::checkpoint::{Checkpoint, Quant};
use thermocline::engine::sampler::Sampling;
use thermocline::engine::{Engine, Finish, Limits, Options, Placement, Session, Slots};
use thermocline::experts::{ExpertId, Wrap, slot_bytes};
use thermocline::{Error, Result};
use tiny::Tiny;
use unruly::{Fate, Log, Unruly};

const VOCAB: usize = 288;

fn tiny() -> Tiny {
    Tiny { layers: 4, experts: 8, vocab: VOCAB, neurons: 96, tied: false, seed: 3, ..Tiny::default() }
}

/// A folder with `model.gguf` and the same packed.
fn models(tiny: &Tiny) -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write_gguf(&folder.path().join("model.gguf"), Format::Q4_0);
    let packed = folder.path().join("packed.gguf");
    let serial = |n: usize, job: &(dyn Fn(usize) + Sync)| (0..n).for_each(job);
    let source = Checkpoint::open(&path).unwrap();
    pack::pack(&source, &packed, &PackOptions::default(), &serial, &mut Silent).unwrap();
    (folder, path, packed)
}

fn options(slots: Option<Slots>) -> Options {
    Options { threads: Some(2), context: Some(512), placement: Placement { slots, device: None }, ..Options::default() }
}

fn open(path: &Path, slots: Slots) -> Engine {
    open_with(path, slots, &|files| files)
}

fn open_with(path: &Path, slots: Slots, tier: &Wrap<'_>) -> Engine {
    Engine::with_tier(Checkpoint::open(path).unwrap(), &options(Some(slots)), tier, &mut |_, _| {}).unwrap()
}

fn plain(path: &Path) -> Engine {
    Engine::open(path, &options(None), &mut |_, _| {}).unwrap()
}

/// Few enough that most experts have to be read again and again.
fn few() -> Slots {
    Slots::new(5)
}

fn tokens(count: usize, mut seed: u64) -> Vec<u32> {
    (0..count).map(|_| ((tiny::uniform(&mut seed) + 1.0) * 144.0) as u32 % VOCAB as u32).collect()
}

fn try_feed(session: &mut Session, tokens: &[u32]) -> Result<Vec<u32>> {
    let mut bits = vec![];
    session.feed(tokens, 0..tokens.len(), &mut |_, row| bits.extend(row.iter().map(|l| l.to_bits())))?;
    Ok(bits)
}

fn feed(session: &mut Session, tokens: &[u32]) -> Vec<u32> {
    try_feed(session, tokens).unwrap()
}

/// One token at a time.
fn decode(session: &mut Session, tokens: &[u32]) -> Vec<u32> {
    tokens.iter().flat_map(|token| feed(session, &[*token])).collect()
}

/// Waits until no loader is at work any more: what one still holds of a bad file would fail the step after it was mended.
fn settled(engine: &Engine) {
    let tried = || engine.store_stats().map(|stats| (stats.reads, stats.retries));
    let mut before = None;
    while before != tried() {
        before = tried();
        std::thread::sleep(Duration::from_millis(300)); // longer than the pauses between tries
    }
}

#[track_caller]
fn failed(result: Result<Vec<u32>>, words: &[&str]) {
    let error = result.expect_err("it went well");
    assert_eq!(error.exit_code(), 1, "{error}");
    let sentence = error.to_string();
    assert!(words.iter().all(|word| sentence.contains(word)), "{sentence:?} lacks one of {words:?}");
}

#[test]
fn what_fails_once_is_repeated() {
    let (_folder, path, packed) = models(&tiny());
    let text = tokens(30, 1);
    let expected = feed(&mut plain(&path).session(), &text);
    for fate in [Fate::Fails, Fate::Short, Fate::Panics] {
        for path in [&path, &packed] {
            let fates =
                move |_: ExpertId, _: usize, before: u64| if before.is_multiple_of(7) { fate } else { Fate::Well };
            let engine = open_with(path, Slots::new(20), &Unruly::wrap(&Arc::new(Log::default()), fates));
            let mut session = engine.session();
            assert!(feed(&mut session, &text[..20]) == expected[..20 * VOCAB], "{fate:?}");
            assert!(decode(&mut session, &text[20..]) == expected[20 * VOCAB..], "{fate:?}");
            let stats = engine.store_stats().unwrap();
            assert!(stats.retries > 0 && stats.misses > 0 && stats.hits > 0 && stats.evictions > 0, "{stats:?}");
            let missing = stats.layers.iter().map(|layer| layer.missing).sum::<u64>();
            assert!(0 < missing && missing <= stats.bytes_read, "{stats:?}");
        }
    }
}

#[test]
fn what_comes_late_is_waited_for() {
    let (_folder, path, packed) = models(&tiny());
    let text = tokens(12, 2);
    let expected = feed(&mut plain(&path).session(), &text);
    let late = |id: ExpertId, _: usize, before: u64| match id.layer {
        2 if before == 0 && id.index < 2 => Fate::Late(Duration::from_millis(1200)),
        _ => Fate::Well,
    };
    let engine = open_with(&packed, few(), &Unruly::wrap(&Arc::new(Log::default()), late));
    assert!(feed(&mut engine.session(), &text) == expected);
    let stats = engine.store_stats().unwrap();
    assert!(stats.waited > 0.6 && stats.busy > stats.hidden, "{stats:?}");
}

#[test]
fn what_fails_for_good_ends_one_answer_and_nothing_else() {
    let (_folder, path, packed) = models(&tiny());
    let (mine, yours) = (tokens(40, 3), tokens(4, 4));
    let plain = plain(&path);
    let expected = [&mine, &yours].map(|text| decode(&mut plain.session(), text));
    // An expert of mine that is none of yours.
    let used = |text: &[u32]| -> BTreeSet<ExpertId> {
        let engine = open(&packed, Slots { ahead: 0, ..Slots::new(32) }); // without those it only guessed
        decode(&mut engine.session(), text);
        engine.experts_at_hand().into_iter().collect()
    };
    let victim = *used(&mine).difference(&used(&yours)).last().expect("texts differ in their experts");
    let broken = Arc::new(AtomicBool::new(true));
    for fate in [Fate::Fails, Fate::Short, Fate::Panics, Fate::Wrong] {
        let switch = broken.clone();
        switch.store(true, Ordering::SeqCst);
        let fates = move |id: ExpertId, _: usize, _: u64| match id == victim && switch.load(Ordering::SeqCst) {
            true => fate,
            false => Fate::Well,
        };
        let slots = Slots { verify: fate == Fate::Wrong, ..few() };
        let engine = open_with(&packed, slots, &Unruly::wrap(&Arc::new(Log::default()), fates));
        let words: &[&str] = match fate {
            Fate::Fails => &["planted: the disk is gone", "tried 3 times"],
            Fate::Wrong => &["packed.gguf", "bytes", "hash", "read twice", &format!("expert {}", victim.index)],
            Fate::Short => &["packed.gguf", "bytes", "short", "tried 3 times"],
            _ => &["packed.gguf", "panicked"],
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..6 {
                    assert!(decode(&mut engine.session(), &yours) == expected[1], "{fate:?}");
                }
            });
            let mut session = engine.session();
            let (mut found, mut at) = (vec![], 0);
            let error = loop {
                match try_feed(&mut session, &mine[at..at + 1]) {
                    Ok(bits) => found.extend(bits),
                    Err(error) => break error,
                }
                at += 1;
            };
            failed(Err(error), words);
            assert_eq!(session.tokens().len(), at, "the session is as long as before");
            // Mended, the same session goes on.
            broken.store(false, Ordering::SeqCst);
            found.extend(decode(&mut session, &mine[at..]));
            assert!(found == expected[0], "{fate:?}");
        });
    }
}

#[test]
fn wrong_bytes_are_read_again_where_hashes_are_checked() {
    let (_folder, path, packed) = models(&tiny());
    let text = tokens(20, 5);
    let expected = feed(&mut plain(&path).session(), &text);
    let fates = |_: ExpertId, at: usize, before: u64| if before == 0 && at == 0 { Fate::Wrong } else { Fate::Well };
    let open = |path: &Path, verify| {
        open_with(path, Slots { verify, ..few() }, &Unruly::wrap(&Arc::new(Log::default()), fates))
    };
    let engine = open(&packed, true);
    assert!(feed(&mut engine.session(), &text) == expected);
    assert!(engine.store_stats().unwrap().retries > 0);
    assert!(feed(&mut open(&packed, false).session(), &text) != expected, "the wrong byte does not matter");
    // A file without hashes says that it has none.
    assert!(open(&path, true).notes().iter().any(|note| note.contains("not verified")));
    assert!(!engine.notes().iter().any(|note| note.contains("not verified")));
}

#[test]
fn a_file_cut_short_while_running() {
    for (shape, what) in [(tiny(), "row"), (Tiny { tied: true, ..tiny() }, "expert")] {
        let (_folder, path, packed) = models(&shape);
        let text = tokens(40, 6);
        let expected = decode(&mut plain(&path).session(), &text);
        for path in [&path, &packed] {
            let engine = open(path, few());
            let mut session = engine.session();
            assert!(decode(&mut session, &text[..4]) == expected[..4 * VOCAB]);
            let whole = std::fs::read(path).unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(5000).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            failed(try_feed(&mut session, &text[4..]), &[name, what, "byte", "cut short meanwhile"]);
            assert_eq!(session.tokens().len(), 4);
            settled(&engine);
            std::fs::write(path, whole).unwrap();
            assert!(decode(&mut session, &text[4..]) == expected[4 * VOCAB..], "{path:?}, whole again");
        }
    }
}

#[test]
fn a_file_changed_or_replaced_while_running() {
    let (folder, path, packed) = models(&tiny());
    let text = tokens(30, 7);
    let expected = decode(&mut plain(&path).session(), &text);
    let whole = std::fs::read(&packed).unwrap();
    let runs: Vec<_> = Checkpoint::open(&packed).unwrap().packed().unwrap().runs.clone();

    // Another file under its name: the one that was opened is read on.
    let engine = open(&packed, few());
    let mut session = engine.session();
    assert!(decode(&mut session, &text[..5]) == expected[..5 * VOCAB]);
    std::fs::write(folder.path().join("other"), b"no model").unwrap();
    std::fs::rename(folder.path().join("other"), &packed).unwrap();
    assert!(decode(&mut session, &text[5..]) == expected[5 * VOCAB..]);

    // Replaced before the first read, after its headers.
    std::fs::write(&packed, &whole).unwrap();
    let checkpoint = Checkpoint::open(&packed).unwrap();
    std::fs::write(folder.path().join("other"), &whole).unwrap();
    std::fs::rename(folder.path().join("other"), &packed).unwrap();
    let error = Engine::with(checkpoint, &options(Some(few())), &mut |_, _| {}).expect_err("it opened");
    assert!(matches!(&error, Error::Model(s) if s.contains("packed.gguf") && s.contains("replaced")), "{error}");

    // Overwritten in place: seen where hashes are checked.
    let engine = open(&packed, Slots { verify: true, ..few() });
    let mut session = engine.session();
    assert!(decode(&mut session, &text[..5]) == expected[..5 * VOCAB]);
    let mut damaged = whole.clone();
    runs[runs.len() - 32..].iter().for_each(|run| damaged[run.range.start as usize + 77] ^= 1);
    std::fs::write(&packed, damaged).unwrap();
    failed(try_feed(&mut session, &text[5..]), &["packed.gguf", "bytes", "hash", "damaged"]);
    settled(&engine);
    std::fs::write(&packed, &whole).unwrap();
    assert!(decode(&mut session, &text[5..]) == expected[5 * VOCAB..]);
}

/// Bytes read for a prompt's step are those of the experts it takes that were not at hand when it began.
#[test]
fn a_prompt_reads_each_missing_expert_once() {
    let shape = Tiny { layers: 6, experts: 16, ..tiny() };
    let (_folder, path, packed) = models(&shape);
    for path in [&path, &packed] {
        let prompt = tokens(64, 8);
        let log = Arc::new(Log::default());
        let fresh = open_with(path, Slots::new(96), &Unruly::wrap(&log, |_, _, _| Fate::Well));
        feed(&mut fresh.session(), &prompt);
        let routed: BTreeSet<ExpertId> = fresh.experts_at_hand().into_iter().collect();
        let bytes = log.of_each.lock().unwrap().clone();
        assert!(routed.len() > 80 && bytes.len() == routed.len(), "{} experts", routed.len());
        let most = slot_bytes(&Checkpoint::open(path).unwrap(), false) as u64;
        assert_eq!(bytes.values().copied().max(), Some(most));
        let expected = feed(&mut plain(path).session(), &prompt);
        for count in [4, 7, 12, 24, 48, 80, 96] {
            for loaders in [1, 6] {
                let log = Arc::new(Log::default());
                let fates = |id: ExpertId, at: usize, before: u64| match (id.index as u64 + at as u64 + before) % 3 {
                    0 => Fate::Late(Duration::from_micros(200)),
                    _ => Fate::Well,
                };
                // Without guesses, of which some would still be on their way when the prompt begins.
                let slots = Slots { loaders, ahead: 0, ..Slots::new(count) };
                let engine = open_with(path, slots, &Unruly::wrap(&log, fates));
                // First after single tokens, which leave experts of all layers; then after prompts, which leave others.
                decode(&mut engine.session(), &tokens(30, 9));
                for round in 0..3 {
                    let at_hand: BTreeSet<ExpertId> = engine.experts_at_hand().into_iter().collect();
                    let missing: u64 = routed.difference(&at_hand).map(|id| bytes[id]).sum();
                    log.taken();
                    assert!(feed(&mut engine.session(), &prompt) == expected);
                    let read = log.taken();
                    assert!(
                        read >= missing && read * 100 <= missing * 105,
                        "{count} slots, {loaders} loaders, round {round}: {read} bytes read, {missing} missing"
                    );
                }
            }
        }
    }
}

#[test]
fn what_lies_on_the_disk_is_not_mapped_in_memory() {
    let (_folder, path, packed) = models(&tiny());
    for path in [&path, &packed] {
        let engine = open(path, few());
        feed(&mut engine.session(), &tokens(20, 10));
        if let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") {
            let name = path.to_str().unwrap();
            let mine = maps.split("VmFlags").filter(|part| part.contains(name));
            let lines: Vec<&str> = mine.flat_map(|part| part.lines()).filter(|l| l.starts_with("Rss:")).collect();
            assert!(!lines.is_empty() && lines.iter().all(|l| l.split_whitespace().nth(1) == Some("0")), "{lines:?}");
        }
    }
}

#[test]
fn placements_that_make_no_sense_are_refused_in_words() {
    let (folder, path, _) = models(&tiny());
    let open = |path: &Path, slots: Slots, quant| {
        let options = Options { quant, ..options(Some(slots)) };
        Engine::open(path, &options, &mut |_, _| {}).err()
    };
    let error = open(&path, Slots::new(3), None).expect("3 slots");
    assert!(matches!(&error, Error::Infeasible(s) if s.contains("at least 4")), "{error}");
    for loaders in [0, 100_000] {
        let error = open(&path, Slots { loaders, ..few() }, None).expect("so many loaders");
        assert!(matches!(&error, Error::Usage(s) if s.contains(&loaders.to_string())), "{error}");
    }
    // Experts that would have to be rounded each time they are read.
    let floats = tiny().write_folder(folder.path(), Format::BF16);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(folder.path().join("packed.gguf")).unwrap();
    let error = open(&floats, few(), Some(Quant::Q4_0)).expect("rounded while reading");
    assert!(matches!(&error, Error::Usage(s) if s.contains("thermocline pack") && s.contains("BF16")), "{error}");
    assert!(open(&floats, few(), Some(Quant::None)).is_none());
}

/// An engine that is dropped while experts are on their way waits for them, and no longer.
#[test]
fn it_ends_with_reads_in_flight() {
    let (_folder, _, packed) = models(&tiny());
    let late = |_: ExpertId, _: usize, _: u64| Fate::Late(Duration::from_millis(50));
    let log = Arc::new(Log::default());
    let engine = open_with(&packed, Slots { loaders: 2, ..few() }, &Unruly::wrap(&log, late));
    let started = Instant::now();
    decode(&mut engine.session(), &tokens(1, 11));
    drop(engine);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(Arc::strong_count(&log), 1, "a loader lives on");
}

/// A disk that does not answer holds up nobody who wants to stop.
#[test]
fn waiting_for_the_disk_can_be_interrupted() {
    let (_folder, path, packed) = models(&tiny());
    let text = tokens(8, 12);
    let stuck = Arc::new(AtomicBool::new(true));
    // In which round the disk was last asked.
    let (round, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (switch, current, saw) = (stuck.clone(), round.clone(), asked.clone());
    let fates = move |id: ExpertId, _: usize, _: u64| {
        while id.layer == 2 && switch.load(Ordering::SeqCst) {
            saw.store(current.load(Ordering::SeqCst), Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
        Fate::Well
    };
    let engine = open_with(&packed, few(), &Unruly::wrap(&Arc::new(Log::default()), fates));
    let mut session = engine.session();
    for during_prompt in [true, false] {
        let interrupt = Arc::new(AtomicBool::new(false));
        stuck.store(during_prompt, Ordering::SeqCst);
        let this = round.fetch_add(1, Ordering::SeqCst) + 1;
        std::thread::scope(|scope| {
            let (interrupt_it, asked) = (interrupt.clone(), &asked);
            scope.spawn(move || {
                while asked.load(Ordering::SeqCst) < this {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(Duration::from_millis(20));
                interrupt_it.store(true, Ordering::SeqCst);
            });
            let limits = Limits { interrupt: Some(interrupt), ..Limits::default() };
            let sampling = Sampling { logit_bias: vec![(0, -1e9), (2, -1e9)], ..Sampling::default() };
            let mut answer = session.generate(&text, &sampling, &limits).unwrap();
            while answer.next().is_some() {
                stuck.store(true, Ordering::SeqCst);
            }
            assert_eq!(answer.finish(), Some(Finish::Interrupted));
        });
        assert_eq!(session.tokens().is_empty(), during_prompt);
        stuck.store(false, Ordering::SeqCst);
    }
    assert!(feed(&mut engine.session(), &text) == feed(&mut plain(&path).session(), &text));
}
