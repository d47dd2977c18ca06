//! Conversations: what is computed again and what is not, how answers end, and what is refused.

mod tiny;

use kernels::Format;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use thermocline::Error;
use thermocline::engine::sampler::Sampling;
use thermocline::engine::{Answer, Engine, Finish, Limits, Options, Session, Stats, advance};
use tiny::Tiny;

const EOS: u32 = 2;

/// A model whose ring holds exactly `window + chunk - 1 + rewind` positions: 16 + 8 - 1 + 233 = 256.
const REWIND: usize = 233;
const CHUNK: usize = 8;

fn tiny() -> Tiny {
    Tiny { vocab: 288, context: 1024, window: Some(16), silence: 0.35, seed: 7, ..Tiny::default() }
}

fn open(context: usize) -> (TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny().write_gguf(&folder.path().join("tiny.gguf"), Format::F32);
    let options =
        Options { context: Some(context), threads: Some(1), chunk: CHUNK, rewind: REWIND, ..Options::default() };
    let engine = Engine::open(&path, &options, &mut |_, _| {}).unwrap();
    (folder, engine)
}

fn tokens(count: usize, mut seed: u64) -> Vec<u32> {
    (0..count).map(|_| 3 + ((tiny::uniform(&mut seed) + 1.0) * 128.0) as u32 % 256).collect()
}

/// The id of a letter.
fn id(letter: u8) -> u32 {
    3 + u32::from(letter)
}

/// Only the letters from a to j are possible, all about as likely.
fn letters() -> Sampling {
    let forbidden = (0..288).filter(|t| !(id(b'a')..=id(b'j')).contains(t));
    Sampling {
        temperature: 8.0,
        top_k: 0,
        top_p: 1.0,
        logit_bias: forbidden.map(|t| (t, f32::NEG_INFINITY)).collect(),
        ..Sampling::default()
    }
}

fn at_most(tokens: usize) -> Limits {
    Limits { max_tokens: Some(tokens), ..Limits::default() }
}

/// An answer to its end: text, why it ended, what it cost.
fn say(session: &mut Session, prompt: &[u32], sampling: &Sampling, limits: &Limits) -> (String, Finish, Stats) {
    let mut answer = session.generate(prompt, sampling, limits).unwrap();
    let text: String = answer.by_ref().map(Result::unwrap).collect();
    assert!(answer.next().is_none(), "an answer that has ended stays so");
    (text, answer.finish().unwrap(), answer.stats())
}

/// The same answer computed from nothing.
fn from_scratch(engine: &Engine, prompt: &[u32], sampling: &Sampling, limits: &Limits) -> String {
    let (text, _, stats) = say(&mut engine.session(), prompt, sampling, limits);
    assert_eq!((stats.prompt_tokens, stats.reused_tokens, stats.lost_tokens), (prompt.len(), 0, 0));
    text
}

fn refused<T>(result: thermocline::Result<T>) -> String {
    match result {
        Err(Error::Usage(sentence)) => sentence,
        Err(other) => panic!("expected Error::Usage, got {other:?}"),
        Ok(_) => panic!("expected an error"),
    }
}

/// Prompt tokens computed, found, and computed again.
fn cost(stats: Stats) -> (usize, usize, usize) {
    (stats.prompt_tokens, stats.reused_tokens, stats.lost_tokens)
}

