//! How an expert lies in a slot, and where in files those bytes are.
//!
//! From a packed file an expert is one run. In other files its matrices lie apart and begin anywhere: the pages around
//! them are read, one range after the other into the slot, and the image remembers where each matrix begins.

#![expect(dead_code, reason = "slots come next")]

use super::{Down, Expert, ExpertId};
use crate::checkpoint::{Checkpoint, DownOrder, Kind, Part};
use std::ops::Range;

/// What unbuffered reads are aligned to, in files and in memory.
pub const PAGE: usize = 4096;

/// Some pages of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Index into the checkpoint's files.
    pub file: usize,
    /// Whole pages: where they begin in the file, and how many bytes they are. The file may end within the last one.
    pub offset: u64,
    pub bytes: usize,
    /// Bytes from the start of the extent to the end of the last that matters.
    pub needed: usize,
}

/// One expert as it lies in a slot: its extents one after the other.
#[derive(Clone, Debug)]
pub struct Image {
    /// Gate, up and down: what they are, and where in the slot they begin.
    parts: [(Kind, usize); 3],
    pub extents: Vec<Extent>,
    /// Whole pages.
    pub bytes: usize,
    /// Of all bytes, where the file is packed: hexadecimal.
    pub sha256: Option<String>,
}

impl Image {
    /// Views of the three matrices in the bytes of a slot.
    pub fn view<'a>(&self, order: DownOrder, slot: &'a [u8]) -> Expert<'a> {
        let [gate, up, down] = &self.parts;
        let bytes = |(kind, at): &(Kind, usize)| &slot[*at..at + kind.bytes()];
        Expert { gate: gate.0.view(bytes(gate)), up: up.0.view(bytes(up)), down: Down::of(order, &down.0, bytes(down)) }
    }

    fn of(parts: [(Kind, usize, Range<u64>); 3]) -> Image {
        let page = PAGE as u64;
        let mut ranges = parts.clone().map(|(_, file, bytes)| (file, bytes));
        ranges.sort_by_key(|(file, bytes)| (*file, bytes.start));
        let mut extents: Vec<Extent> = vec![];
        for (file, bytes) in ranges {
            let start = bytes.start / page * page;
            let next = extents.last_mut().filter(|e| e.file == file && start <= e.offset + e.bytes as u64);
            let offset = next.as_ref().map_or(start, |e| e.offset);
            let needed = (bytes.end - offset) as usize;
            let extent = Extent { file, offset, bytes: needed.next_multiple_of(PAGE), needed };
            match next {
                Some(before) => *before = extent,
                None => extents.push(extent),
            }
        }
        let place = |(kind, file, bytes): (Kind, usize, Range<u64>)| {
            let mut at = 0;
            for e in &extents {
                if e.file == file && e.offset <= bytes.start && bytes.end <= e.offset + e.needed as u64 {
                    return (kind, at + (bytes.start - e.offset) as usize);
                }
                at += e.bytes;
            }
            unreachable!("every part lies in an extent")
        };
        let parts = parts.map(place);
        let bytes = extents.iter().map(|e| e.bytes).sum();
        Image { parts, extents, bytes, sha256: None }
    }
}

/// The images of all experts of a model.
pub struct Images {
    images: Vec<Image>,
    per_layer: usize,
    order: DownOrder,
    slot_bytes: usize,
}

impl Images {
    /// From the headers; no weight is read. `verify`: whole runs, with their hashes, where the file is packed.
    pub fn of(checkpoint: &Checkpoint, verify: bool) -> Images {
        let config = &checkpoint.config;
        let count = config.layers.len() * config.experts;
        let id = |i: usize| ((i / config.experts) as u16, (i % config.experts) as u16);
        let mut images: Vec<Image> = (0..count)
            .map(|i| {
                let (l, e) = id(i);
                let part = |part: Part| {
                    let (file, bytes) = checkpoint.place(part);
                    (checkpoint.kind(part), file, bytes)
                };
                Image::of([Part::Gate(l, e), Part::Up(l, e), Part::Down(l, e)].map(part))
            })
            .collect();
        if let Some(packed) = checkpoint.packed().filter(|_| verify) {
            // Experts are the last runs of a packed file, in order.
            let runs = &packed.runs[packed.runs.len() - count..];
            for (image, run) in images.iter_mut().zip(runs) {
                let bytes = (run.range.end - run.range.start) as usize;
                image.extents = vec![Extent { file: 0, offset: run.range.start, bytes, needed: bytes }];
                (image.bytes, image.sha256) = (bytes, Some(run.sha256.clone()));
            }
        }
        let slot_bytes = images.iter().map(|image| image.bytes).max().unwrap_or(PAGE);
        Images { images, per_layer: config.experts, order: checkpoint.down, slot_bytes }
    }

    /// Bytes that hold any of them: whole pages.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Where an expert stands among all.
    pub fn index(&self, id: ExpertId) -> usize {
        id.layer as usize * self.per_layer + id.index as usize
    }

    pub fn id(&self, index: usize) -> ExpertId {
        ExpertId { layer: (index / self.per_layer) as u16, index: (index % self.per_layer) as u16 }
    }

    pub fn image(&self, id: ExpertId) -> &Image {
        &self.images[self.index(id)]
    }

    pub fn order(&self) -> DownOrder {
        self.order
    }
}

/// Bytes one slot takes for this model.
pub fn slot_bytes(checkpoint: &Checkpoint, verify: bool) -> usize {
    Images::of(checkpoint, verify).slot_bytes()
}
