//! Forms of answers: schemas, GBNF and Lark, compiled and walked a little.

use super::house::engine;
use crate::watch::measured;
use thermocline::Error;
use thermocline::engine::grammar::{Form, Grammar};

/// What one grammar may take, its first steps included.
const MOST: usize = 512 << 20;
/// Tokens of a walk.
const STEPS: usize = 24;

/// A schema as JSON; a text that is none is no schema.
pub fn schema(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice(bytes) {
        hold(&Form::Schema(value), bytes);
    }
}

/// What has a `::=` is GBNF.
pub fn gbnf(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let text = if text.contains("::=") { text.to_string() } else { format!("root ::= {text}") };
        hold(&Form::Grammar(text), bytes);
    }
}

pub fn lark(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains("::=")
    {
        hold(&Form::Grammar(text.to_string()), bytes);
    }
}

fn hold(form: &Form, bytes: &[u8]) {
    let engine = engine();
    let (grammar, took) = measured(|| engine.grammar(form));
    assert!(took.at_once <= MOST, "{} bytes for a grammar of {}", took.at_once, bytes.len());
    match grammar {
        Ok(grammar) => walk(&grammar, bytes),
        Err(e) => assert!(matches!(e, Error::Usage(_)), "{e:?}"),
    }
}

/// Writes a few tokens, each one of those that are allowed, chosen by `bytes`.
pub fn walk(grammar: &Grammar, bytes: &[u8]) {
    let text = engine().text();
    let mut walk = grammar.walk();
    let mut number = bytes.iter().fold(0u64, |n, byte| (n ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    for left in (1..=STEPS).rev() {
        let allowed = match walk.allowed(left) {
            Ok(allowed) => allowed,
            // More than can be worked out in time is refused in words.
            Err(e) => return assert!(matches!(e, Error::Usage(_)), "{e:?}"),
        };
        let ids: Vec<u32> =
            (0..text.limit() as u32).filter(|id| allowed[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
        if ids.is_empty() {
            return;
        }
        number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let id = ids[(number >> 33) as usize % ids.len()];
        match walk.take(id) {
            Ok(true) => return,
            Ok(false) if text.is_eos(id) => return,
            Ok(false) => {}
            // So is a token after which there would be too much of it.
            Err(e) => return assert!(matches!(e, Error::Usage(_)), "{e:?}"),
        }
    }
}
