//! From what the command line calls a model to an engine that is ready, with everything said on the way.

use super::args::{CoreArgs, DraftArgs, LoadArgs, ModelArgs};
use super::bundled;
use super::ground::ground;
use super::interrupt::Interrupts;
use super::profile::{self, Recording};
use super::progress::{Downloading, Loading, Packing};
use super::terminal::{say, say_note};
use crate::checkpoint::hub::{self, HubOptions, ModelName};
use crate::checkpoint::pack::{self, PackOptions};
use crate::checkpoint::{Checkpoint, Spread};
use crate::engine::{Drafting, Engine, Options};
use crate::error::{Error, Result};
use crate::pool::Pool;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Opened {
    pub engine: Engine,
    /// What reports call the model.
    pub name: String,
    /// Learns the model's habits from what is run.
    pub recording: Recording,
}

/// Where a model lies on this machine, and what to call it.
pub struct Found {
    pub path: PathBuf,
    name: String,
}

/// Options as the flags that all commands share ask for; context and rewind are the command's.
pub fn options(load: &LoadArgs, cores: &CoreArgs) -> Options {
    let base = Options::default();
    let chunk = [cores.ubatch_size, cores.batch_size].into_iter().flatten().min();
    Options {
        threads: cores.threads,
        threads_batch: cores.threads_batch.or(cores.threads),
        chunk: chunk.unwrap_or(base.chunk),
        quant: load.quant.map(Into::into),
        keys: cores.cache_type_k.into(),
        values: cores.cache_type_v.into(),
        check: load.check,
        skip: !cores.dense,
        ram: load.memory.ram,
        policy: load.memory.policy,
        loaders: load.memory.loaders,
        ahead: load.memory.read_ahead,
        verify: load.memory.verify,
        lock: load.memory.mlock,
        adjust: !load.strict,
        trace: load.trace.clone(),
        timeline: load.timeline.clone(),
        ..base
    }
}

/// Tokens guessed for one step where a model guesses and nothing is said.
const DRAFT_MAX: usize = 16;

/// Sets up guessing: opens the smaller model, if one is named, as `options` say.
pub fn draft(
    args: &DraftArgs,
    model: &ModelArgs,
    load: &LoadArgs,
    options: &mut Options,
    interrupts: &Interrupts,
) -> Result<()> {
    let max = args.draft_max.unwrap_or(if args.model_draft.is_some() { DRAFT_MAX } else { 0 });
    options.drafting = Drafting { max, min: args.draft_min, p_min: args.draft_p_min, always: false };
    let Some(name) = &args.model_draft else { return Ok(()) };
    if max == 0 {
        return Err(Error::Usage("--model-draft guesses nothing with --draft-max 0: leave one of them out".into()));
    }
    let model = ModelArgs { model: Some(name.clone()), hf_repo: None, revision: None, ..model.clone() };
    // An accelerator is the large model's: two accounts of one memory would not know of each other.
    let own = Options {
        drafting: Drafting { max: 0, ..options.drafting },
        logits: 1,
        trace: None,
        wanted: None,
        ..options.clone()
    };
    let found = find(&model, load.strict)?;
    let checkpoint = match load.no_pack {
        true => Checkpoint::open(&found.path)?,
        false => packed(&found.path, load, &own, interrupts)?,
    };
    let mut loading = Loading::new();
    let engine = Engine::with(checkpoint, &own, &mut |done, total| loading.show(done, total))?;
    loading.finish();
    for note in engine.notes() {
        say_note(&format!("draft model: {note}"));
    }
    options.draft = Some(engine);
    Ok(())
}

/// Cores this process may use.
pub fn cores() -> usize {
    Pool::cores()
}

