//! Several at once: fair turns, full queues, people who leave, people who send garbage.

use super::client::{Served, read, serve};
use super::{answer_of, ask, streamed, with};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A request that is answered until the context is full: hundreds of tokens.
fn endless() -> Value {
    with(ask("Tell me a story."), json!({ "stream": true, "logit_bias": { "1021": -100, "1023": -100 } }))
}

/// Sends a request and does not wait for more than the beginning of its answer.
fn begin(served: &Served, body: &Value) -> TcpStream {
    let mut stream = served.connect();
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("sends");
    stream
}

fn read_all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it ends");
    text
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whoever asks, in whatever company, hears what he would hear alone.
#[test]
fn answers_in_a_crowd_are_those_alone() {
    let served = serve(&["-np", "3"]);
    let questions: Vec<Value> = (0..12)
        .map(|i| {
            let words = [
                "Tell me a story about a fox.",
                "Tell me a story about a lighthouse.",
                "What is 48 + 37?",
                "Расскажи сказку о волке.",
            ];
            let more =
                json!({ "temperature": if i < 4 { 0.0 } else { 1.2 }, "seed": i, "max_tokens": 40 + 7 * (i % 3) });
            with(ask(words[i % 4]), more)
        })
        .collect();
    let alone: Vec<String> = questions.iter().map(|body| answer_of(&served, body)).collect();
    let fresh = serve(&["-np", "3"]);
    std::thread::scope(|scope| {
        let answers: Vec<_> = (0..36)
            .map(|i| {
                let (fresh, body) = (&fresh, with(questions[i % 12].clone(), json!({ "stream": i % 2 == 0 })));
                scope.spawn(move || match i % 2 {
                    0 => streamed(&fresh.post("/v1/chat/completions", &body).events(), 0),
                    _ => answer_of(fresh, &body),
                })
            })
            .collect();
        for (i, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.join().expect("answered"), alone[i % 12], "{}", questions[i % 12]);
        }
    });
    assert!(fresh.metric("thermocline_prompt_tokens_reused_total") > 100.0, "beginnings are shared");
}

#[test]
fn a_full_queue_turns_away_at_once() {
    let served = serve(&["-np", "1", "--queue", "2", "-c", "100000", "--rewind", "0"]);
    let mut taken: Vec<TcpStream> = (0..3).map(|_| begin(&served, &endless())).collect();
    eventually("three places are taken", || served.metric("thermocline_queue_places_taken") == 3.0);
    let started = Instant::now();
    let reply = served.post("/v1/chat/completions", &ask("Hi"));
    assert_eq!(reply.status, 429, "{reply:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "it did not wait for a place");
    assert!(reply.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok()).is_some(), "{reply:?}");
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    // The refusal waits for no more than the head of a request, and the rest of it is heard out.
    let mut slow = served.connect();
    let rest = vec![b' '; 1 << 20];
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ";
    slow.write_all(format!("{head}{}\r\n\r\n", rest.len()).as_bytes()).expect("sends");
    let mut early = [0; 12];
    slow.read_exact(&mut early).expect("an answer before the body is sent");
    assert_eq!(&early, b"HTTP/1.1 429");
    slow.write_all(&rest).expect("all of it is taken");
    slow.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sends more");
    assert!(read_all(slow).contains("HTTP/1.1 200 OK"));
    assert_eq!(served.metric("thermocline_turned_away_seconds_count"), 2.0);
    // What needs no place is answered.
    assert_eq!(served.get("/health").status, 200);
    assert_eq!(served.post("/tokenize", &json!({ "content": "x" })).status, 200);
    // Who leaves the queue frees a place.
    drop(taken.pop());
    eventually("a place is free", || served.metric("thermocline_queue_places_taken") == 2.0);
    drop(taken);
    assert_eq!(answer_of(&served, &ask("What is 7 + 5?")), "7 + 5 = 12.");
    // More answers than there are places take them all, and until the last of them is written.
    eventually("all are free", || served.metric("thermocline_queue_places_taken") == 0.0);
    let many = with(ask("What is 7 + 5?"), json!({ "n": 7 }));
    let choices = served.chat(&many)["choices"].as_array().expect("a list").clone();
    assert!(choices.len() == 7 && choices.iter().all(|choice| super::text(choice) == "7 + 5 = 12."), "{choices:?}");
    eventually("all are free again", || served.metric("thermocline_queue_places_taken") == 0.0);
    let held = begin(&served, &endless());
    eventually("one place is taken", || served.metric("thermocline_queue_places_taken") == 1.0);
    assert_eq!(served.post("/v1/chat/completions", &many).status, 429);
    drop(held);
    eventually("it is free again", || served.metric("thermocline_queue_places_taken") == 0.0);
    let long = begin(&served, &with(endless(), json!({ "n": 7, "max_tokens": 4000 })));
    eventually("all are taken again", || served.metric("thermocline_queue_places_taken") == 3.0);
    eventually("one is written", || served.metric("thermocline_answers_total") >= 9.0);
    assert_eq!(served.metric("thermocline_queue_places_taken"), 3.0, "those that wait keep the places");
    drop(long);
}

