//! What clients send of themselves: fields that ask for nothing here, the beginning of an answer, base URLs without a version.

use super::client::serve;
use super::tools::named;
use super::{ask, text, with};
use serde_json::{Value, json};

#[test]
fn what_asks_for_nothing_passes_and_what_asks_for_more_does_not() {
    let served = serve(&[]);
    let plain = served.chat(&ask("What is 7 + 5?"));
    for (nothing, something) in [
        (json!({ "cache_prompt": true, "id_slot": -1, "mirostat": 0, "mirostat_tau": 5.0 }), json!({ "mirostat": 2 })),
        (
            json!({ "typical_p": 1.0, "tfs_z": 1, "dry_multiplier": 0.0, "xtc_probability": 0 }),
            json!({ "typical_p": 0.5 }),
        ),
        (
            json!({ "chat_template_kwargs": { "enable_thinking": false } }),
            json!({ "chat_template_kwargs": { "x": 1 } }),
        ),
        (json!({ "min_tokens": 0, "skip_special_tokens": true, "stop_token_ids": [] }), json!({ "min_tokens": 4 })),
        (json!({ "reasoning_effort": "high", "verbosity": "low" }), json!({ "reasoning_effort": "a lot" })),
        (json!({ "reasoning_format": "auto", "ignore_eos": false }), json!({ "ignore_eos": "yes" })),
        (json!({ "best_of": 1, "continue_final_message": false }), json!({ "continue_final_message": true })),
        (json!({ "max_tokens": -1, "top_k": -1, "seed": -1 }), json!({ "max_tokens": -2 })),
    ] {
        assert_eq!(text(&served.chat(&with(ask("What is 7 + 5?"), nothing))["choices"][0]), text(&plain["choices"][0]));
        let refused = served.post("/v1/chat/completions", &with(ask("Hi"), something.clone()));
        assert_eq!(refused.status, 400, "{something}: {refused:?}");
        let field = something.as_object().and_then(|map| map.keys().next()).expect("a field");
        let named = refused.json()["error"]["param"].as_str().is_some_and(|param| param.starts_with(field.as_str()));
        assert!(named, "{refused:?}");
    }
    // Who measures speed wants as many tokens as were asked for.
    let on = served.chat(&with(ask("What is 7 + 5?"), json!({ "ignore_eos": true, "max_tokens": 60 })));
    assert_eq!((&on["choices"][0]["finish_reason"], &on["usage"]["completion_tokens"]), (&json!("length"), &json!(60)));
    assert!(text(&on["choices"][0]).starts_with(&text(&plain["choices"][0])), "{on}");
    let refused = served.post(
        "/v1/chat/completions",
        &with(ask("Hi"), json!({ "ignore_eos": true, "response_format": { "type": "json_object" } })),
    );
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("ignore_eos")));
    // -1 is no seed: not every answer is the same.
    let hot = |seed: i64| {
        let body = json!({ "messages": [{ "role": "user", "content": "Tell me a story." }], "temperature": 2, "seed": seed, "max_tokens": 30 });
        text(&served.chat(&body)["choices"][0])
    };
    let drawn: Vec<String> = (0..4).map(|_| hot(-1)).collect();
    assert!(drawn.iter().any(|answer| *answer != drawn[0]), "{drawn:?}");
    assert_eq!(hot(-2), hot(-2));
}

#[test]
fn an_answer_that_has_begun_is_gone_on_with() {
    let served = serve(&[]);
    let whole = text(&served.chat(&ask("What is 7 + 5?"))["choices"][0]);
    let (begun, rest) = whole.split_at(whole.find(" +").expect("a sum"));
    let messages = json!([{ "role": "user", "content": "What is 7 + 5?" }, { "role": "assistant", "content": begun }]);
    let chat = json!({ "messages": messages, "temperature": 0 });
    assert_eq!(text(&served.chat(&chat)["choices"][0]), rest);
    let reply = served.post("/v1/messages", &with(chat.clone(), json!({ "max_tokens": 50 })));
    assert_eq!(reply.json()["content"][0]["text"], rest, "{reply:?}");
    let shown = served.post("/apply-template", &json!({ "messages": messages })).json()["prompt"].to_string();
    assert!(shown.contains(&format!("assistant\\n{begun}\"")), "{shown}");
    let closed = json!({ "messages": messages, "add_generation_prompt": false });
    let shown = served.post("/apply-template", &closed).json()["prompt"].to_string();
    assert!(shown.contains("<|im_end|>\\n\""), "{shown}");
}

