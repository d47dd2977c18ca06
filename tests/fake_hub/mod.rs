//! A model hub on loopback, behaving as the real one does and misbehaving on demand.
//!
//! Two ports: the hub itself, and the host it sends large files from. Small files are answered after a relative
//! redirect and named by git's hash; large ones after a redirect to the other port and named by SHA-256.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a body written at once; troubles strike at any byte, slowness between two pieces.
const PIECE: usize = 64 << 10;

#[derive(Clone)]
pub enum Content {
    Bytes(Arc<Vec<u8>>),
    Path(PathBuf),
}

#[derive(Clone)]
pub struct Entry {
    pub content: Content,
    pub size: u64,
    pub etag: String,
    /// Kept outside git, on the other port.
    pub large: bool,
}

impl Entry {
    pub fn small(bytes: &[u8]) -> Entry {
        let mut hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
        hash.update(bytes);
        Entry::of(bytes, format!("{:x}", hash.finalize()), false)
    }

    pub fn large(bytes: &[u8]) -> Entry {
        Entry::of(bytes, format!("{:x}", Sha256::digest(bytes)), true)
    }

    pub fn of(bytes: &[u8], etag: String, large: bool) -> Entry {
        Entry { content: Content::Bytes(Arc::new(bytes.to_vec())), size: bytes.len() as u64, etag, large }
    }

    /// A file of any size, hashed by reading it once. Files over 10 MB are large, as on the hub.
    pub fn file(path: &Path) -> std::io::Result<Entry> {
        let size = path.metadata()?.len();
        if size <= 10_000_000 {
            return Ok(Entry::small(&std::fs::read(path)?));
        }
        let (mut hash, mut file, mut buffer) = (Sha256::new(), File::open(path)?, vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                more => hash.update(&buffer[..more]),
            }
        }
        let etag = format!("{:x}", hash.finalize());
        Ok(Entry { content: Content::Path(path.to_path_buf()), size, etag, large: true })
    }
}

pub struct Repository {
    /// `owner/name`
    pub id: String,
    pub commit: String,
    /// Branches and tags, all at `commit`.
    pub revisions: Vec<String>,
    /// Files may be fetched with this token only; the list is public.
    pub gated: Option<String>,
    pub files: BTreeMap<String, Entry>,
}

impl Repository {
    pub fn new(id: &str, files: impl IntoIterator<Item = (String, Entry)>) -> Repository {
        let commit = "0123456789abcdef0123456789abcdef01234567".to_string();
        Repository {
            id: id.into(),
            commit,
            revisions: vec!["main".into()],
            gated: None,
            files: files.into_iter().collect(),
        }
    }
}

/// One way to misbehave, at one answer.
#[derive(Clone)]
pub enum Trouble {
    /// Closes the connection after so many bytes of the body.
    Cut(u64),
    /// Falls silent after so many bytes of the body.
    Stall(u64),
    /// Sends the byte at this offset of the file wrong.
    Corrupt(u64),
    /// Answers this status with this `X-Error-Code`, and `Retry-After: 0`.
    Status(u16, &'static str),
    /// Sends the whole file whatever range was asked for.
    NoRange,
    /// Says 416 to any range.
    RefuseRange,
    /// Claims so many more bytes in the file than there are.
    Longer(u64),
    /// Names the file by another etag in a GET than in a HEAD.
    OddEtag,
    /// The file is replaced at the hub just before this answer.
    Replace(Entry),
    /// Bytes per second.
    Slow(u64),
    /// Redirects to itself.
    Loop,
}

struct Rule {
    method: &'static str,
    path: String,
    times: usize,
    trouble: Trouble,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whether it came to the port for large files.
    pub cdn: bool,
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

struct State {
    repository: Mutex<Repository>,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
    sent: AtomicU64,
    closed: AtomicBool,
    cdn: String,
}

pub struct Hub {
    /// What `HF_ENDPOINT` is to be.
    pub endpoint: String,
    state: Arc<State>,
}

impl Hub {
    /// On two free ports.
    pub fn start(repository: Repository) -> Hub {
        Hub::start_at(repository, 0).expect("loopback takes a listener")
    }

