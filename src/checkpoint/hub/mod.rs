//! From a model's name to files on this machine: a path as it is, or a hub repository through the cache that
//! all hub tools share, so that nothing is downloaded twice.
//!
//! `hf-hub` gives the shapes (cache paths, addresses, the list of files). The transfer is our own: it resumes,
//! checks size and checksum, asks for free disk first and keeps the token with its host.

mod choose;
mod fetch;
mod http;
mod name;
mod options;
mod progress;
mod remote;
mod shelf;

pub use name::ModelName;
pub(super) use options::free_bytes;
pub use options::{HubOptions, Token};
pub use progress::{Event, Progress, Silent};
pub use remote::{Remote, RemoteFile, Weights};

use crate::config::size;
use crate::error::{Error, Result};
use choose::{Choice, INDEX, SINGLE, choose, is_safe, shards};
use fetch::{Source, Wanted, bytes_here, fetch};
use hf_hub::{Repo, RepoType};
use http::{Client, Patience};
use progress::Meter;
use shelf::{Shelf, is_commit, is_revision};
use std::path::PathBuf;

/// A model's files on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// A folder (a snapshot of the cache, or the user's own) or one `.gguf` file.
    pub path: PathBuf,
    /// What a user may want to know: which file was chosen, that the hub could not be reached.
    pub notes: Vec<String>,
    /// The hub did not answer, so this is what the cache holds: perhaps not the newest. The first note says so.
    pub stale: bool,
    /// The commit the files are of; `None` for a path.
    pub revision: Option<String>,
}

/// Finds a model's files, downloading what the cache lacks. Errors are `Download` for everything between here
/// and the hub, `Model` for a repository without a model we open, `Interrupted` when `progress` says so.
pub fn resolve(name: &ModelName, options: &HubOptions, progress: &mut dyn Progress) -> Result<Resolved> {
    let (id, pick) = match name {
        ModelName::Local(path) => {
            return Ok(Resolved { path: path.clone(), notes: Vec::new(), stale: false, revision: None });
        }
        ModelName::Hub { repo, pick } => (repo.as_str(), pick.as_deref()),
    };
    let mut place = Place::new(id, options)?;
    let cached = place.cached(id, pick);
    if options.offline {
        return cached.map(|found| found.resolved).map_err(|why| not_cached(name, options, &why));
    }
    // A commit never changes, so a full copy of it needs no question.
    if let (Ok(found), true) = (&cached, is_commit(&options.revision))
        && found.rounded
    {
        return Ok(found.resolved.clone());
    }
    let patience = if cached.is_ok() { Patience::Once } else { Patience::Contact };
    let files = match place.source.list(patience, &mut Meter::new(progress, 0, 0)) {
        Ok(files) => files,
        Err(fault) => {
            return match cached {
                Ok(Found { mut resolved, .. }) if fault.passes() => {
                    resolved.notes.insert(0, format!("{}; using the copy of {name} in the cache", fault.reason()));
                    resolved.stale = true;
                    Ok(resolved)
                }
                _ => Err(place.source.sentence(fault, None)),
            };
        }
    };
    let choice = choose(id, &files, pick)?;
    let (wanted_files, resolved) = place.unfold(choice, &files, progress)?;
    place.bring(name, &wanted_files, options, progress)?;
    place.shelf.remember(&options.revision, &place.source.commit)?;
    Ok(resolved)
}

/// A repository, here and there.
struct Place {
    source: Source,
    shelf: Shelf,
}

/// A model that lies in the cache as a whole.
struct Found {
    resolved: Resolved,
    /// Its optional texts are here too, so nobody fetched just a part of it.
    rounded: bool,
}

impl Place {
    fn new(id: &str, options: &HubOptions) -> Result<Place> {
        if !is_revision(&options.revision) {
            return Err(Error::Usage(format!(
                "`{}` cannot be a revision: give a branch, a tag or a commit",
                options.revision
            )));
        }
        let repo = Repo::with_revision(id.to_string(), RepoType::Model, options.revision.clone());
        let shelf = Shelf::new(&options.cache, &repo);
        let source = Source { client: Client::new(options), repo, id: id.to_string(), commit: String::new() };
        Ok(Place { source, shelf })
    }

