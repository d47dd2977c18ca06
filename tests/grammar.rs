//! What a grammar lets through, token by token, on a vocabulary of bytes.

mod tiny;

use serde_json::{Value, json};
use thermocline::engine::grammar::calls::{Calls, Function};
use thermocline::engine::grammar::{Form, Walk};
use thermocline::engine::sampler::Sampling;
use thermocline::engine::{Engine, Finish, Limits, Options};
use tiny::Tiny;

fn engine() -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path =
        Tiny { vocab: 288, ..Tiny::default() }.write_gguf(&folder.path().join("tiny.gguf"), kernels::Format::F32);
    let engine = Engine::open(&path, &Options::default(), &mut |_, _| {}).expect("a tiny model");
    (folder, engine)
}

/// The bytes that may come next, and whether the end may.
fn next(walk: &mut Walk, engine: &Engine) -> (Vec<u8>, bool) {
    let text = engine.text();
    let allowed = walk.allowed(1000).expect("within limits");
    let ids: Vec<u32> =
        (0..text.limit() as u32).filter(|id| allowed[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
    let letters = ids.iter().filter(|id| text.piece(**id).len() == 1).map(|id| text.piece(*id)[0]).collect();
    (letters, ids.iter().any(|id| text.is_eos(*id)))
}

fn say(walk: &mut Walk, engine: &Engine, words: &str) {
    for token in engine.text().encode(words, false).expect("bytes") {
        walk.take(token).unwrap_or_else(|e| panic!("{words}: {e}"));
    }
}

#[test]
fn text_is_free_until_a_call_begins() {
    let (_folder, engine) = engine();
    let parameters =
        json!({ "properties": { "n": { "type": "integer" } }, "required": ["n"], "additionalProperties": false });
    for parallel in [true, false] {
        let functions = vec![Function { name: "f".into(), parameters: parameters.clone() }];
        let form = Form::Calls(Calls { functions, required: false, parallel, otherwise: None });
        let mut walk = engine.grammar(&form).expect("it makes sense").walk();
        for words in ["", "Let me", " \"see\" <tool_ca", "re>\n{"] {
            say(&mut walk, &engine, words);
            let (letters, end) = next(&mut walk, &engine);
            assert!(end && letters.len() > 100, "after {words:?}: {letters:?}");
        }
        for (words, then) in
            [("<tool_call>", b"\n"), ("\n{\"name\": \"", b"f"), ("f\", \"arguments\": ", b"{"), ("{\"n\": 5}", b"}")]
        {
            say(&mut walk, &engine, words);
            let (letters, end) = next(&mut walk, &engine);
            assert!(!end && letters == then, "after {words:?}: {letters:?}");
        }
        let call = engine.text().encode("}\n</tool_call>", false).expect("bytes");
        let over: Vec<bool> = call.iter().map(|token| walk.take(*token).expect("allowed")).collect();
        assert_eq!(over.last(), Some(&!parallel), "more may follow only where there may be several");
        if parallel {
            let (letters, end) = next(&mut walk, &engine);
            assert!(end && letters.len() > 100);
        }
    }
}

#[test]
fn a_walk_is_its_own_and_special_tokens_are_no_text() {
    let (_folder, engine) = engine();
    let grammar = engine.grammar(&Form::Grammar("root ::= \"a\" . | \"<|im_end|>\"".into())).expect("it makes sense");
    let (mut one, mut other) = (grammar.walk(), grammar.walk());
    say(&mut one, &engine, "a");
    assert_eq!(next(&mut other, &engine), (b"<a".to_vec(), false));
    let (letters, end) = next(&mut one, &engine);
    // Any character: no byte that begins none, and no end before it.
    assert!(!end && letters.contains(&0xC3) && !letters.contains(&0xFF) && !letters.contains(&0x80), "{letters:?}");
}

/// Objects that must have much, in a list that may have many of them, and calls after calls: what is opened near the end has
/// to be closed before it, so there it is not opened. A byte is a token here, so that a record takes some eighty.
#[test]
fn what_runs_out_of_tokens_is_brought_to_its_end() {
    let (_folder, engine) = engine();
    let record = json!({
        "type": "object", "required": ["city", "country", "days"], "additionalProperties": false,
        "properties": {
            "city": { "type": "string" },
            "country": { "type": "object", "properties": { "name": { "enum": ["Norway", "Italy"] } }, "required": ["name"], "additionalProperties": false },
            "days": { "type": "array", "items": { "type": "integer" }, "minItems": 4 },
        },
    });
    let function = |name: &str| Function { name: name.into(), parameters: record.clone() };
    let calls = Calls {
        functions: vec![function("rain"), function("temperature")],
        required: true,
        parallel: true,
        otherwise: None,
    };
    let forms = [Form::Schema(json!({ "type": "array", "items": record.clone() })), Form::Calls(calls)];
    let mut session = engine.session();
    let (mut landed, mut several) = (0, 0);
    for (at, form) in forms.iter().enumerate() {
        let grammar = engine.grammar(form).expect("it makes sense");
        for tokens in (130..420).step_by(23) {
            let limits = Limits { max_tokens: Some(tokens), grammar: Some(grammar.clone()), ..Limits::default() };
            // Whoever could end early does not.
            let logit_bias = engine.text().eos().iter().map(|id| (*id, -40.0)).collect();
            let sampling = Sampling {
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                seed: tokens as u64,
                logit_bias,
                ..Sampling::default()
            };
            let mut writing = session.generate(&[70, 71, 72], &sampling, &limits).expect("it begins");
            let text: String = writing.by_ref().map(|piece| piece.expect("it is written")).collect();
            let place = format!("{tokens} tokens: {text}");
            assert_ne!(writing.finish(), Some(Finish::Length), "{place}");
            landed += writing.stats().landed_tokens;
            let whole: Vec<Value> = match at {
                0 => serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {place}")),
                _ => text
                    .split("\n<tool_call>")
                    .map(|call| {
                        call.trim_start_matches("<tool_call>").strip_suffix("</tool_call>").expect("it is whole")
                    })
                    .map(|call| serde_json::from_str(call).unwrap_or_else(|e| panic!("{e}: {place}")))
                    .collect(),
            };
            several += usize::from(whole.len() > 1);
        }
    }
    assert!(landed > 0 && several > 0, "{landed} tokens, {several} answers of several parts");
}
