//! Which bytes of which file each part of a model is: built once from headers, complete and checked.

use super::{DownOrder, Form, Part};
use crate::config::Config;
use kernels::Format;

/// Where one part lies. `offset + bytes` is inside its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub file: u32,
    pub offset: u64,
    pub bytes: u64,
    pub format: Format,
    pub form: Form,
}

/// An entry for every part of a config.
#[derive(Clone, Debug)]
pub(super) struct Catalogue {
    entries: Vec<Entry>,
    /// A head that is stored although the config ties it to the embedding.
    pub spare_head: Option<Entry>,
}

impl Catalogue {
    /// Asks `find` for every part. A tied head is the embedding. Memory grows with what is found, so that a config cannot
    /// ask for more than its files back.
    pub fn build(config: &Config, mut find: impl FnMut(Part) -> Result<Entry, String>) -> Result<Catalogue, String> {
        let mut entries: Vec<Entry> = vec![];
        for (i, part) in config.parts().enumerate() {
            debug_assert_eq!(config.part_index(part), Some(i), "parts are indexed in their order");
            let tied = part == Part::Head && config.tied;
            entries.push(if tied { entries[0] } else { find(part)? });
        }
        Ok(Catalogue { entries, spare_head: None })
    }

    /// Panics for a part the config does not have: a caller's mistake, not a file's.
    pub fn entry(&self, config: &Config, part: Part) -> Entry {
        let index = config.part_index(part);
        self.entries[index.unwrap_or_else(|| panic!("{part:?} is not a part of this model"))]
    }
}

/// Bytes of one part in `format`, or why there is no such thing.
pub(super) fn part_bytes(config: &Config, part: Part, down: DownOrder, format: Format) -> Result<u64, String> {
    let (rows, width) = config.shape(part, down);
    let row = format.row_bytes(width).ok_or_else(|| {
        format!(
            "rows of {width} weights are not whole blocks of {} ({} weights each)",
            format.name(),
            format.block_weights()
        )
    })?;
    Ok(rows as u64 * row as u64)
}

/// Norms and routers are read as f32 and never rounded, so a block format for one is a mistake in the file.
pub(super) fn check_format(part: Part, format: Format) -> Result<(), String> {
    let float = matches!(format, Format::F32 | Format::F16 | Format::BF16);
    if part.stays_f32() && !float {
        return Err(format!("expected F32, F16 or BF16 for a norm or router, found {}", format.name()));
    }
    Ok(())
}

/// One tensor's range of bytes, for the check that none share a byte.
pub(super) struct Extent<'a> {
    pub name: &'a str,
    pub start: u64,
    pub end: u64,
}

/// Refuses two tensors that share bytes. Sorts `extents` by start.
pub(super) fn refuse_overlap(extents: &mut [Extent<'_>]) -> Result<(), String> {
    extents.sort_by_key(|e| (e.start, e.end));
    for pair in extents.windows(2) {
        if pair[1].start < pair[0].end {
            let (a, b) = (&pair[0], &pair[1]);
            return Err(format!(
                "tensors {} (bytes {}..{}) and {} (bytes {}..{}) overlap",
                a.name, a.start, a.end, b.name, b.start, b.end
            ));
        }
    }
    Ok(())
}
