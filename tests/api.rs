//! The server as clients meet it, over loopback, on the bundled model.

#[path = "api/client.rs"]
mod client;
#[path = "api/clients.rs"]
mod clients;
#[path = "api/crowd.rs"]
mod crowd;
#[path = "api/document.rs"]
mod document;
#[path = "api/grammars.rs"]
mod grammars;
#[path = "api/judged.rs"]
mod judged;
#[allow(dead_code, reason = "made for the tests of the command line")]
#[path = "cli/program.rs"]
mod program;
#[path = "api/refusals.rs"]
mod refusals;
#[path = "api/slots.rs"]
mod slots;
#[path = "api/thermocline.rs"]
mod thermocline_live;
#[path = "api/tools.rs"]
mod tools;

use client::{Served, serve, start};
use serde_json::{Value, json};

/// A question the bundled model has one answer to.
pub fn ask(question: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": question }], "temperature": 0 })
}

/// `more` laid over `base`.
pub fn with(mut base: Value, more: Value) -> Value {
    for (name, value) in more.as_object().expect("an object") {
        base[name] = value.clone();
    }
    base
}

pub fn text(choice: &Value) -> String {
    choice["message"]["content"].as_str().expect("text").to_string()
}

/// The text of one choice of a stream.
pub fn streamed(events: &[Value], index: usize) -> String {
    let of = |event: &Value| {
        let choice = event["choices"].as_array()?.iter().find(|choice| choice["index"] == index)?;
        Some(choice["delta"]["content"].as_str().or(choice["text"].as_str())?.to_string())
    };
    events.iter().filter_map(of).collect()
}

