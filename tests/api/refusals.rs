//! What is refused, with which status, naming what.

use super::client::{Reply, serve};
use super::{ask, with};
use serde_json::{Value, json};

/// The error of a reply, which must have OpenAI's shape.
fn error(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{reply:?}");
    let error = reply.json()["error"].clone();
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{reply:?}");
    assert!(error["type"].is_string() && error.get("param").is_some() && error.get("code").is_some(), "{reply:?}");
    error
}

#[test]
fn fields_are_refused_by_name() {
    let served = serve(&[]);
    let chat = |more: Value| (with(ask("Hi"), more), "/v1/chat/completions");
    let complete = |more: Value| (with(json!({ "prompt": "Hi" }), more), "/v1/completions");
    for ((body, path), param) in [
        (chat(json!({ "temprature": 0.5 })), "temprature"),
        (chat(json!({ "temperature": -1 })), "temperature"),
        (chat(json!({ "temperature": "hot" })), "temperature"),
        (chat(json!({ "temperature": 100.00000000000001 })), "temperature"),
        (chat(json!({ "top_p": 1.5 })), "top_p"),
        (chat(json!({ "min_p": -0.1 })), "min_p"),
        (chat(json!({ "speculative.n_max": -1 })), "speculative.n_max"),
        (chat(json!({ "top_k": 1.5 })), "top_k"),
        (chat(json!({ "n": 0 })), "n"),
        (chat(json!({ "n": 17 })), "n"),
        (chat(json!({ "max_tokens": 0 })), "max_tokens"),
        (chat(json!({ "max_tokens": 0, "max_completion_tokens": 6 })), "max_tokens"),
        (chat(json!({ "repeat_penalty": 1.1, "repetition_penalty": 1.2 })), "repetition_penalty"),
        (complete(json!({ "repeat_penalty": 1.1, "repetition_penalty": 1.1 })), "repetition_penalty"),
        (chat(json!({ "seed": 1.5 })), "seed"),
        (chat(json!({ "seed": 1.8446744073709552e19 })), "seed"),
        (chat(json!({ "stop": 5 })), "stop"),
        (chat(json!({ "stop": ["a", 5] })), "stop"),
        (chat(json!({ "stream": "yes" })), "stream"),
        (chat(json!({ "stream_options": { "include_usage": true } })), "stream_options"),
        (chat(json!({ "stream": true, "stream_options": { "other": true } })), "stream_options.other"),
        (chat(json!({ "logprobs": 3 })), "logprobs"),
        (chat(json!({ "top_logprobs": 3 })), "top_logprobs"),
        (chat(json!({ "logprobs": true, "top_logprobs": 21 })), "top_logprobs"),
        (chat(json!({ "logit_bias": { "99999": 1 } })), "logit_bias"),
        (chat(json!({ "logit_bias": { "5": 101 } })), "logit_bias"),
        (chat(json!({ "logit_bias": [5] })), "logit_bias"),
        (chat(json!({ "presence_penalty": 3 })), "presence_penalty"),
        (chat(json!({ "tools": [{ "type": "search" }] })), "tools[0].type"),
        (chat(json!({ "tools": [{ "type": "function", "function": { "name": "a b" } }] })), "tools[0].function.name"),
        (chat(json!({ "tool_choice": "required" })), "tool_choice"),
        (chat(json!({ "function_call": "auto" })), "function_call"),
        (chat(json!({ "modalities": ["text", "audio"] })), "modalities"),
        (chat(json!({ "reasoning_effort": "a lot" })), "reasoning_effort"),
        (chat(json!({ "prompt": "x" })), "prompt"),
        (chat(json!({ "messages": null })), "messages"),
        (chat(json!({ "messages": [] })), "messages"),
        (chat(json!({ "messages": ["Hi"] })), "messages[0]"),
        (chat(json!({ "messages": [{ "content": "x" }] })), "messages[0].role"),
        (chat(json!({ "messages": [{ "role": "robot", "content": "x" }] })), "messages[0].role"),
        (chat(json!({ "messages": [{ "role": "tool", "content": "x" }] })), "messages[0].tool_call_id"),
        (chat(json!({ "messages": [{ "role": "user" }] })), "messages[0].content"),
        (chat(json!({ "messages": [{ "role": "user", "content": "x", "odd": 1 }] })), "messages[0].odd"),
        (
            chat(
                json!({ "messages": [{ "role": "assistant", "tool_calls": [{ "type": "search", "function": { "name": "f" } }] }] }),
            ),
            "messages[0].tool_calls[0].type",
        ),
        (
            chat(json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }] })),
            "messages[0].content[0].type",
        ),
        (complete(json!({ "prompt": "" })), "prompt"),
        (complete(json!({ "prompt": [] })), "prompt"),
        (complete(json!({ "prompt": [1, "x"] })), "prompt"),
        (complete(json!({ "prompt": [1, 4096] })), "prompt"),
        (complete(json!({ "prompt": [-1] })), "prompt"),
        (complete(json!({ "prompt": 5 })), "prompt"),
        (complete(json!({ "prompt": null })), "prompt"),
        (complete(json!({ "suffix": "end" })), "suffix"),
        (complete(json!({ "suffix": {} })), "suffix"),
        (complete(json!({ "echo": "" })), "echo"),
        (complete(json!({ "best_of": 2 })), "best_of"),
        (complete(json!({ "logprobs": true })), "logprobs"),
        ((json!({}), "/tokenize"), "content"),
        ((json!({ "content": "x", "odd": 1 }), "/tokenize"), "odd"),
        ((json!({ "tokens": [99999] }), "/detokenize"), "tokens"),
        ((json!({ "messages": [] }), "/apply-template"), "messages"),
    ] {
        let error = error(&served.post(path, &body), 400);
        assert_eq!(error["param"], param, "{body}");
        assert!(error["message"].as_str().expect("text").starts_with(param), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    // What asks for nothing, and what cannot change an answer, passes.
    let idle = json!({
        "tools": [], "tool_choice": "none", "response_format": { "type": "text" }, "modalities": ["text"], "user": "me",
        "metadata": {}, "store": false, "seed": -1, "stop": null, "logprobs": false, "n": 1.0, "max_tokens": 1,
        "functions": null, "service_tier": "auto",
    });
    served.chat(&with(ask("Hi"), idle));
    for seed in [json!(u64::MAX), json!(i64::MIN), json!(1.5e19), json!(-9e18), json!(-1.0)] {
        served.chat(&with(ask("Hi"), json!({ "seed": seed, "max_tokens": 1 })));
    }
    let low = br#"{"messages": [{"role": "user", "content": "Hi"}], "seed": -9223372036854775809}"#;
    error(&served.raw("POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json", low), 400);
    let long = json!({ "max_tokens": 1, "stop": vec!["é".repeat(1024); 64], "repetition_penalty": 1.1 });
    served.chat(&with(ask("Hi"), long));
    // A stop no text can have, and one too long, are the engine's to refuse: before a stream begins.
    for stop in [json!(""), json!("x".repeat(1025)), json!(["é".repeat(1025)]), json!(vec!["x"; 65])] {
        if stop.is_array() {
            let body =
                json!({ "max_tokens": 1, "messages": [{ "role": "user", "content": "Hi" }], "stop_sequences": stop });
            assert_eq!(served.post("/v1/messages", &body).status, 400);
        }
        error(&served.post("/v1/chat/completions", &with(ask("Hi"), json!({ "stop": stop, "stream": true }))), 400);
    }
}

/// What becomes a chat is refused by the names its own API has.
#[test]
fn other_apis_have_their_own_names() {
    let served = serve(&[]);
    let schema = json!({ "type": "object", "properties": { "a": { "type": "sea" } } });
    let response = |more: Value| (with(json!({ "input": "Hi" }), more), "/v1/responses");
    let message = |more: Value| (with(with(ask("Hi"), json!({ "max_tokens": 1 })), more), "/v1/messages");
    let format = json!({ "format": { "type": "json_schema", "name": "x", "schema": schema } });
    for ((body, path), name) in [
        (response(json!({ "max_output_tokens": "5" })), "max_output_tokens"),
        (response(json!({ "text": format })), "text.format.schema"),
        (response(json!({ "text": { "format": { "type": "sea" } } })), "text.format.type"),
        (
            response(
                json!({ "tools": [{ "type": "web_search" }, { "type": "function", "name": "f", "parameters": 5 }] }),
            ),
            "tools[1].parameters",
        ),
        (
            response(
                json!({ "tools": [{ "type": "namespace", "name": "n", "tools": [{ "type": "function", "name": "f", "strict": 5 }] }] }),
            ),
            "tools[0].tools[0].strict",
        ),
        (
            response(
                json!({ "instructions": "x", "input": [{ "role": "user", "content": "x" }, { "role": "robot", "content": "x" }] }),
            ),
            "input[1].role",
        ),
        (
            response(json!({ "input": [{ "type": "function_call", "call_id": "c", "name": "f", "arguments": "{" }] })),
            "input[0].arguments",
        ),
        (response(json!({ "input": [{ "type": "function_call", "call_id": "c" }] })), "input[0].name"),
        (response(json!({ "input": [{ "type": "function_call_output", "output": "x" }] })), "input[0].call_id"),
        (response(json!({ "input": [{ "role": "tool", "content": "x" }] })), "input[0].role"),
        (response(json!({ "input": [{ "type": "reasoning", "summary": [] }] })), "input"),
        (
            response(
                json!({ "tools": [{ "type": "function", "name": "f" }], "tool_choice": { "type": "function", "name": "f", "odd": 5 } }),
            ),
            "tool_choice.odd",
        ),
        (message(json!({ "stop_sequences": [3] })), "stop_sequences"),
        (message(json!({ "output_format": format["format"] })), "output_format.schema"),
        (message(json!({ "output_config": format })), "output_config.format.schema"),
        (
            message(json!({ "tools": [{ "type": "web_search_20250305" }, { "name": "f", "input_schema": 5 }] })),
            "tools[1].input_schema",
        ),
    ] {
        let reply = served.post(path, &body);
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        let error = &reply.json()["error"];
        assert!(
            error["message"].as_str().is_some_and(|said| said.starts_with(&format!("{name} "))),
            "{body}: {reply:?}"
        );
        match path {
            "/v1/messages" => {
                assert_eq!(Some(&reply.json()["request_id"]), reply.header("request-id").map(Value::from).as_ref())
            }
            _ => assert_eq!(error["param"], name),
        }
    }
    let counted =
        json!({ "messages": [{ "role": "user", "content": "x" }], "tools": [{ "name": "f", "input_schema": 5 }] });
    assert!(served.post("/v1/messages/count_tokens", &counted).body.contains("tools[0].input_schema"));
    assert_eq!(served.post("/v1/messages/batches", &json!({})).json()["type"], "error");
}

#[test]
fn bodies_are_refused_with_their_status() {
    let served = serve(&[]);
    let post = "POST /v1/chat/completions HTTP/1.1";
    let json = format!("{post}\r\nContent-Type: application/json");
    for body in ["", "{", "[1]", "\"x\"", "{\"a\":1}x", "\u{feff}{}"] {
        error(&served.raw(&json, body.as_bytes()), 400);
    }
    error(&served.raw(&json, b"{\"a\": \"\xff\"}"), 400);
    error(&served.raw(&json, "[".repeat(200_000).as_bytes()), 400);
    error(&served.raw(post, b"{}"), 415);
    error(&served.raw(&format!("{post}\r\nContent-Type: text/plain"), b"{}"), 415);
    assert_eq!(error(&served.raw(&json, &vec![b' '; (8 << 20) + 1]), 413)["code"], "body_too_large");
    let bent = format!("{json}\r\nContent-Encoding: gzip");
    assert!(error(&served.raw(&bent, b"{}"), 415)["message"].as_str().is_some_and(|why| why.contains("gzip")));
    let deep = format!("{{\"a\":{}}}", "[".repeat(200));
    assert!(
        error(&served.raw(&json, deep.as_bytes()), 400)["message"].as_str().is_some_and(|why| why.contains("deep"))
    );
    let charset = format!("{post}\r\nContent-Type: Application/JSON; charset=utf-8");
    error(&served.raw(&charset, b"{}"), 400);

    // What breaks off, or is no HTTP, was not too large.
    for rest in ["Transfer-Encoding: chunked\r\n\r\nzz\r\n", "Content-Length: 9\r\n\r\n{}"] {
        let mut stream = served.connect();
        let head = format!("{json}\r\nHost: localhost\r\n{rest}");
        std::io::Write::write_all(&mut stream, head.as_bytes()).expect("sends");
        stream.shutdown(std::net::Shutdown::Write).expect("says that this is all");
        let why = error(&super::client::read(stream), 400)["message"].to_string();
        assert!(why.contains("did not come whole"), "{why}");
    }

    // Who is refused before the body is read is heard out, so that nobody who sends first and listens then finds the line cut.
    use std::io::{Read, Write};
    let mut stream = served.connect();
    let whole = vec![b' '; 9 << 20];
    let head = format!("{json}\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", whole.len());
    stream.write_all(head.as_bytes()).expect("sends");
    stream.write_all(&whole).expect("all of it is taken");
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sends more");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("an answer to each");
    assert!(said.starts_with("HTTP/1.1 413") && said.contains("HTTP/1.1 200 OK"), "{said}");

    let long = "many words ".repeat(2000);
    let reply = served.post("/v1/chat/completions", &ask(&long));
    assert_eq!(error(&reply, 400)["code"], "context_length_exceeded");
    assert!(reply.body.contains("512"), "{reply:?}");

    assert_eq!(
        error(&served.post("/v1/chat/completions", &with(ask("Hi"), json!({ "model": "other" }))), 404)["code"],
        "model_not_found"
    );
    error(&served.get("/v2/chat"), 404);
    error(&served.get("/v1/chat/completions"), 405);
    error(&served.post("/health", &json!({})), 405);
    let message = error(&served.post("/v1/embeddings", &json!({})), 404)["message"].to_string();
    assert!(message.contains("embeddings"), "{message}");
}

#[test]
fn keys_are_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("keys");
    std::fs::write(&file, "from-the-file\n").expect("writes");
    let served = serve(&["--api-key", "from-the-line", "--api-key-file", file.to_str().expect("UTF-8")]);
    let reply = served.get("/v1/models");
    assert_eq!(error(&reply, 401)["code"], "invalid_api_key");
    assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    error(&served.raw("GET /v1/models HTTP/1.1\r\nAuthorization: Bearer from-the-lin", b""), 401);
    error(&served.get("/metrics"), 401);
    error(&served.get("/nowhere"), 401);
    for key in
        ["Authorization: Bearer from-the-line", "Authorization: Bearer from-the-file", "X-Api-Key: from-the-file"]
    {
        assert_eq!(served.raw(&format!("GET /v1/models HTTP/1.1\r\n{key}"), b"").status, 200);
    }
    for open in ["/health", "/openapi.json"] {
        assert_eq!(served.get(open).status, 200);
    }
    assert!(!served.log().contains("from-the-"), "{}", served.log());
}

