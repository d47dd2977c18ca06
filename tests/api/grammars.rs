//! Answers held to schemas and grammars.

use super::client::{Served, serve};
use super::{ask, streamed, text, with};
use serde_json::{Value, json};

fn schema(schema: Value) -> Value {
    json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } } })
}

fn person() -> Value {
    json!({
        "type": "object", "required": ["name", "age"], "additionalProperties": false,
        "properties": { "name": { "type": "string", "maxLength": 12 }, "age": { "type": "integer", "minimum": 18, "maximum": 99 } },
    })
}

/// What was refused, and what was said about it.
fn refused(served: &Served, body: &Value) -> (Value, String) {
    let reply = served.post("/v1/chat/completions", body);
    assert_eq!(reply.status, 400, "{body}: {reply:?}");
    let error = reply.json()["error"].clone();
    (error["param"].clone(), error["message"].as_str().expect("text").to_string())
}

#[test]
fn answers_are_what_a_schema_allows() {
    let served = serve(&[]);
    let ask = |seed: u64, more: Value| with(with(ask("Who?"), json!({ "temperature": 1.5, "seed": seed })), more);
    for seed in 0..20 {
        let reply = served.chat(&ask(seed, schema(person())));
        assert_eq!(reply["choices"][0]["finish_reason"], "stop", "{reply}");
        let said: Value = serde_json::from_str(&text(&reply["choices"][0])).expect("JSON");
        assert!(said["name"].as_str().is_some_and(|name| name.chars().count() <= 12), "{said}");
        assert!(said["age"].as_u64().is_some_and(|age| (18..=99).contains(&age)), "{said}");
        assert_eq!(said.as_object().map(serde_json::Map::len), Some(2));
    }
    // The other ways to say it, a stream, and several choices: the same words for the same seed.
    let whole = text(&served.chat(&ask(7, schema(person())))["choices"][0]);
    for form in [
        json!({ "json_schema": person() }),
        json!({ "response_format": { "type": "json_schema", "schema": person() } }),
        json!({ "response_format": { "type": "json_object", "schema": person() } }),
    ] {
        assert_eq!(text(&served.chat(&ask(7, form.clone()))["choices"][0]), whole, "{form}");
    }
    let stream = with(ask(7, schema(person())), json!({ "stream": true, "logprobs": true, "n": 2 }));
    let events = served.post("/v1/chat/completions", &stream).events();
    assert_eq!(streamed(&events, 0), whole);
    assert_eq!(streamed(&events, 1), text(&served.chat(&ask(8, schema(person())))["choices"][0]));
    let object = served.chat(&with(ask(3, json!({})), json!({ "response_format": { "type": "json_object" } })));
    assert!(serde_json::from_str::<Value>(&text(&object["choices"][0])).is_ok_and(|v| v.is_object()), "{object}");
}

#[test]
fn answers_are_what_a_grammar_allows() {
    let served = serve(&[]);
    let gbnf = "root ::= list\nlist ::= \"[\" (item (\",\" item){0,2})? \"]\"\nitem ::= [a-c] [0-9]+ | list";
    let lark = "start: WORD (\" \" WORD){2}\nWORD: /[a-z]{1,8}/";
    for seed in 0..8 {
        let body = |grammar: &str| json!({ "prompt": "x", "grammar": grammar, "temperature": 1.2, "seed": seed, "max_tokens": 200 });
        let said = served.post("/v1/completions", &body("root ::= \"yes\" | \"no\"")).json();
        assert!(["yes", "no"].contains(&said["choices"][0]["text"].as_str().expect("text")), "{said}");
        let said = served.post("/v1/completions", &body(lark)).json();
        let words: Vec<&str> = said["choices"][0]["text"].as_str().expect("text").split(' ').collect();
        assert!(words.len() == 3 && words.iter().all(|w| w.bytes().all(|b| b.is_ascii_lowercase())), "{said}");
        let said = served.post("/v1/completions", &body(gbnf)).json();
        let words = said["choices"][0]["text"].as_str().expect("text");
        assert!(words.starts_with('[') && words.bytes().all(|b| b"[],abc0123456789".contains(&b)), "{said}");
        if said["choices"][0]["finish_reason"] == "stop" {
            assert_eq!(words.matches('[').count(), words.matches(']').count(), "{said}");
        }
    }
}

