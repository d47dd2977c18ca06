//! Packed files: a model in the layouts the kernels read fastest, made once and then mapped.
//!
//! The container is GGUF, so that any tool can list one, under an architecture of its own, so that none takes it for
//! weights it knows. Every tensor is one *run* of plain bytes (type I8), aligned to 4,096: one for each matrix outside
//! the experts, in front, and one for each expert (gate, up, down, each on a page of its own, in slots of one size). The
//! keys `thermocline.part.*` list what lies in the runs, in the order of [`Config::parts`](crate::config::Config::parts);
//! `thermocline.run.sha256` has the hash of each run, `thermocline.header.sha256` that of the header. No number differs
//! from the source.

mod auto;
pub mod cache;
mod events;
mod header;
mod partial;
mod plan;
pub(super) mod read;
mod write;

pub use auto::for_model;
pub use events::{Event, Progress, Silent};
pub use write::{Made, PackOptions, pack};

use super::{Checkpoint, Form, Part, Spread};
use crate::config::family::Family;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// `general.architecture` of packed files.
pub const ARCHITECTURE: &str = "thermocline";
/// Grows with every change of a layout or of the order of runs; files of another version are made again.
pub const LAYOUT_VERSION: u32 = 1;
/// A page: where runs begin, and the matrices of an expert.
pub const ALIGNMENT: u64 = 4096;
/// GGUF's number for bytes.
const I8: u32 = 24;

/// What a packed file says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// What weights were rounded to, in the command line's spelling.
    pub quant: String,
    pub source: Source,
    /// Bytes of one expert, the rest of its slot included.
    pub slot_bytes: u64,
    pub runs: Vec<Run>,
}

/// Where a packed file came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// File or folder name.
    pub name: String,
    pub container: String,
    /// All files of weights.
    pub bytes: u64,
    /// SHA-256 over the SHA-256s of the source bytes behind each run, in order; hexadecimal.
    pub sha256: String,
    /// In the user's cache: the key the file is found by, and the path it was made from.
    pub key: Option<String>,
    pub path: Option<PathBuf>,
}

/// One run of bytes with its hash.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub name: String,
    /// In the file.
    pub range: Range<u64>,
    /// Hexadecimal.
    pub sha256: String,
}

/// What a packed file calls one part.
pub(super) fn part_name(family: &Family, part: Part) -> String {
    match part {
        Part::Gate(l, e) => format!("blk.{l}.expert.{e}.gate"),
        Part::Up(l, e) => format!("blk.{l}.expert.{e}.up"),
        Part::Down(l, e) => format!("blk.{l}.expert.{e}.down"),
        _ => (family.gguf_tensor)(part),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads every run of a packed file and holds it against its hash. `progress(done, total)` counts bytes.
///
/// Fails with `Error::Model` when the file is not packed, or names the first run that is damaged.
pub fn verify(path: &Path, spread: &Spread<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    /// Bytes between two steps of progress.
    const STEP: u64 = 64 << 20;
    let checkpoint = Checkpoint::open(path)?;
    let Some(packed) = checkpoint.packed() else {
        return Err(Error::Model(format!("{}: is no packed file, so it holds no hashes", path.display())));
    };
    let total: u64 = packed.runs.iter().map(|run| run.range.end - run.range.start).sum();
    let mut done = 0;
    let mut rest = &packed.runs[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let few = |run: &&Run| {
            let more = bytes < STEP;
            bytes += run.range.end - run.range.start;
            more
        };
        let (now, later) = rest.split_at(rest.iter().take_while(few).count());
        let bad: Mutex<Option<usize>> = Mutex::new(None);
        spread(now.len(), &|i| {
            let run = &now[i];
            let found = hex(&Sha256::digest(checkpoint.file_bytes(0, run.range.clone())));
            if found != run.sha256 {
                let mut bad = bad.lock().expect("nothing panics while holding it");
                *bad = Some(bad.map_or(i, |first| first.min(i)));
            }
            checkpoint.release_file(0, run.range.clone());
        });
        if let Some(i) = bad.into_inner().expect("nothing panics while holding it") {
            let Run { name, range, .. } = &now[i];
            return Err(Error::Model(format!(
                "{}: the run {name} (bytes {}..{}) does not have the hash it was written with: the file is damaged; \
                 remove it and pack the model again",
                path.display(),
                range.start,
                range.end
            )));
        }
        done += now.iter().map(|run| run.range.end - run.range.start).sum::<u64>();
        progress(done, total);
        rest = later;
    }
    Ok(())
}
