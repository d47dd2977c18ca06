//! The files the model was opened from.

use super::Tier;
use crate::checkpoint::{Checkpoint, Reader};
use crate::error::{Error, Result};
use crate::experts::ExpertId;
use crate::experts::image::{Extent, Images, PAGE};
use std::sync::Arc;

pub struct FileTier {
    images: Arc<Images>,
    /// By index in the checkpoint's files.
    readers: Vec<Reader>,
}

impl FileTier {
    /// Opens the files past the page cache, or through it where that is refused, which a note says. `page` is memory to try
    /// it with: one page, aligned to itself.
    pub fn open(checkpoint: &Checkpoint, images: Arc<Images>, page: &mut [u8]) -> Result<(FileTier, Vec<String>)> {
        let (mut readers, mut notes) = (vec![], vec![]);
        for (file, (path, _)) in checkpoint.files().iter().enumerate() {
            let direct = checkpoint.reader(file, true).and_then(|reader| reader.read(0, page).map(|_| reader));
            let reader = match direct {
                Ok(reader) => reader,
                Err(refused) => {
                    let reader = checkpoint
                        .reader(file, false)
                        .map_err(|e| Error::Model(format!("{}: cannot be read: {e}", path.display())))?;
                    notes.push(format!(
                        "{}: cannot be read past the page cache ({refused}); what is read passes through it, so the system \
                         holds some of it a second time, beyond any budget, and reading costs more time",
                        path.display()
                    ));
                    reader
                }
            };
            readers.push(reader);
        }
        Ok((FileTier { images, readers }, notes))
    }

    /// Bytes `from..` of an extent.
    fn extent(&self, id: ExpertId, extent: &Extent, from: usize, into: &mut [u8]) -> Result<()> {
        let reader = &self.readers[extent.file];
        let (offset, bytes) = (extent.offset + from as u64, into.len());
        let sentence = |why: String| {
            let ExpertId { layer, index } = id;
            let file = reader.path().display();
            Error::Runtime(format!("{file}: expert {index} of layer {layer}, {bytes} bytes from byte {offset}: {why}"))
        };
        let read = reader.read(offset, into);
        if !reader.is_direct() {
            reader.forget(offset, bytes);
        }
        let needed = extent.needed.saturating_sub(from).min(bytes);
        match read {
            Ok(n) if n >= needed => Ok(()),
            Ok(n) => {
                let end = reader.size().map_or_else(|e| format!("({e})"), |size| size.to_string());
                Err(sentence(format!("only {n} are there; the file has {end} bytes now: it was cut short meanwhile")))
            }
            Err(e) => Err(sentence(format!("cannot be read: {e}"))),
        }
    }
}

impl Tier for FileTier {
    fn read(&self, id: ExpertId, at: usize, into: &mut [u8]) -> Result<usize> {
        debug_assert!(at.is_multiple_of(PAGE) && into.len().is_multiple_of(PAGE), "whole pages are read");
        let (mut start, mut done) = (0, 0);
        for extent in &self.images.image(id).extents {
            let end = start + extent.bytes;
            if at + done < end && done < into.len() {
                let from = at + done - start;
                let count = (extent.bytes - from).min(into.len() - done);
                self.extent(id, extent, from, &mut into[done..done + count])?;
                done += count;
            }
            start = end;
        }
        Ok(done)
    }
}