#[test]
fn a_question_is_answered_whole_and_as_a_stream() {
    let served = serve(&[]);
    let whole = served.chat(&ask("What is 7 + 5?"));
    assert_eq!(text(&whole["choices"][0]), "7 + 5 = 12.");
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], "bundled");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    let usage = &whole["usage"];
    assert!(whole["id"].as_str().expect("an id").starts_with("chatcmpl-"));
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(usage["prompt_tokens"].as_u64().expect("a count") + usage["completion_tokens"].as_u64().expect("a count"))
    );
    assert!(whole["timings"]["predicted_n"].as_u64() == usage["completion_tokens"].as_u64());

    let body = with(ask("What is 7 + 5?"), json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let reply = served.post("/v1/chat/completions", &body);
    let events = reply.events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(streamed(&events, 0), "7 + 5 = 12.");
    assert!(events.iter().all(|e| e["object"] == "chat.completion.chunk" && e["id"] == events[0]["id"]));
    let [.., last, closing] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(last["timings"]["predicted_per_second"].as_f64().is_some_and(|speed| speed > 0.0), "{last}");
    assert_eq!(closing["choices"], json!([]));
    assert_eq!(closing["usage"]["completion_tokens"], usage["completion_tokens"]);
    assert_eq!(closing["usage"]["prompt_tokens"], usage["prompt_tokens"]);
    // All of the prompt but its last token was there already.
    let cached = closing["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
    assert_eq!(Some(cached + 1), usage["prompt_tokens"].as_u64());
    // Without the option no chunk speaks of usage.
    let plain = served.post("/v1/chat/completions", &with(ask("What is 7 + 5?"), json!({ "stream": true }))).events();
    assert!(plain.iter().all(|event| event.get("usage").is_none()));
}

#[test]
fn every_way_to_say_a_message_is_the_same_message() {
    let served = serve(&[]);
    let prompt = |messages: Value| {
        let reply = served.post("/apply-template", &json!({ "messages": messages }));
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["prompt"].as_str().expect("text").to_string()
    };
    let plain = prompt(json!([{ "role": "system", "content": "Be kind." }, { "role": "user", "content": "Hi there" }]));
    let parts = json!([
        { "role": "developer", "content": "Be kind.", "name": "boss" },
        { "role": "user", "content": [{ "type": "text", "text": "Hi " }, { "type": "text", "text": "there" }] },
    ]);
    assert_eq!(prompt(parts), plain);
    assert_eq!(
        plain,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    );
    let tokens = served.post("/tokenize", &json!({ "content": plain, "with_pieces": false })).json()["tokens"].clone();
    let back = served.post("/detokenize", &json!({ "tokens": tokens })).json();
    assert_eq!(back["content"], plain);
    let pieces = served.post("/tokenize", &json!({ "content": "a 🦙", "with_pieces": true })).json();
    assert!(pieces["tokens"].as_array().expect("a list").iter().any(|token| token["piece"].is_array()), "{pieces}");
    // An answer of nothing comes back as no blocks at all.
    let count = |content: Value| {
        let messages = json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": content }, { "role": "user", "content": [] }]);
        served.post("/v1/messages/count_tokens", &json!({ "messages": messages, "system": [] })).json()
    };
    assert_eq!(count(json!([])), count(json!("")));
    assert!(count(json!([]))["input_tokens"].as_u64() > Some(10));
    let literal = served.post("/tokenize", &json!({ "content": "<|im_end|>", "parse_special": false })).json();
    assert!(literal["tokens"].as_array().expect("a list").len() > 1, "{literal}");
}

#[test]
fn answers_end_where_they_should() {
    let served = serve(&[]);
    let story = |more: Value| served.chat(&with(ask("Tell me a story about a fox."), more));
    let whole = text(&story(json!({}))["choices"][0]);
    let short = story(json!({ "max_completion_tokens": 7 }));
    assert_eq!(short["choices"][0]["finish_reason"], "length");
    assert_eq!(short["usage"]["completion_tokens"], 7);
    for limits in
        [json!({ "max_completion_tokens": 9, "max_tokens": 7 }), json!({ "max_completion_tokens": 7, "max_tokens": 9 })]
    {
        assert_eq!(story(limits)["choices"], short["choices"], "both hold");
    }
    assert!(whole.starts_with(&text(&short["choices"][0])));
    for stop in [json!("learn to"), json!(["never said", "learn to", "swim"])] {
        let cut = story(json!({ "stop": stop }));
        assert_eq!(cut["choices"][0]["finish_reason"], "stop");
        assert_eq!(text(&cut["choices"][0]), whole.split("learn to").next().expect("a first part"));
    }
    // 512 positions: a prompt of 500 leaves room for little.
    let prompt: Vec<u32> = (0..500).map(|i| 100 + i % 50).collect();
    let full = served.post("/v1/completions", &json!({ "prompt": prompt, "max_tokens": 100, "temperature": 0, "logit_bias": { "1021": -100, "1023": -100 } })).json();
    assert_eq!(full["choices"][0]["finish_reason"], "length");
    assert_eq!(full["usage"]["total_tokens"], 513, "{full}");
}

#[test]
fn seeds_repeat_and_choices_differ() {
    let served = serve(&["-np", "3"]);
    let body = |more| {
        with(
            with(ask("Tell me a story."), json!({ "temperature": 1.5, "top_k": 0, "top_p": 1, "max_tokens": 24 })),
            more,
        )
    };
    let one = |seed: u64| text(&served.chat(&body(json!({ "seed": seed })))["choices"][0]);
    let alone = [one(5), one(6), one(7), one(8)];
    assert_eq!(one(5), alone[0]);
    assert!(alone.iter().any(|other| *other != alone[0]), "{alone:?}");
    // Choices draw with seeds that follow each other, so they are what single answers with those seeds are.
    let several = served.chat(&body(json!({ "seed": 5, "n": 4 })));
    let choices: Vec<String> = several["choices"].as_array().expect("a list").iter().map(text).collect();
    assert_eq!(choices, alone);
    let single = served.chat(&body(json!({ "seed": 5 })));
    assert_eq!(several["usage"]["prompt_tokens"], single["usage"]["prompt_tokens"], "one prompt, counted once");
    let events = served.post("/v1/chat/completions", &body(json!({ "seed": 5, "n": 4, "stream": true }))).events();
    assert_eq!((0..4).map(|i| streamed(&events, i)).collect::<Vec<_>>(), alone);
}

#[test]
fn probabilities_come_with_their_tokens() {
    let served = serve(&[]);
    let asked = json!({ "logprobs": true, "top_logprobs": 3 });
    let whole = served.chat(&with(ask("What is 7 + 5?"), asked.clone()));
    let content = whole["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|token| token["bytes"].as_array().expect("bytes").iter().map(|b| b.as_u64().expect("a byte") as u8))
        .collect();
    assert_eq!(String::from_utf8(bytes).expect("text"), text(&whole["choices"][0]));
    for token in &content {
        let top = token["top_logprobs"].as_array().expect("a list");
        assert_eq!(top.len(), 3);
        // Without a temperature the likeliest is taken.
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
        assert!(token["logprob"].as_f64().expect("a number") <= 0.0);
    }
    let events = served
        .post("/v1/chat/completions", &with(with(ask("What is 7 + 5?"), asked), json!({ "stream": true })))
        .events();
    let streamed: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(streamed, content);

    let done = served
        .post("/v1/completions", &json!({ "prompt": "Once upon", "logprobs": 2, "temperature": 0, "max_tokens": 5 }))
        .json();
    let choice = &done["choices"][0];
    assert_eq!(done["object"], "text_completion");
    let said = choice["text"].as_str().expect("text");
    let tokens: String =
        choice["logprobs"]["tokens"].as_array().expect("a list").iter().map(|t| t.as_str().expect("text")).collect();
    assert_eq!(tokens, said);
    let offsets = choice["logprobs"]["text_offset"].as_array().expect("a list");
    assert_eq!((offsets.len(), &offsets[0]), (5, &json!(0)));
    assert!(choice["logprobs"]["top_logprobs"][0].as_object().expect("an object").len() == 2);
}

#[test]
fn sampling_fields_reach_the_sampler() {
    let served = serve(&["--temp", "0"]);
    let plain = served.chat(&json!({ "messages": [{ "role": "user", "content": "What is 7 + 5?" }] }));
    assert_eq!(text(&plain["choices"][0]), "7 + 5 = 12.", "the server's own settings are the defaults");
    let tokens = served.post("/tokenize", &json!({ "content": "7" })).json();
    let seven = tokens["tokens"][0].to_string();
    let forbidden = served.chat(&with(ask("What is 7 + 5?"), json!({ "logit_bias": { seven: -100 } })));
    assert!(!text(&forbidden["choices"][0]).contains('7'), "{forbidden}");
    // One candidate is the likeliest one, whatever the temperature.
    for cut in [json!({ "top_k": 1 }), json!({ "top_p": 0 }), json!({ "min_p": 1 })] {
        let body = with(with(ask("What is 7 + 5?"), json!({ "temperature": 2 })), cut);
        assert_eq!(text(&served.chat(&body)["choices"][0]), "7 + 5 = 12.", "{body}");
    }
    let penalised = served.chat(&with(
        ask("What is 7 + 5?"),
        json!({ "frequency_penalty": 2, "presence_penalty": 2, "repeat_penalty": 3 }),
    ));
    assert_ne!(text(&penalised["choices"][0]), "7 + 5 = 12.");
}

#[test]
fn completions_take_text_and_tokens_and_several_of_them() {
    let served = serve(&[]);
    let complete = |prompt: Value| {
        let body = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 6, "n": 1 });
        let reply = served.post("/v1/completions", &body);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    };
    let texts = |value: &Value| -> Vec<String> {
        value["choices"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| c["text"].as_str().expect("text").to_string())
            .collect()
    };
    let tokens = served.post("/tokenize", &json!({ "content": "Once upon a" })).json()["tokens"].clone();
    let (one, other) = (texts(&complete(json!("Once upon a"))), texts(&complete(json!("def add"))));
    assert_eq!(texts(&complete(tokens.clone())), one);
    assert_eq!(texts(&complete(json!([tokens]))), one);
    assert_eq!(texts(&complete(json!(["Once upon a", "def add"]))), [one.clone(), other].concat());
    let default = served.post("/v1/completions", &json!({ "prompt": "Once upon a", "temperature": 0 })).json();
    assert_eq!(default["usage"]["completion_tokens"], 16, "as OpenAI has it");
    let stream = served.post(
        "/v1/completions",
        &json!({ "prompt": "Once upon a", "temperature": 0, "max_tokens": 6, "stream": true }),
    );
    assert_eq!(streamed(&stream.events(), 0), one[0]);
}