/// Fields that Anthropic's own tools send without being asked.
#[test]
fn anthropics_fields_pass() {
    let served = serve(&[]);
    let body = json!({
        "max_tokens": 40, "temperature": 0, "metadata": { "user_id": "u" }, "thinking": { "type": "enabled", "budget_tokens": 1024 },
        "cache_control": { "type": "ephemeral" }, "context_management": { "edits": [] }, "betas": [], "output_config": { "effort": "high" },
        "system": [{ "type": "text", "text": "Be brief.", "cache_control": { "type": "ephemeral" } }],
        "tools": [{ "name": "mcp__server_with_a_name_that_is_long__tool_with_a_name_that_is_longer_still", "input_schema": { "type": "object" },
            "eager_input_streaming": true, "input_examples": [], "cache_control": { "type": "ephemeral" } }],
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "What is 7 + 5?", "cache_control": { "type": "ephemeral" } }] }],
    });
    let reply = served.post("/v1/messages?beta=true", &body);
    assert_eq!((reply.status, reply.header("x-tools-left-out")), (200, None), "{reply:?}");
    // Claude Code speaks as the system in the middle too, and offers Anthropic's search.
    let more = json!({
        "messages": [body["messages"][0], { "role": "system", "content": "The date is known." }], "fallbacks": [], "diagnostics": {},
        "tools": [body["tools"][0], { "type": "web_search_20250305", "name": "web_search", "max_uses": 8 }],
        "output_config": { "effort": "high", "task_budget": { "total": 5 } }, "thinking": { "type": "adaptive" },
    });
    let reply = served.post("/v1/messages", &with(body.clone(), more));
    assert_eq!((reply.status, reply.header("x-tools-left-out")), (200, Some("web_search")), "{reply:?}");
    served.wait_for("were left out of what the model is offered: web_search");
    let schema = json!({ "type": "object", "required": ["n"], "additionalProperties": false, "properties": { "n": { "type": "integer" } } });
    for more in [
        json!({ "output_config": { "format": { "type": "json_schema", "schema": schema } } }),
        json!({ "output_format": { "type": "json_schema", "schema": schema }, "output_config": null }),
    ] {
        let reply = served.post("/v1/messages", &with(with(body.clone(), json!({ "tools": null })), more));
        let text = reply.json()["content"][0]["text"].as_str().unwrap_or_default().to_string();
        assert!(serde_json::from_str::<Value>(&text).is_ok_and(|value| value["n"].is_number()), "{reply:?}");
    }
}

/// What Codex sends of itself.
#[test]
fn an_agents_own_fields_pass() {
    let served = serve(&[]);
    let function =
        json!({ "type": "function", "name": "exec_command", "strict": false, "parameters": { "type": "object" } });
    let body = json!({
        "input": [{ "type": "message", "id": "msg_1", "role": "developer", "content": [{ "type": "input_text", "text": "Be brief." }] },
            { "type": "message", "id": "msg_2", "role": "user", "content": [{ "type": "input_text", "text": "What is 7 + 5?" }] }],
        "tools": [function, { "type": "namespace", "name": "agents", "tools": [function] }, { "type": "custom", "name": "apply_patch",
            "format": { "type": "grammar", "syntax": "lark", "definition": "start: /a/" } }, { "type": "web_search", "external_web_access": false }],
        "tool_choice": "auto", "parallel_tool_calls": true, "reasoning": { "effort": "medium", "summary": "auto" }, "store": false,
        "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "text": { "verbosity": "low" }, "client_metadata": {},
        "max_output_tokens": 8,
    });
    for stream in [false, true] {
        let reply = served.post("/v1/responses", &with(body.clone(), json!({ "stream": stream })));
        assert_eq!((reply.status, reply.header("x-tools-left-out")), (200, Some("web_search")), "{reply:?}");
    }
}

