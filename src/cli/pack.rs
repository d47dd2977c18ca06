//! `pack`: makes the packed file of a model, which later runs map instead of the model's own.

use super::args::PackArgs;
use super::interrupt::Interrupts;
use super::progress::Packing;
use super::terminal::{answer, bytes, say};
use super::{Done, open};
use crate::checkpoint::pack::{self, Made, PackOptions, cache};
use crate::checkpoint::{Checkpoint, Quant};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Prints the path of the file.
pub fn run(args: &PackArgs) -> Done {
    let interrupts = Interrupts::watch()?;
    let path = open::find(&args.model, false)?.path;
    let source = Checkpoint::open(&path)?;
    let quant = args.quant.map_or_else(|| Quant::default_for(&source), Into::into);
    if source.packed().is_some() && quant == Quant::None {
        return Err(Error::Usage(format!("{} is a packed file already", path.display())).into());
    }
    let base = PackOptions { quant: Some(quant), ..PackOptions::default() };
    let (target, options) = match &args.out {
        Some(out) => (new_file(out)?, base),
        None => {
            let (target, key) = place(&path, quant)?;
            if Checkpoint::open(&target).is_ok_and(|found| found.packed().is_some()) {
                say("packed already");
                return answer(&format!("{}\n", target.display()));
            }
            (target, PackOptions { key: Some(key), path: std::path::absolute(&path).ok(), ..base })
        }
    };
    let stopping = interrupts.answer();
    let mut packing = Packing::new(stopping.flag());
    let Made { bytes: size, seconds } =
        open::with_threads(args.threads, |spread| pack::pack(&source, &target, &options, spread, &mut packing))?;
    drop(packing);
    say(&format!("{} in {seconds:.1} s", bytes(size)));
    answer(&format!("{}\n", target.display()))
}

/// Where runs of this model look for its packed file, and the key it is found by.
fn place(path: &Path, quant: Quant) -> Result<(PathBuf, String)> {
    let folder = cache::folder().ok_or_else(|| {
        Error::Usage("there is no folder to keep packed files in: set HOME or THERMOCLINE_CACHE, or give --out".into())
    })?;
    std::fs::create_dir_all(&folder)
        .map_err(|e| Error::Runtime(format!("{} cannot be made: {e}; --out names another place", folder.display())))?;
    let key = cache::key(path, quant)?;
    Ok((folder.join(key.file), key.key))
}

/// A file that is there may be anything, even the model.
fn new_file(out: &Path) -> Result<PathBuf> {
    if out.exists() {
        return Err(Error::Usage(format!("{} is there already; remove it or choose another name", out.display())));
    }
    Ok(out.to_path_buf())
}
