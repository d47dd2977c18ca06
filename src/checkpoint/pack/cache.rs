//! Packed files in the user's cache folder: what each is called, what is there, what may go.

use super::partial::{self, is_partial};
use super::{LAYOUT_VERSION, Packed, hex};
use crate::checkpoint::{Checkpoint, Quant};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder packed files are kept in: `thermocline/packed` under `THERMOCLINE_CACHE`, `XDG_CACHE_HOME` or `~/.cache`,
/// whichever is set first to an absolute path. `None` where a user has no home.
pub fn folder() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let variable = |name| std::env::var_os(name).map(PathBuf::from).and_then(absolute);
    let home = || std::env::home_dir().and_then(absolute).map(|home| home.join(".cache"));
    let base = variable("THERMOCLINE_CACHE").or_else(|| variable("XDG_CACHE_HOME")).or_else(home)?;
    Some(base.join("thermocline").join("packed"))
}

/// What a packed file is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name of the file in the cache folder.
    pub file: String,
    /// Stands for the source as it is now, what it is rounded to and the layout version.
    pub key: String,
}

/// The key of the model in `path` (a folder or a file). A snapshot of the hub is known by repository and commit; anything
/// else by its place and the sizes and times of its files, so that a changed model gets a new one.
pub fn key(path: &Path, quant: Quant) -> Result<Key> {
    let sad = |e: io::Error| Error::Model(format!("{}: cannot be opened: {e}", path.display()));
    let mut text = format!("layout {LAYOUT_VERSION}\nquant {quant}\n");
    let snapshot = snapshot(path);
    let name = match &snapshot {
        Some((repository, place)) => {
            text += &format!("hub {repository} {place}\n");
            repository.rsplit("--").next().unwrap_or(repository).to_string()
        }
        None => {
            let whole = fs::canonicalize(path).map_err(sad)?;
            text += &format!("path {}\n", whole.display());
            let name = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
            name.unwrap_or_default().to_string_lossy().into_owned()
        }
    };
    for (name, meta) in files(path).map_err(sad)? {
        let time = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        // What the hub once named stays the same; its copy's time does not.
        let time = time.filter(|_| snapshot.is_none()).map_or(0, |t| t.as_nanos());
        text += &format!("file {name} {} {time}\n", meta.len());
    }
    let key = hex(&Sha256::digest(text.as_bytes()));
    let suffix = if quant == Quant::None { String::new() } else { format!("-{quant}") };
    Ok(Key { file: format!("{}{suffix}-{}.gguf", tame(&name), &key[..12]), key })
}

