//! How an expert lies in a slot, and where in files those bytes are.
//!
//! From a packed file an expert is one run. In other files its matrices lie apart and begin anywhere: the pages around
//! them are read, one range after the other into the slot, and the image remembers where each matrix begins.

use super::{Down, Expert, ExpertId};
use crate::checkpoint::{ALIGNED, Checkpoint, DownOrder, Kind, Part};
use std::ops::Range;
use std::path::PathBuf;

/// What unbuffered reads are aligned to, in files and in memory.
pub const PAGE: usize = ALIGNED;

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
    /// The bytes of gate, up and down among those of a slot.
    pub fn matrices<'a>(&self, slot: &'a [u8]) -> [&'a [u8]; 3] {
        self.parts.each_ref().map(|(kind, at)| &slot[*at..at + kind.bytes()])
    }

    /// Views of the three matrices in the bytes of a slot.
    fn view<'a>(&self, order: DownOrder, slot: &'a [u8]) -> Expert<'a> {
        let [gate, up, down] = self.parts.each_ref().map(|(kind, _)| kind);
        let bytes = self.matrices(slot);
        Expert { gate: gate.view(bytes[0]), up: up.view(bytes[1]), down: Down::of(order, down, bytes[2]) }
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
    files: Vec<PathBuf>,
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
                Image::of(Part::expert(l, e).map(part))
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
        let files = checkpoint.files().iter().map(|(path, _)| path.clone()).collect();
        Images { images, per_layer: config.experts, order: checkpoint.down, slot_bytes, files }
    }

    /// Experts of three matrices of `bytes` each, one after the other in a file, for tests of what is above.
    #[cfg(test)]
    pub fn plain(layers: usize, per_layer: usize, bytes: usize) -> Images {
        let kind =
            Kind { format: kernels::Format::F32, form: crate::checkpoint::Form::FILE, rows: bytes / 128, width: 32 };
        let image = |i: usize| {
            let at = |part: usize| ((3 * i + part) * bytes) as u64;
            Image::of([0, 1, 2].map(|part| (kind, 0, at(part)..at(part + 1))))
        };
        let images: Vec<Image> = (0..layers * per_layer).map(image).collect();
        let slot_bytes = images.iter().map(|image| image.bytes).max().unwrap_or(PAGE);
        Images { images, per_layer, order: DownOrder::ByNeuron, slot_bytes, files: vec![PathBuf::from("plain")] }
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

    /// Views of an expert in the bytes of its slot.
    pub fn view<'a>(&self, id: ExpertId, slot: &'a [u8]) -> Expert<'a> {
        self.image(id).view(self.order, slot)
    }

    /// Where an expert lies, for sentences.
    pub fn place(&self, id: ExpertId) -> String {
        let ExpertId { layer, index } = id;
        let extents = self.image(id).extents.iter();
        let place = |e: &Extent| {
            let (start, end) = (e.offset, e.offset + e.needed as u64);
            format!("bytes {start}..{end} of {}", self.files[e.file].display())
        };
        let places: Vec<String> = extents.map(place).collect();
        format!("expert {index} of layer {layer} ({})", places.join(", "))
    }
}

/// Bytes one slot takes for this model.
pub fn slot_bytes(checkpoint: &Checkpoint, verify: bool) -> usize {
    Images::of(checkpoint, verify).slot_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Form;
    use kernels::Format;

    /// Rows of 32 f32: 128 bytes each.
    fn kind(bytes: usize) -> Kind {
        Kind { format: Format::F32, form: Form::FILE, rows: bytes / 128, width: 32 }
    }

    fn extent(file: usize, offset: u64, bytes: usize, needed: usize) -> Extent {
        Extent { file, offset, bytes, needed }
    }

    #[test]
    fn a_run_is_one_extent() {
        let part = |at: u64| (kind(4096), 0, at..at + 4096);
        let image = Image::of([part(8192), part(12288), part(16384)]);
        assert_eq!(image.extents, [extent(0, 8192, 12288, 12288)]);
        assert_eq!(image.parts.map(|(_, at)| at), [0, 4096, 8192]);
        assert_eq!(image.bytes, 12288);
    }

    #[test]
    fn matrices_apart_are_read_with_the_pages_around_them() {
        // Gate of file 1, up before down in file 0, these two in pages that touch.
        let image = Image::of([(kind(256), 1, 4000..4256), (kind(8192), 0, 100..8292), (kind(128), 0, 12288..12416)]);
        assert_eq!(image.extents, [extent(0, 0, 16384, 12416), extent(1, 0, 8192, 4256)]);
        assert_eq!(image.parts.map(|(_, at)| at), [16384 + 4000, 100, 12288]);
        assert_eq!(image.bytes, 24576);
        // A page between them is not read.
        let image = Image::of([(kind(128), 0, 0..128), (kind(128), 0, 9000..9128), (kind(128), 0, 128..256)]);
        assert_eq!(image.extents, [extent(0, 0, 4096, 256), extent(0, 8192, 4096, 936)]);
        assert_eq!(image.parts.map(|(_, at)| at), [0, 4096 + 808, 128]);
    }
}