    pub fn start_at(repository: Repository, port: u16) -> std::io::Result<Hub> {
        let (hub, cdn) = (TcpListener::bind(("127.0.0.1", port))?, TcpListener::bind(("127.0.0.1", 0))?);
        let endpoint = format!("http://{}", hub.local_addr()?);
        let state = Arc::new(State {
            repository: Mutex::new(repository),
            rules: Mutex::new(Vec::new()),
            requests: Mutex::new(Vec::new()),
            sent: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            cdn: format!("http://{}", cdn.local_addr()?),
        });
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if state.closed.load(Ordering::Relaxed) {
                        return;
                    }
                    let (state, Ok(stream)) = (state.clone(), stream) else { continue };
                    thread::spawn(move || state.serve(stream, is_cdn));
                }
            });
        }
        Ok(Hub { endpoint, state })
    }

    /// The next `times` requests of `method` (`""`: any) whose path contains `path` meet this trouble.
    /// Large files lie under `/cdn/`, the hub's own answers about files under `/resolve/`.
    pub fn trouble(&self, method: &'static str, path: &str, times: usize, trouble: Trouble) {
        self.state.rules.lock().unwrap().push(Rule { method, path: path.into(), times, trouble });
    }

    pub fn calm(&self) {
        self.state.rules.lock().unwrap().clear();
    }

    /// All requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.state.requests.lock().unwrap())
    }

    /// Bytes of bodies of files given to sockets so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Bytes of bodies sent in all, once that many have been: they are counted a moment after they can have arrived.
    pub fn sent_in_all(&self, expected: usize) -> u64 {
        let began = Instant::now();
        while self.sent() < expected as u64 && began.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
        self.sent()
    }

    pub fn edit(&self, change: impl FnOnce(&mut Repository)) {
        change(&mut self.state.repository.lock().unwrap());
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::Relaxed);
        for address in [&self.endpoint, &self.state.cdn] {
            let _ = TcpStream::connect(address.trim_start_matches("http://")); // wakes the listener
        }
    }
}

impl State {
    /// One request per connection.
    fn serve(&self, stream: TcpStream, cdn: bool) {
        let Some(request) = read_request(&stream, cdn) else { return };
        self.requests.lock().unwrap().push(request.clone());
        let troubles = self.troubles(&request);
        let _ = self.answer(&stream, &request, &troubles); // a client that went away is no failure
    }

    fn troubles(&self, request: &Request) -> Vec<Trouble> {
        let mut rules = self.rules.lock().unwrap();
        let mut struck = Vec::new();
        for rule in rules.iter_mut() {
            let meant = rule.method.is_empty() || rule.method == request.method;
            if meant && rule.times > 0 && request.path.contains(&rule.path) {
                rule.times -= 1;
                struck.push(rule.trouble.clone());
            }
        }
        struck
    }

    fn answer(&self, stream: &TcpStream, request: &Request, troubles: &[Trouble]) -> std::io::Result<()> {
        for trouble in troubles {
            match trouble {
                Trouble::Status(status, code) => {
                    let headers = format!("X-Error-Code: {code}\r\nRetry-After: 0\r\n");
                    return head(stream, *status, &headers, Some(0));
                }
                Trouble::Loop => return head(stream, 302, &format!("Location: {}\r\n", request.path), Some(0)),
                Trouble::Replace(entry) => {
                    let mut repository = self.repository.lock().unwrap();
                    if let Some((_, old)) = repository.files.iter_mut().find(|(name, _)| request.path.ends_with(*name))
                    {
                        *old = entry.clone();
                    }
                }
                _ => {}
            }
        }
        if request.cdn {
            let path = request.path.replace("%20", " ");
            let name = path.trim_start_matches("/cdn/").split('?').next().unwrap_or_default();
            let entry = self.repository.lock().unwrap().files.get(name).cloned();
            return match entry {
                Some(entry) => self.send(stream, request, &entry, "ETag: \"another-name\"\r\n", troubles),
                None => head(stream, 404, "", Some(0)),
            };
        }
        self.answer_hub(stream, request, troubles)
    }

