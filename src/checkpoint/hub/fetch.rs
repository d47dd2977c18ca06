//! One file from the hub into the cache: resumed where it stopped, checked as a whole, then given its name.
//!
//! Bytes go to `blobs/<etag>.incomplete` as they arrive (no buffer of ours beyond one read), so whatever
//! ends the process loses what was in flight. The name without `.incomplete` is given only to a file whose
//! size and checksum are the hub's: nothing else ever finds a half file there.

use super::http::{Answer, Ask, Client, Fault, Patience, body_fault, escape, sleep};
use super::progress::{Event, Meter};
use super::shelf::{Shelf, is_word};
use crate::error::{Error, Result};
use hf_hub::Repo;
use hf_hub::api::RepoInfo;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bytes read at once, hence the most that is in our memory and not in the file.
const READ: usize = 1 << 20;
/// A list of files beyond this is not one.
const LONGEST_LIST: u64 = 64 << 20;
/// A file that changes at the hub oftener than this while we fetch it is somebody's playground.
const VERSIONS: usize = 3;
/// Between two looks at a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// One repository at one revision, as its hub tells it.
pub(super) struct Source {
    pub(super) client: Client,
    pub(super) repo: Repo,
    pub(super) id: String,
    /// Set by `list`; files are asked for by commit, so that all come from the same one.
    pub(super) commit: String,
}

/// A file to fetch, by the hub's own account of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) etag: String,
    pub(super) size: u64,
}

impl Source {
    /// The files of the repository; remembers the commit the revision stands for.
    pub(super) fn list(
        &mut self,
        patience: Patience,
        meter: &mut Meter<'_>,
    ) -> std::result::Result<Vec<String>, Fault> {
        let url = format!("{}/api/{}", self.client.endpoint, self.repo.api_url());
        let info: RepoInfo = self.client.patiently(&self.id, patience, meter, |_| {
            let read = || {
                let answer = self.client.ask(&url, Ask::Get(None))?;
                let mut text = Vec::new();
                answer.body.into_reader().take(LONGEST_LIST).read_to_end(&mut text).map_err(|e| body_fault(e, &url))?;
                // Not `Ours`: a hotel's login page is weather too.
                serde_json::from_slice(&text).map_err(|e| Fault::Cut(format!("the answer is no list of files: {e}")))
            };
            read().map_err(|fault| (fault, 0))
        })?;
        if !is_word(&info.sha) {
            return Err(Fault::Ours(Error::Download(format!(
                "{} names `{}` as a commit, which it is not",
                self.id, info.sha
            ))));
        }
        self.commit = info.sha;
        Ok(info.siblings.into_iter().map(|sibling| sibling.rfilename).collect())
    }

    pub(super) fn url(&self, file: &str) -> String {
        format!("{}/{}/resolve/{}/{}", self.client.endpoint, self.repo.url(), self.commit, escape(file))
    }

    /// Etag and size of a file.
    pub(super) fn label(&self, file: &str, meter: &mut Meter<'_>) -> std::result::Result<Wanted, Fault> {
        let url = self.url(file);
        let ask = |_: &mut Meter<'_>| self.client.ask(&url, Ask::Head).map_err(|fault| (fault, 0));
        let label = self.client.patiently(file, Patience::Transfer, meter, ask)?.label;
        let name = file.to_string();
        match (label.etag(), label.size()) {
            (Some(etag), Some(size)) if is_word(etag) => Ok(Wanted { name, etag: etag.to_string(), size }),
            (etag, size) => Err(Fault::Ours(Error::Download(format!(
                "the hub does not say what {file} of {} is: etag {etag:?}, size {size:?}; both are needed to check a download",
                self.id
            )))),
        }
    }

    pub(super) fn sentence(&self, fault: Fault, file: Option<&str>) -> Error {
        self.client.sentence(fault, &self.id, self.repo.revision(), file)
    }
}

