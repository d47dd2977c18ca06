//! Guesses change how soon an answer is there, and nothing else of it.

mod tiny;

use kernels::Format;
use serde_json::json;
use tempfile::TempDir;
use thermocline::Error;
use thermocline::engine::grammar::Form;
use thermocline::engine::grammar::calls::{Calls, Function};
use thermocline::engine::sampler::Sampling;
use thermocline::engine::{Answer, Drafting, Engine, Finish, Limits, Options, Session, Stats, Token, advance};
use tiny::Tiny;

const CHUNK: usize = 8;

/// Letters from a to e only, so that pairs of them come again and again, some followed as before.
fn letters(seed: u64) -> Sampling {
    let id = |letter: u8| 3 + u32::from(letter);
    let forbidden = (0..288).filter(|t| !(id(b'a')..=id(b'e')).contains(t));
    Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        seed,
        logit_bias: forbidden.map(|t| (t, f32::NEG_INFINITY)).collect(),
        ..Sampling::default()
    }
}

fn tiny(seed: u64) -> Tiny {
    Tiny { vocab: 288, context: 1024, window: Some(16), silence: 0.35, seed, ..Tiny::default() }
}

/// Rings hold a window and one step, rounded up to a block: the answers below go round several times.
fn options(always: bool) -> Options {
    let drafting = Drafting { max: if always { 16 } else { 0 }, p_min: 0.0, always, ..Drafting::default() };
    Options { context: Some(1024), threads: Some(1), chunk: CHUNK, rewind: 0, drafting, ..Options::default() }
}

fn open(tiny: &Tiny, options: &Options) -> (TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny.write_gguf(&folder.path().join("tiny.gguf"), Format::F32);
    let engine = Engine::open(&path, options, &mut |_, _| {}).unwrap();
    (folder, engine)
}

fn prompt(seed: u32) -> Vec<u32> {
    (0..60).map(|i| 100 + (i * i * 7 + seed) % 5).collect()
}

/// Everything that can be seen of an answer.
#[derive(Debug, PartialEq)]
struct Said {
    text: String,
    tokens: Vec<Token>,
    finish: Finish,
}

fn finish(session: &mut Session, mut answer: Answer) -> (Said, Stats) {
    let mut said = Said { text: String::new(), tokens: Vec::new(), finish: Finish::Interrupted };
    while let Some(piece) = answer.advance(session).unwrap() {
        said.text.push_str(&piece.text);
        said.tokens.extend(piece.tokens);
    }
    said.finish = answer.finish().unwrap();
    (said, answer.stats())
}

fn say(session: &mut Session, prompt: &[u32], sampling: &Sampling, limits: &Limits) -> (Said, Stats) {
    let answer = session.begin(prompt, sampling, limits).unwrap().with_logprobs(2);
    finish(session, answer)
}

/// Settings that draw in different ways.
fn ways() -> Vec<(Sampling, Limits)> {
    let most = |tokens| Limits { max_tokens: Some(tokens), ..Limits::default() };
    let stop = Limits { stop: vec!["abca".into(), "eeb".into()], ..most(700) };
    vec![
        (Sampling { temperature: 0.0, ..letters(0) }, most(400)),
        (letters(1), most(600)),
        (Sampling { temperature: 4.0, ..letters(2) }, most(401)),
        (Sampling { repeat_penalty: 1.3, frequency_penalty: 0.1, repeat_last_n: 30, ..letters(3) }, most(300)),
        (letters(4), stop),
        (letters(5), Limits::default()), // until the context is full
    ]
}

#[test]
fn answers_are_the_same_with_what_was_said_before_as_a_guess() {
    let (_a, plain) = open(&tiny(7), &options(false));
    let (_b, guessing) = open(&tiny(7), &options(true));
    let mut session = guessing.session();
    let mut sum = Stats::default();
    for (turn, (sampling, limits)) in ways().into_iter().enumerate() {
        let prompt = prompt(turn as u32);
        let (expected, alone) = say(&mut plain.session(), &prompt, &sampling, &limits);
        let (said, stats) = say(&mut session, &prompt, &sampling, &limits);
        assert!(said == expected, "way {turn}: {:?} instead of {:?}", said.text, expected.text);
        assert_eq!((alone.drafted, alone.decode_steps), (0, alone.step_tokens));
        assert_eq!((stats.decode_tokens, stats.step_tokens), (alone.decode_tokens, alone.step_tokens));
        assert!(stats.decode_steps + stats.accepted >= stats.step_tokens, "{stats:?}");
        // A request may have fewer, or none.
        for guesses in [0, 2] {
            let (said, fewer) =
                say(&mut session, &prompt, &sampling, &Limits { guesses: Some(guesses), ..limits.clone() });
            assert!(said == expected, "way {turn}, {guesses} guesses at most");
            let steps = fewer.decode_steps;
            assert!(fewer.drafted <= guesses * steps && (guesses == 0 || fewer.drafted > 0), "{guesses}: {fewer:?}");
        }
        // The same conversation goes on in what guesses have left behind.
        let more: Vec<u32> = session.tokens().iter().copied().chain([101, 102]).take(1000).collect();
        let limits = Limits { max_tokens: Some(20), ..Limits::default() };
        let (expected, _) = say(&mut plain.session(), &more, &sampling, &limits);
        assert!(say(&mut session, &more, &sampling, &limits).0 == expected, "after way {turn}");
        (sum.drafted, sum.accepted) = (sum.drafted + stats.drafted, sum.accepted + stats.accepted);
    }
    assert!(sum.accepted > 100 && sum.drafted > sum.accepted + 100, "{sum:?}");
}

