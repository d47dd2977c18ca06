//! `profile`: learns a model's habits from texts; and what every run learns by the way.

use super::args::ProfileArgs;
use super::interrupt::Interrupts;
use super::open::{self, Opened};
use super::terminal::{self, Passing, bytes, grouped, say, say_note};
use super::{Done, run};
use crate::checkpoint::pack::cache;
use crate::checkpoint::{Checkpoint, Part, Quant};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::planner::profile::Profile;
use std::path::{Path, PathBuf};

/// Where the habits of a model are kept: beside its packed file, or where that would be. `asked` is what `--profile` says.
pub fn place(asked: Option<&Path>, checkpoint: &Checkpoint, path: &Path, quant: Option<Quant>) -> Option<PathBuf> {
    match asked {
        Some(asked) if asked.as_os_str() == "none" => return None,
        Some(asked) => return Some(asked.to_path_buf()),
        None => {}
    }
    if checkpoint.packed().is_some() {
        return Some(checkpoint.file_of(Part::Embedding).with_extension("profile.json"));
    }
    let file = cache::key(path, quant.unwrap_or(Quant::None)).ok()?.file;
    Some(cache::folder()?.join(file).with_extension("profile.json"))
}

/// What a run learns of its model's habits, added to what was known when this is dropped.
pub struct Recording {
    engine: Engine,
    place: Option<PathBuf>,
}

impl Recording {
    pub fn new(engine: &Engine, place: Option<PathBuf>) -> Recording {
        Recording { engine: engine.clone(), place }
    }

    /// Where the habits are kept.
    pub fn place(&self) -> Option<&Path> {
        self.place.as_deref()
    }

    /// Learns nothing from this run: its tokens are no text.
    pub fn stop(&mut self) {
        self.place = None;
    }

    /// Adds up. What is there and damaged is replaced, with a note.
    fn save(&mut self) -> Result<Option<(Profile, PathBuf)>> {
        let Some(place) = self.place.take() else { return Ok(None) };
        let config = self.engine.config();
        let learnt = Profile::of(config, &self.engine.counts());
        if learnt.tokens == 0.0 {
            return Ok(None);
        }
        let known = Profile::read(&place, config).unwrap_or_else(|e| {
            say_note(&format!("{e}; it is begun anew"));
            None
        });
        let mut profile = known.unwrap_or_else(|| Profile::even(config));
        profile.merge(&learnt);
        profile.write(&place)?;
        Ok(Some((profile, place)))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Err(e) = self.save() {
            say_note(&format!(
                "{e}; what this run showed of the model's habits is lost (--profile FILE names another)"
            ));
        }
    }
}

pub fn run(args: &ProfileArgs) -> Done {
    if args.ctx_size < 4 {
        return Err(Error::Usage("a window has at least 4 tokens".into()).into());
    }
    if args.load.profile.as_deref().is_some_and(|path| path.as_os_str() == "none") {
        return Err(Error::Usage("--profile none: then there is nowhere to write what is learnt".into()).into());
    }
    let texts = args.text.iter().map(|file| run::read_text(file)).collect::<Result<Vec<_>>>()?;
    let interrupts = Interrupts::watch()?;
    let mut options = open::options(&args.load, &args.cores);
    options.context = Some(args.ctx_size);
    let Opened { engine, name, mut recording } = open::open(&args.model, &args.load, &options, &interrupts)?;
    if recording.place.is_none() {
        let sentence = "there is no folder to keep a profile in: --profile FILE names a file";
        return Err(Error::Usage(sentence.into()).into());
    }
    let mut session = engine.session();
    for (file, text) in args.text.iter().zip(&texts) {
        let tokens = engine.text().encode(text, args.parse_special)?;
        let mut passing = Passing::show(&format!("{}: {} tokens", file.display(), grouped(tokens.len() as u64)));
        for window in tokens.chunks(args.ctx_size) {
            session.truncate(0);
            session.feed(window, 0..0, &mut |_, _| ())?;
        }
        passing.clear();
    }
    match recording.save()? {
        None => Err(Error::Usage("the texts hold no tokens".into()).into()),
        Some((profile, place)) => {
            let size = std::fs::metadata(&place).map_or(0, |meta| meta.len());
            say(&format!("{} ({})", place.display(), bytes(size)));
            terminal::answer(&summary(&name, &profile))
        }
    }
}

/// Some lines on what is known.
fn summary(name: &str, profile: &Profile) -> String {
    let layers = profile.layers.len();
    let mean = |of: &dyn Fn(usize) -> f64| (0..layers).map(of).sum::<f64>() / layers as f64;
    let hottest = |share: f64| {
        mean(&|layer| {
            let mut all: Vec<f64> = (0..profile.experts).map(|e| profile.frequency(layer, e)).collect();
            all.sort_by(|a, b| b.total_cmp(a));
            let count = (profile.experts as f64 * share).round().max(1.0) as usize;
            all[..count].iter().sum::<f64>() / profile.active as f64
        })
    };
    format!(
        "{name}: {} tokens known\n\
         the hottest quarter of a layer's experts gets {:.1} % of its choices, the hottest half {:.1} %\n\
         {:.1} % of a computed expert's neurons fire\n\
         {:.1} % of choices were made by the token before too ({:.1} % would be chance)\n",
        grouped(profile.tokens as u64),
        100.0 * hottest(0.25),
        100.0 * hottest(0.5),
        100.0 * mean(&|layer| profile.firing(layer)),
        100.0 * mean(&|layer| profile.layers[layer].again),
        100.0 * profile.active as f64 / profile.experts as f64,
    )
}