#[test]
fn an_open_door_is_said() {
    let served = serve(&["--host", "0.0.0.0"]);
    assert!(served.log().contains("no key is asked for"), "{}", served.log());
    for quiet in [&["--host", "0.0.0.0", "--api-key", "k"][..], &["--host", "localhost"]] {
        assert!(!serve(quiet).log().contains("no key"), "{quiet:?}");
    }
}

/// A page elsewhere may neither read what is said here nor pretend to be here under a name of its own.
#[test]
fn other_origins_and_names_are_kept_out() {
    let served = serve(&[]);
    let from = |served: &super::Served, method: &str, host: &str| {
        use std::io::Write;
        let mut stream = served.connect();
        let head = format!(
            "{method} /v1/models HTTP/1.1\r\nHost: {host}\r\nOrigin: https://a.example\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sends");
        super::client::read(stream)
    };
    assert_eq!(from(&served, "GET", "localhost").header("access-control-allow-origin"), None);
    error(&from(&served, "OPTIONS", "localhost"), 405);
    error(&from(&served, "GET", "a.example"), 403);
    error(&from(&served, "GET", "127.0.0.1.a.example:80"), 403);
    // On every address of the machine too, a container's for one.
    let wide = serve(&["--host", "0.0.0.0"]);
    error(&from(&wide, "GET", "a.example:8080"), 403);
    for host in ["replica1:8080", "box.lan", "box.local:80", "192.168.0.7:8080"] {
        assert_eq!(from(&wide, "GET", host).status, 200, "{host}");
    }
    let keyed = serve(&["--host", "0.0.0.0", "--api-key", "k"]);
    assert_eq!(from(&keyed, "GET", "a.example").status, 401, "who has a key may use any name");

    let open = serve(&["--cors", "https://a.example"]);
    assert_eq!(from(&open, "GET", "localhost").header("access-control-allow-origin"), Some("https://a.example"));
    let preflight = from(&open, "OPTIONS", "127.0.0.1:1");
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, Some("https://a.example")));
    assert!(preflight.header("access-control-allow-headers").is_some_and(|allowed| allowed.contains("authorization")));
    let other = serve(&["--cors", "https://b.example"]);
    assert_eq!(from(&other, "GET", "localhost").header("access-control-allow-origin"), None);
}

#[test]
fn flags_that_make_no_sense_are_usage() {
    let home = super::program::Home::new();
    for (line, words) in [
        (&["--port", "99999"][..], "99999"),
        (&["-np", "0"], "at least 1"),
        (&["--parallel", "1000"], "at most 256"),
        (&["--timeout", "0"], "at least 1"),
        (&["--timeout", "18446744073709551615"], "a year"),
        (&["--cors", "https://a.example/"], "without a / at its end"),
        (&["--cors", "https://a.example:443"], "usual port"),
        (&["--cors", "http://:8080"], "as browsers send it"),
        (&["--cors", "a.example"], "https://example.com"),
        (&["--alias", ""], "--alias"),
        (&["--api-key", ""], "API key is empty"),
        (&["--api-key-file", "no-such-file"], "no-such-file"),
        (&["--host", "no.such.host.invalid"], "cannot listen"),
        (&["--chat-template", "x", "--chat-template-file", "y"], "not both"),
    ] {
        let outcome = home.run(&[&["serve"], line].concat());
        assert_eq!(outcome.code, 2, "{line:?}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{line:?}: {outcome:?}");
    }
}
