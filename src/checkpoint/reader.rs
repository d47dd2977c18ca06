//! A file of weights that is read rather than mapped: past the page cache where the system lets us, so that what is read
//! takes no memory but ours.

use super::Checkpoint;
use crate::error::{Error, Result};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// What unbuffered reads are aligned to: offset, length and memory.
pub const ALIGNED: usize = 4096;

/// An open file. Reads are positional, so that many threads share one.
#[derive(Debug)]
pub struct Reader {
    file: File,
    path: PathBuf,
    direct: bool,
}

impl Reader {
    fn open(path: &Path, direct: bool) -> io::Result<Reader> {
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if direct {
            use std::os::unix::fs::OpenOptionsExt;
            options.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
        }
        let file = options.open(path)?;
        #[cfg(target_vendor = "apple")]
        if direct {
            rustix::fs::fcntl_nocache(&file, true)?;
        }
        if direct && !cfg!(any(target_os = "linux", target_os = "android", target_vendor = "apple")) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no unbuffered reads we know"));
        }
        Ok(Reader { file, path: path.to_path_buf(), direct })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether reads go past the page cache, and have to be aligned.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Bytes of the file now.
    pub fn size(&self) -> io::Result<u64> {
        self.file.metadata().map(|meta| meta.len())
    }

    /// Fills `into` from `offset` on. Fewer bytes come only where the file ends.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match read_at(&self.file, offset + done as u64, &mut into[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if self.direct && !done.is_multiple_of(ALIGNED) {
                break; // the end of the file: the rest of a page cannot be asked for
            }
        }
        Ok(done)
    }

    /// Lets the system forget what it keeps of these bytes. Advice only.
    pub fn forget(&self, offset: u64, bytes: usize) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(bytes) = std::num::NonZeroU64::new(bytes as u64) {
            let _ = rustix::fs::fadvise(&self.file, offset, Some(bytes), rustix::fs::Advice::DontNeed);
        }
        let _ = (offset, bytes);
    }
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, offset)
}

#[cfg(windows)]
fn read_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, offset)
}

/// Whether two open files are one.
pub(super) fn same(a: &Metadata, b: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if (a.dev(), a.ino()) != (b.dev(), b.ino()) {
            return false;
        }
    }
    a.len() == b.len()
}

impl Checkpoint {
    /// Opens one of the files of weights for reading, `direct`: past the page cache.
    ///
    /// Errors with [`io::ErrorKind::Unsupported`] or `InvalidInput` where that is what the file system does not do, and in
    /// a sentence where the file is another one than the one whose headers were read.
    pub fn reader(&self, file: usize, direct: bool) -> io::Result<Reader> {
        let reader = Reader::open(&self.files[file].0, direct)?;
        if !same(&reader.file.metadata()?, self.maps[file].meta()) {
            return Err(io::Error::other("it was replaced since its headers were read"));
        }
        Ok(reader)
    }

    /// The same, for reads through the page cache, with the error as a sentence.
    pub(super) fn buffered(&self, file: usize) -> Result<Reader> {
        self.reader(file, false)
            .map_err(|e| Error::Model(format!("{}: cannot be read: {e}", self.files[file].0.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Memory of `len` bytes that begins at a multiple of `ALIGNED`, inside `room`.
    fn aligned(room: &mut [u8], len: usize) -> &mut [u8] {
        let start = room.as_ptr().align_offset(ALIGNED);
        &mut room[start..start + len]
    }

    #[test]
    fn past_the_page_cache_or_through_it_the_same_bytes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..3 * ALIGNED + 700).map(|i| (i * 31 % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let readers = [false, true].map(|direct| Reader::open(file.path(), direct));
        let mut room = vec![0u8; 6 * ALIGNED];
        let mut tried = 0;
        for reader in readers.into_iter().flatten() {
            for (start, len, there) in [
                (0, 1, ALIGNED),
                (0, 4, 3 * ALIGNED + 700),
                (1, 2, 2 * ALIGNED),
                (2, 2, ALIGNED + 700),
                (3, 2, 700),
                (4, 1, 0),
            ] {
                let into = aligned(&mut room, len * ALIGNED);
                into.fill(0);
                match reader.read((start * ALIGNED) as u64, into) {
                    Ok(n) => assert!(
                        n == there && into[..n] == bytes[bytes.len().min(start * ALIGNED)..][..n],
                        "{start}, {len}: {n}"
                    ),
                    Err(e) if reader.is_direct() => return println!("NOT RUN: unbuffered reads: {e}"),
                    Err(e) => panic!("{e}"),
                }
            }
            reader.forget(0, bytes.len());
            assert_eq!(reader.size().unwrap(), bytes.len() as u64);
            tried += 1;
        }
        if tried < 2 {
            println!("NOT RUN: this file system refuses unbuffered reads");
        }
    }
}