/// Bytes of a file that are here already: its blob, or the beginning of it.
pub(super) fn bytes_here(shelf: &Shelf, wanted: &Wanted) -> u64 {
    let length = |path: PathBuf| fs::metadata(path).map(|data| data.len()).ok();
    let whole = length(shelf.blob(&wanted.etag)).filter(|len| *len == wanted.size);
    let part = || length(shelf.partial(&wanted.etag)).filter(|len| *len <= wanted.size);
    whole.or_else(part).unwrap_or(0)
}

/// How an attempt at one blob ended, if not in a fault.
enum End {
    Whole,
    /// What arrived is not what the hub announced; it is deleted.
    Spoiled(String),
    /// The hub answers with another etag than it announced; what was here is deleted.
    Changed,
}

/// Brings one file into the cache and into the snapshot. `counted` of its bytes are in the meter's total.
pub(super) fn fetch(
    source: &Source,
    shelf: &Shelf,
    wanted: &Wanted,
    mut counted: u64,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let name = wanted.name.as_str();
    let (mut wanted, mut spoiled, mut settled) = (wanted.clone(), false, false);
    for _ in 0..VERSIONS + 1 {
        let end = blob(source, shelf, &wanted, settled, &mut counted, meter);
        match end.map_err(|fault| source.sentence(fault, Some(name)))? {
            End::Whole => {
                shelf.link(&source.commit, name, &wanted.etag)?;
                meter.tell(Event::FileDone { name });
                return Ok(());
            }
            End::Spoiled(why) if spoiled => {
                return Err(Error::Download(format!(
                    "{name} of {} arrived damaged twice ({why}); nothing of it was kept: try again later",
                    source.id
                )));
            }
            End::Spoiled(why) => {
                spoiled = true;
                meter.tell(Event::Retry { name, reason: &why, wait: Duration::ZERO });
            }
            End::Changed => {
                let new = source.label(name, meter).map_err(|fault| source.sentence(fault, Some(name)))?;
                settled = new == wanted; // HEAD and GET disagree; the checksum will judge
                wanted = new;
            }
        }
    }
    Err(Error::Download(format!("{name} of {} kept changing at the hub while it was downloaded", source.id)))
}

/// Makes the blob whole, under its lock.
fn blob(
    source: &Source,
    shelf: &Shelf,
    wanted: &Wanted,
    settled: bool,
    counted: &mut u64,
    meter: &mut Meter<'_>,
) -> std::result::Result<End, Fault> {
    let lock = shelf.lock_file(&wanted.etag).map_err(Fault::Ours)?;
    hold(&lock, source, shelf, wanted, meter)?;
    let (blob, name) = (shelf.blob(&wanted.etag), wanted.name.as_str());
    if fs::metadata(&blob).is_ok_and(|data| data.len() == wanted.size) {
        *counted = meter.recount(*counted, wanted.size);
        return Ok(End::Whole);
    }
    let mut part = Part::open(shelf, wanted, meter)?;
    *counted = meter.recount(*counted, part.length);
    meter.tell(Event::File { name, bytes: wanted.size, have: part.length });
    let url = source.url(name);
    let end = source.client.patiently(name, Patience::Transfer, meter, |meter| {
        if part.length == wanted.size {
            return Ok(End::Whole);
        }
        pour(&source.client, &url, wanted, settled, &mut part, counted, meter).map_err(|fault| (fault, part.length))
    })?;
    let end = match end {
        End::Whole => part.verdict(wanted)?,
        other => other,
    };
    if let End::Whole = end {
        let keep = part.file.sync_all().and_then(|()| fs::rename(&part.path, &blob));
        keep.map_err(|e| Fault::Ours(shelf.trouble("store", &blob, &e)))?;
    } else {
        *counted = meter.recount(*counted, 0);
        fs::remove_file(&part.path).map_err(|e| Fault::Ours(shelf.trouble("delete the damaged", &part.path, &e)))?;
    }
    Ok(end)
}

