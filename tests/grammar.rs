//! What a grammar lets through, token by token, on a vocabulary of bytes.

mod tiny;

use serde_json::json;
use thermocline::engine::grammar::calls::{Calls, Function};
use thermocline::engine::grammar::{Form, Walk};
use thermocline::engine::{Engine, Options};
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
        let form = Form::Calls(Calls { functions, required: false, parallel });
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