/// Probabilities are the model's own, whatever the grammar left of them.
#[test]
fn probabilities_do_not_know_the_grammar() {
    let served = serve(&[]);
    let body = with(ask("What is 7 + 5?"), json!({ "logprobs": true, "top_logprobs": 1 }));
    let free = served.chat(&body);
    let held = served.chat(&with(body, json!({ "grammar": "root ::= \"z\"" })));
    let first = |reply: &Value| reply["choices"][0]["logprobs"]["content"][0].clone();
    assert_eq!(text(&held["choices"][0]), "z");
    assert_eq!(first(&held)["top_logprobs"], first(&free)["top_logprobs"]);
    assert!(first(&held)["logprob"].as_f64() < first(&free)["logprob"].as_f64());
}

#[test]
fn what_cannot_be_held_to_is_refused_by_name() {
    let served = serve(&[]);
    let place = "response_format.json_schema.schema";
    for (feature, value) in [
        ("uniqueItems", json!({ "type": "array", "uniqueItems": true })),
        ("not", json!({ "not": { "type": "string" } })),
        ("if", json!({ "properties": { "a": { "if": {}, "then": {} } } })),
        ("contains", json!({ "contains": {} })),
        ("type", json!({ "type": "thing" })),
        ("$defs/none", json!({ "$ref": "#/$defs/none" })),
        ("nsatisfiable", json!({ "type": "string", "minLength": 5, "maxLength": 2 })),
    ] {
        let (param, message) = refused(&served, &with(ask("Hi"), schema(value)));
        assert!(param == place && message.contains(feature), "{feature}: {message}");
    }
    for (field, body) in [
        ("response_format.type", json!({ "response_format": { "type": "yaml" } })),
        ("response_format.odd", json!({ "response_format": { "type": "text", "odd": 1 } })),
        ("response_format.schema", json!({ "response_format": { "type": "json_schema" } })),
        (place, json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x" } } })),
        (place, schema(json!("text"))),
        ("json_schema", json!({ "json_schema": [1] })),
        ("grammar", json!({ "grammar": "root := 1" })),
        ("grammar", json!({ "grammar": "root ::= other" })),
        ("grammar", json!({ "grammar": "start: /[/" })),
        ("grammar", with(schema(person()), json!({ "grammar": "root ::= \"a\"" }))),
    ] {
        let (param, message) = refused(&served, &with(ask("Hi"), with(body.clone(), json!({ "stream": true }))));
        assert!(param == field, "{body}: {param} {message}");
        assert!(message.len() < 1000 && !message.contains("backtrace"), "{message}");
    }
    let biased = json!({ "grammar": "root ::= \"z\"", "logit_bias": {} });
    let token = served.post("/tokenize", &json!({ "content": "z" })).json()["tokens"][0].to_string();
    let biased = with(with(ask("Hi"), biased), json!({ "logit_bias": { token: -100 } }));
    assert!(refused(&served, &biased).1.contains("forbids every token"));
}

/// Near the bound of 400 steps: 14 definitions of two dozen steps, each of which leads to the next.
fn deep_chain() -> Value {
    let link = |i: u32| {
        (0..12).fold(
            json!({ "$ref": format!("#/$defs/n{}", i + 1) }),
            |inner, _| json!({ "anyOf": [inner, { "type": "null" }] }),
        )
    };
    let mut all: serde_json::Map<String, Value> = (0..14).map(|i| (format!("n{i}"), link(i))).collect();
    all.insert("n14".into(), json!({ "type": "integer" }));
    json!({ "$ref": "#/$defs/n0", "$defs": all })
}

/// Schemas and grammars made to hurt: each is answered or refused soon, and the server lives on.
#[test]
fn hostile_forms_do_no_harm() {
    let served = serve(&["--timeout", "60"]);
    let nested = |depth: usize| {
        (0..depth).fold(json!({ "type": "null" }), |inner, _| json!({ "items": inner, "type": "array", "minItems": 1 }))
    };
    let chain: serde_json::Map<String, Value> =
        (0..3000).map(|i| (format!("n{i}"), json!({ "$ref": format!("#/$defs/n{}", i + 1) }))).collect();
    let wide: serde_json::Map<String, Value> =
        (0..5000).map(|i| (format!("property {i}"), json!({ "type": "string" }))).collect();
    let forms = [
        schema(nested(40)),
        schema(json!({ "$ref": "#" })),
        schema(json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } })),
        schema(
            json!({ "allOf": [{ "$ref": "#/$defs/a" }], "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/a" }, { "$ref": "#/$defs/a" }] } } }),
        ),
        schema(json!({ "$ref": "#/$defs/n0", "$defs": chain })),
        schema(json!({ "properties": wide })),
        schema(deep_chain()),
        schema(json!({ "$ref": "https://a.example/schema.json" })),
        schema(json!({ "$ref": "file:///etc/passwd" })),
        schema(json!({ "type": "string", "pattern": "((a{1000}){1000}){1000}" })),
        schema(json!({ "type": "string", "pattern": "(a|b|ab)*c(a|b|ab)*d(x+x+)+y" })),
        schema(json!({ "type": "string", "pattern": "(?=a)b\\1" })),
        schema(json!({ "type": "string", "pattern": "(.*a.{20}){3}" })),
        schema(json!({ "type": "string", "minLength": 4_000_000_000u64 })),
        schema(json!({ "type": "array", "items": { "type": "integer" }, "minItems": 1_000_000_000u64 })),
        schema(json!({ "type": "integer", "multipleOf": 1e-300, "minimum": -1e308, "maximum": 1e308 })),
        schema(json!({ "enum": (0..20_000).map(|i| format!("value {i}")).collect::<Vec<_>>() })),
        json!({ "grammar": format!("root ::= {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000)) }),
        json!({ "grammar": format!("root ::= {}", "\"a\" | ".repeat(30_000) + "\"b\"") }),
        json!({ "grammar": "root ::= root" }),
        json!({ "grammar": "root ::= root \"a\" | \"\"" }),
        json!({ "grammar": "root ::= a a a a a a a a\na ::= b b b b b b b b\nb ::= c c c c c c c c\nc ::= d d d d d d d d\nd ::= e e e e e e e e\ne ::= [a-z]*" }),
        json!({ "grammar": "root ::= [a-z]{0,2000}{0,2000}{0,2000}" }),
        json!({ "grammar": "root ::= x x x x x\nx ::= \"a\"* x? \"a\"*" }),
        json!({ "grammar": format!("start: {}", "(".repeat(50_000)) }),
        json!({ "grammar": "start: a\na: a a | \"\"" }),
        json!({ "grammar": "%import common.INT\nstart: INT" }),
        json!({ "grammar": "start: <[1023]> <|im_end|>" }),
        json!({ "grammar": "\u{0}\u{1}::=" }),
        json!({ "grammar": "x".repeat(7 << 20) }),
    ];
    let chain = |n: usize, rule: fn(usize) -> String| (0..n).map(rule).collect::<Vec<_>>().join("\n");
    let deep = [
        format!("root ::= \"a\"{}", "*".repeat(200_000)),
        format!("root ::= r0\n{}\nr4900 ::= \"b\"", chain(4900, |at| format!("r{at} ::= \"a\" r{}", at + 1))),
        format!("start: r0\n{}\nr9000: \"b\"", chain(9000, |at| format!("r{at}: \"a\" r{} | \"b\"", at + 1))),
        format!("start: R0\n{}\nR9000: \"b\"", chain(9000, |at| format!("R{at}: \"a\" R{}", at + 1))),
        format!(
            "start: %json {{\"$ref\": \"#/$defs/a0\", \"$defs\": {{{}, \"a5000\": {{}}}}}}",
            chain(5000, |at| format!("\"a{at}\": {{\"items\": {{\"$ref\": \"#/$defs/a{}\"}}}}", at + 1))
                .replace('\n', ",")
        ),
    ];
    for grammar in deep {
        let reply = served.post("/v1/completions", &json!({ "prompt": "x", "grammar": grammar }));
        assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("grammar")), "{reply:?}");
    }
    let names: serde_json::Map<String, Value> = (0..500).map(|at| (format!("^x{at}.*y{at}$"), json!({}))).collect();
    let reply =
        served.post("/v1/completions", &json!({ "prompt": "x", "json_schema": { "patternProperties": names } }));
    assert_eq!(reply.status, 400, "{reply:?}");
    for form in forms {
        let shown: String = form.to_string().chars().take(100).collect();
        let reply = served.post("/v1/chat/completions", &with(with(ask("Hi"), form), json!({ "max_tokens": 24 })));
        assert!(reply.status == 200 || reply.status == 400, "{shown}: {reply:?}");
        assert!(reply.status == 200 || reply.body.len() < 2000, "{shown}: {reply:?}");
    }
    let deep = format!("{{\"messages\":[],\"json_schema\":{}", "{\"items\":".repeat(100_000));
    assert_eq!(
        served.raw("POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json", deep.as_bytes()).status,
        400
    );
    assert_eq!(text(&served.chat(&ask("What is 7 + 5?"))["choices"][0]), "7 + 5 = 12.");
}