#[test]
fn what_is_already_there_is_not_computed_again() {
    let (_folder, engine) = open(1024);
    let (mut session, sampling, limits) = (engine.session(), letters(), at_most(10));
    let first = tokens(40, 1);
    let (text, finish, stats) = say(&mut session, &first, &sampling, &limits);
    assert_eq!((finish, cost(stats), stats.decode_tokens), (Finish::Length, (40, 0, 0), 10));
    assert_eq!(text, from_scratch(&engine, &first, &sampling, &limits));
    // The tenth token was shown; nothing has needed it yet.
    assert_eq!(session.tokens().len(), 49);
    assert_eq!(engine.text().decode(&session.tokens()[40..]), text[..9]);

    // The next turn computes what is new.
    let mut second = session.tokens().to_vec();
    second.push(id(text.as_bytes()[9]));
    second.extend(tokens(5, 2));
    let (text, _, stats) = say(&mut session, &second, &sampling, &limits);
    assert_eq!(cost(stats), (6, 49, 0));
    assert_eq!(text, from_scratch(&engine, &second, &sampling, &limits));

    // Another answer to the same: the last token of the prompt, for its logits.
    let other = Sampling { seed: 1, ..letters() };
    let (text, _, stats) = say(&mut session, &second, &other, &limits);
    assert_eq!(cost(stats), (1, 54, 0));
    assert_eq!(text, from_scratch(&engine, &second, &other, &limits));

    // A turn said differently: from the first token that differs.
    let mut edited = second.clone();
    edited[51] ^= 1;
    let (text, _, stats) = say(&mut session, &edited, &sampling, &limits);
    assert_eq!(cost(stats), (4, 51, 0));
    assert_eq!(text, from_scratch(&engine, &edited, &sampling, &limits));

    // Nothing in common.
    let foreign = tokens(30, 3);
    let (text, _, stats) = say(&mut session, &foreign, &sampling, &limits);
    assert_eq!(cost(stats), (30, 0, 0));
    assert_eq!(text, from_scratch(&engine, &foreign, &sampling, &limits));
}

#[test]
fn the_last_turn_can_be_taken_back_within_the_slack() {
    let (_folder, engine) = open(1024);
    let (sampling, limits) = (letters(), at_most(1));
    let long = tokens(600, 4);
    let answer_to = |prompt: &[u32]| from_scratch(&engine, prompt, &sampling, &limits);
    // Rings have overwritten twice what they hold. `back` tokens before the end something else is said.
    for back in [1, 2, 100, REWIND - 1, REWIND] {
        let mut session = engine.session();
        session.feed(&long, 0..0, &mut |_, _| {}).unwrap();
        let mut edited = long[..600 - back].to_vec();
        edited.push(long[600 - back] ^ 1);
        edited.extend(tokens(3, 5));
        let (text, _, stats) = say(&mut session, &edited, &sampling, &limits);
        assert_eq!(cost(stats), (4, 600 - back, 0), "{back} back");
        assert_eq!(text, answer_to(&edited), "{back} back");
    }
    // A ring also has the room of one step, which is free as long as no step was begun.
    for back in [REWIND + CHUNK + 1, 400, 599] {
        let mut session = engine.session();
        session.feed(&long, 0..0, &mut |_, _| {}).unwrap();
        let mut edited = long[..600 - back].to_vec();
        edited.push(long[600 - back] ^ 1);
        let (text, _, stats) = say(&mut session, &edited, &sampling, &limits);
        assert_eq!(cost(stats), (edited.len(), 0, 600 - back), "{back} back: computed again, and said so");
        assert_eq!(text, answer_to(&edited), "{back} back");
        assert_eq!(session.tokens(), edited);
    }
}

#[test]
fn what_truncate_keeps_is_whole() {
    let (_folder, engine) = open(1024);
    let long = tokens(600, 6);
    let logits = |session: &mut Session, tokens: &[u32]| {
        let mut out = Vec::new();
        session.feed(tokens, 0..tokens.len(), &mut |_, row| out.extend(row.iter().map(|l| l.to_bits()))).unwrap();
        out
    };
    let expected = logits(&mut engine.session(), &long);
    let mut kept = 0;
    for back in (0..12).map(|i| REWIND - 4 + 2 * i) {
        let mut session = engine.session();
        session.feed(&long, 0..0, &mut |_, _| {}).unwrap();
        let len = 600 - back;
        let whole = session.truncate(len);
        assert!(whole || back > REWIND, "{back} of {REWIND} promised");
        assert_eq!(session.tokens(), if whole { &long[..len] } else { &[] });
        if whole {
            kept += 1;
            assert!(logits(&mut session, &long[len..]) == expected[len * 288..], "{back} back");
        }
    }
    assert!((3..12).contains(&kept), "{kept}: both cases are to be met");
    let mut session = engine.session();
    session.feed(&long[..10], 0..0, &mut |_, _| {}).unwrap();
    assert!(session.truncate(10) && session.truncate(1000) && session.tokens().len() == 10, "nothing to forget");
    assert!(session.truncate(0) && session.tokens().is_empty());
}