/// Waits for the lock as long as whoever holds it gets on with the file.
fn hold(
    lock: &File,
    source: &Source,
    shelf: &Shelf,
    wanted: &Wanted,
    meter: &mut Meter<'_>,
) -> std::result::Result<(), Fault> {
    let partial = shelf.partial(&wanted.etag);
    let length = || fs::metadata(&partial).map_or(0, |data| data.len());
    // Its reconnecting and its checksums take a while too.
    let patience = source.client.stall * 10;
    let (mut seen, mut since) = (None, Instant::now());
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            // A file system without locks (some network ones): then two downloads at once are the user's to avoid.
            Err(TryLockError::Error(e)) if matches!(e.kind(), ErrorKind::Unsupported) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(Fault::Ours(shelf.trouble("lock", &partial, &e))),
            Err(TryLockError::WouldBlock) => {}
        }
        if seen.is_none() {
            meter.tell(Event::Waiting { name: &wanted.name });
        }
        let now = Some(length());
        if seen != now {
            (seen, since) = (now, Instant::now());
        }
        if since.elapsed() > patience {
            return Err(Fault::Ours(Error::Download(format!(
                "another process holds the lock of {} in {} and does not get on with it: end it and try again",
                wanted.name,
                shelf.folder.display()
            ))));
        }
        sleep(LOCK_POLL, meter)?;
    }
}

/// One connection's worth: from where the part ends to the end of the file.
fn pour(
    client: &Client,
    url: &str,
    wanted: &Wanted,
    settled: bool,
    part: &mut Part<'_>,
    counted: &mut u64,
    meter: &mut Meter<'_>,
) -> std::result::Result<End, Fault> {
    let answer: Answer = client.ask(url, Ask::Get((part.length > 0).then_some((part.length, None))))?;
    if !settled && answer.label.etag().is_some_and(|etag| etag != wanted.etag) {
        return Ok(End::Changed);
    }
    let announced = match answer.status {
        206 => match answer.content_range() {
            Some((start, whole)) if start == part.length => Some(whole),
            other => {
                return Err(Fault::Cut(format!("asked for bytes from {}, the server sent {other:?}", part.length)));
            }
        },
        200 => {
            part.restart()?; // the server knows no ranges
            answer.header("content-length").and_then(|length| length.parse().ok())
        }
        416 => {
            part.restart()?;
            *counted = meter.recount(*counted, 0);
            return Err(Fault::Cut("the server refused to go on from there".into()));
        }
        status => return Err(Fault::Cut(format!("the server answered {status}"))),
    };
    *counted = meter.recount(*counted, part.length);
    if announced.is_some_and(|bytes| bytes != wanted.size) {
        return Ok(End::Spoiled(format!("{} bytes were announced, {} sent", wanted.size, announced.unwrap_or(0))));
    }
    let (mut body, mut buffer) = (answer.body.into_reader(), vec![0; READ]);
    while part.length < wanted.size {
        if meter.interrupted() {
            return Err(Fault::Ours(Error::Interrupted));
        }
        let more = match body.read(&mut buffer) {
            Ok(0) => return Err(Fault::Cut(format!("it ended after {} of {} bytes", part.length, wanted.size))),
            Ok(more) => more,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(body_fault(e, url)),
        };
        if part.length + more as u64 > wanted.size {
            return Ok(End::Spoiled(format!("more came than the {} bytes announced", wanted.size)));
        }
        part.append(&buffer[..more])?;
        *counted += more as u64;
        meter.arrived(&wanted.name, more as u64, part.length, wanted.size);
    }
    Ok(End::Whole)
}

/// The beginning of a file on disk, with the checksum so far.
struct Part<'s> {
    shelf: &'s Shelf,
    path: PathBuf,
    file: File,
    length: u64,
    check: Check,
    fresh: Check,
}

