//! The small model inside this program: an installed binary answers with no network and no files beside it.
//!
//! Models are opened from folders, so the first run unpacks it into the user's cache, under a name that changes with the content.

use crate::error::{Error, Result};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

macro_rules! files {
    ($($name:literal),* $(,)?) => { &[$(($name, include_bytes!(concat!("../../assets/tiny/", $name)) as &[u8])),*] };
}

/// Everything a model folder needs.
const FILES: &[(&str, &[u8])] =
    files!["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];

/// What reports call it.
pub const NAME: &str = "bundled model";

/// A folder that holds exactly [`FILES`]; unpacked if it is not there yet.
pub fn folder() -> Result<PathBuf> {
    let mut last = None;
    for base in super::places::cache_folders() {
        match unpack(&base) {
            Ok(folder) => return Ok(folder),
            // A read-only home is no reason to fail while there is another place.
            Err(e) => last = Some((base, e)),
        }
    }
    Err(match last {
        Some((base, e)) => Error::Runtime(format!("the bundled model cannot be unpacked into {}: {e}", base.display())),
        None => {
            Error::Runtime("there is no folder to unpack the bundled model into: set HOME or XDG_CACHE_HOME".into())
        }
    })
}

fn unpack(base: &Path) -> std::io::Result<PathBuf> {
    let folder = base.join(format!("bundled-{:016x}", fingerprint()));
    if holds_everything(&folder) {
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    for (name, content) in FILES {
        // Written beside and renamed: another process may be reading or unpacking at this moment.
        let part = folder.join(format!("{name}.{}.part", std::process::id()));
        let mut file = fs::File::create(&part)?;
        file.write_all(content)?;
        drop(file);
        // What another has put there meanwhile may be in use already, and stays.
        match holds(&folder, name, content) {
            true => fs::remove_file(&part)?,
            false => fs::rename(&part, folder.join(name))?,
        }
    }
    Ok(folder)
}

/// Compares every byte (milliseconds): what was unpacked once may have been damaged since.
fn holds_everything(folder: &Path) -> bool {
    FILES.iter().all(|(name, content)| holds(folder, name, content))
}

fn holds(folder: &Path, name: &str, content: &[u8]) -> bool {
    fs::read(folder.join(name)).is_ok_and(|found| found == content)
}

/// FNV-1a over names and contents, to tell versions apart; integrity is checked byte by byte.
fn fingerprint() -> u64 {
    let bytes = FILES.iter().flat_map(|(name, content)| name.bytes().chain(content.iter().copied()));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_repaired() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let folder = unpack(base.path()).expect("unpacks");
        assert!(holds_everything(&folder));
        let config = folder.join("config.json");
        fs::write(&config, b"{}").expect("writes");
        assert_eq!(unpack(base.path()).expect("unpacks again"), folder);
        assert!(holds_everything(&folder));
        let names = fs::read_dir(&folder).expect("lists").count();
        assert_eq!(names, FILES.len(), "nothing is left behind");
    }
}
