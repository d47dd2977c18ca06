//! Looking into a repository without downloading its weights: small files whole, large ones by ranges.

use super::choose::{Choice, INDEX, SINGLE, choose, is_safe, shards};
use super::fetch::Source;
use super::http::{Ask, Fault, Patience, body_fault};
use super::progress::{Meter, Silent};
use super::{HubOptions, ModelName, Place, not_cached};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Texts beyond this are no texts.
const LONGEST_TEXT: u64 = 64 << 20;
/// The safetensors format allows no longer header.
const LONGEST_HEADER: u64 = 100_000_000;
/// A server without ranges is read up to here and then given up: inspecting is not downloading.
const LONGEST_SKIP: u64 = 64 << 20;

/// The weights of a remote model, file names as the repository spells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// One file, or the shards of an index in order of name.
    Safetensors(Vec<String>),
    Gguf(String),
}

/// A model on the hub, opened for looking at it. What the cache holds is read there.
pub struct Remote {
    source: Source,
    snapshot: PathBuf,
    online: bool,
    files: Vec<String>,
    weights: Weights,
    notes: Vec<String>,
}

impl Remote {
    /// Lists the repository and decides which weights are meant, as `resolve` would.
    /// A `Local` name is a broken contract: its files are simply opened.
    pub fn open(name: &ModelName, options: &HubOptions) -> Result<Remote> {
        let ModelName::Hub { repo: id, pick } = name else { panic!("{name} is no hub name") };
        let mut place = Place::new(id, options)?;
        let silent = &mut Silent;
        let meter = &mut Meter::new(silent, 0, 0);
        let copy = place.cached(id, pick.as_deref());
        let listed = match (&copy, options.offline) {
            (Err(why), true) => return Err(not_cached(name, options, why)),
            (Ok(_), true) => None,
            (Ok(_), false) => Some(place.source.list(Patience::Once, meter)),
            (Err(_), false) => Some(place.source.list(Patience::Contact, meter)),
        };
        let mut notes = Vec::new();
        let (files, online) = match (listed, copy) {
            (Some(Ok(files)), _) => (files, true),
            (Some(Err(fault)), Err(_)) => return Err(place.source.sentence(fault, None)),
            (Some(Err(fault)), Ok(_)) if !fault.passes() => return Err(place.source.sentence(fault, None)),
            (fault, copy) => {
                let copy = copy.expect("a copy that is missing was refused above").resolved;
                if let Some(Err(fault)) = fault {
                    notes.push(format!("{}; looking at the copy of {name} in the cache", fault.reason()));
                }
                place.source.commit = copy.revision.expect("a copy in the cache has its commit");
                (place.shelf.files(&place.source.commit), false)
            }
        };
        let choice = choose(id, &files, pick.as_deref())?;
        notes.extend(place.resolved(&choice, &place.source.commit).notes);
        let snapshot = place.shelf.snapshot(&place.source.commit);
        let weights = Weights::Safetensors(vec![SINGLE.to_string()]);
        let mut remote = Remote { source: place.source, snapshot, online, files, weights, notes };
        match choice {
            Choice::Gguf { file, .. } => remote.weights = Weights::Gguf(file),
            Choice::Safetensors { sharded: false, .. } => {}
            Choice::Safetensors { sharded: true, .. } => {
                let index = remote.read(INDEX)?;
                remote.weights = Weights::Safetensors(shards(id, &remote.files, &index)?);
            }
        }
        Ok(remote)
    }

