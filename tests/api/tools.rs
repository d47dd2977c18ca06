//! Calls of functions, by each of the three APIs.

use super::client::{Reply, Served, serve};
use super::{ask, with};
use serde_json::{Value, json};

fn parameters() -> Value {
    json!({ "type": "object", "required": ["city", "days"], "additionalProperties": false, "properties": {
        "city": { "type": "string", "enum": ["Oslo", "Rome"] },
        "days": { "type": "integer", "minimum": 1, "maximum": 9 } } })
}

fn function(name: &str) -> Value {
    json!({ "type": "function", "function": { "name": name, "parameters": parameters() } })
}

fn check(arguments: &Value) {
    let cities = parameters()["properties"]["city"]["enum"].clone();
    assert!(cities.as_array().expect("a list").contains(&arguments["city"]), "{arguments}");
    assert!(arguments["days"].as_u64().is_some_and(|days| (1..=9).contains(&days)), "{arguments}");
    assert_eq!(arguments.as_object().map(serde_json::Map::len), Some(2));
}

fn parsed(arguments: &Value) -> Value {
    serde_json::from_str(arguments.as_str().expect("text")).unwrap_or_else(|e| panic!("{e}: {arguments}"))
}

/// A schema that no grammar here can hold a text to.
fn unkept() -> Value {
    json!({ "type": "object", "required": ["a"], "additionalProperties": false, "properties": {
        "a": { "type": "array", "uniqueItems": true, "minItems": 1, "items": { "enum": [1, 2] } } } })
}