/// Finds, downloads and packs if need be, and opens. Notes go to standard error.
///
/// Errors: with `--strict` also the first fallback (usage, or download where the hub did not answer).
pub fn open(model: &ModelArgs, load: &LoadArgs, options: &Options, interrupts: &Interrupts) -> Result<Opened> {
    let found = find(model, load.strict)?;
    let checkpoint = match load.no_pack {
        true => Checkpoint::open(&found.path)?,
        false => packed(&found.path, load, options, interrupts)?,
    };
    let habits = profile::place(load.profile.as_deref(), &checkpoint, &found.path, options.quant);
    let (mut options, mut notes) = (options.clone(), vec![]);
    if let Some(mut wanted) = options.wanted.take() {
        wanted.ground = ground(&checkpoint, &options, &wanted, habits.as_deref(), &mut notes)?.map(Arc::new);
        options.wanted = Some(wanted);
    }
    let mut loading = Loading::new();
    let engine = Engine::with(checkpoint, &options, &mut |done, total| loading.show(done, total))?;
    loading.finish();
    notes.extend_from_slice(engine.notes());
    // What the config assumes is how such a file is meant; all else was asked for in vain.
    let assumed = &engine.config().notes;
    if load.strict
        && let Some(downgrade) = notes.iter().find(|note| !assumed.contains(note))
    {
        return Err(Error::Usage(format!("--strict: {downgrade}")));
    }
    for note in &notes {
        say_note(note);
    }
    if load.verbose {
        let (decode, prompt) = engine.threads();
        say(&format!("{} kernels, {decode} threads for answers, {prompt} for prompts", engine.isa()));
        say(&engine.ledger().to_string());
    }
    if let Some(away) = &engine.ledger().away {
        say(&away.what);
    }
    if let Some(line) = engine.ledger().in_short() {
        say(&line);
    }
    let recording = Recording::new(&engine, habits);
    Ok(Opened { engine, name: found.name, recording })
}

/// Writes out what the engine still holds of a trace and a timeline. To be called when a command has done its work.
pub fn finish(engine: &Engine) -> Result<()> {
    for note in [engine.finish_trace()?, engine.finish_timeline()?].into_iter().flatten() {
        say_note(&note);
    }
    Ok(())
}

/// The model's packed file where that is faster, made now if it is not there.
fn packed(path: &Path, load: &LoadArgs, options: &Options, interrupts: &Interrupts) -> Result<Checkpoint> {
    let stopping = interrupts.answer();
    let mut packing = Packing::new(stopping.flag());
    let folder = pack::cache::folder();
    let checkpoint = with_threads(options.threads_batch.or(options.threads), |spread| {
        pack::for_model(path, options.quant, folder.as_deref(), &PackOptions::default(), spread, &mut packing)
    })?;
    if let Some(note) = packing.notes().first().filter(|_| load.strict) {
        return Err(Error::Usage(format!("--strict: {note}")));
    }
    Ok(checkpoint)
}

/// Lends compute threads to work done before an engine has its own; they start when they are first needed.
pub fn with_threads<T>(threads: Option<usize>, work: impl FnOnce(&Spread<'_>) -> T) -> T {
    let pool = OnceCell::new();
    work(&|n, job| pool.get_or_init(|| Pool::new(threads.unwrap_or_else(cores))).run(n, job))
}

/// What the command line calls the model; `None` for the one inside this program.
pub fn name(model: &ModelArgs) -> Result<Option<ModelName>> {
    match (&model.model, &model.hf_repo) {
        (_, Some(name)) => ModelName::hub(name).map(Some),
        (Some(name), None) => ModelName::parse(name).map(Some),
        (None, None) => Ok(None),
    }
}

/// Finds the model, downloading it if need be.
pub fn find(model: &ModelArgs, strict: bool) -> Result<Found> {
    let Some(name) = name(model)? else {
        return Ok(Found { path: bundled::folder()?, name: bundled::NAME.to_string() });
    };
    let shown = shown(&name);
    let mut downloading = Downloading::new();
    let resolved = hub::resolve(&name, &hub_options(model), &mut downloading)?;
    drop(downloading);
    if strict && resolved.stale {
        return Err(Error::Download(format!("--strict: {}", resolved.notes.concat())));
    }
    for note in &resolved.notes {
        say_note(note);
    }
    Ok(Found { path: resolved.path, name: shown })
}

pub fn hub_options(model: &ModelArgs) -> HubOptions {
    let base = HubOptions::from_env();
    HubOptions {
        revision: model.revision.clone().unwrap_or(base.revision),
        offline: model.offline || base.offline,
        ..base
    }
}

/// `owner/repo:Q4_0` as it was asked for; of a path its last part, which says most.
pub fn shown(name: &ModelName) -> String {
    match name {
        ModelName::Local(path) => last_part(path),
        hub @ ModelName::Hub { .. } => hub.to_string(),
    }
}

fn last_part(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
