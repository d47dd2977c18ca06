//! The files the model was opened from.

use super::Tier;
use crate::checkpoint::{Checkpoint, Reader};
use crate::error::{Error, Result};
use crate::experts::ExpertId;
use crate::experts::image::{Extent, Images, PAGE};
use std::io;
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
        for file in 0..checkpoint.files().len() {
            let direct = checkpoint.reader(file, true).and_then(|reader| reader.read(0, page).map(|_| reader));
            let (reader, note) = or_buffered(checkpoint, file, direct)?;
            readers.push(reader);
            notes.extend(note);
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

/// The file as it was opened past the page cache, or through it where that was refused, and what to say then.
fn or_buffered(checkpoint: &Checkpoint, file: usize, direct: io::Result<Reader>) -> Result<(Reader, Option<String>)> {
    let refused = match direct {
        Ok(reader) => return Ok((reader, None)),
        Err(refused) => refused,
    };
    let path = checkpoint.files()[file].0.display();
    let reader = checkpoint.reader(file, false);
    let reader = reader.map_err(|e| Error::Model(format!("{path}: cannot be read: {e}")))?;
    let note = format!(
        "{path}: cannot be read past the page cache ({refused}); what is read passes through it, so the system holds some of \
         it a second time, beyond any budget, and reading costs more time"
    );
    Ok((reader, Some(note)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Part;
    use std::path::Path;

    /// Every expert in pieces of `step` bytes, held against what the map says.
    fn read_all(checkpoint: &Checkpoint, tier: &FileTier, step: usize) {
        let config = &checkpoint.config;
        let mut room = vec![0u8; tier.images.slot_bytes() + PAGE];
        let start = room.as_ptr().align_offset(PAGE);
        for layer in 0..config.layers.len() as u16 {
            for index in 0..config.experts as u16 {
                let id = ExpertId { layer, index };
                let slot = &mut room[start..start + tier.images.image(id).bytes];
                slot.fill(0xee);
                for (i, piece) in slot.chunks_mut(step).enumerate() {
                    assert_eq!(tier.read(id, i * step, piece).unwrap(), piece.len());
                }
                let expert = tier.images.view(id, slot);
                for (rows, part) in [(expert.gate, Part::Gate(layer, index)), (expert.up, Part::Up(layer, index))] {
                    let stored = checkpoint.stored(part);
                    let mut found = vec![0f32; stored.width];
                    for (row, expected) in stored.decode().chunks_exact(stored.width).enumerate() {
                        rows.decode_row(row, &mut found);
                        assert_eq!(found, expected, "{part:?}, row {row}");
                    }
                }
            }
        }
    }

    #[test]
    fn past_the_page_cache_or_through_it() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/small-f32.gguf");
        let checkpoint = Checkpoint::open(&path).unwrap();
        let images = Arc::new(Images::of(&checkpoint, false));
        let mut room = vec![0u8; 2 * PAGE];
        let start = room.as_ptr().align_offset(PAGE);
        let (tier, notes) = FileTier::open(&checkpoint, images.clone(), &mut room[start..start + PAGE]).unwrap();
        if !notes.is_empty() {
            println!("NOT RUN: unbuffered reads: {notes:?}");
        }
        read_all(&checkpoint, &tier, PAGE);
        read_all(&checkpoint, &tier, 3 * PAGE);

        let refused = Err(io::Error::from(io::ErrorKind::InvalidInput));
        let (reader, note) = or_buffered(&checkpoint, 0, refused).unwrap();
        let note = note.expect("a fallback is said");
        assert!(note.contains("small-f32.gguf") && note.contains("beyond any budget"), "{note}");
        read_all(&checkpoint, &FileTier { images, readers: vec![reader] }, PAGE);
    }
}
