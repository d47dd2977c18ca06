//! What holding an answer to a form costs on a vocabulary of real size: to compile the form, to work out which of 151,936
//! tokens may come next, and to draw among them.
//!
//! ```text
//! cargo bench --bench masks
//! ```
//!
//! Each form is walked along an answer it allows, token by token, as often as it takes. No model is needed: the vocabulary is
//! that of `tests/vocab`, which is SmallThinker's.

#[path = "../tests/vocab/mod.rs"]
mod vocab;

use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;
use thermocline::checkpoint::TextSource;
use thermocline::engine::grammar::calls::{Calls, Function};
use thermocline::engine::grammar::{Form, Grammars};
use thermocline::engine::sampler::{Sampler, Sampling};
use thermocline::engine::text::{TemplateOverride, Text};

const VOCAB: usize = 151_936;
const ROUNDS: usize = 5;

/// A form, and an answer it allows.
struct Case {
    name: &'static str,
    form: Form,
    answer: String,
}

fn person(n: usize) -> Value {
    let role = ["engineer", "writer"][n % 2];
    json!({
        "name": format!("Ada Lovelace the {n}th"), "age": 36 + n, "email": format!("ada{n}@example.org"), "active": n.is_multiple_of(2),
        "role": role, "tags": ["mathematics", "poetry", "naïve 🦙"],
        "address": { "street": "12 St James's Square", "city": "London", "code": "SW1Y-4JH" },
    })
}

fn schema_of_a_person() -> Value {
    let object = |properties: Value| {
        let names: Vec<&String> = properties.as_object().expect("an object").keys().collect();
        json!({ "type": "object", "properties": properties, "required": names, "additionalProperties": false })
    };
    let address = object(json!({
        "street": { "type": "string" }, "city": { "type": "string", "maxLength": 40 },
        "code": { "type": "string", "pattern": "^[A-Z0-9]{2,4}-[A-Z0-9]{3}$" },
    }));
    object(json!({
        "name": { "type": "string" }, "age": { "type": "integer", "minimum": 0, "maximum": 150 },
        "email": { "type": "string", "format": "email" }, "active": { "type": "boolean" },
        "role": { "enum": ["engineer", "writer", "king"] }, "tags": { "type": "array", "items": { "type": "string" }, "maxItems": 8 },
        "address": address,
    }))
}

/// A tree whose parts refer back to it, and an object of 60 properties, half of them optional.
fn schema_that_is_large() -> (Value, Value) {
    let kinds = ["string", "integer", "boolean", "number"];
    let values = [json!("some words"), json!(17), json!(true), json!(2.5)];
    let (mut properties, mut answer) = (serde_json::Map::new(), serde_json::Map::new());
    for at in 0..60 {
        properties.insert(format!("property_{at}"), json!({ "type": (kinds[at % 4]) }));
        answer.insert(format!("property_{at}"), values[at % 4].clone());
    }
    let required: Vec<String> = (0..60).step_by(2).map(|at| format!("property_{at}")).collect();
    properties.insert("tree".into(), json!({ "$ref": "#/$defs/node" }));
    answer.insert(
        "tree".into(),
        json!({ "label": "root", "children": [{ "label": "leaf", "children": [] }, { "label": "another leaf", "children": [] }] }),
    );
    let node = json!({
        "type": "object", "required": ["label", "children"], "additionalProperties": false,
        "properties": { "label": { "type": "string" }, "children": { "type": "array", "items": { "$ref": "#/$defs/node" } } },
    });
    let schema = json!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false, "$defs": { "node": node },
    });
    (schema, Value::Object(answer))
}