#[test]
fn a_full_context_ends_the_answer() {
    let (_folder, engine) = open(64);
    let (sampling, limits) = (letters(), Limits::default());
    let prompt = tokens(60, 8);
    let mut session = engine.session();
    let (text, finish, stats) = say(&mut session, &prompt, &sampling, &limits);
    // Four more tokens have a position; the fifth is known and shown, but nothing can follow it.
    assert_eq!((finish, stats.decode_tokens, text.len(), session.tokens().len()), (Finish::ContextFull, 5, 5, 64));
    assert_eq!(session.capacity(), 64);

    let full = tokens(64, 9);
    let (text, finish, _) = say(&mut session, &full, &sampling, &limits);
    assert_eq!((finish, text.len()), (Finish::ContextFull, 1));

    // A prompt that does not fit is refused, and costs nothing of what is there.
    let sentence = refused(session.generate(&tokens(65, 9), &sampling, &limits));
    assert!(
        sentence.contains("65 tokens") && sentence.contains("context of 64") && sentence.contains("-c"),
        "{sentence}"
    );
    assert_eq!(session.tokens(), full);
    let sentence = refused(session.feed(&[5], 0..1, &mut |_, _| {}));
    assert!(sentence.contains("65 tokens"), "{sentence}");
}

#[test]
fn prompts_that_make_no_sense_are_refused() {
    let (_folder, engine) = open(64);
    let mut session = engine.session();
    let sentence = refused(session.generate(&[], &letters(), &at_most(1)));
    assert!(sentence.contains("empty prompt"), "{sentence}");
    for found in [288, u32::MAX] {
        let sentence = refused(session.generate(&[5, found], &letters(), &at_most(1)));
        assert!(sentence.contains(&found.to_string()) && sentence.contains("288"), "{sentence}");
        refused(session.feed(&[found], 0..1, &mut |_, _| {}));
    }
    let odd = Sampling { logit_bias: vec![(288, 1.0)], ..Sampling::default() };
    assert!(refused(session.generate(&[5], &odd, &at_most(1))).contains("288"));
    let odd = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert!(refused(session.generate(&[5], &odd, &at_most(1))).contains("temperature"));
    let odd = Limits { stop: vec![String::new()], ..Limits::default() };
    assert!(refused(session.generate(&[5], &letters(), &odd)).contains("stop"));
    assert!(session.tokens().is_empty(), "nothing of these was computed");
    session.feed(&[], 0..0, &mut |_, _| panic!("no tokens, no logits")).unwrap();
}

