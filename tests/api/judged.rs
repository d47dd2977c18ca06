//! `echo` of completions: the prompt before its answer, and what the model thinks of every token of it.

use super::client::{Served, serve};
use super::streamed;
use serde_json::{Value, json};

fn complete(served: &Served, prompt: &Value, tokens: usize, logprobs: Option<usize>) -> Value {
    let body = json!({
        "prompt": prompt, "temperature": 0, "max_tokens": tokens, "logprobs": logprobs, "echo": true, "stop": "upon"
    });
    let reply = served.post("/v1/completions", &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("a list: {value}")).clone()
}

#[test]
fn a_prompt_is_judged_as_it_would_have_been_written() {
    let served = serve(&[]);
    let ids = |text: &str| list(&served.post("/tokenize", &json!({ "content": text })).json()["tokens"]);
    let plain = served
        .post("/v1/completions", &json!({ "prompt": "Once upon a", "temperature": 0, "max_tokens": 12, "logprobs": 3 }))
        .json();
    let plain = &plain["choices"][0];
    let said = format!("Once upon a{}", plain["text"].as_str().expect("text"));

    // Text and answer, a stop text in the prompt notwithstanding.
    let repeated = complete(&served, &json!("Once upon a"), 12, None);
    assert_eq!(repeated["choices"][0]["text"], said.as_str());
    assert_eq!(repeated["choices"][0]["logprobs"], Value::Null);

    let whole: Vec<Value> = [ids("Once upon a"), ids(plain["text"].as_str().expect("text"))].concat();
    let first = ids("Once upon a").len();
    let mut seen = Vec::new();
    // Whether it was read before, and by how many a step, changes nothing.
    for served in [&served, &served, &serve(&["-ub", "3"])] {
        let judged = complete(served, &json!(whole), 0, Some(3));
        assert_eq!(judged["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
        assert_eq!(
            (&judged["usage"]["completion_tokens"], &judged["choices"][0]["finish_reason"]),
            (&json!(0), &json!("length"))
        );
        let choice = &judged["choices"][0];
        assert_eq!(choice["text"], said.as_str());
        let logprobs = &choice["logprobs"];
        let spelt: String = list(&logprobs["tokens"]).iter().map(|token| token.as_str().expect("text")).collect();
        assert_eq!(spelt, said);
        assert_eq!((&logprobs["token_logprobs"][0], &logprobs["top_logprobs"][0]), (&Value::Null, &Value::Null));
        assert_eq!(list(&logprobs["text_offset"]).len(), whole.len());
        // The bits it had as an answer.
        for what in ["tokens", "token_logprobs", "top_logprobs"] {
            assert_eq!(list(&logprobs[what])[first..], list(&plain["logprobs"][what]), "{what}");
        }
        seen.push(logprobs.clone());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));

    // One token more, as evaluation harnesses ask for it.
    let more = complete(&served, &json!(whole), 1, Some(3));
    assert_eq!(list(&more["choices"][0]["logprobs"]["token_logprobs"]).len(), whole.len() + 1);
}

#[test]
fn repeated_prompts_come_with_each_choice_and_in_streams() {
    let served = serve(&[]);
    let body = json!({ "prompt": ["Once upon a", "def add"], "n": 2, "echo": true, "logprobs": 0, "max_tokens": 5, "seed": 3 });
    let whole = served.post("/v1/completions", &body).json();
    let mut stream = body.clone();
    stream["stream"] = json!(true);
    let events = served.post("/v1/completions", &stream).events();
    for (at, choice) in list(&whole["choices"]).iter().enumerate() {
        let text = choice["text"].as_str().expect("text");
        assert!(text.starts_with(["Once upon a", "def add"][at / 2]), "{text}");
        assert_eq!(streamed(&events, at), text);
        let streamed: Vec<Value> = events
            .iter()
            .filter(|event| event["choices"][0]["index"] == at)
            .filter_map(|event| event["choices"][0]["logprobs"]["token_logprobs"].as_array().cloned())
            .flatten()
            .collect();
        assert_eq!(streamed, list(&choice["logprobs"]["token_logprobs"]));
    }
    // Nothing but the prompt, and nothing said of it.
    let silent = json!({ "prompt": "Once upon a", "echo": true, "max_tokens": 0 });
    assert_eq!(served.post("/v1/completions", &silent).json()["choices"][0]["text"], "Once upon a");
    let stream = json!({ "prompt": "Once upon a", "echo": true, "max_tokens": 0, "stream": true });
    assert_eq!(streamed(&served.post("/v1/completions", &stream).events(), 0), "Once upon a");
}

#[test]
fn a_single_token_is_judged_too_and_more_than_enough_is_refused() {
    let served = serve(&[]);
    let ask =
        |prompt: Value, n: usize| json!({ "prompt": prompt, "n": n, "echo": true, "logprobs": 20, "max_tokens": 0 });
    let one = served.post("/v1/completions", &ask(json!([65]), 1)).json()["choices"][0]["logprobs"].clone();
    assert_eq!((&one["token_logprobs"], one["tokens"].as_array().map(Vec::len)), (&json!([null]), Some(1)), "{one}");
    let refused = served.post("/v1/completions", &ask(json!(vec![vec![65; 500]; 64]), 16));
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("logprobs")), "{refused:?}");
}