/// Whatever is left of the budget when a model rambles, JSON comes to an end where there is a way to one.
#[test]
fn json_ends_before_its_tokens_do() {
    let served = serve(&["--temp", "1.5"]);
    let strings = json!({ "type": "array", "items": { "type": "string", "minLength": 9 }, "minItems": 2 });
    let tree = json!({ "$ref": "#/$defs/t", "$defs": { "t": { "type": "object", "required": ["id", "of"], "additionalProperties": false,
        "properties": { "id": { "type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$" }, "of": { "type": "array", "items": { "$ref": "#/$defs/t" } } } } } });
    let kinds = json!({ "type": "object", "required": ["a", "b", "c", "d"], "properties": {
        "a": { "type": "number", "minimum": 20 }, "b": { "type": "string", "format": "email" },
        "c": { "type": "string", "pattern": "[0-9]{3}" }, "d": { "enum": ["one", "two"] } } });
    let mut landed = 0;
    for (seed, of) in
        [json!({ "type": "object" }), json!({ "type": "string" }), strings, tree, kinds].iter().enumerate()
    {
        for tokens in [90, 120, 500] {
            let more = with(schema(of.clone()), json!({ "seed": seed, "max_tokens": tokens }));
            let reply =
                served.chat(&with(json!({ "messages": [{ "role": "user", "content": "Tell me a story." }] }), more));
            assert_eq!(reply["choices"][0]["finish_reason"], "stop", "{of}: {reply}");
            assert!(serde_json::from_str::<Value>(&text(&reply["choices"][0])).is_ok(), "{of}: {reply}");
            assert!(reply["usage"]["completion_tokens"].as_u64().is_some_and(|n| n <= tokens), "{reply}");
            landed += reply["timings"]["landed_n"].as_u64().expect("a count");
        }
    }
    assert!(landed > 0, "none of them rambled");
    // Where nothing can end in time, the answer is cut off and says so.
    let short = served.chat(&with(ask("Hi"), with(schema(person()), json!({ "max_tokens": 3 }))));
    assert_eq!(short["choices"][0]["finish_reason"], "length");
}