/// A connection that is gone ends its answer, whether it streams or not, long before the context is full.
#[test]
fn whoever_leaves_is_not_waited_for() {
    let served = serve(&["-np", "2", "-c", "100000", "--rewind", "0"]);
    let mut streaming = begin(&served, &endless());
    streaming.read_exact(&mut [0; 600]).expect("an answer begins");
    drop(streaming);
    eventually("the stream's answer ends", || served.metric("thermocline_answers_cancelled_total") == 1.0);
    eventually("its slot is free", || served.metric("thermocline_slots_busy") == 0.0);
    let waiting = begin(&served, &with(endless(), json!({ "stream": false })));
    eventually("it is written", || served.metric("thermocline_slots_busy") == 1.0);
    drop(waiting);
    eventually("the other's too", || served.metric("thermocline_answers_cancelled_total") == 2.0);
    eventually("all is idle", || served.metric("thermocline_queue_places_taken") == 0.0);
    assert_eq!(served.metric("thermocline_answers_total"), 0.0);
    // What they cost is on the account.
    assert!(served.metric("thermocline_prompt_tokens_total") > 0.0);
    assert!(served.metric("thermocline_written_tokens_total") > 1.0);
}

#[test]
fn time_is_limited() {
    let served = serve(&["--timeout", "1", "-c", "1000000", "--rewind", "0"]);
    let reply = served.post("/v1/chat/completions", &with(endless(), json!({ "stream": false })));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (503, &json!("timeout")));
    assert_eq!((reply.header("x-should-retry"), reply.header("retry-after")), (Some("false"), None));
    let reply = served.post("/v1/chat/completions", &endless());
    assert_eq!(reply.status, 200);
    let last = reply.body.trim_end().rsplit("data: ").next().expect("an event");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["error"]["code"], "timeout", "{last}");
    eventually("both have ended", || served.metric("thermocline_slots_busy") == 0.0);
}

/// Whoever has heard the last word has given the place back: one who asks again and again is never turned away.
#[test]
fn who_comes_again_at_once_has_a_place() {
    let served = serve(&["-np", "1", "--queue", "0"]);
    let mut line = BufReader::new(served.connect());
    let body = json!({ "prompt": "Once", "max_tokens": 1 }).to_string();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for round in 0..200 {
        line.get_mut().write_all(request.as_bytes()).expect("sends");
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            line.read_line(&mut head).expect("a line of the head");
            if let Some(value) = head[from..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        line.read_exact(&mut vec![0; length]).expect("the body");
        assert!(head.starts_with("HTTP/1.1 200"), "round {round}: {head}");
    }
}

/// Whoever is cut off at the end hears so.
#[cfg(unix)]
#[test]
fn the_end_is_said_to_those_it_cuts_off() {
    let mut served = serve(&["--drain", "1", "-c", "1000000", "--rewind", "0"]);
    let mut streamed = begin(&served, &endless());
    streamed.read_exact(&mut [0; 600]).expect("an answer begins");
    let whole = begin(&served, &with(endless(), json!({ "stream": false })));
    eventually("both are written", || served.metric("thermocline_slots_busy") == 2.0);
    served.signal(rustix::process::Signal::TERM);
    let stream = read_all(streamed);
    let last = stream.rsplit("data: ").next().expect("an event");
    assert!(last.contains("the server is ending"), "{last}");
    let reply = read(whole);
    assert!(reply.status == 503 && reply.body.contains("the server is ending"), "{reply:?}");
    assert_eq!(served.wait().code(), Some(0), "{}", served.log());
}

#[test]
fn newcomers_do_not_wait_for_long_answers() {
    let served = serve(&["-np", "2", "-c", "100000", "--rewind", "0"]);
    let mut long = begin(&served, &endless());
    long.read_exact(&mut [0; 600]).expect("an answer begins");
    assert_eq!(answer_of(&served, &ask("What is 7 + 5?")), "7 + 5 = 12.");
    eventually("the long one alone is still being written", || served.metric("thermocline_slots_busy") == 1.0);
    assert_eq!(served.metric("thermocline_answers_total"), 1.0);
}

/// A long prompt has its turns, however many short ones come meanwhile.
#[test]
fn long_prompts_are_not_passed_by_for_ever() {
    let served = serve(&["-np", "4", "-c", "8192", "-ub", "64"]);
    let long = with(ask(&"The small boat went out. ".repeat(1100)), json!({ "max_tokens": 1 }));
    let (done, seen) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            served.chat(&long);
            done.store(true, Ordering::Relaxed);
        });
        for each in 0..2 {
            let (served, done, seen) = (&served, &done, &seen);
            scope.spawn(move || {
                for round in 0..60 {
                    let prompts: Vec<String> = (0..30).map(|i| format!("{i} foxes of {each} and {round}")).collect();
                    served.post("/v1/completions", &json!({ "prompt": prompts, "max_tokens": 1 }));
                    if done.load(Ordering::Relaxed) {
                        seen.store(true, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
    assert!(seen.load(Ordering::Relaxed), "3600 short prompts went before the long one");
}

#[test]
fn garbage_harms_nobody() {
    let served = serve(&["-np", "2"]);
    std::thread::scope(|scope| {
        for i in 0..8u64 {
            let served = &served;
            scope.spawn(move || {
                let mut state = i + 1;
                for round in 0..20 {
                    let mut stream = served.connect();
                    let bytes: Vec<u8> = (0..200)
                        .map(|_| {
                            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                            (state >> 33) as u8
                        })
                        .collect();
                    let _ = match round % 4 {
                        0 => stream.write_all(&bytes),
                        1 => stream.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 99999\r\n\r\n{"),
                        2 => stream.write_all(b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
                        _ => stream.write_all(b"GET / HTTP/1.1\r\n"),
                    };
                    if round % 2 == 0 {
                        let _ = stream.shutdown(std::net::Shutdown::Write);
                        let _ = stream.read(&mut [0; 64]);
                    }
                }
            });
        }
        for _ in 0..6 {
            assert_eq!(answer_of(&served, &ask("What is 7 + 5?")), "7 + 5 = 12.");
        }
    });
    assert_eq!(served.metric("thermocline_answers_total"), 6.0);
    assert!(read(begin(&served, &ask("What is 7 + 5?"))).body.contains("= 12."));
}
