//! `cache`: lists, removes and verifies the packed files in the user's cache.

use super::args::{CacheAction, CacheArgs};
use super::interrupt::Interrupts;
use super::progress::Loading;
use super::terminal::{answer, bytes, say};
use super::{Done, open};
use crate::checkpoint::pack::cache::{self, Kept, Origin, State};
use crate::checkpoint::pack::verify;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

pub fn run(args: &CacheArgs) -> Done {
    Interrupts::watch()?;
    match &args.action {
        CacheAction::Ls => list(),
        CacheAction::Rm { names } => remove(names),
        CacheAction::Verify { names } => verify_all(names),
    }
}

fn kept() -> Result<Vec<Kept>> {
    cache::folder().map_or(Ok(vec![]), |folder| cache::list(&folder))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A line for each file: size, name, what it was made from and what became of that.
fn list() -> Done {
    let kept = kept()?;
    if let Some(folder) = cache::folder() {
        say(&format!("{}, {} in all", folder.display(), bytes(kept.iter().map(|k| k.bytes).sum())));
    }
    let width = kept.iter().map(|k| name(&k.path).len()).max().unwrap_or(0);
    let line = |k: &Kept| format!("{:>9}  {:<width$}  {}\n", bytes(k.bytes), name(&k.path), state(k));
    answer(&kept.iter().map(line).collect::<String>())
}

fn state(kept: &Kept) -> String {
    match &kept.state {
        State::Partial => "not finished".into(),
        State::Unusable(why) => format!("unusable: {why}"),
        State::Whole(packed, origin) => {
            let from =
                packed.source.path.as_ref().map_or(packed.source.name.clone(), |path| path.display().to_string());
            match origin {
                Origin::Unchanged => format!("from {from}"),
                Origin::Changed => format!("stale: {from} has changed since"),
                Origin::Gone => format!("stale: {from} is gone"),
            }
        }
    }
}

fn remove(names: &[String]) -> Done {
    let kept = kept()?;
    let mut chosen: Vec<&Kept> = vec![];
    for wanted in names {
        match wanted.as_str() {
            "all" => chosen.extend(&kept),
            "stale" => chosen.extend(kept.iter().filter(|k| k.is_stale())),
            wanted => chosen.push(kept.iter().find(|k| name(&k.path) == wanted).ok_or_else(|| unknown(wanted))?),
        }
    }
    let mut freed = 0;
    chosen.sort_by(|a, b| a.path.cmp(&b.path));
    chosen.dedup_by(|a, b| a.path == b.path);
    for kept in chosen {
        match kept.remove()? {
            true => freed += kept.bytes,
            false => say(&format!("{} is being written by another process and stays", name(&kept.path))),
        }
    }
    say(&format!("{} freed", bytes(freed)));
    Ok(())
}

fn unknown(name: &str) -> Error {
    Error::Usage(format!("{name} is no file of the cache; `thermocline cache ls` lists them"))
}

fn verify_all(names: &[String]) -> Done {
    let kept = kept()?;
    let find = |wanted: &String| {
        let cached = kept.iter().find(|k| name(&k.path) == *wanted).map(|k| k.path.clone());
        cached.or_else(|| Some(PathBuf::from(wanted)).filter(|path| path.is_file())).ok_or_else(|| unknown(wanted))
    };
    let paths = match names {
        [] => kept.iter().filter(|k| !matches!(k.state, State::Partial)).map(|k| k.path.clone()).collect(),
        names => names.iter().map(find).collect::<Result<Vec<_>>>()?,
    };
    let mut sound = true;
    for path in &paths {
        let mut checking = Loading::of("checking");
        let done =
            open::with_threads(None, |spread| verify(path, spread, &mut |done, total| checking.show(done, total)));
        checking.finish();
        match done {
            Ok(()) => answer(&format!("{}: sound\n", path.display()))?,
            Err(e) => {
                answer(&format!("{e}\n"))?;
                sound = false;
            }
        }
    }
    match sound {
        true => Ok(()),
        false => Err(Error::Model("some packed files are damaged; `thermocline cache rm` removes them".into()).into()),
    }
}