#[test]
fn a_smaller_model_guesses_and_changes_nothing() {
    let (_a, plain) = open(&tiny(7), &options(false));
    // Itself, which is always right where nothing is left to chance; and a stranger, which is seldom.
    for (seed, knows) in [(7, true), (8, false)] {
        let (_b, draft) = open(&tiny(seed), &options(false));
        let (_c, guessing) = open(&tiny(7), &Options { draft: Some(draft), ..options(true) });
        let mut session = guessing.session();
        for (turn, (sampling, limits)) in ways().into_iter().enumerate() {
            let free = Sampling { logit_bias: vec![(2, f32::NEG_INFINITY)], ..sampling };
            let prompt: Vec<u32> = (0..40).map(|i| 3 + (i * 37 + turn as u32) % 256).collect();
            let (expected, _) = say(&mut plain.session(), &prompt, &free, &limits);
            let (said, stats) = say(&mut session, &prompt, &free, &limits);
            assert!(said == expected, "way {turn}: {:?} instead of {:?}", said.text, expected.text);
            assert!(stats.drafted > 0);
            if knows && free.temperature == 0.0 {
                assert!(10 * stats.accepted > 9 * stats.drafted, "{stats:?}");
            }
        }
    }
}

#[test]
fn a_draft_model_of_other_words_is_refused() {
    let (_a, draft) = open(&Tiny { vocab: 300, ..tiny(7) }, &options(false));
    let folder = tempfile::tempdir().unwrap();
    let path = tiny(7).write_gguf(&folder.path().join("tiny.gguf"), Format::F32);
    match Engine::open(&path, &Options { draft: Some(draft), ..options(true) }, &mut |_, _| {}) {
        Err(Error::Usage(sentence)) => assert!(sentence.contains("vocabulary"), "{sentence}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn answers_written_together_guess_each_for_itself() {
    let (_a, plain) = open(&tiny(7), &options(false));
    let (_b, guessing) = open(&tiny(7), &options(true));
    let ways: Vec<(Sampling, Limits)> = ways().into_iter().take(5).collect();
    let mut sessions: Vec<Session> = ways.iter().map(|_| guessing.session()).collect();
    let mut answers: Vec<Answer> = (0u32..)
        .zip(&ways)
        .zip(&mut sessions)
        .map(|((turn, (sampling, limits)), session)| session.begin(&prompt(turn), sampling, limits).unwrap())
        .collect();
    let mut texts = vec![String::new(); ways.len()];
    while answers.iter().any(|answer| answer.finish().is_none()) {
        let mut turns: Vec<(&mut Session, &mut Answer)> = sessions.iter_mut().zip(&mut answers).collect();
        for (text, piece) in texts.iter_mut().zip(advance(&mut turns)) {
            text.push_str(&piece.unwrap().unwrap_or_default().text);
        }
    }
    for (turn, (sampling, limits)) in ways.iter().enumerate() {
        let (expected, _) = say(&mut plain.session(), &prompt(turn as u32), sampling, limits);
        assert_eq!((&texts[turn], answers[turn].finish().unwrap()), (&expected.text, expected.finish), "way {turn}");
    }
    assert!(answers.iter().all(|answer| answer.stats().drafted > 0));
}

/// Forms that say again and again what was said before and leave something to choose, with the tokens there are for each.
fn forms() -> Vec<(&'static str, Form, Option<usize>)> {
    let word = json!({ "enum": ["abcabc", "abcabd", "dabca"] });
    let list = json!({ "type": "array", "items": word, "minItems": 12 });
    let object = |properties: serde_json::Value| {
        let names: Vec<&String> = properties.as_object().unwrap().keys().collect();
        json!({ "type": "object", "properties": properties, "required": names, "additionalProperties": false })
    };
    let parameters = object(json!({ "city": word, "n": { "type": "integer" } }));
    let function = |name: &str| Function { name: name.into(), parameters: parameters.clone() };
    let calls = |required, parallel| {
        Form::Calls(Calls { functions: vec![function("rain"), function("range")], required, parallel, otherwise: None })
    };
    let gbnf = "root ::= item (\", \" item)*\nitem ::= \"abc\" [a-e] \"cba\"";
    vec![
        ("a list", Form::Schema(list.clone()), Some(300)),
        ("a list until the context is full", Form::Schema(json!({ "type": "array", "items": word })), None),
        (
            "a text that is cut short",
            Form::Schema(object(json!({ "all": list, "text": { "type": "string" } }))),
            Some(280),
        ),
        ("any object", Form::Object, Some(120)),
        ("GBNF", Form::Grammar(gbnf.into()), Some(150)),
        ("calls", calls(true, true), Some(400)),
        ("one call", calls(true, false), Some(200)),
        ("text that may hold calls", calls(false, true), Some(100)),
    ]
}

/// The end of an answer, which forms allow early, comes late.
fn anything(engine: &Engine, seed: u64) -> Sampling {
    let logit_bias = engine.text().eos().iter().map(|id| (*id, -40.0)).collect();
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed, logit_bias, ..Sampling::default() }
}

#[test]
fn what_is_held_to_a_form_is_the_same_with_guesses() {
    let (_a, plain) = open(&tiny(7), &options(false));
    let (_b, guessing) = open(&tiny(7), &options(true));
    let mut session = guessing.session();
    let (mut sum, mut together) = (Stats::default(), Vec::new());
    for (turn, (name, form, max_tokens)) in forms().into_iter().enumerate() {
        let limits =
            |engine: &Engine| Limits { max_tokens, grammar: Some(engine.grammar(&form).unwrap()), ..Limits::default() };
        let prompt = prompt(turn as u32);
        for seed in 0..3 {
            let (expected, alone) = say(&mut plain.session(), &prompt, &anything(&plain, seed), &limits(&plain));
            let (said, stats) = say(&mut session, &prompt, &anything(&plain, seed), &limits(&guessing));
            assert!(said == expected, "{name}, {seed}: {:?} instead of {:?}", said.text, expected.text);
            assert_eq!(stats.landed_tokens, alone.landed_tokens, "{name}, {seed}");
            assert_eq!((alone.drafted, stats.decode_tokens), (0, alone.decode_tokens), "{name}, {seed}");
            (sum.drafted, sum.accepted) = (sum.drafted + stats.drafted, sum.accepted + stats.accepted);
            // Answers brought to an end are whole, and of those some were guessed right on their way.
            if stats.landed_tokens > 0 && max_tokens.is_some() {
                sum.landed_tokens += stats.landed_tokens;
                assert!(
                    serde_json::from_str::<serde_json::Value>(&said.text).is_ok() || name.contains("call"),
                    "{name}: {:?}",
                    said.text
                );
            }
            if name == "calls" {
                assert!(
                    said.text.matches("<tool_call>").count() > 1 && said.text.ends_with("</tool_call>"),
                    "{:?}",
                    said.text
                );
            }
            together.push((prompt.clone(), anything(&plain, seed), limits(&guessing), expected));
        }
    }
    assert!(sum.accepted > 300 && sum.drafted > sum.accepted + 100 && sum.landed_tokens > 0, "{sum:?}");

    // All of them at once, each with guesses of its own in steps they share.
    let mut sessions: Vec<Session> = together.iter().map(|_| guessing.session()).collect();
    let mut answers: Vec<Answer> = sessions
        .iter_mut()
        .zip(&together)
        .map(|(session, (prompt, sampling, limits, _))| session.begin(prompt, sampling, limits).unwrap())
        .collect();
    let mut texts = vec![String::new(); answers.len()];
    while answers.iter().any(|answer| answer.finish().is_none()) {
        let mut turns: Vec<(&mut Session, &mut Answer)> = sessions.iter_mut().zip(&mut answers).collect();
        for (text, piece) in texts.iter_mut().zip(advance(&mut turns)) {
            text.push_str(&piece.unwrap().unwrap_or_default().text);
        }
    }
    for ((text, answer), (.., expected)) in texts.iter().zip(&answers).zip(&together) {
        assert_eq!((text, answer.finish().unwrap()), (&expected.text, expected.finish));
    }
}
