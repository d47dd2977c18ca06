//! A server in a process of its own, and a client that is nothing but a socket: what is sent is what the test says.

use super::program::Home;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub struct Served {
    child: Child,
    pub address: String,
    /// What it has written to standard error so far.
    log: Arc<Mutex<String>>,
    /// Nobody reads what it writes after its next line.
    deaf: Arc<AtomicBool>,
    _home: Home,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .head
            .lines()
            .find(|line| line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name)))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The data of a stream's events, `[DONE]` left out; panics where that is missing.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{self:?}");
        let mut data: Vec<&str> = self.body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{self:?}");
        data.iter().map(|data| serde_json::from_str(data).expect("an event is JSON")).collect()
    }
}

/// The bundled model behind a port the system chooses; returns when it is ready.
pub fn serve(flags: &[&str]) -> Served {
    let served = start(flags);
    served.wait_for("ready: ");
    served
}

/// The same, before the model is loaded.
pub fn start(flags: &[&str]) -> Served {
    let home = Home::new();
    let mut command = home.command(&[&["serve", "--port", "0"], flags].concat());
    // Many servers beside each other must not fight for cores.
    command.env("THERMOCLINE_THREADS", "1");
    let mut child = command.spawn().expect("the program starts");
    let log = Arc::new(Mutex::new(String::new()));
    let deaf = Arc::new(AtomicBool::new(false));
    let (lines, kept, enough) = (BufReader::new(child.stderr.take().expect("piped")), log.clone(), deaf.clone());
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let mut log = kept.lock().expect("nobody panics here");
            log.push_str(&line);
            log.push('\n');
            if enough.load(Ordering::SeqCst) {
                return;
            }
        }
    });
    let mut served = Served { child, address: String::new(), log, deaf, _home: home };
    let line = served.wait_for("listening on http://");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('"').next()); // as text or as JSON
    served.address = address.expect("an address").to_string();
    served
}

impl Served {
    /// Closes the pipe its log goes to, after one more line.
    #[cfg(unix)]
    pub fn stop_listening(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics here").clone()
    }

    /// The first line of the log with these words; panics when it does not come.
    pub fn wait_for(&self, words: &str) -> String {
        let started = Instant::now();
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains(words)) {
                return line.to_string();
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no {words:?} in {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        stream
    }

    /// Sends `head` (a request line and headers without the last empty line) and `body`; reads to the end.
    pub fn raw(&self, head: &str, body: &[u8]) -> Reply {
        let mut stream = self.connect();
        let head =
            format!("{head}\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", self.address, body.len());
        stream.write_all(head.as_bytes()).expect("sends");
        // A server that has heard enough may stop listening before everything is sent.
        let _ = stream.write_all(body);
        read(stream)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.raw(&format!("GET {path} HTTP/1.1"), b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.raw(&format!("POST {path} HTTP/1.1\r\nContent-Type: application/json"), body.to_string().as_bytes())
    }

    /// A chat that must be answered.
    pub fn chat(&self, body: &Value) -> Value {
        let reply = self.post("/v1/chat/completions", body);
        assert_eq!(reply.status, 200, "{body}: {reply:?}");
        reply.json()
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").body;
        let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).expect("it is there");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Posts to a server that may be gone, and waits until it has answered or is.
pub fn tell(address: &str, path: &str, body: &Value) -> std::io::Result<()> {
    let (mut stream, body) = (TcpStream::connect(address)?, body.to_string());
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json");
    stream.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes())?;
    stream.read_to_end(&mut Vec::new()).map(|_| ())
}

/// A whole response of a connection that is then closed.
pub fn read(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    // A reset after the response is no matter.
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..count]);
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a response has a head");
    let head = String::from_utf8(bytes[..end].to_vec()).expect("a head is text");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let rest = &bytes[end + 4..];
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(rest) } else { rest.to_vec() };
    Reply { status, head, body: String::from_utf8(body).expect("a body is text") }
}

/// Chunks joined; what is cut off at the end is left out.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size.filter(|size| rest.len() >= line + 2 + size) else { break };
        out.extend_from_slice(&rest[line + 2..][..size]);
        rest = rest.get(line + 2 + size + 2..).unwrap_or_default();
    }
    out
}