#[test]
fn logits_are_those_that_were_wanted() {
    let (_folder, engine) = open(64);
    let prompt = tokens(30, 10);
    let rows = |want: std::ops::Range<usize>| {
        let mut rows = Vec::new();
        engine.session().feed(&prompt, want, &mut |i, row| rows.push((i, row.to_vec()))).unwrap();
        rows
    };
    let all = rows(0..30);
    assert_eq!(all.iter().map(|(i, _)| *i).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
    for want in [0..0, 0..1, 5..9, 7..8, 3..20, 29..30, 30..30] {
        assert_eq!(rows(want.clone()), all[want]);
    }
}

#[test]
fn an_answer_is_as_long_as_it_may_be() {
    let (_folder, engine) = open(256);
    let prompt = tokens(12, 11);
    let (longest, _, _) = say(&mut engine.session(), &prompt, &letters(), &at_most(40));
    for n in [0, 1, 2, 39] {
        let (text, finish, stats) = say(&mut engine.session(), &prompt, &letters(), &at_most(n));
        assert_eq!((text.as_str(), finish), (&longest[..n], Finish::Length));
        assert_eq!((stats.decode_tokens, stats.decode_steps), (n, n.saturating_sub(1)));
    }
}

#[test]
fn stops_end_an_answer_wherever_tokens_are_cut() {
    let (_folder, engine) = open(256);
    let prompt = tokens(12, 12);
    let (whole, _, _) = say(&mut engine.session(), &prompt, &letters(), &at_most(60));
    // Each letter is a token, so every stop of several letters lies across tokens.
    for (from, len) in [(0, 1), (0, 3), (7, 2), (20, 5), (40, 20), (59, 1)] {
        let stop = whole[from..from + len].to_string();
        let before = whole.find(&stop).unwrap();
        let limits = Limits { stop: vec!["never said".into(), stop.clone()], ..at_most(60) };
        let (text, finish, stats) = say(&mut engine.session(), &prompt, &letters(), &limits);
        assert_eq!((text.as_str(), finish), (&whole[..before], Finish::Stop), "stop {stop:?}");
        assert_eq!(stats.decode_tokens, before + len);
    }
    // The beginning of a stop at the very end is text after all.
    let limits = Limits { stop: vec![format!("{}!", &whole[55..])], ..at_most(60) };
    let (text, finish, _) = say(&mut engine.session(), &prompt, &letters(), &limits);
    assert_eq!((text, finish), (whole, Finish::Length));
}

#[test]
fn every_end_of_sequence_ends_it() {
    let (_folder, engine) = open(64);
    assert_eq!(engine.text().eos(), [0, EOS]);
    for end in [0, EOS] {
        let mut session = engine.session();
        let sampling = Sampling { logit_bias: vec![(end, 1e9)], ..Sampling::default() };
        let (text, finish, stats) = say(&mut session, &tokens(9, 13), &sampling, &Limits::default());
        assert_eq!((text.as_str(), finish, stats.decode_tokens), ("", Finish::Eos, 1));
        assert_eq!(session.tokens().len(), 9);
    }
    // A control token that is no end is no text either.
    let sampling = Sampling { logit_bias: vec![(1, 1e9)], ..Sampling::default() };
    let (text, finish, stats) = say(&mut engine.session(), &tokens(9, 13), &sampling, &at_most(6));
    assert_eq!((text.as_str(), finish, stats.decode_tokens), ("", Finish::Length, 6));
}

#[test]
fn characters_are_never_split() {
    let (_folder, engine) = open(512);
    // Bytes of two- and three-byte characters at random: broken ones among them.
    let bytes = [0xC3, 0xA9, 0xE2, 0x82, 0xAC, b'x'].map(id);
    let forbidden = (0..288).filter(|t| !bytes.contains(t)).map(|t| (t, f32::NEG_INFINITY)).collect();
    let sampling = Sampling { logit_bias: forbidden, ..letters() };
    let mut session = engine.session();
    let prompt = tokens(12, 14);
    let (text, _, _) = say(&mut session, &prompt, &sampling, &at_most(200));
    // All but the last of its tokens are in the cache.
    let known = engine.text().decode(&session.tokens()[12..]);
    let known = known.trim_end_matches(char::REPLACEMENT_CHARACTER);
    assert!(text.starts_with(known) && text.contains(char::REPLACEMENT_CHARACTER), "{text:?}");
    assert!(text.contains('é') || text.contains('€'), "{text:?}");
}

#[test]
fn greedy_is_the_best_token_and_seeds_repeat() {
    let (_folder, engine) = open(256);
    let prompt = tokens(20, 15);
    let mut best = 0;
    let most = |row: &[f32]| (0..288).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap();
    engine.session().feed(&prompt, 19..20, &mut |_, row| best = most(row)).unwrap();
    let greedy = |seed| Sampling { temperature: 0.0, seed, ..Sampling::default() };
    let mut session = engine.session();
    let (text, _, _) = say(&mut session, &prompt, &greedy(0), &at_most(30));
    assert_eq!(session.tokens()[20] as usize, best);
    for seed in [1, 2] {
        assert_eq!(say(&mut engine.session(), &prompt, &greedy(seed), &at_most(30)).0, text);
    }
    // The best one forbidden, the second best comes first.
    let mut other = engine.session();
    let sampling = Sampling { logit_bias: vec![(best as u32, f32::NEG_INFINITY)], ..greedy(0) };
    say(&mut other, &prompt, &sampling, &at_most(30));
    assert!(other.tokens()[20..].iter().all(|&t| t as usize != best));

    let drawn = |seed| say(&mut engine.session(), &prompt, &Sampling { seed, ..letters() }, &at_most(30)).0;
    assert_eq!(drawn(5), drawn(5));
    assert_ne!(drawn(5), drawn(6));
}

#[test]
fn an_interrupt_ends_an_answer_and_leaves_a_sound_session() {
    let (_folder, engine) = open(1024);
    let (sampling, prompt) = (letters(), tokens(300, 16));
    let expected = from_scratch(&engine, &prompt, &sampling, &at_most(20));
    let flag = Arc::new(AtomicBool::new(true));
    let limits = Limits { interrupt: Some(flag.clone()), ..at_most(20) };

    // Before the first step of the prompt.
    let mut session = engine.session();
    let (text, finish, stats) = say(&mut session, &prompt, &sampling, &limits);
    assert_eq!((text.as_str(), finish, cost(stats)), ("", Finish::Interrupted, (0, 0, 0)));
    assert!(session.tokens().is_empty());

    // Somewhere in the prompt, in the middle of a step perhaps: whole steps are kept, and it goes on from there. Rings have
    // turned over before, and what the broken step overwrote is not missed.
    let long = tokens(900, 17);
    let answer = from_scratch(&engine, &long, &sampling, &at_most(20));
    let mut cut = 0;
    for delay in 0..12 {
        let mut session = engine.session();
        session.feed(&long[..600], 0..0, &mut |_, _| {}).unwrap();
        flag.store(false, Ordering::Relaxed);
        let later = flag.clone();
        let alarm = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(400 * delay));
            later.store(true, Ordering::Relaxed);
        });
        let (_, _, stats) = say(&mut session, &long, &sampling, &limits);
        alarm.join().unwrap();
        let there = session.tokens().len().min(900);
        assert_eq!((stats.reused_tokens, stats.prompt_tokens), (600, there - 600));
        assert!(there == 900 || (there - 600).is_multiple_of(CHUNK), "{there}");
        cut += usize::from(there < 900);
        flag.store(false, Ordering::Relaxed);
        // The whole slack is still there too.
        if delay % 2 == 0 {
            assert!(session.truncate(session.tokens().len() - REWIND));
        }
        let (text, _, stats) = say(&mut session, &long, &sampling, &limits);
        assert_eq!((text, stats.lost_tokens), (answer.clone(), 0), "interrupted after {there} tokens");
    }
    println!("{cut} of 12 prompts were interrupted");

    // In the middle of the answer.
    let mut session = engine.session();
    let mut answer = session.generate(&prompt, &sampling, &limits).unwrap();
    let mut text: String = answer.by_ref().take(7).map(Result::unwrap).collect();
    assert_eq!(answer.finish(), None);
    flag.store(true, Ordering::Relaxed);
    text.extend(answer.by_ref().map(Result::unwrap));
    assert_eq!((answer.finish(), answer.stats().decode_tokens), (Some(Finish::Interrupted), 7));
    assert_eq!(text, expected[..7]);
    drop(answer);
    assert_eq!(session.tokens().len(), 306);
}