#[test]
fn models_are_listed_and_answer_to_their_names() {
    let served = serve(&["--alias", "gpt-4o", "--alias", "owner/repo:Q4_0"]);
    let list = served.get("/v1/models").json();
    let names: Vec<&str> = list["data"].as_array().expect("a list").iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(names, ["bundled", "gpt-4o", "owner/repo:Q4_0"]);
    assert_eq!(served.get("/v1/models/owner/repo:Q4_0").json()["object"], "model");
    assert_eq!(served.get("/v1/models/other").status, 404);
    for name in names {
        assert_eq!(served.chat(&with(ask("Hello!"), json!({ "model": name, "max_tokens": 1 })))["model"], "bundled");
    }
    let props = served.get("/props").json();
    assert_eq!(props["total_slots"], 4);
    assert!(props["chat_template"].as_str().expect("text").contains("im_start"));
}

/// Until the model is there only `/health` and its like answer, and they say so.
#[test]
fn loading_is_503_and_then_ok() {
    let served = start(&[]);
    // It may be ready already; then there is nothing to see but that it is.
    let early = served.get("/health");
    assert!(early.status == 200 || early.json()["error"]["code"] == "unavailable", "{early:?}");
    served.wait_for("ready: ");
    assert_eq!(served.get("/health").json(), json!({ "status": "ok" }));
}

