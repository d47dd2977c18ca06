//! One repository in the cache all hub tools share, laid out as they lay it out:
//!
//! ```text
//! models--owner--name/refs/main                  the commit `main` was last seen at
//!                     snapshots/<commit>/<file>  -> ../../blobs/<etag>
//!                     blobs/<etag>               a whole, checked file
//!                     blobs/<etag>.incomplete    its beginning
//! .locks/models--owner--name/<etag>.lock         held while the blob is written
//! ```

use super::choose::is_safe;
use crate::error::{Error, Result};
use hf_hub::{Cache, CacheRepo, Repo};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub(super) struct Shelf {
    repo: CacheRepo,
    pub(super) folder: PathBuf,
    locks: PathBuf,
    cache: PathBuf,
}

impl Shelf {
    /// The place of `repo` in the cache folder. Nothing is created yet.
    pub(super) fn new(cache: &Path, repo: &Repo) -> Shelf {
        let name = repo.folder_name();
        Shelf {
            repo: Cache::new(cache.to_path_buf()).repo(repo.clone()),
            folder: cache.join(&name),
            locks: cache.join(".locks").join(&name),
            cache: cache.to_path_buf(),
        }
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.repo.blob_path(etag)
    }

    pub(super) fn partial(&self, etag: &str) -> PathBuf {
        self.repo.blob_path(&format!("{etag}.incomplete"))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// The commit a revision names, as far as the cache knows; its snapshot may be incomplete.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) && self.snapshot(revision).is_dir() {
            return Some(revision.to_string());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        let commit = text.trim();
        is_word(commit).then(|| commit.to_string())
    }

    /// The files of a snapshot that are really there, with `/` between folders, sorted.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.snapshot(commit), "", &mut found);
        found.sort();
        found
    }

    /// Remembers that `revision` is `commit`. A commit needs no such note.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        if fs::read_to_string(&path).is_ok_and(|text| text == commit) {
            return Ok(());
        }
        let write = || {
            let parent = path.parent().expect("a revision lies in refs");
            fs::create_dir_all(parent)?;
            let new = parent.join(format!(".{}.new", std::process::id()));
            fs::write(&new, commit)?;
            fs::rename(&new, &path)
        };
        write().map_err(|e| self.trouble("note the revision in", &path, &e))
    }

    /// Makes `file` of the snapshot point at its blob, replacing what was there in one step.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(file);
        let place = || {
            let parent = pointer.parent().expect("a file lies in its snapshot");
            fs::create_dir_all(parent)?;
            let new = parent.join(format!(".{etag}.{}.new", std::process::id()));
            let up = "../".repeat(2 + file.matches('/').count());
            let _ = fs::remove_file(&new); // left by a process of the same number that was killed here
            point(&format!("{up}blobs/{etag}"), &self.blob(etag), &new)?;
            fs::rename(&new, &pointer)
        };
        place().map_err(|e| self.trouble("put a file into", &pointer, &e))
    }

    /// Opens the file whose lock says "I write this blob". Not locked yet.
    pub(super) fn lock_file(&self, etag: &str) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        let open = || {
            fs::create_dir_all(&self.locks)?;
            fs::create_dir_all(self.folder.join("blobs"))?;
            File::options().create(true).truncate(false).write(true).open(&path)
        };
        open().map_err(|e| self.trouble("open the lock", &path, &e))
    }

    /// The folder nearest to the cache that exists: where its file system can be asked.
    pub(super) fn ground(&self) -> &Path {
        self.folder.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."))
    }

    /// The sentence for a file operation of the cache that failed.
    pub(super) fn trouble(&self, doing: &str, path: &Path, error: &io::Error) -> Error {
        use io::ErrorKind::*;
        let cache = self.cache.display();
        let advice = match error.kind() {
            StorageFull | QuotaExceeded => {
                format!(
                    "the disk is full: free some space or set HF_HUB_CACHE to another disk than that of {cache}; run the same command to go on"
                )
            }
            FileTooLarge => {
                format!("the file system of {cache} cannot hold a file this large: set HF_HUB_CACHE to another")
            }
            PermissionDenied | ReadOnlyFilesystem => {
                format!("{error}: set HF_HUB_CACHE to a folder that you may write to")
            }
            _ => error.to_string(),
        };
        Error::Download(format!("could not {doing} {}: {advice}", path.display()))
    }
}

/// A full commit: 40 hexadecimal digits.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Safe as one part of a path: the etags and commits of a hub become file names.
pub(super) fn is_word(text: &str) -> bool {
    text.len() <= 128
        && !text.starts_with('.')
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Safe as a revision: words with `/` between.
pub(super) fn is_revision(text: &str) -> bool {
    is_safe(text) && text.split('/').all(is_word)
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    const DEEPEST: usize = 8; // repositories have one or two levels
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        let file = format!("{prefix}{name}");
        if path.is_file() {
            found.push(file); // `is_file` follows the pointer, so the blob is there
        } else if path.is_dir() && prefix.matches('/').count() < DEEPEST {
            walk(&path, &format!("{file}/"), found);
        }
    }
}

#[cfg(unix)]
fn point(relative: &str, _: &Path, new: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, new)
}

/// Symbolic links need a privilege elsewhere; a second name for the same bytes does not.
#[cfg(not(unix))]
fn point(_: &str, blob: &Path, new: &Path) -> io::Result<()> {
    fs::hard_link(blob, new).or_else(|_| fs::copy(blob, new).map(|_| ()))
}
