//! Bodies of requests, as far as a request goes before it is queued: read, rendered, tokenised, its grammar compiled.

use super::grammar;
use super::house::{desk, engine};
use crate::watch::measured;
use thermocline::serve::desk::{Asked, Refusal};

/// A body costs what it holds, many times over as JSON and tokens are larger than text, and one grammar.
const EACH: usize = 4096;
const FLOOR: usize = 256 << 20;
/// What docs/SERVER.md promises for one request.
const MOST_CHOICES: usize = 16;
const MOST_PROMPTS: usize = 64;

pub fn chat(body: &[u8]) {
    read("/v1/chat/completions", body);
}

pub fn completions(body: &[u8]) {
    read("/v1/completions", body);
}

pub fn messages(body: &[u8]) {
    read("/v1/messages", body);
}

pub fn responses(body: &[u8]) {
    read("/v1/responses", body);
}

/// The small bodies; the first byte says which.
pub fn words(bytes: &[u8]) {
    const PATHS: [&str; 5] =
        ["/tokenize", "/detokenize", "/apply-template", "/v1/messages/count_tokens", "/slots/{slot}"];
    let Some((which, body)) = bytes.split_first() else { return };
    read(PATHS[usize::from(*which) % PATHS.len()], body);
}

fn read(path: &str, body: &[u8]) {
    let desk = desk();
    let (asked, took) = measured(|| desk.read(path, body));
    assert!(took.at_once <= FLOOR + EACH * body.len(), "{} bytes for a body of {}", took.at_once, body.len());
    match asked {
        Ok(Asked::Answers { prompts, each, limits }) => {
            assert!((1..=MOST_CHOICES).contains(&each) && (1..=MOST_PROMPTS).contains(&prompts.len()));
            for prompt in &prompts {
                assert!(!prompt.is_empty() && prompt.len() <= engine().context(), "{} tokens", prompt.len());
                assert!(prompt.iter().all(|id| (*id as usize) < engine().config().vocab));
            }
            if let Some(grammar) = &limits.grammar {
                grammar::walk(grammar, body);
            }
        }
        Ok(Asked::Reply(reply)) => assert!(reply.is_object(), "{reply}"),
        Err(Refusal { status, body }) => {
            // 500: a text its tokenizer gives up on.
            let expected = matches!(status, 400 | 404);
            assert!(expected, "{status}: {body}");
            assert!(body["error"]["message"].as_str().is_some_and(|words| !words.is_empty()), "{body}");
        }
    }
}