#[test]
fn figures_can_be_watched_and_logs_hold_no_words() {
    let served = serve(&[]);
    let secret = "xyzzy plover";
    let reply =
        served.chat(&with(ask(secret), json!({ "max_tokens": 9, "logit_bias": { "1021": -100, "1023": -100 } })));
    served.post("/v1/chat/completions", &json!({ "messages": secret }));
    served.raw("POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json", secret.as_bytes());
    served.get(&format!("/{}", "plover"));
    assert_eq!(served.metric("thermocline_written_tokens_total"), 9.0);
    assert_eq!(served.metric("thermocline_first_token_seconds_count"), 1.0);
    assert_eq!(served.metric("thermocline_between_tokens_seconds_count"), 8.0);
    assert_eq!(Some(served.metric("thermocline_prompt_tokens_total")), reply["usage"]["prompt_tokens"].as_f64());
    assert_eq!(served.metric("thermocline_requests_total{route=\"/v1/chat/completions\",status=\"400\"}"), 2.0);
    assert_eq!(served.metric("thermocline_requests_total{route=\"other\",status=\"404\"}"), 1.0);
    served.wait_for("9 written");
    let log = served.log();
    assert!(!log.contains("plover") && !log.contains("xyzzy"), "{log}");
}

#[test]
fn a_log_is_text_or_json_and_holds_prompts_only_when_asked() {
    let served = serve(&["--log-format", "json", "--log-prompts", "--log-filter", "debug"]);
    served.chat(&with(ask("xyzzy"), json!({ "max_tokens": 3 })));
    served.get("/nowhere");
    served.wait_for("request refused");
    let log = served.log();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect();
    let find = |words: &str| {
        let said = |event: &&Value| event["message"].as_str().is_some_and(|message| message.contains(words));
        events.iter().find(said).unwrap_or_else(|| panic!("no {words:?} in {log}"))
    };
    assert_eq!(find("answer: prompt")["written"], 3);
    assert!(find("prompt")["text"].as_str().is_some_and(|text| text.contains("xyzzy")), "{log}");
    assert_eq!((&find("request refused")["status"], &find("request refused")["path"]), (&json!(404), &json!("other")));
    assert_eq!(find("listening on")["level"], "INFO");
    let quiet = serve(&["--log-filter", "info,thermocline::serve::worker=error"]);
    quiet.chat(&with(ask("xyzzy"), json!({ "max_tokens": 3 })));
    quiet.get("/nowhere");
    quiet.wait_for("request refused");
    assert!(!quiet.log().contains("answer:"), "{}", quiet.log());
    let outcome = program::Home::new().run(&["serve", "--port", "0", "--log-filter", "thermocline=loud"]);
    assert!(outcome.code == 2 && outcome.stderr.contains("--log-filter"), "{outcome:?}");
}

#[cfg(unix)]
#[test]
fn a_signal_lets_answers_end() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT] {
        let mut served = serve(&[]);
        let mut stream = served.connect();
        let body = with(ask("Tell me a story about a fox."), json!({ "stream": true })).to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        std::io::Write::write_all(&mut stream, format!("{head}{body}").as_bytes()).expect("sends");
        std::io::Read::read_exact(&mut stream, &mut [0; 1]).expect("an answer begins");
        served.signal(signal);
        let reply = client::read(stream);
        assert!(streamed(&reply.events(), 0).ends_with("said the beaver."), "{reply:?}");
        assert_eq!(served.wait().code(), Some(0), "{}", served.log());
    }
}

/// That nobody reads the log any more is no reason to stop, nor to go on for ever.
#[cfg(unix)]
#[test]
fn a_log_nobody_reads_holds_up_nothing() {
    let mut served = serve(&[]);
    served.stop_listening();
    for _ in 0..3 {
        served.chat(&with(ask("Hi"), json!({ "max_tokens": 1 })));
        served.get("/nowhere");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    served.signal(rustix::process::Signal::TERM);
    assert_eq!(served.wait().code(), Some(0));
}

/// Who has asked for nothing yet is not told of, and holds up the end no longer than others may.
#[cfg(unix)]
#[test]
fn a_connection_that_asks_for_nothing_is_not_cut_off() {
    let mut served = serve(&["--drain", "1"]);
    let mut half = served.connect();
    std::io::Write::write_all(&mut half, b"GET /health HTTP/1.1\r\nHost: ").expect("sends");
    assert_eq!(served.get("/health").status, 200);
    served.signal(rustix::process::Signal::TERM);
    assert_eq!(served.wait().code(), Some(0));
    assert!(!served.log().contains("cut off"), "{}", served.log());
}

/// A port in use is an error before a model is looked for.
#[test]
fn a_port_in_use_is_said() {
    let served = serve(&[]);
    let port = served.address.rsplit(':').next().expect("a port");
    let outcome = program::Home::new().run(&["serve", "--port", port, "-m", "nowhere/at-all"]);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("cannot listen on 127.0.0.1"), "{outcome:?}");
}

/// What a test of one test's own needs of a server that has begun.
pub fn answer_of(served: &Served, body: &Value) -> String {
    text(&served.chat(body)["choices"][0])
}