/// The files that make a model what it is, by name.
fn files(path: &Path) -> io::Result<Vec<(String, fs::Metadata)>> {
    let meta = fs::metadata(path)?;
    if meta.is_file() {
        return Ok(vec![(String::new(), meta)]);
    }
    let mut found = vec![];
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let counts = path.extension().and_then(|e| e.to_str());
        let counts = counts.is_some_and(|e| ["safetensors", "gguf", "json", "jinja"].contains(&e));
        if let (true, Some(name), Ok(meta)) = (counts, path.file_name(), fs::metadata(&path)) {
            found.push((name.to_string_lossy().into_owned(), meta));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Repository, and commit with what follows, of a path in a cache of the hub.
fn snapshot(path: &Path) -> Option<(String, String)> {
    let whole = std::path::absolute(path).ok()?;
    let words: Vec<&str> =
        whole.components().filter_map(|c| if let Component::Normal(word) = c { word.to_str() } else { None }).collect();
    let at = words.iter().rposition(|word| *word == "snapshots")?;
    let (repository, commit) = (words.get(at.checked_sub(1)?)?, words.get(at + 1)?);
    let of_hub = repository.starts_with("models--");
    let of_hub = of_hub && commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
    of_hub.then(|| (repository.to_string(), words[at + 1..].join("/")))
}

/// A name without anything a shell or a file system might stumble over.
fn tame(name: &str) -> String {
    let tame = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let text: String = name.chars().take(64).map(tame).collect();
    if text.trim_matches(['.', '_']).is_empty() { "model".into() } else { text.trim_start_matches('.').to_string() }
}

/// What became of the model a file in the cache was packed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Unchanged,
    /// It is another one now: this file will not be used again.
    Changed,
    Gone,
}

/// What one file in the cache folder is.
#[derive(Clone, Debug)]
pub enum State {
    Whole(Box<Packed>, Origin),
    /// Begun and not finished.
    Partial,
    /// Damaged, or of another layout version: why it cannot be used.
    Unusable(String),
}

/// One file in the cache folder.
#[derive(Clone, Debug)]
pub struct Kept {
    pub path: PathBuf,
    pub bytes: u64,
    pub modified: Option<SystemTime>,
    pub state: State,
}

impl Kept {
    /// Nothing will use it again. A partial file may still grow.
    pub fn is_stale(&self) -> bool {
        !matches!(self.state, State::Whole(_, Origin::Unchanged))
    }

    /// Removes it. False when another process is writing it.
    pub fn remove(&self) -> Result<bool> {
        let removed = match self.state {
            State::Partial => partial::remove_abandoned(&self.path),
            _ => fs::remove_file(&self.path).map(|()| true),
        };
        removed.map_err(|e| Error::Runtime(format!("{}: cannot be removed: {e}", self.path.display())))
    }
}

/// Removes what other processes began and were stopped at, but for the file that becomes `target`.
pub(super) fn remove_abandoned(folder: &Path, target: &Path) {
    let keep = partial::partial_path(target);
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in paths.filter(|path| is_partial(path) && *path != keep) {
        let _ = partial::remove_abandoned(&path); // only tidying
    }
}

/// Everything in a cache folder, by name. A folder that is not there holds nothing.
pub fn list(folder: &Path) -> Result<Vec<Kept>> {
    let sad = |e: io::Error| Error::Runtime(format!("{}: cannot be read: {e}", folder.display()));
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(sad(e)),
    };
    let mut kept = vec![];
    for entry in entries {
        let path = entry.map_err(sad)?.path();
        let Ok(meta) = fs::metadata(&path) else { continue }; // removed meanwhile
        let ours = is_partial(&path) || path.extension().is_some_and(|e| e == "gguf");
        if meta.is_file() && ours {
            let state = state(&path);
            kept.push(Kept { path, bytes: meta.len(), modified: meta.modified().ok(), state });
        }
    }
    kept.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(kept)
}

fn state(path: &Path) -> State {
    if is_partial(path) {
        return State::Partial;
    }
    match Checkpoint::open(path) {
        Err(e) => State::Unusable(e.to_string()),
        Ok(checkpoint) => match checkpoint.packed() {
            None => State::Unusable(format!("{}: is no packed file", path.display())),
            Some(packed) => State::Whole(Box::new(packed.clone()), origin(packed)),
        },
    }
}

fn origin(packed: &Packed) -> Origin {
    let Some(path) = &packed.source.path else { return Origin::Unchanged };
    if !path.exists() {
        return Origin::Gone;
    }
    let now = packed.quant.parse().and_then(|quant| key(path, quant));
    if now.is_ok_and(|now| Some(now.key) == packed.source.key) { Origin::Unchanged } else { Origin::Changed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_of_the_hub_are_known_by_their_commit() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let path = format!("/c/hub/models--owner--Small-4B-GGUF/snapshots/{commit}/small.gguf");
        let found = snapshot(Path::new(&path));
        assert_eq!(found, Some(("models--owner--Small-4B-GGUF".into(), format!("{commit}/small.gguf"))));
        for other in ["/c/snapshots/main/x.gguf", "/c/models--a--b/snapshots/main/x", "/models/x.gguf", "snapshots"] {
            assert_eq!(snapshot(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn names_are_tame() {
        assert_eq!(tame("Small 4B/Q4_0"), "Small_4B_Q4_0");
        assert_eq!(tame("..hidden"), "hidden");
        assert_eq!(tame("..."), "model");
        assert_eq!(tame(""), "model");
    }
}