#[test]
fn agents_call_tools_by_the_names_they_gave_them() {
    let served = serve(&[]);
    let look = json!({ "type": "function", "name": "look", "parameters": {
        "type": "object", "properties": { "deep": { "type": "boolean" } }, "required": ["deep"] } });
    let tools = json!([look, { "type": "namespace", "name": "sea", "description": "At sea.", "tools": [look] },
        { "type": "custom", "name": "patch", "description": "Edits.", "format": { "type": "grammar", "syntax": "lark", "definition": "start: /a/" } }]);
    let ask = |choice: Value| json!({ "input": "Look into the sea.", "tools": tools, "tool_choice": choice, "temperature": 0, "max_output_tokens": 200 });
    let free = json!({ "type": "custom", "name": "patch" });
    let spaced = json!({ "type": "function", "namespace": "sea", "name": "look" });
    let whole = |choice: &Value| served.post("/v1/responses", &ask(choice.clone())).json()["output"][0].clone();
    let (patch, look) = (whole(&free), whole(&spaced));
    assert_eq!((&patch["type"], &patch["name"]), (&json!("custom_tool_call"), &json!("patch")), "{patch}");
    assert!(
        patch["input"].as_str().is_some_and(|input| !input.starts_with('{')) && patch["arguments"].is_null(),
        "{patch}"
    );
    assert_eq!((&look["type"], &look["name"]), (&json!("function_call"), &json!("look")), "{look}");
    assert_eq!(look["namespace"], "sea", "{look}");
    assert!(look["arguments"].as_str().is_some_and(|json| json.contains("\"deep\"")), "{look}");
    // A stream says the same, the text in one piece.
    let events = named(&served.post("/v1/responses", &with(ask(free), json!({ "stream": true }))));
    let of = |kind: &str| events.iter().filter(|(name, _)| name == kind).map(|(_, data)| data).collect::<Vec<_>>();
    let (delta, done) = (of("response.custom_tool_call_input.delta"), of("response.custom_tool_call_input.done"));
    assert_eq!((delta.len(), &delta[0]["delta"], &done[0]["input"]), (1, &patch["input"], &patch["input"]));
    assert!(of("response.function_call_arguments.delta").is_empty());
    assert_eq!(of("response.output_item.done")[0]["item"]["input"], patch["input"]);
    // Sent back, they are what the model wrote.
    let back = json!({ "input": [
        { "role": "user", "content": "Look into the sea." }, look, patch,
        { "type": "function_call_output", "call_id": look["call_id"], "output": "fish" },
        { "type": "custom_tool_call_output", "call_id": patch["call_id"], "output": "done" },
    ], "max_output_tokens": 8 });
    let wrote =
        |name: &str, arguments: Value| json!({ "id": name, "function": { "name": name, "arguments": arguments } });
    let calls = json!([
        wrote("sea__look", look["arguments"].clone()),
        wrote("patch", json!(json!({ "input": patch["input"] }).to_string()))
    ]);
    let same = json!({ "max_tokens": 8, "messages": [
        { "role": "user", "content": "Look into the sea." }, { "role": "assistant", "tool_calls": calls },
        { "role": "tool", "tool_call_id": "sea__look", "content": "fish" }, { "role": "tool", "tool_call_id": "patch", "content": "done" },
    ] });
    let read = served.post("/v1/responses", &back).json()["usage"]["input_tokens"].clone();
    assert_eq!(read, served.chat(&same)["usage"]["prompt_tokens"]);
}