    /// Every file of the repository (of the cached snapshot, when offline).
    pub fn files(&self) -> &[String] {
        &self.files
    }

    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The commit that is looked at.
    pub fn revision(&self) -> &str {
        &self.source.commit
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A whole small file such as `config.json`.
    pub fn read(&self, file: &str) -> Result<Vec<u8>> {
        let opened = self.file(file)?;
        if opened.size > LONGEST_TEXT {
            return Err(Error::Model(format!(
                "{file} of {} is {} bytes long, which is no text",
                self.source.id, opened.size
            )));
        }
        opened.read_at(0, opened.size as usize)
    }

    /// One file, to be read in ranges. Errors: `Model` when the repository has none of that name.
    pub fn file(&self, file: &str) -> Result<RemoteFile<'_>> {
        if !self.files.iter().any(|name| name == file) || !is_safe(file) {
            return Err(Error::Model(format!("{} has no file {file}", self.source.id)));
        }
        let path = self.snapshot.join(file);
        let (local, size) = match File::open(&path).and_then(|opened| Ok((opened.metadata()?.len(), opened))) {
            Ok((size, opened)) => (Some(opened), size),
            Err(_) if self.online => {
                let silent = &mut Silent;
                let meter = &mut Meter::new(silent, 0, 0);
                let label = self.source.label(file, meter).map_err(|fault| self.source.sentence(fault, Some(file)))?;
                (None, label.size)
            }
            Err(e) => return Err(Error::Download(format!("could not open {}: {e}", path.display()))),
        };
        Ok(RemoteFile { source: &self.source, name: file.to_string(), local, size })
    }

    /// The JSON header of a safetensors file, and the file's size in bytes.
    pub fn safetensors_header(&self, file: &str) -> Result<(Vec<u8>, u64)> {
        let opened = self.file(file)?;
        let bad = |what: String| Error::Model(format!("{file} of {} {what}", self.source.id));
        if opened.size < 8 {
            return Err(bad(format!("is {} bytes long, too short for a safetensors header", opened.size)));
        }
        let length = opened.read_at(0, 8)?;
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes were asked for"));
        if length > LONGEST_HEADER || length > opened.size - 8 {
            return Err(bad(format!("says its header is {length} bytes long, in a file of {} bytes", opened.size)));
        }
        Ok((opened.read_at(8, length as usize)?, opened.size))
    }
}

/// A file of a repository, read piece by piece.
pub struct RemoteFile<'r> {
    source: &'r Source,
    name: String,
    local: Option<File>,
    size: u64,
}

impl RemoteFile<'_> {
    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// `length` bytes from `offset`; fewer where the file ends.
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let length = (length as u64).min(self.size.saturating_sub(offset));
        if length == 0 {
            return Ok(Vec::new());
        }
        if let Some(mut file) = self.local.as_ref() {
            let mut bytes = vec![0; length as usize];
            let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes));
            return read.map(|()| bytes).map_err(|e| Error::Download(format!("could not read {}: {e}", self.name)));
        }
        let url = self.source.url(&self.name);
        let silent = &mut Silent;
        let meter = &mut Meter::new(silent, 0, 0);
        let read = self.source.client.patiently(&self.name, Patience::Transfer, meter, |_| {
            self.read_range(&url, offset, length).map_err(|fault| (fault, 0))
        });
        read.map_err(|fault| self.source.sentence(fault, Some(&self.name)))
    }

    fn read_range(&self, url: &str, offset: u64, length: u64) -> std::result::Result<Vec<u8>, Fault> {
        let answer = self.source.client.ask(url, Ask::Get(Some((offset, Some(offset + length - 1)))))?;
        let skip = match (answer.status, answer.content_range()) {
            (206, Some((start, _))) if start == offset => 0,
            (200, _) if offset <= LONGEST_SKIP => offset,
            (200, _) => {
                let what =
                    format!("the server of {} sends whole files only, which is too much for a look inside", self.name);
                return Err(Fault::Ours(Error::Download(what)));
            }
            (status, range) => {
                return Err(Fault::Cut(format!("asked for bytes from {offset}, the server sent {status} {range:?}")));
            }
        };
        let mut body = answer.body.into_reader();
        std::io::copy(&mut body.by_ref().take(skip), &mut std::io::sink()).map_err(|e| body_fault(e, url))?;
        let mut bytes = Vec::new();
        body.take(length).read_to_end(&mut bytes).map_err(|e| body_fault(e, url))?;
        if bytes.len() as u64 != length {
            return Err(Fault::Cut(format!("{} of {length} bytes came", bytes.len())));
        }
        Ok(bytes)
    }
}