    fn answer_hub(&self, stream: &TcpStream, request: &Request, troubles: &[Trouble]) -> std::io::Result<()> {
        let error = |status, code: &str| head(stream, status, &format!("X-Error-Code: {code}\r\n"), Some(0));
        let (id, commit, known, gated, list) = {
            let r = self.repository.lock().unwrap();
            let list: Vec<String> = r.files.keys().map(|name| format!("{{\"rfilename\":\"{name}\"}}")).collect();
            let mut known = r.revisions.clone();
            known.push(r.commit.clone());
            (r.id.clone(), r.commit.clone(), known, r.gated.clone(), list.join(","))
        };
        let path = request.path.replace("%2F", "/").replace("%20", " ");
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{id}/revision/")) {
            if !known.iter().any(|name| name == revision) {
                return error(404, "RevisionNotFound");
            }
            let text = format!("{{\"id\":\"{id}\",\"sha\":\"{commit}\",\"siblings\":[{list}]}}");
            head(stream, 200, "Content-Type: application/json\r\n", Some(text.len() as u64))?;
            return (&*stream).write_all(text.as_bytes());
        }
        let resolved = path.strip_prefix(&format!("/{id}/resolve/")).map(|rest| (false, rest));
        let direct = path.strip_prefix(&format!("/api/resolve-cache/models/{id}/")).map(|rest| (true, rest));
        let Some((direct, rest)) = resolved.or(direct) else {
            return error(401, "RepoNotFound"); // so the hub answers strangers
        };
        let Some((revision, name)) =
            known.iter().find_map(|revision| Some((revision, rest.strip_prefix(&format!("{revision}/"))?)))
        else {
            return error(404, "RevisionNotFound");
        };
        match (&gated, &request.authorization) {
            (Some(token), Some(given)) if *given != format!("Bearer {token}") => return error(403, "GatedRepo"),
            (Some(_), None) => return error(401, "GatedRepo"),
            _ => {}
        }
        let Some(entry) = self.repository.lock().unwrap().files.get(name).cloned() else {
            return error(404, "EntryNotFound");
        };
        let odd = troubles.iter().any(|trouble| matches!(trouble, Trouble::OddEtag));
        let etag = if odd { format!("odd-{}", &entry.etag[..8]) } else { entry.etag.clone() };
        let path = name.replace(' ', "%20");
        if entry.large {
            let headers = format!(
                "X-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {}\r\nETag: \"of-the-pointer\"\r\nLocation: {}/cdn/{path}?signature=x\r\n",
                entry.size, self.cdn
            );
            return head(stream, 302, &headers, Some(0));
        }
        if !direct {
            let headers =
                format!("X-Repo-Commit: {commit}\r\nLocation: /api/resolve-cache/models/{id}/{revision}/{path}\r\n");
            return head(stream, 307, &headers, Some(0));
        }
        self.send(stream, request, &entry, &format!("X-Repo-Commit: {commit}\r\nETag: W/\"{etag}\"\r\n"), troubles)
    }

    /// The bytes of a file, or of the range asked for.
    fn send(
        &self,
        stream: &TcpStream,
        request: &Request,
        entry: &Entry,
        headers: &str,
        troubles: &[Trouble],
    ) -> std::io::Result<()> {
        let longer =
            troubles.iter().find_map(|t| if let Trouble::Longer(more) = t { Some(*more) } else { None }).unwrap_or(0);
        let size = entry.size + longer;
        let ranged = !troubles.iter().any(|trouble| matches!(trouble, Trouble::NoRange));
        let (from, to) = match request.range.as_deref().filter(|_| ranged).and_then(parse_range) {
            Some((from, _)) if from >= size => {
                return head(stream, 416, &format!("Content-Range: bytes */{size}\r\n"), Some(0));
            }
            Some(_) if troubles.iter().any(|trouble| matches!(trouble, Trouble::RefuseRange)) => {
                return head(stream, 416, &format!("Content-Range: bytes */{size}\r\n"), Some(0));
            }
            Some((from, to)) => {
                let to = to.map_or(size, |last| (last + 1).min(size));
                head(
                    stream,
                    206,
                    &format!("{headers}Content-Range: bytes {from}-{}/{size}\r\n", to - 1),
                    Some(to - from),
                )?;
                (from, to)
            }
            None => {
                head(stream, 200, headers, Some(size))?;
                (0, size)
            }
        };
        if request.method == "HEAD" {
            return Ok(());
        }
        let mut at = from;
        while at < to {
            let mut piece = (to - at).min(PIECE as u64);
            for trouble in troubles {
                match trouble {
                    Trouble::Cut(after) | Trouble::Stall(after) => piece = piece.min((from + after).saturating_sub(at)),
                    Trouble::Slow(rate) => thread::sleep(Duration::from_secs_f64(piece as f64 / *rate as f64)),
                    _ => {}
                }
            }
            if piece == 0 {
                // Cut or stalled here. A stall ends with the test, or when the client has long gone.
                let stalled = troubles.iter().any(|trouble| matches!(trouble, Trouble::Stall(_)));
                for _ in 0..1200 {
                    if !stalled || self.closed.load(Ordering::Relaxed) {
                        break;
                    }
                    thread::sleep(Duration::from_millis(50));
                }
                return Ok(());
            }
            let mut bytes = read_piece(entry, at, piece as usize)?;
            for trouble in troubles {
                if let Trouble::Corrupt(offset) = trouble
                    && (at..at + piece).contains(offset)
                {
                    bytes[(offset - at) as usize] ^= 0x40;
                }
            }
            (&*stream).write_all(&bytes)?;
            at += piece;
            self.sent.fetch_add(piece, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn read_request(stream: &TcpStream, cdn: bool) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let mut request = Request { cdn, method, path, range: None, authorization: None };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.trim().to_string()),
            "authorization" => request.authorization = Some(value.trim().to_string()),
            _ => {}
        }
    }
    Some(request)
}

fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()))
}

/// Bytes past the end (of a file that claims to be longer) are zero.
fn read_piece(entry: &Entry, at: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let real = entry.size.saturating_sub(at).min(length as u64) as usize;
    match &entry.content {
        Content::Bytes(all) => bytes[..real].copy_from_slice(&all[at as usize..at as usize + real]),
        Content::Path(path) => {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut bytes[..real])?;
        }
    }
    Ok(bytes)
}

fn head(mut stream: &TcpStream, status: u16, headers: &str, length: Option<u64>) -> std::io::Result<()> {
    let length = length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
    stream.write_all(format!("HTTP/1.1 {status} Said\r\n{headers}{length}Connection: close\r\n\r\n").as_bytes())
}