    /// The model as the cache alone can give it, or why it cannot.
    fn cached(&self, id: &str, pick: Option<&str>) -> std::result::Result<Found, String> {
        let revision = self.source.repo.revision();
        let commit =
            self.shelf.commit(revision).ok_or_else(|| format!("revision `{revision}` of it was never downloaded"))?;
        let files = self.shelf.files(&commit);
        let choice = choose(id, &files, pick).map_err(|e| e.to_string())?;
        if let Choice::Safetensors { sharded: true, .. } = choice {
            let index = std::fs::read(self.shelf.snapshot(&commit).join(INDEX)).map_err(|e| e.to_string())?;
            shards(id, &files, &index).map_err(|e| e.to_string())?;
        }
        let rounded = match &choice {
            Choice::Safetensors { .. } => ["tokenizer_config.json", "generation_config.json"]
                .iter()
                .all(|name| files.iter().any(|file| file == name)),
            Choice::Gguf { chosen, .. } => !chosen,
        };
        Ok(Found { resolved: self.resolved(&choice, &commit), rounded })
    }

    fn resolved(&self, choice: &Choice, commit: &str) -> Resolved {
        let snapshot = self.shelf.snapshot(commit);
        let (path, notes) = match choice {
            Choice::Safetensors { .. } => (snapshot, Vec::new()),
            Choice::Gguf { file, chosen: false } => (snapshot.join(file), Vec::new()),
            Choice::Gguf { file, chosen: true } => {
                (snapshot.join(file), vec![format!("no quantisation was named: using {file} of {}", self.source.id)])
            }
        };
        Resolved { path, notes, stale: false, revision: Some(commit.to_string()) }
    }

    /// The files a choice stands for. An index is fetched at once: it alone knows the shards.
    fn unfold(&self, choice: Choice, files: &[String], progress: &mut dyn Progress) -> Result<(Vec<String>, Resolved)> {
        let resolved = self.resolved(&choice, &self.source.commit);
        let wanted = match choice {
            Choice::Gguf { file, .. } => vec![file],
            Choice::Safetensors { mut texts, sharded: false } => {
                texts.push(SINGLE.to_string());
                texts
            }
            Choice::Safetensors { mut texts, sharded: true } => {
                let path = self.shelf.snapshot(&self.source.commit).join(INDEX);
                if !path.is_file() {
                    let meter = &mut Meter::new(progress, 0, 0);
                    let label =
                        self.source.label(INDEX, meter).map_err(|fault| self.source.sentence(fault, Some(INDEX)))?;
                    fetch(&self.source, &self.shelf, &label, 0, meter)?;
                }
                let index = std::fs::read(&path).map_err(|e| self.shelf.trouble("read", &path, &e))?;
                texts.extend(shards(&self.source.id, files, &index)?);
                texts
            }
        };
        match wanted.iter().find(|file| !is_safe(file)) {
            Some(file) => Err(Error::Model(format!(
                "{} has a file called `{file}`, which is no name for a file here",
                self.source.id
            ))),
            None => Ok((wanted, resolved)),
        }
    }

    /// Fetches those of `files` that the snapshot lacks, once it is sure that they fit on the disk.
    fn bring(
        &self,
        name: &ModelName,
        files: &[String],
        options: &HubOptions,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let snapshot = self.shelf.snapshot(&self.source.commit);
        let mut wanted: Vec<(Wanted, u64)> = Vec::new();
        for file in files.iter().filter(|file| !snapshot.join(file).is_file()) {
            let label = self.source.label(file, &mut Meter::new(progress, 0, 0));
            let label = label.map_err(|fault| self.source.sentence(fault, Some(file)))?;
            let here = bytes_here(&self.shelf, &label);
            wanted.push((label, here));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let bytes: u64 = wanted.iter().fold(0, |sum, (file, _)| sum.saturating_add(file.size));
        let have: u64 = wanted.iter().map(|(_, here)| here).sum();
        self.check_disk(name, bytes - have, options)?;
        progress.event(&Event::Begin { files: wanted.len(), bytes, have });
        let mut meter = Meter::new(progress, have, bytes);
        for (file, here) in &wanted {
            fetch(&self.source, &self.shelf, file, *here, &mut meter)?;
        }
        meter.tell(Event::End);
        Ok(())
    }

    fn check_disk(&self, name: &ModelName, needed: u64, options: &HubOptions) -> Result<()> {
        let ground = self.shelf.ground();
        let free = (options.free_bytes)(ground).map_err(|e| self.shelf.trouble("measure the disk of", ground, &e))?;
        if needed <= free {
            return Ok(());
        }
        Err(Error::Download(format!(
            "{name} needs {needed} bytes ({}) more on the disk of {}, where {free} bytes ({}) are free: free {}, or set HF_HUB_CACHE to another disk",
            size::shown(needed),
            options.cache.display(),
            size::shown(free),
            size::shown(needed - free),
        )))
    }
}

fn not_cached(name: &ModelName, options: &HubOptions, why: &str) -> Error {
    Error::Download(format!(
        "{name} is not in the cache {} ({why}), and nothing is downloaded while offline: run it once without --offline and HF_HUB_OFFLINE",
        options.cache.display()
    ))
}