#[test]
fn statistics_add_up() {
    let (_folder, engine) = open(256);
    let before = engine.bytes_touched();
    let mut session = engine.session();
    let (_, _, stats) = say(&mut session, &tokens(50, 17), &letters(), &at_most(9));
    assert_eq!(stats.prompt_bytes + stats.decode_bytes, engine.bytes_touched() - before);
    assert!(
        stats.prompt_bytes > 0 && stats.decode_bytes > 0 && stats.prompt_seconds > 0.0 && stats.decode_seconds > 0.0
    );
}

/// Several answers, a token each in one step of the model or in turn, say what each would say alone, though they differ
/// in length, one still reads its prompt, one is interrupted, and one has room for no more.
#[test]
fn answers_written_together_do_not_notice() {
    let (_folder, engine) = open(256);
    let prompts: Vec<Vec<u32>> = [5, 14, 40, 33, 250].iter().map(|&n| tokens(n, n as u64)).collect();
    let sampling = |i: usize| Sampling { seed: i as u64, ..letters() };
    for together in [false, true] {
        let stop = Arc::new(AtomicBool::new(false));
        let limits = |i: usize| match i {
            3 => Limits { interrupt: Some(stop.clone()), ..Limits::default() },
            4 => Limits::default(),
            _ => at_most(20 + i),
        };
        let mut turns: Vec<(Session, Answer, String)> = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let mut session = engine.session();
            let answer = session.begin(prompt, &sampling(i), &limits(i)).unwrap();
            turns.push((session, answer, String::new()));
        }
        for round in 0.. {
            stop.store(round >= 12, Ordering::Relaxed);
            let mut refs: Vec<_> = turns.iter_mut().map(|(session, answer, _)| (session, answer)).collect();
            let pieces: Vec<_> = match together {
                true => advance(&mut refs),
                false => refs.iter_mut().map(|(session, answer)| answer.advance(session)).collect(),
            };
            for ((_, _, text), piece) in turns.iter_mut().zip(pieces) {
                text.push_str(&piece.unwrap().unwrap_or_default().text);
            }
            if turns.iter().all(|(_, answer, _)| answer.finish().is_some()) {
                break;
            }
        }
        for (i, (session, answer, text)) in turns.iter().enumerate() {
            let alone = from_scratch(&engine, &prompts[i], &sampling(i), &at_most(60));
            assert!(alone.starts_with(text.as_str()) && text.len() > 3, "{i}: {text} is not the beginning of {alone}");
            let (finish, stats) = (answer.finish().unwrap(), answer.stats());
            let want = [Finish::Length, Finish::Length, Finish::Length, Finish::Interrupted, Finish::ContextFull][i];
            assert_eq!(finish, want, "{i}");
            assert_eq!(stats.decode_steps + 1, stats.decode_tokens, "{i}");
            assert_eq!(session.tokens().len(), prompts[i].len() + stats.decode_steps, "{i}");
        }
    }
}