#[test]
fn chats_offer_tools_that_take_text() {
    let served = serve(&[]);
    let grammar = json!({ "type": "grammar", "grammar": { "syntax": "lark", "definition": "start: /a/" } });
    let patch = json!({ "type": "custom", "custom": { "name": "patch", "description": "Edits.", "format": grammar } });
    let look = json!({ "type": "function", "function": { "name": "look" } });
    let free = json!({ "type": "custom", "custom": { "name": "patch" } });
    let ask = json!({ "messages": [{ "role": "user", "content": "Mend it." }], "tools": [look, patch], "tool_choice": free,
        "temperature": 0, "max_tokens": 200 });
    let reply = served.chat(&ask);
    let choice = &reply["choices"][0];
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["custom"]["name"], &choice["finish_reason"]),
        (&json!("custom"), &json!("patch"), &json!("tool_calls")),
        "{reply}"
    );
    let input = call["custom"]["input"].as_str().expect("a text");
    assert!(!input.is_empty() && !input.starts_with('{') && call["function"].is_null(), "{call}");
    // A stream says the same, the text in one piece.
    let chunks = served.post("/v1/chat/completions", &with(ask.clone(), json!({ "stream": true }))).events();
    let deltas: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].get(0)).collect();
    let begun =
        json!({ "index": 0, "id": deltas[0]["id"], "type": "custom", "custom": { "name": "patch", "input": "" } });
    assert_eq!(deltas, [&begun, &json!({ "index": 0, "custom": { "input": input } })]);
    // One of the same name as a function is known by another, and told apart.
    let called = |choice: &Value| {
        let twin = json!({ "type": "function", "function": { "name": "patch", "parameters": { "type": "object",
            "properties": { "n": { "type": "integer" } }, "required": ["n"] } } });
        let reply = served.chat(&with(ask.clone(), json!({ "tools": [twin, patch], "tool_choice": choice })));
        reply["choices"][0]["message"]["tool_calls"][0].clone()
    };
    let (text, twin) = (called(&free), called(&json!({ "type": "function", "function": { "name": "patch" } })));
    assert_eq!((&text["type"], &text["custom"]["name"]), (&json!("custom"), &json!("patch")), "{text}");
    assert!(twin["function"]["arguments"].as_str().is_some_and(|json| json.contains("\"n\"")), "{twin}");
    // It can be one of those that are allowed.
    let allowed = json!({ "type": "allowed_tools", "allowed_tools": { "mode": "required", "tools": [free] } });
    let reply = served.chat(&with(ask.clone(), json!({ "tool_choice": allowed })));
    assert_eq!(reply["choices"][0]["message"]["tool_calls"][0]["custom"]["name"], "patch", "{reply}");
    // Sent back, it is what the model wrote.
    let said = |call: Value| {
        json!({ "max_tokens": 4, "messages": [{ "role": "user", "content": "Mend it." },
        { "role": "assistant", "tool_calls": [call] }, { "role": "tool", "tool_call_id": "a", "content": "done" }] })
    };
    let wrote =
        json!({ "id": "a", "function": { "name": "patch", "arguments": json!({ "input": input }).to_string() } });
    let read = |call: Value| served.chat(&said(call))["usage"]["prompt_tokens"].clone();
    assert_eq!(read(with(call.clone(), json!({ "id": "a" }))), read(wrote));
    for (tool, field) in [
        (json!({ "type": "custom" }), "tools[0].custom"),
        (
            json!({ "type": "custom", "custom": { "name": "x", "format": { "type": "picture" } } }),
            "tools[0].custom.format.type",
        ),
        (json!({ "type": "mcp" }), "tools[0].type"),
    ] {
        let refused = served.post("/v1/chat/completions", &with(ask.clone(), json!({ "tools": [tool] })));
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!(field)), "{refused:?}");
    }
}

