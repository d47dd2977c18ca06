//! The file that is being written, beside the one it will become: locked against a second process, gone unless finished.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of one write. Aligned pieces of this size let the system keep the file in large pages.
const PIECE: usize = 4 << 20;
/// After so many bytes the disk catches up, so that the time left is true.
const SYNC_EVERY: u64 = 256 << 20;

/// Between two looks at a file another process is writing.
const POLL: Duration = Duration::from_millis(100);

/// Where a file is written before it has its name.
pub(super) fn partial_path(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    target.with_file_name(name)
}

/// True for what [`partial_path`] answers.
pub(super) fn is_partial(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "partial")
}

/// Writes in order, from the first byte.
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    written: u64,
    unsynced: u64,
    finished: bool,
}

impl Partial {
    /// Opens and locks the partial file of `target`, and empties what an earlier attempt left. While another process is
    /// writing it, `wait` is called again and again; false from it ends the attempt (`ErrorKind::Interrupted`). The
    /// answer's second half tells whether there was such a process.
    pub fn open(target: &Path, mut wait: impl FnMut() -> bool) -> io::Result<(Partial, bool)> {
        let path = partial_path(target);
        let mut waited = false;
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if !wait() {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    waited = true;
                    std::thread::sleep(POLL);
                    continue;
                }
                Err(TryLockError::Error(e)) => return Err(e),
            }
            // The other process may have given this file its name, or removed it; then ours is another one.
            if same_file(&file, &path)? {
                file.set_len(0)?;
                let buffer = Vec::with_capacity(PIECE);
                return Ok((Partial { file, path, buffer, written: 0, unsynced: 0, finished: false }, waited));
            }
        }
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.unsynced += self.buffer.len() as u64;
        self.buffer.clear();
        if self.unsynced >= SYNC_EVERY {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Replaces the first bytes, makes everything durable and gives the file its name.
    pub fn finish(mut self, beginning: &[u8], target: &Path) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        self.flush()?;
        assert!(beginning.len() as u64 <= self.written, "only what was written is replaced");
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(beginning)?;
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        self.finished = true;
        sync_folder(target)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.path); // ours while it is locked
        }
    }
}

/// Removes a partial file that no process is writing. True when it is gone.
pub(super) fn remove_abandoned(path: &Path) -> io::Result<bool> {
    let file = File::options().write(true).open(path)?;
    match file.try_lock() {
        Ok(()) if same_file(&file, path)? => fs::remove_file(path).map(|()| true),
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// The name is durable when its folder is.
#[cfg(unix)]
fn sync_folder(target: &Path) -> io::Result<()> {
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether `path` still names `file`.
#[cfg(unix)]
fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Elsewhere an open file can be neither renamed nor removed.
#[cfg(not(unix))]
fn same_file(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}
