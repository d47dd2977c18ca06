//! The live thermocline: a picture on request, and a stream of them while somebody watches.

use super::ask;
use super::client::{Served, serve};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// A stream of pictures, line by line.
struct Watching(BufReader<TcpStream>);

impl Watching {
    fn new(served: &Served) -> Watching {
        let mut stream = served.connect();
        stream.write_all(b"GET /thermocline/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sends");
        let mut lines = BufReader::new(stream);
        let mut status = String::new();
        lines.read_line(&mut status).expect("a status");
        assert!(status.contains("200"), "{status}");
        Watching(lines)
    }

    /// The next picture; `None` at the end.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        while self.0.read_line(&mut line).expect("reads") > 0 {
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).expect("an event is JSON"));
            }
            line.clear();
        }
        None
    }
}

fn rows(picture: &Value, name: &str) -> Vec<String> {
    let rows = picture[name].as_array().expect("a list").iter();
    rows.map(|row| row.as_str().expect("text").to_string()).collect()
}

#[test]
fn a_picture_says_what_was_chosen_and_where_it_lies() {
    let served = serve(&[]);
    let before = served.get("/thermocline").json();
    let (layers, experts) = (before["layers"].as_u64().expect("a count"), before["experts"].as_u64().expect("a count"));
    assert_eq!((before["tokens"].as_u64(), before["written"].as_u64()), (Some(0), Some(0)));
    assert!(rows(&before, "heat").iter().all(|row| row.bytes().all(|digit| digit == b'0')), "{before}");
    let usage = served.chat(&ask("What is 7 + 5?"))["usage"].clone();
    std::thread::sleep(std::time::Duration::from_millis(200)); // a picture lasts for a moment
    let picture = served.get("/thermocline").json();
    assert_eq!(picture["written"], usage["completion_tokens"]);
    // The last token is not computed: nothing comes after it.
    assert_eq!(picture["tokens"].as_u64(), usage["total_tokens"].as_u64().map(|total| total - 1));
    for (name, digits) in [("heat", 2), ("places", 1)] {
        let rows = rows(&picture, name);
        assert_eq!(rows.len() as u64, layers, "{name}");
        assert!(rows.iter().all(|row| row.len() as u64 == digits * experts), "{name}: {rows:?}");
    }
    assert!(rows(&picture, "heat").iter().any(|row| row.contains("ff")), "{picture}");
    assert!(rows(&picture, "places").iter().all(|row| row.bytes().all(|place| place == b'1')), "{picture}");
    for row in picture["now"].as_array().expect("a list") {
        assert_eq!(row.as_array().map(Vec::len).map(|n| n as u64), picture["active"].as_u64(), "{picture}");
    }
    assert!(picture["store"].is_null() && picture["memory"]["ledger"].as_array().is_some_and(|all| !all.is_empty()));
}

#[test]
fn a_stream_goes_on_while_tokens_are_written_and_ends_with_the_server() {
    let mut served = serve(&[]);
    let mut watching = Watching::new(&served);
    let first = watching.next().expect("the first comes at once");
    assert_eq!(first["tokens"], 0);
    served.chat(&ask("Tell me a story about a fox."));
    let mut last = first;
    while last["written"].as_u64().expect("a count") == 0 || last["slots"]["busy"] != 0 {
        last = watching.next().expect("it goes on");
    }
    assert!(last["tokens"].as_u64() > Some(10), "{last}");
    #[cfg(unix)]
    {
        served.signal(rustix::process::Signal::TERM);
        while watching.next().is_some() {}
        assert!(served.wait().success(), "{}", served.log());
        assert!(!served.log().contains("cut off"), "{}", served.log());
    }
}

#[test]
fn pictures_are_behind_the_key_and_watchers_are_counted() {
    let served = serve(&["--api-key", "secret"]);
    for path in ["/thermocline", "/thermocline/stream"] {
        assert_eq!(served.get(path).status, 401, "{path}");
    }
    let served = serve(&[]);
    let watching: Vec<Watching> = (0..32).map(|_| Watching::new(&served)).collect();
    let refused = served.get("/thermocline/stream");
    assert!(refused.status == 503 && refused.body.contains("32 streams"), "{refused:?}");
    drop(watching);
    // Their places come free as soon as the server notices; then one more is served.
    let free = || {
        let mut stream = served.connect();
        stream.write_all(b"GET /thermocline/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sends");
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status).is_ok() && status.contains("200")
    };
    let started = std::time::Instant::now();
    while !free() {
        assert!(started.elapsed().as_secs() < 30, "places of those who left stay taken");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