#[test]
fn responses_hold_probabilities_where_asked() {
    let served = serve(&[]);
    let body = json!({ "input": "What is 7 + 5?", "temperature": 0, "include": ["message.output_text.logprobs"], "top_logprobs": 2 });
    let chat = served.chat(&with(ask("What is 7 + 5?"), json!({ "logprobs": true, "top_logprobs": 2 })));
    let said = &chat["choices"][0]["logprobs"]["content"];
    let whole = served.post("/v1/responses", &body).json();
    assert_eq!(&whole["output"][0]["content"][0]["logprobs"], said);
    let stream = served.post("/v1/responses", &with(body.clone(), json!({ "stream": true })));
    let data = stream.body.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data.map(|data| serde_json::from_str(data).expect("JSON")).collect();
    let of = |name: &str| -> Vec<Value> {
        let lists =
            events.iter().filter(|event| event["type"] == name).filter_map(|event| event["logprobs"].as_array());
        lists.flatten().cloned().collect()
    };
    let done = of("response.output_text.done");
    assert_eq!((&json!(done), done.starts_with(&of("response.output_text.delta"))), (said, true));
    let silent = served.post("/v1/responses", &with(body, json!({ "include": null, "top_logprobs": 0 }))).json();
    assert_eq!(silent["output"][0]["content"][0]["logprobs"], json!([]));
}

/// What Anthropic's packages and agents look for.
/// Other models' refusals are part of conversations; and what is wrong with these is the request's fault.
#[test]
fn what_others_refused_is_read() {
    let served = serve(&[]);
    let after = |said: Value| json!({ "max_tokens": 2, "messages": [{ "role": "user", "content": "Who are you?" }, said, { "role": "user", "content": "Why?" }] });
    let read = |said: Value| served.chat(&after(said))["usage"]["prompt_tokens"].clone();
    let plain = read(json!({ "role": "assistant", "content": "I will not say." }));
    assert_eq!(read(json!({ "role": "assistant", "content": null, "refusal": "I will not say." })), plain);
    assert_eq!(
        read(json!({ "role": "assistant", "content": [{ "type": "refusal", "refusal": "I will not say." }] })),
        plain
    );
    let all: serde_json::Map<String, Value> = (0..1024).map(|id| (id.to_string(), json!(-100))).collect();
    let reply = served.post("/v1/chat/completions", &with(ask("Hi"), json!({ "logit_bias": all })));
    assert!(reply.status == 400 && reply.body.contains("logit_bias"), "{reply:?}");
    let reply = served.post("/v1/chat/completions", &with(ask("Hi"), json!({ "stop": [""] })));
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("stop")), "{reply:?}");
}

#[test]
fn refusals_say_what_agents_look_for() {
    let served = serve(&[]);
    let body = json!({ "max_tokens": 5, "messages": [{ "role": "user", "content": "Hi" }] });
    let threads = served.post("/v1/messages", &with(body.clone(), json!({ "thread": { "type": "create" } }))).json();
    assert_eq!(threads["error"]["details"]["error_code"], "thread_unsupported_request", "{threads}");
    let long = json!({ "messages": [{ "role": "user", "content": "a b ".repeat(600) }] });
    let long = served.post("/v1/messages", &with(body, long)).json()["error"]["message"].to_string();
    assert!(long.contains("prompt is too long: ") && long.contains("exceeds the available context size"), "{long}");
    let back = json!({ "input": [{ "role": "user", "content": "Hi" }, { "type": "item_reference", "id": "msg_1" }] });
    let back = served.post("/v1/responses", &back).json()["error"]["message"].to_string();
    assert!(back.contains("store: false"), "{back}");
    let models = served.get("/v1/models").json();
    assert_eq!((&models["first_id"], &models["data"][0]["type"]), (&models["data"][0]["id"], &json!("model")));
}

/// A line of Claude Code's that differs from conversation to conversation does not keep beginnings apart.
#[test]
fn a_billing_line_is_no_part_of_the_prompt() {
    let served = serve(&[]);
    let cached = |version: &str| {
        let line = format!("x-anthropic-billing-header: cc_version={version};");
        let body = json!({ "max_tokens": 2, "messages": [{ "role": "user", "content": "What is 7 + 5?" }],
            "system": [{ "type": "text", "text": line }, { "type": "text", "text": "Be brief and kind, and say nothing that is not so." }] });
        served.post("/v1/messages", &body).json()["usage"]["cache_read_input_tokens"].as_u64()
    };
    assert_eq!(cached("1.123"), Some(0));
    assert!(cached("1.e58").is_some_and(|tokens| tokens > 10));
    // The line, and nothing of what comes after it.
    let count = |system: &str| {
        let body = json!({ "messages": [{ "role": "user", "content": "Hi" }], "system": [{ "type": "text", "text": system }] });
        served.post("/v1/messages/count_tokens", &body).json()["input_tokens"].clone()
    };
    assert_eq!(count("x-anthropic-billing-header: v=1;\nNever guess."), count("Never guess."));
}

