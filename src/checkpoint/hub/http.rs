//! Requests to the hub: one at a time, redirects followed by hand so that the token stays with its host.

use super::options::{HubOptions, Token};
use super::progress::{Event, Meter};
use crate::error::Error;
use std::io;
use std::time::{Duration, Instant};
use ureq::http::HeaderMap;
use ureq::{Agent, Body, Timeout};

/// Longer chains are loops.
const MOST_REDIRECTS: usize = 10;
/// A host that does not take a connection within this time is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// Neither our doubling waits nor a server's `Retry-After` go beyond this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

pub(super) struct Client {
    agent: Agent,
    pub(super) endpoint: String,
    token: Option<Token>,
    pub(super) stall: Duration,
    attempts: u32,
    backoff: Duration,
}

/// Why a request or a transfer did not work out.
#[derive(Debug)]
pub(super) enum Fault {
    /// The hub said so: a status, its `X-Error-Code` and `Retry-After`.
    Status { status: u16, code: String, wait: Option<Duration> },
    /// No connection at all: no network, no such host, nobody there, no trust.
    Unreachable(String),
    /// A connection that ended too early or in nonsense.
    Cut(String),
    /// No byte for as long as we wait.
    Stalled,
    /// Not the network's fault; already a sentence.
    Ours(Error),
}

impl Fault {
    /// Whether the same request may work a little later (and until then a copy in the cache is the better answer).
    pub(super) fn passes(&self) -> bool {
        match self {
            Fault::Status { status, .. } => matches!(status, 408 | 429 | 500..),
            Fault::Unreachable(_) | Fault::Cut(_) | Fault::Stalled => true,
            Fault::Ours(_) => false,
        }
    }

    pub(super) fn reason(&self) -> String {
        match self {
            Fault::Status { status, .. } => format!("the server answered {status}"),
            Fault::Unreachable(reason) | Fault::Cut(reason) => reason.clone(),
            Fault::Stalled => "no byte came for too long".into(),
            Fault::Ours(error) => error.to_string(),
        }
    }
}

/// What the hub itself says of a file, gathered over its redirects. Never what a foreign host says.
#[derive(Clone, Debug, Default)]
pub(super) struct Label {
    linked_etag: Option<String>,
    plain_etag: Option<String>,
    size: Option<u64>,
}

impl Label {
    pub(super) fn etag(&self) -> Option<&str> {
        self.linked_etag.as_deref().or(self.plain_etag.as_deref())
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    fn read(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let etag = |name: &str| text(name).map(|tag| tag.trim().trim_start_matches("W/").trim_matches('"').to_string());
        self.linked_etag = self.linked_etag.take().or_else(|| etag("x-linked-etag"));
        self.plain_etag = etag("etag").or(self.plain_etag.take());
        self.size = self.size.or_else(|| text("x-linked-size").and_then(|size| size.trim().parse().ok()));
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) label: Label,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// (first byte, size of the whole file) of a 206.
    pub(super) fn content_range(&self) -> Option<(u64, u64)> {
        let text = self.header("content-range")?.trim().strip_prefix("bytes ")?;
        let (span, whole) = text.split_once('/')?;
        Some((span.split_once('-')?.0.parse().ok()?, whole.parse().ok()?))
    }
}

/// How long to keep trying.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// One try: something else can answer.
    Once,
    /// The first word with the hub: who is not there now is not there.
    Contact,
    /// In the middle of things a lost network is expected back.
    Transfer,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Ask {
    /// The hub's own label of a file: stops where the hub hands over to another host.
    Head,
    /// The file, from a byte on, up to another if given (inclusive).
    Get(Option<(u64, Option<u64>)>),
}

impl Client {
    pub(super) fn new(options: &HubOptions) -> Client {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("thermocline/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity") // sizes, ranges and checksums are of the file, not of its wrapping
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(options.stall))
            .timeout_per_read(Some(options.stall))
            .build()
            .into();
        Client {
            agent,
            endpoint: options.endpoint.clone(),
            token: options.token.clone(),
            stall: options.stall,
            attempts: options.attempts.max(1),
            backoff: options.backoff,
        }
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// One request. Any answer below 400 is returned; a 416 too, which the caller understands.
    pub(super) fn ask(&self, url: &str, ask: Ask) -> Result<Answer, Fault> {
        let home = origin(&self.endpoint);
        let (mut url, mut label) = (url.to_string(), Label::default());
        for _ in 0..MOST_REDIRECTS {
            let ours = origin(&url) == home;
            let mut request = if ask == Ask::Head { self.agent.head(&url) } else { self.agent.get(&url) };
            if let (true, Some(token)) = (ours, &self.token) {
                request = request.header("Authorization", token.bearer());
            }
            match ask {
                Ask::Get(Some((from, Some(to)))) => request = request.header("Range", format!("bytes={from}-{to}")),
                Ask::Get(Some((from, None))) => request = request.header("Range", format!("bytes={from}-")),
                Ask::Get(None) | Ask::Head => {}
            }
            let (parts, body) = request.call().map_err(|e| fault(e, &url))?.into_parts();
            let status = parts.status.as_u16();
            if ours {
                label.read(&parts.headers);
            }
            let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
            if (300..400).contains(&status) {
                let Some(next) = text("location").map(|location| join(&url, location)) else {
                    return Err(Fault::Cut(format!("{} redirected to nowhere", origin(&url))));
                };
                let known = label.etag().is_some() && label.size.is_some();
                if ask == Ask::Head && known && origin(&next) != home {
                    return Ok(Answer { status, headers: parts.headers, body, label });
                }
                if url.starts_with("https:") && !next.starts_with("https:") {
                    return Err(Fault::Cut(format!("{} redirected to an open connection", origin(&url))));
                }
                url = next;
                continue;
            }
            if status >= 400 && status != 416 {
                let seconds = text("retry-after").and_then(|wait| wait.trim().parse().ok());
                return Err(Fault::Status {
                    status,
                    code: text("x-error-code").unwrap_or_default().to_string(),
                    wait: seconds.map(Duration::from_secs),
                });
            }
            if status == 200 {
                label.size = label.size.or_else(|| text("content-length").and_then(|size| size.trim().parse().ok()));
            }
            return Ok(Answer { status, headers: parts.headers, body, label });
        }
        Err(Fault::Cut(format!("{} redirected more than {MOST_REDIRECTS} times", origin(&url))))
    }

