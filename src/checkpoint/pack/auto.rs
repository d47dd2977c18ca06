//! Packing by itself, on first use: when it is worth it, where to, and what to say when it cannot be.

use super::cache::{self, Key, key};
use super::write::{Stop, make, plan};
use super::{ARCHITECTURE, Event, PackOptions, Progress};
use crate::checkpoint::{Checkpoint, Quant, Spread};
use crate::config::size;
use crate::error::Result;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Opens the model in `path` (a folder or a file) as its packed file, which is made now if need be in `folder` (usually
/// [`cache::folder`](super::cache::folder)). `quant` as for loading.
///
/// A model that is small, packed already, or has nothing to gain is opened as it lies; so is one there is no room to pack,
/// which an [`Event::Note`] says, with the cost. Errors are those of the model.
pub fn for_model(
    path: &Path,
    quant: Option<Quant>,
    folder: Option<&Path>,
    options: &PackOptions,
    spread: &Spread<'_>,
    progress: &mut dyn Progress,
) -> Result<Checkpoint> {
    if weight_files(path) < options.smallest || is_packed(path) {
        return Checkpoint::open(path);
    }
    if let Some(there) = kept(path, quant, folder, progress)? {
        return Ok(there);
    }
    let source = Checkpoint::open(path)?;
    let quant = quant.unwrap_or_else(|| Quant::default_for(&source));
    let gain = gain(&source, quant)?;
    if source.weight_bytes() < options.smallest || gain == Gain::Nothing {
        return Ok(source);
    }
    let why = match folder.map(|folder| (folder, fs::create_dir_all(folder))) {
        None => "there is no folder to keep a packed file in (THERMOCLINE_CACHE names one)".to_string(),
        Some((folder, Err(e))) => format!("a packed file cannot be kept in {}: {e}", folder.display()),
        Some((folder, Ok(()))) => {
            let Key { file, key } = key(path, quant)?;
            let target = folder.join(file);
            let options = PackOptions {
                quant: Some(quant),
                key: Some(key),
                path: Some(std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())),
                spare: SPARE,
                ..options.clone()
            };
            cache::remove_abandoned(folder, &target);
            match make(&source, &target, &options, spread, progress) {
                Ok(_) => return Checkpoint::open(&target),
                Err(Stop::Disk(sentence)) => sentence,
                Err(Stop::Failed(e)) => return Err(e),
            }
        }
    };
    progress.event(&Event::Note(&format!("{why}; {}", cost(&gain))));
    Ok(source)
}

/// The packed file of the model as it is now, where the cache has it.
fn kept(
    path: &Path,
    quant: Option<Quant>,
    folder: Option<&Path>,
    progress: &mut dyn Progress,
) -> Result<Option<Checkpoint>> {
    let Some(folder) = folder else { return Ok(None) };
    // What a default is for a model that is not small.
    let quant = quant.unwrap_or(if path.join("config.json").is_file() { Quant::Q4_0 } else { Quant::None });
    let there = folder.join(key(path, quant)?.file);
    if !there.is_file() {
        return Ok(None);
    }
    match Checkpoint::open(&there) {
        Ok(found) if found.packed().is_some() => Ok(Some(found)),
        Ok(_) => Ok(None),
        Err(e) => {
            progress.event(&Event::Note(&format!("{e}; it is made again")));
            Ok(None)
        }
    }
}

/// Re-laying less than this part of a model is not worth a second file.
const WORTH: u64 = 4;

/// Bytes of a disk that are left to others when nobody asked for a file.
const SPARE: u64 = 1 << 30;

/// What a packed file would spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gain {
    Nothing,
    /// Only the order of bytes changes.
    Layout,
    /// Weights are rounded at each start, from so many bytes to so many in memory.
    Rounding {
        from: u64,
        to: u64,
    },
}

fn gain(source: &Checkpoint, quant: Quant) -> Result<Gain> {
    let plan = plan(source, quant)?;
    let (mut relaid, mut from, mut to) = (0, 0, 0);
    for (_, piece) in plan.pieces().filter(|(_, piece)| !piece.part.stays_f32()) {
        let stored = source.stored(piece.part);
        if piece.format != stored.format {
            from += stored.bytes.len() as u64;
            to += piece.bytes;
        }
        // Turning floats round alone is not worth a second file.
        if piece.form != stored.form && !piece.format.is_float() {
            relaid += piece.bytes;
        }
    }
    let all: u64 = plan.pieces().map(|(_, piece)| piece.bytes).sum();
    Ok(match from {
        0 if relaid < all / WORTH => Gain::Nothing,
        0 => Gain::Layout,
        _ => Gain::Rounding { from, to },
    })
}

fn cost(gain: &Gain) -> String {
    match gain {
        Gain::Nothing => String::new(),
        Gain::Layout => "the model runs from its own file: the same answers, more slowly".into(),
        Gain::Rounding { from, to } => {
            format!("{} are rounded at each start instead, to {} in memory", size::shown(*from), size::shown(*to))
        }
    }
}

/// Bytes of all files that could hold weights. What cannot be read is left to those who open it.
fn weight_files(path: &Path) -> u64 {
    let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    if path.is_file() {
        return size(path);
    }
    let weights = |path: &PathBuf| path.extension().is_some_and(|e| e == "safetensors" || e == "gguf");
    let paths = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(weights).map(|path| size(&path)).sum()
}

/// A packed file says so in its first key; whether it is a whole one is for its reader to say.
fn is_packed(path: &Path) -> bool {
    let mut start = [0u8; 96];
    let read = File::open(path).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    let start = &start[..read];
    let says = |text: &str| start.windows(text.len()).any(|window| window == text.as_bytes());
    start.starts_with(b"GGUF") && says("general.architecture") && says(ARCHITECTURE)
}