#[test]
fn only_allowed_functions_are_called() {
    let served = serve(&[]);
    let function = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object", "properties": {} } } });
    let choose = |names: &[&str], mode: &str| {
        let tools: Vec<Value> =
            names.iter().map(|name| json!({ "type": "function", "function": { "name": name } })).collect();
        let choice = json!({ "type": "allowed_tools", "allowed_tools": { "mode": mode, "tools": tools } });
        let more = json!({ "tools": [function("rain"), function("snow")], "tool_choice": choice, "temperature": 1, "seed": 3 });
        served.post("/v1/chat/completions", &with(ask("Rain?"), more))
    };
    for name in ["rain", "snow"] {
        let reply = choose(&[name], "required").json();
        let call = &reply["choices"][0]["message"]["tool_calls"][0]["function"];
        // Nor has it arguments the function does not know.
        assert_eq!((&call["name"], &call["arguments"]), (&json!(name), &json!("{}")), "{reply}");
    }
    assert_eq!(choose(&["hail"], "auto").status, 400);
    assert_eq!(choose(&[], "required").status, 400);
}

#[test]
fn a_response_says_what_it_was_asked() {
    let served = serve(&[]);
    let body = json!({
        "input": "What is 7 + 5?", "instructions": "Be brief.", "metadata": { "a": "b" }, "temperature": 0.3, "parallel_tool_calls": false,
        "max_output_tokens": 2, "truncation": "auto", "tools": [{ "type": "function", "name": "f", "parameters": { "type": "object" } }],
        "tool_choice": "none", "reasoning": { "effort": "none" }, "include": ["reasoning.encrypted_content"],
    });
    let reply = served.post("/v1/responses", &body).json();
    for field in [
        "instructions",
        "metadata",
        "temperature",
        "parallel_tool_calls",
        "max_output_tokens",
        "truncation",
        "tools",
        "tool_choice",
    ] {
        assert_eq!(reply[field], body[field], "{field}: {reply}");
    }
    assert_eq!((&reply["status"], &reply["output"][0]["status"]), (&json!("incomplete"), &json!("incomplete")));
    assert_eq!(reply["incomplete_details"]["reason"], "max_output_tokens");
}

#[test]
fn other_names_of_paths_lead_there_and_requests_have_names() {
    let served = serve(&[]);
    for path in ["/chat/completions", "/v1/chat/completions"] {
        let reply = served.post(path, &ask("What is 7 + 5?"));
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.header("x-request-id").is_some_and(|id| id.starts_with("req_")), "{reply:?}");
    }
    assert_eq!(served.get("/models").json(), served.get("/v1/models").json());
    assert_eq!(served.get("/v1/health").json()["status"], "ok");
    assert_eq!(served.post("/completions", &json!({ "prompt": "Hi", "max_tokens": 1 })).status, 200);
    assert_eq!(served.post("/v1/chat/completions", &with(ask("Hi"), json!({ "oddity": 1 }))).status, 400);
    let log = served.wait_for("oddity");
    assert!(log.contains("status=400") && log.contains("req_"), "{log}");
}

#[test]
fn pages_of_an_allowed_origin_may_send_any_header() {
    let served = serve(&["--cors", "*"]);
    let head = "OPTIONS /v1/chat/completions HTTP/1.1\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n\
                Access-Control-Request-Headers: authorization,content-type,x-stainless-os";
    let reply = served.raw(head, b"");
    assert_eq!(reply.status, 204, "{reply:?}");
    assert!(
        reply.header("access-control-allow-headers").is_some_and(|all| all.contains("x-stainless-os")),
        "{reply:?}"
    );
    assert!(reply.header("access-control-expose-headers").is_some_and(|all| all.contains("retry-after")), "{reply:?}");
}
