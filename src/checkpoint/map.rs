//! A file as memory. The only place of this room that needs `unsafe`.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::Path;

/// A whole file, mapped for reading.
pub(super) struct Map {
    map: Mmap,
    /// Of the file when it was mapped.
    meta: Metadata,
}

impl Map {
    /// `huge`: asks for large pages, which a file made for mapping can have.
    pub fn open(path: &Path, huge: bool) -> Result<Map> {
        let sad = |e: std::io::Error| Error::Model(format!("{}: cannot be mapped: {e}", path.display()));
        let file = File::open(path).map_err(sad)?;
        let meta = file.metadata().map_err(sad)?;
        // SAFETY: the map is private to this process and only read. If another process shortens the file meanwhile, the
        // system stops us with a signal: the price of not copying weights, paid by every engine that maps files.
        let map = unsafe { Mmap::map(&file) }.map_err(sad)?;
        #[cfg(target_os = "linux")]
        if huge {
            // Advice only: where it is refused, reading is a little slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let _ = huge;
        Ok(Map { map, meta })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Pins the whole file in memory, reading what is not there yet.
    pub fn lock(&self) -> std::io::Result<()> {
        #[cfg(unix)]
        return self.map.lock();
        #[cfg(not(unix))]
        Err(std::io::ErrorKind::Unsupported.into())
    }

    pub fn meta(&self) -> &Metadata {
        &self.meta
    }

    /// Says that `range` will be read soon: the system begins to fetch it.
    pub fn expect(&self, range: Range<usize>) {
        #[cfg(unix)]
        // Failure only means that reading waits.
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
    }

    /// Lets go of the pages `range` begins in and covers: they leave this process's memory and come back from the file when
    /// read again. The last page stays unless it is whole, since the next range begins in it.
    pub fn release(&self, range: Range<usize>) {
        const PAGE: usize = 4096;
        let start = range.start / PAGE * PAGE;
        let end = if range.end >= self.map.len() { self.map.len() } else { range.end / PAGE * PAGE };
        if start >= end {
            return;
        }
        #[cfg(unix)]
        // SAFETY: the map is a shared file mapping that nobody writes, so a dropped page is read back with the same bytes;
        // no reference sees a change. Failure only means that memory is kept.
        let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
    }
}
