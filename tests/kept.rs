//! Sessions on the disk: what comes back is what was there, or nothing.

mod tiny;

use kernels::Format;
use std::path::Path;
use tempfile::TempDir;
use thermocline::Error;
use thermocline::engine::sampler::Sampling;
use thermocline::engine::{Engine, Limits, Options, Session};
use tiny::Tiny;

fn tiny(seed: u64) -> Tiny {
    Tiny { vocab: 288, context: 1024, window: Some(16), silence: 0.35, seed, ..Tiny::default() }
}

fn options() -> Options {
    Options { context: Some(1024), threads: Some(1), chunk: 8, rewind: 100, ..Options::default() }
}

fn open(tiny: &Tiny, options: &Options) -> (TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write_gguf(&folder.path().join("tiny.gguf"), Format::F32);
    let engine = Engine::open(&path, options, &mut |_, _| {}).unwrap();
    (folder, engine)
}

fn say(session: &mut Session, prompt: &[u32]) -> String {
    let sampling = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
    let limits = Limits { max_tokens: Some(40), ..Limits::default() };
    session.generate(prompt, &sampling, &limits).unwrap().map(Result::unwrap).collect()
}

fn prompt(count: u32) -> Vec<u32> {
    (0..count).map(|i| 3 + (i * 37) % 256).collect()
}

fn logits(session: &mut Session, tokens: &[u32]) -> Vec<u32> {
    let mut bits = Vec::new();
    session.feed(tokens, 0..tokens.len(), &mut |_, row| bits.extend(row.iter().map(|l| l.to_bits()))).unwrap();
    bits
}

fn refused(session: &mut Session, file: &Path) -> String {
    match session.restore(file) {
        Err(Error::Usage(sentence)) => sentence,
        other => panic!("expected Error::Usage, got {other:?}"),
    }
}

/// Rings have gone round, and the session was taken back a little before it was saved.
#[test]
fn a_restored_session_goes_on_with_the_same_bits() {
    let (folder, engine) = open(&tiny(7), &options());
    let file = folder.path().join("kept");
    let mut live = engine.session();
    say(&mut live, &prompt(600));
    assert!(live.truncate(590));
    let bytes = live.save(&file).unwrap();
    assert_eq!(bytes, std::fs::metadata(&file).unwrap().len());
    let (_folder, another) = open(&tiny(7), &options()); // the same model in another place, as after a restart
    for engine in [&engine, &another] {
        let mut session = engine.session();
        say(&mut session, &prompt(700)); // what was there before does not matter
        assert_eq!(session.restore(&file).unwrap(), bytes);
        assert_eq!(session.tokens(), live.tokens());
        let mut copy = engine.session();
        copy.restore(&file).unwrap();
        assert!(copy.truncate(560) && session.truncate(590), "as far back as the live one goes");
        assert_eq!(session.tokens().len(), 590);
    }
    let mut session = engine.session();
    session.restore(&file).unwrap();
    assert!(logits(&mut session, &prompt(50)) == logits(&mut live, &prompt(50)));
    // Saved again in place of what is there.
    session.save(&file).unwrap();
    live.restore(&file).unwrap();
    assert_eq!(live.tokens().len(), 640);
}

#[test]
fn other_models_and_settings_are_refused() {
    let (folder, engine) = open(&tiny(7), &options());
    let file = folder.path().join("kept");
    let mut session = engine.session();
    session.feed(&prompt(100), 0..0, &mut |_, _| ()).unwrap();
    session.save(&file).unwrap();
    let (_a, other) = open(&tiny(8), &options());
    assert!(refused(&mut other.session(), &file).contains("another model"));
    let (_b, wider) = open(&tiny(7), &Options { context: Some(512), ..options() });
    assert!(refused(&mut wider.session(), &file).contains("other settings of the cache"));
    assert!(refused(&mut engine.session(), &folder.path().join("none")).contains("cannot be read"));
    assert!(refused(&mut engine.session(), folder.path()).contains(""));
}

#[test]
fn damaged_files_are_refused_whatever_is_wrong_with_them() {
    let (folder, engine) = open(&tiny(7), &options());
    let (file, bad) = (folder.path().join("kept"), folder.path().join("bad"));
    let mut session = engine.session();
    session.feed(&prompt(300), 0..0, &mut |_, _| ()).unwrap();
    session.save(&file).unwrap();
    let whole = std::fs::read(&file).unwrap();
    for length in (0..whole.len()).step_by(whole.len() / 40).chain([10, 25, 60, whole.len() - 1]) {
        std::fs::write(&bad, &whole[..length]).unwrap();
        refused(&mut session, &bad);
    }
    std::fs::write(&bad, [&whole[..], b"more"].concat()).unwrap();
    refused(&mut session, &bad);
    for at in (0..whole.len()).step_by(whole.len() / 60).chain([0, 21, 22, 29, 30, whole.len() - 1]) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&bad, damaged).unwrap();
        refused(&mut session, &bad);
        assert!(session.tokens().is_empty() || session.tokens().len() == 300, "never half of it");
    }
    session.restore(&file).unwrap();
    let mut fresh = engine.session();
    fresh.feed(&prompt(300), 0..0, &mut |_, _| ()).unwrap();
    assert!(logits(&mut session, &[5, 6]) == logits(&mut fresh, &[5, 6]));
}

#[test]
fn what_a_killed_save_has_left_is_never_read() {
    let (folder, engine) = open(&tiny(7), &options());
    let file = folder.path().join("kept");
    std::fs::write(folder.path().join(".kept.part"), vec![7; 1 << 20]).unwrap();
    let mut session = engine.session();
    assert!(refused(&mut session, &file).contains("cannot be read"));
    session.feed(&prompt(10), 0..0, &mut |_, _| ()).unwrap();
    session.save(&file).unwrap();
    assert_eq!(engine.session().restore(&file).unwrap(), std::fs::metadata(&file).unwrap().len());
    assert!(session.save(&folder.path().join("no/such/folder")).is_err());
}