/// Tools are others' to write: one whose schema cannot be kept is held to as much of it as can be.
#[test]
fn what_cannot_be_kept_of_a_schema_is_left_out() {
    let served = serve(&[]);
    let odd = json!({ "type": "function", "function": { "name": "odd", "parameters": unkept() } });
    let impossible = json!({ "type": "object", "properties": { "x": { "type": "string", "pattern": "(?=a)b" } }, "required": ["x"] });
    let impossible = json!({ "type": "function", "function": { "name": "impossible", "parameters": impossible } });
    for (name, seed) in [("odd", 1), ("odd", 2), ("impossible", 3), ("rain", 4)] {
        let choice = json!({ "type": "function", "function": { "name": name } });
        let tools = json!({ "tools": [function("rain"), if name == "impossible" { &impossible } else { &odd }], "tool_choice": choice, "temperature": 1, "seed": seed, "max_tokens": 200 });
        let whole = served.chat(&with(ask("Rain?"), tools));
        let call = &whole["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], name, "{whole}");
        let arguments = parsed(&call["arguments"]);
        match name {
            "odd" => assert!(
                arguments["a"].as_array().is_some_and(|a| !a.is_empty() && a.iter().all(|n| *n == 1 || *n == 2)),
                "{arguments}"
            ),
            "rain" => check(&arguments),
            _ => assert!(arguments["x"].is_string(), "{arguments}"),
        }
    }
}

/// With a form and functions an answer is calls, or JSON of that form.
#[test]
fn a_form_holds_what_is_no_call() {
    let served = serve(&[]);
    let form = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": parameters() } });
    let (mut calls, mut forms) = (0, 0);
    for seed in 0..12 {
        let body = json!({ "tools": [function("rain")], "response_format": form, "temperature": 1.5, "seed": seed, "max_tokens": 300 });
        let whole = served.chat(&with(ask("Rain?"), body));
        let choice = &whole["choices"][0];
        match choice["finish_reason"].as_str() {
            Some("tool_calls") => {
                check(&parsed(&choice["message"]["tool_calls"][0]["function"]["arguments"]));
                calls += 1;
            }
            Some("stop") => {
                check(&parsed(&choice["message"]["content"]));
                forms += 1;
            }
            _ => panic!("{whole}"),
        }
    }
    assert!(calls + forms == 12 && forms > 0, "{calls} calls, {forms} forms");
    let grammar = with(ask("Hi"), json!({ "tools": [function("rain")], "grammar": "root ::= [a-z]+" }));
    assert_eq!(served.post("/v1/chat/completions", &grammar).status, 400);
}

/// What was cut off before it was a call is no text either, and stops are for text.
#[test]
fn the_marks_of_calls_are_never_seen() {
    let served = serve(&[]);
    let required = json!({ "tools": [function("rain")], "tool_choice": "required" });
    for tokens in 1..12 {
        let whole = served.chat(&with(with(ask("Rain?"), required.clone()), json!({ "max_tokens": tokens })));
        let message = &whole["choices"][0]["message"];
        assert!(message["content"].as_str().unwrap_or_default().is_empty(), "{whole}");
    }
    let whole = served.chat(&with(with(ask("Rain?"), required), json!({ "stop": ["name"], "max_tokens": 300 })));
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls", "{whole}");
}

/// Data of events that end without `[DONE]`, each with its name.
pub fn named(reply: &Reply) -> Vec<(String, Value)> {
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")), "{reply:?}");
    let event = |text: &str| {
        let (name, data) = text.strip_prefix("event: ")?.split_once("\ndata: ")?;
        let data: Value = serde_json::from_str(data).ok()?;
        assert_eq!(data["type"], name);
        Some((name.to_string(), data))
    };
    reply.body.split_terminator("\n\n").map(|text| event(text).unwrap_or_else(|| panic!("{text}"))).collect()
}

#[test]
fn calls_that_are_required_are_made_and_valid() {
    let served = serve(&[]);
    let tools = json!({ "tools": [function("rain"), function("snow")], "temperature": 1, "max_tokens": 300 });
    for seed in 0..6 {
        let body = with(with(ask("Rain?"), tools.clone()), json!({ "tool_choice": "required", "seed": seed }));
        let whole = served.chat(&body);
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
        assert_eq!(choice["message"]["content"], Value::Null);
        let calls = choice["message"]["tool_calls"].as_array().expect("calls");
        for call in calls {
            assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")) && call["type"] == "function");
            assert!(["rain", "snow"].contains(&call["function"]["name"].as_str().expect("a name")), "{call}");
            check(&parsed(&call["function"]["arguments"]));
        }
        // The same in pieces.
        let events = served.post("/v1/chat/completions", &with(body.clone(), json!({ "stream": true }))).events();
        let mut streamed: Vec<(String, String)> = Vec::new();
        for call in events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].as_array()).flatten() {
            let (at, function) = (call["index"].as_u64().expect("an index") as usize, &call["function"]);
            if let Some(name) = function["name"].as_str() {
                assert!(at == streamed.len() && call["id"].is_string(), "{call}");
                streamed.push((name.into(), String::new()));
            }
            streamed[at].1.push_str(function["arguments"].as_str().expect("text"));
        }
        let whole: Vec<(String, String)> = calls
            .iter()
            .map(|call| {
                let text = |name: &str| call["function"][name].as_str().expect("text").to_string();
                (text("name"), text("arguments"))
            })
            .collect();
        assert_eq!(streamed, whole);
        assert_eq!(events.last().expect("some")["choices"][0]["finish_reason"], "tool_calls");
        let one = served.chat(&with(body, json!({ "parallel_tool_calls": false })));
        assert_eq!(one["choices"][0]["message"]["tool_calls"].as_array().map(Vec::len), Some(1), "{one}");
    }
    // Two of one name: a call keeps to either.
    let other = json!({ "type": "function", "function": { "name": "rain", "parameters": {
        "type": "object", "properties": { "sea": { "enum": ["North", "Black"] } }, "required": ["sea"], "additionalProperties": false } } });
    let mut kept = [0, 0];
    for seed in 0..12 {
        let more =
            json!({ "tools": [function("rain"), other], "tool_choice": "required", "seed": seed, "temperature": 2 });
        let reply = served
            .chat(&with(ask("Rain?"), with(more, json!({ "parallel_tool_calls": false, "top_k": 0, "top_p": 1 }))));
        let arguments = parsed(&reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]);
        match arguments["sea"].as_str() {
            Some(sea) => kept[1] += usize::from(["North", "Black"].contains(&sea)),
            None => {
                check(&arguments);
                kept[0] += 1;
            }
        }
    }
    assert!(kept[0] > 0 && kept[1] > 0 && kept[0] + kept[1] == 12, "{kept:?}");
    let choice = json!({ "tool_choice": { "type": "function", "function": { "name": "snow" } } });
    let reply = served.chat(&with(with(ask("Rain?"), tools.clone()), choice));
    assert_eq!(reply["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "snow");
    for choice in ["none", "auto"] {
        let reply = served.chat(&with(with(ask("What is 7 + 5?"), tools.clone()), json!({ "tool_choice": choice })));
        assert!(reply["choices"][0]["message"]["content"].is_string(), "{reply}");
        assert!(reply["choices"][0]["message"].get("tool_calls").is_none(), "{reply}");
    }
}

/// A template that knows no tools is given them, their calls and their results as text.
#[test]
fn calls_and_results_are_part_of_the_conversation() {
    let served = serve(&[]);
    let history = json!({ "messages": [
        { "role": "user", "content": "Rain?" },
        { "role": "assistant", "tool_calls": [{ "id": "1", "type": "function", "function": { "name": "rain", "arguments": "{\"city\": \"Oslo\"}" } }] },
        { "role": "tool", "tool_call_id": "1", "content": "yes" },
    ], "tools": [function("rain")] });
    let prompt = served.post("/apply-template", &history).json()["prompt"].as_str().expect("text").to_string();
    for part in [
        "<tools>\n{\"type\":\"function\"",
        "<tool_call>\n{\"name\":\"rain\",\"arguments\":{\"city\":\"Oslo\"}}\n</tool_call>",
        "user\n<tool_response>\nyes\n</tool_response>",
    ] {
        assert!(prompt.contains(part), "{part} in {prompt}");
    }
    assert_eq!(served.chat(&with(history, json!({ "max_tokens": 8 })))["object"], "chat.completion");
}

/// A template that knows tools is left to it: by every API the model reads what the template makes of them.
#[test]
fn a_template_that_knows_tools_offers_them() {
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/template/tools.jinja");
    let served = serve(&["--chat-template-file", template]);
    let history = json!({ "messages": [
        { "role": "user", "content": "Rain?" },
        { "role": "assistant", "content": null, "tool_calls": [{ "id": "1", "type": "function", "function": { "name": "rain", "arguments": "{\"city\":\"Oslo\"}" } }] },
        { "role": "tool", "tool_call_id": "1", "content": "yes" },
    ], "tools": [function("rain")] });
    let prompt = served.post("/apply-template", &history).json()["prompt"].as_str().expect("text").to_string();
    for part in [
        "<|im_start|>system\nAt hand are:\n<tools>\n{\"type\": \"function\", ",
        "<|im_start|>assistant\n<tool_call>\n{\"name\": \"rain\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call><|im_end|>",
        "<|im_start|>user\n<tool_response>\nyes\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    ] {
        assert!(prompt.contains(part), "{part} in {prompt}");
    }
    assert!(!prompt.contains("Functions you may call"), "ours are for templates that know none: {prompt}");
    // Nothing is offered where nothing may be called.
    let none = served.post("/apply-template", &with(history.clone(), json!({ "tool_choice": "none" }))).json();
    assert!(!none["prompt"].as_str().expect("text").contains("<tools>"), "{none}");
    let tokens = served.post("/tokenize", &json!({ "content": prompt })).json()["tokens"].as_array().map(Vec::len);
    let chat = served.chat(&with(history, json!({ "tool_choice": "required", "max_tokens": 60, "temperature": 1 })));
    assert_eq!(chat["usage"]["prompt_tokens"].as_u64(), tokens.map(|count| count as u64), "it is what the model reads");
    check(&parsed(&chat["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]));
    // The same conversation as Anthropic and OpenAI's newer API write it.
    let messages = json!({ "max_tokens": 60, "tools": [{ "name": "rain", "input_schema": parameters() }], "messages": [
        { "role": "user", "content": "Rain?" },
        { "role": "assistant", "content": [{ "type": "tool_use", "id": "1", "name": "rain", "input": { "city": "Oslo" } }] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "1", "content": "yes" }] },
    ] });
    let reply = served.post("/v1/messages", &with(messages, json!({ "tool_choice": { "type": "any" } }))).json();
    check(&reply["content"][0]["input"]);
    let read =
        |usage: &Value, names: [&str; 2]| names.iter().map(|name| usage[*name].as_u64().unwrap_or(0)).sum::<u64>();
    let usage = read(&reply["usage"], ["input_tokens", "cache_read_input_tokens"]);
    assert_eq!(Some(usage), tokens.map(|count| count as u64), "{reply}");
    let items = json!({ "max_output_tokens": 60, "tools": [with(function("rain")["function"].clone(), json!({ "type": "function" }))],
        "tool_choice": "required", "input": [
            { "role": "user", "content": "Rain?" },
            { "type": "function_call", "call_id": "1", "name": "rain", "arguments": "{\"city\":\"Oslo\"}" },
            { "type": "function_call_output", "call_id": "1", "output": "yes" },
        ] });
    let reply = served.post("/v1/responses", &items).json();
    check(&parsed(&reply["output"][0]["arguments"]));
    assert_eq!(reply["usage"]["input_tokens"].as_u64(), tokens.map(|count| count as u64), "{reply}");
}

#[test]
fn forms_and_functions_that_make_no_sense_are_refused() {
    let served = serve(&[]);
    let body = |more: Value| with(with(ask("Hi"), json!({ "tools": [function("f")] })), more);
    for (param, body) in [
        ("tools", body(json!({ "tools": vec![function("f"); 129] }))),
        (
            "tools[0].function.odd",
            body(json!({ "tools": [{ "type": "function", "function": { "name": "f", "odd": 1 } }] })),
        ),
        (
            "tools[0].function.parameters",
            body(json!({ "tools": [{ "type": "function", "function": { "name": "f", "parameters": 1 } }] })),
        ),
        (
            "tools[0].function.parameters",
            body(
                json!({ "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "array" } } }] }),
            ),
        ),
        ("tool_choice", body(json!({ "tool_choice": "sometimes" }))),
        ("tool_choice", body(json!({ "tool_choice": { "type": "function", "function": { "name": "g" } } }))),
        (
            "messages[0].tool_calls[0].function.arguments",
            body(
                json!({ "messages": [{ "role": "assistant", "tool_calls": [{ "id": "1", "function": { "name": "f", "arguments": "{" } }] }] }),
            ),
        ),
    ] {
        let reply = served.post("/v1/chat/completions", &body);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{body}: {reply:?}");
    }
    // A schema that cannot be kept is refused where it is insisted on, by the function's name and without our grammar.
    let odd = json!({ "name": "odd_one", "strict": true, "parameters": unkept() });
    let tools = json!({ "tools": [function("rain"), { "type": "function", "function": odd }] });
    let reply = served.post("/v1/chat/completions", &body(tools));
    let message = reply.json()["error"]["message"].to_string();
    assert!(reply.status == 400 && message.contains("uniqueItems") && message.contains("odd_one"), "{reply:?}");
    assert!(!message.contains("%json"), "{message}");
}

fn messages(served: &Served, body: &Value) -> Value {
    let reply = served.post("/v1/messages", body);
    assert_eq!(reply.status, 200, "{body}: {reply:?}");
    reply.json()
}

#[test]
fn anthropics_api_gives_the_same_answers() {
    let served = serve(&[]);
    let sum =
        json!({ "max_tokens": 40, "temperature": 0, "messages": [{ "role": "user", "content": "What is 7 + 5?" }] });
    let whole = messages(&served, &sum);
    assert_eq!(whole["content"], json!([{ "type": "text", "text": "7 + 5 = 12." }]));
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("end_turn"))
    );
    let events = named(&served.post("/v1/messages", &with(sum.clone(), json!({ "stream": true }))));
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["message_start", "content_block_start"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect();
    assert_eq!(text, "7 + 5 = 12.");
    let count = served.post("/v1/messages/count_tokens", &json!({ "messages": sum["messages"] })).json();
    assert_eq!(count["input_tokens"], events[0].1["message"]["usage"]["input_tokens"]);

    let blocks = json!({ "system": [{ "type": "text", "text": "Be kind." }], "stop_sequences": ["never", " + "] , "messages": [
        { "role": "user", "content": [{ "type": "text", "text": "What is 7 + 5?", "cache_control": { "type": "ephemeral" } }] } ] });
    let stopped = messages(&served, &with(sum.clone(), blocks));
    assert_eq!(
        (&stopped["stop_reason"], &stopped["stop_sequence"]),
        (&json!("stop_sequence"), &json!(" + ")),
        "{stopped}"
    );
    assert_eq!(messages(&served, &with(sum.clone(), json!({ "max_tokens": 2 })))["stop_reason"], "max_tokens");

    let tools = json!({ "tools": [{ "name": "rain", "input_schema": parameters() }], "max_tokens": 200, "temperature": 1, "seed": 4 });
    let any =
        with(with(sum.clone(), tools), json!({ "tool_choice": { "type": "any", "disable_parallel_tool_use": true } }));
    let called = messages(&served, &any);
    assert_eq!(
        (&called["stop_reason"], &called["content"][0]["type"]),
        (&json!("tool_use"), &json!("tool_use")),
        "{called}"
    );
    check(&called["content"][0]["input"]);
    let events = named(&served.post("/v1/messages", &with(any.clone(), json!({ "stream": true }))));
    let pieces: String = events.iter().filter_map(|(_, data)| data["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&pieces).expect("JSON"), called["content"][0]["input"]);
    let history = json!({ "tool_choice": { "type": "none" }, "messages": [
        { "role": "user", "content": "Rain?" },
        { "role": "assistant", "content": [{ "type": "text", "text": "Let me see." }, called["content"][0].clone()] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "1", "content": [{ "type": "text", "text": "yes" }] }, { "type": "text", "text": "So?" }] } ] });
    assert_eq!(messages(&served, &with(any, history))["type"], "message");

    for (body, words) in [
        (json!({ "max_tokens": null }), "max_tokens"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": [{ "role": "tool", "content": "x" }] }), "messages[0].role"),
        (json!({ "thread": { "type": "create" } }), "thread"),
        (json!({ "messages": [{ "role": "user", "content": [{ "type": "image" }] }] }), "messages[0].content[0].type"),
        (json!({ "odd": 1 }), "odd"),
        (json!({ "tool_choice": { "type": "tool" } }), "tool_choice"),
    ] {
        let reply = served.post("/v1/messages", &with(sum.clone(), body.clone()));
        let error = reply.json();
        assert_eq!(
            (reply.status, &error["type"], &error["error"]["type"]),
            (400, &json!("error"), &json!("invalid_request_error")),
            "{body}"
        );
        assert!(error["error"]["message"].as_str().is_some_and(|text| text.starts_with(words)), "{error}");
    }
    let locked = serve(&["--api-key", "k"]);
    let reply = locked.post("/v1/messages", &sum);
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (401, &json!("authentication_error")));
    let head = "POST /v1/messages HTTP/1.1\r\nContent-Type: application/json\r\nx-api-key: k";
    assert_eq!(locked.raw(head, sum.to_string().as_bytes()).status, 200);
}

fn respond(served: &Served, body: &Value) -> Value {
    let reply = served.post("/v1/responses", body);
    assert_eq!(reply.status, 200, "{body}: {reply:?}");
    reply.json()
}

#[test]
fn the_responses_api_gives_the_same_answers() {
    let served = serve(&[]);
    let sum = json!({ "input": "What is 7 + 5?", "temperature": 0 });
    let whole = respond(&served, &sum);
    assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!("completed")));
    assert_eq!(whole["output"][0]["content"][0]["text"], "7 + 5 = 12.");
    let events = named(&served.post("/v1/responses", &with(sum.clone(), json!({ "stream": true }))));
    for (at, (_, data)) in events.iter().enumerate() {
        assert_eq!(data["sequence_number"], at);
    }
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let first =
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"];
    let last =
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"];
    assert_eq!((&names[..4], &names[names.len() - 4..]), (&first[..], &last[..]));
    let deltas = events.iter().filter(|(name, _)| name == "response.output_text.delta");
    assert_eq!(deltas.map(|(_, data)| data["delta"].as_str().expect("text")).collect::<String>(), "7 + 5 = 12.");
    let (_, done) = events.last().expect("some");
    assert_eq!(done["response"]["output"][0]["content"], whole["output"][0]["content"]);
    assert_eq!(done["response"]["usage"]["output_tokens"], whole["usage"]["output_tokens"]);

    let items = json!({ "instructions": "Be kind.", "input": [
        { "role": "user", "content": [{ "type": "input_text", "text": "Rain?" }] },
        { "type": "function_call", "call_id": "1", "name": "rain", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "1", "output": "yes" } ], "max_output_tokens": 3 });
    let cut = respond(&served, &items);
    assert_eq!(
        (&cut["status"], &cut["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    let schema =
        json!({ "text": { "format": { "type": "json_schema", "name": "x", "schema": parameters() } }, "seed": 1 });
    check(&parsed(&respond(&served, &with(sum.clone(), schema))["output"][0]["content"][0]["text"]));
    let tools = json!({ "tools": [{ "type": "function", "name": "rain", "parameters": parameters() }], "temperature": 1, "seed": 3,
        "tool_choice": { "type": "function", "name": "rain" } });
    let called = respond(&served, &with(sum.clone(), tools.clone()));
    assert_eq!(called["output"][0]["type"], "function_call", "{called}");
    check(&parsed(&called["output"][0]["arguments"]));
    let events = named(&served.post("/v1/responses", &with(with(sum.clone(), tools), json!({ "stream": true }))));
    let pieces = events.iter().filter(|(name, _)| name == "response.function_call_arguments.delta");
    let pieces: String = pieces.map(|(_, data)| data["delta"].as_str().expect("text")).collect();
    assert_eq!(called["output"][0]["arguments"], pieces);

    for (param, body) in [
        ("previous_response_id", json!({ "previous_response_id": "resp_1" })),
        ("input", json!({ "input": [] })),
        ("input[0].type", json!({ "input": [{ "type": "image" }] })),
        ("tools[0].type", json!({ "tools": [{ "type": "file_search" }] })),
        ("truncation", json!({ "truncation": "middle" })),
        ("include", json!({ "include": ["file_search_call.results"] })),
        ("top_logprobs", json!({ "top_logprobs": 21 })),
        ("reasoning.effort", json!({ "reasoning": { "effort": "a lot" } })),
        ("text.verbosity", json!({ "text": { "verbosity": "a lot" } })),
        ("tool_choice", json!({ "tools": [{ "type": "web_search" }], "tool_choice": "required" })),
        ("odd", json!({ "odd": 1 })),
    ] {
        let reply = served.post("/v1/responses", &with(sum.clone(), body));
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{reply:?}");
    }
}

/// One tool whose schema cannot be kept takes nothing from the others.
#[test]
fn a_schema_that_cannot_be_kept_frees_no_other() {
    let served = serve(&[]);
    let tool = |name: &str, parameters: Value| json!({ "type": "function", "function": { "name": name, "parameters": parameters } });
    let seven = json!({ "type": "object", "properties": { "a": { "enum": [7] } }, "required": ["a"] });
    // Nobody can tell these two apart by what is written.
    let vague = json!({ "type": "object", "properties": { "b": { "oneOf": [{ "type": "string" }, { "type": "string", "minLength": 2 }] } } });
    let tools = json!([tool("look", seven), tool("speak", vague)]);
    let called = |seed: u64| {
        let body = json!({ "messages": [{ "role": "user", "content": "Look." }], "tools": tools, "tool_choice": "required",
            "parallel_tool_calls": false, "temperature": 2, "seed": seed, "max_tokens": 200 });
        served.chat(&body)["choices"][0]["message"]["tool_calls"][0]["function"].clone()
    };
    let calls: Vec<Value> = (0..16).map(called).collect();
    let looks: Vec<&Value> =
        calls.iter().filter(|call| call["name"] == "look").map(|call| &call["arguments"]).collect();
    assert!(!looks.is_empty() && looks.iter().all(|arguments| **arguments == "{\"a\": 7}"), "{calls:?}");
}