impl<'s> Part<'s> {
    /// Opens what an earlier attempt left (nothing, if it is longer than the file) and reads it for the checksum.
    fn open(shelf: &'s Shelf, wanted: &Wanted, meter: &mut Meter<'_>) -> std::result::Result<Part<'s>, Fault> {
        let path = shelf.partial(&wanted.etag);
        let open = File::options().create(true).append(true).read(true).open(&path);
        let file = open.map_err(|e| Fault::Ours(shelf.trouble("open", &path, &e)))?;
        let fresh = Check::new(&wanted.etag, wanted.size);
        let mut part = Part { shelf, path, file, length: 0, check: fresh.clone(), fresh };
        let here = part.file.metadata().map_err(|e| part.trouble("read", &e))?.len();
        if here > wanted.size {
            part.restart()?;
            return Ok(part);
        }
        let mut buffer = vec![0; READ];
        while part.length < here {
            if meter.interrupted() {
                return Err(Fault::Ours(Error::Interrupted));
            }
            let more = part.file.read(&mut buffer).map_err(|e| part.trouble("read", &e))?;
            if more == 0 {
                break;
            }
            part.check.add(&buffer[..more]);
            part.length += more as u64;
            meter.tell(Event::Checking { name: &wanted.name, done: part.length, bytes: here });
        }
        Ok(part)
    }

    fn append(&mut self, bytes: &[u8]) -> std::result::Result<(), Fault> {
        self.file.write_all(bytes).map_err(|e| self.trouble("write", &e))?;
        self.check.add(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> std::result::Result<(), Fault> {
        if self.file.metadata().is_ok_and(|data| data.len() > 0) {
            self.file.set_len(0).map_err(|e| self.trouble("empty", &e))?;
        }
        (self.length, self.check) = (0, self.fresh.clone());
        Ok(())
    }

    /// Whether the file on disk is the one the hub announced.
    fn verdict(&self, wanted: &Wanted) -> std::result::Result<End, Fault> {
        // Longer than what was checked: somebody else wrote here too, on a file system whose locks hold nothing.
        let length = self.file.metadata().map_err(|e| self.trouble("measure", &e))?.len();
        if length != wanted.size {
            return Ok(End::Spoiled(format!("{length} bytes are on disk, the hub says {}", wanted.size)));
        }
        Ok(self.check.verdict(&wanted.etag).map_or_else(End::Spoiled, |()| End::Whole))
    }

    fn trouble(&self, doing: &str, error: &std::io::Error) -> Fault {
        Fault::Ours(self.shelf.trouble(doing, &self.path, error))
    }
}

/// The checksum an etag promises: large files are named by SHA-256, the others by git's hash of a blob.
#[derive(Clone)]
enum Check {
    Sha256(Sha256),
    Git(Sha1),
    /// Another kind of etag (a mirror's): only the size is known.
    None,
}

impl Check {
    fn new(etag: &str, size: u64) -> Check {
        match etag.len() {
            _ if !etag.bytes().all(|b| b.is_ascii_hexdigit()) => Check::None,
            64 => Check::Sha256(Sha256::new()),
            40 => Check::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
            _ => Check::None,
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        match self {
            Check::Sha256(hash) => hash.update(bytes),
            Check::Git(hash) => hash.update(bytes),
            Check::None => {}
        }
    }

    /// The bytes so far, taken as all; an error says what they hash to instead.
    fn verdict(&self, etag: &str) -> std::result::Result<(), String> {
        let (kind, found) = match self {
            Check::Sha256(hash) => ("SHA-256", format!("{:x}", hash.clone().finalize())),
            Check::Git(hash) => ("git hash", format!("{:x}", hash.clone().finalize())),
            Check::None => return Ok(()),
        };
        if found.eq_ignore_ascii_case(etag) {
            return Ok(());
        }
        Err(format!("its {kind} is {found}, the hub says {etag}"))
    }
}
