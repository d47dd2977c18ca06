//! Packing by itself, on first use: when it is worth it, where to, and what to say when it cannot be.

use super::cache::{Key, key};
use super::write::{Stop, make, plan};
use super::{ARCHITECTURE, Event, PackOptions, Progress};
use crate::checkpoint::convert::SMALL_MODEL_BYTES;
use crate::checkpoint::{Checkpoint, Quant, Spread};
use crate::error::Result;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The packed file of the model in `path` (a folder or a file), made now if need be in `folder` (usually
/// [`cache::folder`](super::cache::folder)). `quant` as for loading.
///
/// `None`: run the model from its own file, since it is small, packed already, or has nothing to gain; or since there is
/// no room for the packed file, which an [`Event::Note`] says, with the cost. Errors are those of the model.
pub fn for_model(
    path: &Path,
    quant: Option<Quant>,
    folder: Option<&Path>,
    options: &PackOptions,
    spread: &Spread<'_>,
    progress: &mut dyn Progress,
) -> Result<Option<PathBuf>> {
    if is_small(path) || is_packed(path) {
        return Ok(None);
    }
    let expected = quant.unwrap_or(if path.join("config.json").is_file() { Quant::Q4_0 } else { Quant::None });
    if let Some(folder) = folder {
        let Key { file, .. } = key(path, expected)?;
        let there = folder.join(file);
        // Its header is checked when it is opened; whether it can be is asked here, so that a damaged one is made again.
        if there.is_file() && Checkpoint::open(&there).is_ok_and(|c| c.packed().is_some()) {
            return Ok(Some(there));
        }
    }
    let source = Checkpoint::open(path)?;
    let quant = quant.unwrap_or_else(|| Quant::default_for(&source));
    let gain = gain(&source, quant)?;
    if source.weight_bytes() < SMALL_MODEL_BYTES || gain == Gain::Nothing {
        return Ok(None);
    }
    let cost = cost(&gain);
    let Some(folder) = folder else {
        progress.event(&Event::Note(&format!(
            "there is no folder to keep a packed file in (THERMOCLINE_CACHE names one): {cost}"
        )));
        return Ok(None);
    };
    if let Err(e) = std::fs::create_dir_all(folder) {
        progress.event(&Event::Note(&format!(
            "{}: a packed file cannot be kept there: {e} (THERMOCLINE_CACHE names another folder): {cost}",
            folder.display()
        )));
        return Ok(None);
    }
    let Key { file, key } = key(path, quant)?;
    let target = folder.join(file);
    let options = PackOptions {
        quant: Some(quant),
        key: Some(key),
        path: Some(std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())),
        ..options.clone()
    };
    match make(&source, &target, &options, spread, progress) {
        Ok(_) => Ok(Some(target)),
        Err(Stop::Disk(sentence)) => {
            progress.event(&Event::Note(&format!("{sentence}: {cost}")));
            Ok(None)
        }
        Err(Stop::Failed(e)) => Err(e),
    }
}

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
    let (mut relaid, mut from, mut to) = (false, 0, 0);
    for (_, piece) in plan.pieces().filter(|(_, piece)| !piece.part.stays_f32()) {
        let stored = source.stored(piece.part);
        if piece.format != stored.format {
            from += stored.bytes.len() as u64;
            to += piece.bytes;
        }
        // Turning floats round alone is not worth a second file.
        relaid |= piece.form != stored.form && !piece.format.is_float();
    }
    Ok(match (from, relaid) {
        (0, false) => Gain::Nothing,
        (0, true) => Gain::Layout,
        _ => Gain::Rounding { from, to },
    })
}

fn cost(gain: &Gain) -> String {
    match gain {
        Gain::Nothing => String::new(),
        Gain::Layout => "the model runs from its own file, with the same answers but slower".into(),
        Gain::Rounding { from, to } => format!(
            "{:.2} GB are rounded at each start instead, to {:.2} GB in memory",
            *from as f64 / 1e9,
            *to as f64 / 1e9
        ),
    }
}

/// All that could hold weights is small. What cannot be read is left to those who open it.
fn is_small(path: &Path) -> bool {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    if path.is_file() {
        return size(path) < SMALL_MODEL_BYTES;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return true };
    let weights = |path: &PathBuf| path.extension().is_some_and(|e| e == "safetensors" || e == "gguf");
    let total: u64 = entries.flatten().map(|entry| entry.path()).filter(weights).map(|path| size(&path)).sum();
    total < SMALL_MODEL_BYTES
}

/// A packed file says so in its first key; whether it is a whole one is for its reader to say.
fn is_packed(path: &Path) -> bool {
    let mut start = [0u8; 96];
    let read = File::open(path).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    let start = &start[..read];
    let says = |text: &str| start.windows(text.len()).any(|window| window == text.as_bytes());
    start.starts_with(b"GGUF") && says("general.architecture") && says(ARCHITECTURE)
}