/// A session that copied another's beginning goes on as if it had computed it, also where rings have wrapped.
#[test]
fn a_copied_beginning_is_as_good_as_a_computed_one() {
    let (_folder, engine) = open(1024);
    for length in [3, 40, 256, 300, 700] {
        let prompt = tokens(length, 5);
        let mut first = engine.session();
        say(&mut first, &prompt, &letters(), &at_most(30));
        let mut longer = prompt.clone();
        longer.extend(tokens(20, 6));
        let mut second = engine.session();
        say(&mut second, &tokens(90, 9), &letters(), &at_most(10)); // something to overwrite
        let shared = first.shares(&longer);
        assert!(shared >= length, "{length}: {shared}");
        second.copy(&first, shared).unwrap();
        let (text, _, stats) = say(&mut second, &longer, &letters(), &at_most(30));
        assert_eq!((stats.reused_tokens, stats.prompt_tokens), (shared, longer.len() - shared));
        assert_eq!(text, from_scratch(&engine, &longer, &letters(), &at_most(30)), "{length}");
    }
    // Where a window has moved on, nothing is shared.
    let mut first = engine.session();
    let prompt = tokens(900, 5);
    say(&mut first, &prompt, &letters(), &at_most(2));
    assert_eq!(first.shares(&prompt[..200]), 0);
    assert_eq!(first.shares(&prompt[..700]), 700);
}

/// Tokens come with the text they begin; those of a stop text never come.
#[test]
fn tokens_follow_the_text_that_is_shown() {
    let (_folder, engine) = open(256);
    let prompt = tokens(12, 3);
    let whole = from_scratch(&engine, &prompt, &letters(), &at_most(40));
    let limits = Limits { stop: vec![whole[20..23].to_string()], ..at_most(40) };
    let mut session = engine.session();
    let mut answer = session.begin(&prompt, &letters(), &limits).unwrap().with_logprobs(3);
    let (mut text, mut spelled) = (String::new(), Vec::new());
    while let Some(piece) = answer.advance(&mut session).unwrap() {
        text.push_str(&piece.text);
        for token in piece.tokens {
            let said = token.logprobs.expect("asked for");
            assert!(said.top.len() == 3 && said.top[0].1 >= said.top[1].1 && said.chosen <= 0.0);
            spelled.extend_from_slice(engine.text().piece(token.id));
            assert!(spelled.len() <= text.len());
        }
    }
    assert_eq!(answer.finish(), Some(Finish::Stop));
    assert!(whole.starts_with(&text) && !text.contains(&limits.stop[0]));
    assert_eq!(String::from_utf8(spelled).unwrap(), text);
}