/// As answers are written: a blank after commas and colons.
fn written(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let fields: Vec<String> =
                map.iter().map(|(name, value)| format!("{}: {}", json!(name), written(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

const GBNF: &str = r#"
root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ( pair ( ", " pair )* )? "}"
pair   ::= string ": " value
array  ::= "[" ( value ( ", " value )* )? "]"
string ::= "\"" ( [^"\\\x00-\x1f] | "\\" ["\\/bfnrtu] )* "\""
number ::= "-"? [0-9]+ ( "." [0-9]+ )?
"#;

fn cases() -> Vec<Case> {
    let people = written(&Value::Array((0..6).map(person).collect()));
    let list = json!({ "type": "array", "items": schema_of_a_person() });
    let (large, filled) = schema_that_is_large();
    let function = |at: usize| Function { name: format!("function_{at}"), parameters: schema_of_a_person() };
    let calls = |required| {
        Form::Calls(Calls { functions: (0..8).map(function).collect(), required, parallel: true, otherwise: None })
    };
    let call = |at: usize| {
        format!("<tool_call>\n{{\"name\": \"function_{at}\", \"arguments\": {}}}\n</tool_call>", written(&person(at)))
    };
    let words = "Let me look that up for you; it will take a moment, for there are several places to ask. ";
    vec![
        Case { name: "any object", form: Form::Object, answer: written(&person(1)) },
        Case { name: "a list of people", form: Form::Schema(list), answer: people },
        Case { name: "60 properties and a tree", form: Form::Schema(large), answer: written(&filled) },
        Case { name: "JSON as GBNF", form: Form::Grammar(GBNF.into()), answer: written(&person(2)) },
        Case { name: "8 functions, required", form: calls(true), answer: format!("{}\n{}", call(3), call(5)) },
        Case { name: "8 functions, free", form: calls(false), answer: format!("{}{}", words.repeat(3), call(4)) },
    ]
}

fn quantile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * share).round() as usize]
}

fn main() {
    let source = TextSource::Gguf(vocab::qwen2());
    let text =
        Text::open(&source, &vocab::config(VOCAB, &[151_645]), TemplateOverride::Checkpoint).expect("a vocabulary");
    let started = Instant::now();
    let grammars = Grammars::new(&text).expect("a trie");
    println!("trie of {VOCAB} tokens: {:.0} ms, once", started.elapsed().as_secs_f64() * 1e3);
    println!(
        "| form | tokens | compile, ms | mask, us: median | 99 % | most | near the end: median | 99 % | most | go on, us |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for Case { name, form, answer } in cases() {
        let tokens = text.encode(&answer, true).expect("text");
        let (mut compile, mut on, mut masks) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
        // With far more tokens to go than the answer takes, and with hardly more, so that a way out is looked for.
        for round in 0..2 * ROUNDS {
            let (spare, mask) = ([4096, 64][round % 2], &mut masks[round % 2]);
            let started = Instant::now();
            let grammar = grammars.compile(&form).expect("it makes sense");
            compile.push(started.elapsed().as_secs_f64() * 1e3);
            let mut walk = grammar.walk();
            for (at, &token) in tokens.iter().enumerate() {
                let left = tokens.len() + spare - at;
                let started = Instant::now();
                let allowed = walk.allowed(left).expect("within limits");
                assert!(allowed[token as usize / 32] >> (token % 32) & 1 == 1, "{name}: token {at} of {answer:?}");
                assert!(!walk.is_near_its_end() || !walk.strands(token, left), "{name}: token {at} of {answer:?}");
                mask.push(started.elapsed().as_secs_f64() * 1e6);
                let started = Instant::now();
                walk.take(token).expect("it is allowed");
                on.push(started.elapsed().as_secs_f64() * 1e6);
            }
        }
        let [far, near] = masks
            .map(|mut times| [0.5, 0.99, 1.0].map(|share| format!("{:.0}", quantile(&mut times, share))).join(" | "));
        let (compile, on) = (quantile(&mut compile, 0.5), quantile(&mut on, 0.5));
        println!("| {name} | {} | {compile:.1} | {far} | {near} | {on:.1} |", tokens.len());
    }
    drawing(&text, &grammars);
}

/// What the sampler takes for a token, free and under a mask.
fn drawing(text: &Text, grammars: &Grammars) {
    let mut state = 7u64;
    let logits: Vec<f32> = (0..VOCAB)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 20) as f32
        })
        .collect();
    let mut walk = grammars.compile(&Form::Object).expect("it makes sense").walk();
    for token in text.encode("{\"name\": \"", true).expect("text") {
        walk.take(token).expect("allowed");
    }
    let wide = walk.allowed(4096).expect("within limits").to_vec();
    for (name, temperature) in [("temperature 0", 0.0), ("as recommended", Sampling::default().temperature)] {
        let sampling = Sampling { temperature, seed: 1, ..Sampling::default() };
        let mut sampler = Sampler::new(&sampling, text.limit()).expect("settings");
        let mut time = |mask: Option<&[u32]>| {
            let mut times: Vec<f64> = (0..200)
                .map(|_| {
                    let mut logits = logits.clone();
                    let started = Instant::now();
                    if let Some(mask) = mask {
                        sampler.allow(mask);
                    }
                    black_box(sampler.sample(&mut logits, &[]).expect("a token"));
                    started.elapsed().as_secs_f64() * 1e6
                })
                .collect();
            quantile(&mut times, 0.5)
        };
        println!("drawing, {name}: {:.0} us free, {:.0} us in a string", time(None), time(Some(&wide)));
    }
}