    /// Calls `work` until it succeeds, fails for good, or has failed as often in a row as `patience` allows.
    /// `work` returns how far it came beside its fault: coming further starts the count anew.
    pub(super) fn patiently<T>(
        &self,
        name: &str,
        patience: Patience,
        meter: &mut Meter<'_>,
        mut work: impl FnMut(&mut Meter<'_>) -> Result<T, (Fault, u64)>,
    ) -> Result<T, Fault> {
        let (mut failed, mut furthest) = (0, 0);
        loop {
            let (fault, reached) = match work(meter) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            // A megabyte is progress; a few bytes in each connection are not.
            if reached >= furthest + (1 << 20) {
                (failed, furthest) = (0, reached);
            }
            failed += 1;
            let hopeless = match patience {
                Patience::Once => true,
                Patience::Contact => matches!(fault, Fault::Unreachable(_)),
                Patience::Transfer => false,
            };
            if hopeless || !fault.passes() || failed >= self.attempts {
                return Err(fault);
            }
            let asked = if let Fault::Status { wait, .. } = fault { wait } else { None };
            let own = self.backoff.saturating_mul(1 << (failed - 1).min(16));
            let wait = asked.unwrap_or(own).min(LONGEST_WAIT);
            meter.tell(Event::Retry { name, reason: &fault.reason(), wait });
            sleep(wait, meter)?;
        }
    }

    /// The error a user reads: `file` (or the whole repository) of `repo` at `revision` could not be had.
    pub(super) fn sentence(&self, fault: Fault, repo: &str, revision: &str, file: Option<&str>) -> Error {
        let page = format!("{}/{repo}", self.endpoint);
        let host = origin(&self.endpoint);
        let what = file.map_or_else(|| repo.to_string(), |file| format!("{file} of {repo}"));
        let text = match fault {
            Fault::Ours(error) => return error,
            Fault::Status { status: status @ (401 | 403), code, .. } => match (code == "GatedRepo", self.has_token()) {
                (true, false) => {
                    format!("{repo} is gated: accept its licence at {page} and set HF_TOKEN to a token of your account")
                }
                (true, true) => format!(
                    "{repo} is gated and your token has no access to it: accept its licence at {page} with the account the token belongs to"
                ),
                (false, true) => format!(
                    "{host} refuses your token for {what} ({status}): check HF_TOKEN and, if the repository is gated, accept its licence at {page}"
                ),
                (false, false) => format!(
                    "{host} shows {what} to nobody unknown ({status}): check the name; if it is private or gated, accept its licence at {page} and set HF_TOKEN"
                ),
            },
            Fault::Status { status: 404, code, .. } => match (code.as_str(), file) {
                ("RevisionNotFound", _) => format!("{repo} has no revision `{revision}` at {host}"),
                ("RepoNotFound", _) => format!("there is no model repository {repo} at {host}"),
                (_, Some(file)) => format!("{repo} has no file {file} at revision {revision}"),
                (_, None) => format!("there is no model repository {repo} with a revision `{revision}` at {host}"),
            },
            Fault::Status { status: 429, .. } => format!(
                "{host} asks to slow down (429) for {what}: try again later, or set HF_TOKEN for a higher limit"
            ),
            Fault::Status { status, .. } => format!("{host} answered {status} for {what}: try again later"),
            Fault::Unreachable(reason) => format!(
                "{what} could not be downloaded: {reason}; check the network, or use a model that is already on this machine with --offline"
            ),
            Fault::Cut(reason) => format!(
                "the download of {what} kept breaking off ({reason}): run the same command to go on where it stopped"
            ),
            Fault::Stalled => format!(
                "{host} sent no byte of {what} for {} s, several times: run the same command to go on where it stopped",
                self.stall.as_secs_f64().ceil()
            ),
        };
        Error::Download(text)
    }
}

/// Sleeps in pieces, so that a wish to stop is heard.
pub(super) fn sleep(wait: Duration, meter: &Meter<'_>) -> Result<(), Fault> {
    let until = Instant::now() + wait;
    loop {
        if meter.interrupted() {
            return Err(Fault::Ours(Error::Interrupted));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// What went wrong with a body that was being read.
pub(super) fn body_fault(error: io::Error, url: &str) -> Fault {
    fault(ureq::Error::from(error), url)
}

fn fault(error: ureq::Error, url: &str) -> Fault {
    let host = origin(url);
    match error {
        ureq::Error::HostNotFound => Fault::Unreachable(format!("the name of {host} could not be found (no network?)")),
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            Fault::Unreachable(format!("{host} took no connection within {} s", CONNECT.as_secs()))
        }
        ureq::Error::Timeout(_) => Fault::Stalled,
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Fault::Stalled,
            io::ErrorKind::UnexpectedEof => Fault::Cut(format!("{host} closed the connection early")),
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Fault::Cut(format!("the connection to {host} was cut"))
            }
            _ => Fault::Unreachable(format!("no connection to {host}: {error}")),
        },
        ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => {
            Fault::Unreachable(format!("no connection to {host}: {error}"))
        }
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::TlsRequired => {
            Fault::Unreachable(format!("{host} could not prove who it is: {error}"))
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Fault::Ours(Error::Download(format!(
            "`{host}` is no address this program can ask: {error} (is HF_ENDPOINT right?)"
        ))),
        other => Fault::Cut(format!("{host} sent an answer that makes no sense: {other}")),
    }
}

/// `https://host:port` of an address.
pub(super) fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    &url[..end]
}

/// Where a `Location` leads, seen from `url`.
fn join(url: &str, location: &str) -> String {
    if location.contains("://") && location.starts_with("http") {
        location.to_string()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", url.split("://").next().unwrap_or("https"))
    } else if location.starts_with('/') {
        format!("{}{location}", origin(url))
    } else {
        let path = url.split(['?', '#']).next().unwrap_or(url);
        let folder = path.rfind('/').filter(|at| *at >= origin(url).len()).map_or(path, |at| &path[..at]);
        format!("{folder}/{location}")
    }
}

/// A file's path as part of an address.
pub(super) fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            escaped.push(byte as char);
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(origin("https://h.co:8/a/b?c"), "https://h.co:8");
        assert_eq!(origin("http://h"), "http://h");
        for (location, want) in [
            ("https://o/x", "https://o/x"),
            ("//o/x", "https://o/x"),
            ("/x?y", "https://h/x?y"),
            ("x", "https://h/a/x"),
        ] {
            assert_eq!(join("https://h/a/b?c=/d", location), want);
        }
        assert_eq!(join("https://h", "x"), "https://h/x");
        assert_eq!(escape("Q4_0/a b#ä.gguf"), "Q4_0/a%20b%23%C3%A4.gguf");
    }
}
