//! `serve`: answers requests over HTTP until it is told to end.

use super::args::{DraftArgs, LoadArgs, MachineArgs, ModelArgs, PlaceArgs, SamplingArgs, TemplateArgs};
use super::expected::Foresight;
use super::interrupt::Interrupts;
use super::open::{self, Opened};
use super::profile::Recording;
use super::terminal::{say, say_note};
use super::values::{origin, patience, queue, seconds, slots};
use super::{Done, bundled, device, log, run};
use crate::engine::{Engine, Options};
use crate::error::{Error, Result};
use crate::serve::{Loaded, Server, Settings};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Answers written and waiting together, where nothing is said.
const PLACES: usize = 64;
/// The position in an answer that a forecast speaks of.
const EARLY: usize = 256;

/// How a server is started.
#[derive(Args, Debug, Clone)]
pub struct ServeArgs {
    /// Address to listen on; other machines reach it only where it is not the loopback address, and then a key is wise
    #[arg(long, value_name = "HOST", env = "THERMOCLINE_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0: any that is free
    #[arg(long, value_name = "PORT", env = "THERMOCLINE_PORT", default_value = "8080")]
    pub port: u16,
    /// Ask for this key with every request (repeatable)
    #[arg(long, value_name = "KEY", env = "THERMOCLINE_API_KEY", hide_env_values = true)]
    pub api_key: Vec<String>,
    /// The same, from a file with one key on each line
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Let pages of this origin use the server from a browser: https://example.com, or * for all
    #[arg(long, value_name = "ORIGIN", env = "THERMOCLINE_CORS", value_parser = origin)]
    pub cors: Option<String>,
    /// Answer to this model name too (repeatable)
    #[arg(short, long, value_name = "NAME", env = "THERMOCLINE_ALIAS", value_parser = NonEmptyStringValueParser::new())]
    pub alias: Vec<String>,
    /// [-np] Answers written at a time, each with a context of its own
    #[arg(long, value_name = "N", env = "THERMOCLINE_PARALLEL", value_parser = slots, default_value = "4")]
    pub parallel: usize,
    /// Answers that may wait beyond those; more are turned away [default: as many as make 64 in all]
    #[arg(long, value_name = "N", env = "THERMOCLINE_QUEUE", value_parser = queue)]
    pub queue: Option<usize>,
    /// Let clients save conversations in this folder, and go on with them later (/slots)
    #[arg(long, value_name = "FOLDER", env = "THERMOCLINE_SLOT_SAVE_PATH")]
    pub slot_save_path: Option<PathBuf>,
    /// Seconds one request may take
    #[arg(long, value_name = "S", env = "THERMOCLINE_TIMEOUT", value_parser = seconds, default_value = "600")]
    pub timeout: usize,
    /// Seconds answers in progress are given when the server is told to end
    #[arg(long, value_name = "S", env = "THERMOCLINE_DRAIN", value_parser = patience, default_value = "30")]
    pub drain: usize,
    #[command(flatten)]
    pub log: log::LogArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub template: TemplateArgs,
    #[command(flatten)]
    pub draft: DraftArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
}

pub fn run(args: ServeArgs) -> Done {
    log::start(&args.log, args.load.verbose)?;
    let interrupts = Interrupts::watch()?;
    let keys = keys(&args.api_key, args.api_key_file.as_deref())?;
    let server = Server::bind(Settings {
        host: args.host.clone(),
        port: args.port,
        cors: args.cors.clone(),
        aliases: args.alias.clone(),
        slots: args.parallel,
        queue: args.queue.unwrap_or(PLACES.saturating_sub(args.parallel)),
        slot_folder: slot_folder(args.slot_save_path.as_deref())?,
        timeout: Duration::from_secs(args.timeout as u64),
        drain: Duration::from_secs(args.drain as u64),
        sampling: run::sampling(&args.sampling, false),
        seed: run::seed(&args.sampling),
        log_prompts: args.log.log_prompts,
        keys: keys.clone(),
    })?;
    let address = server.address();
    if keys.is_empty() && !address.ip().is_loopback() {
        say_note(&format!(
            "whoever reaches {address} can use this server, for no key is asked for: --api-key KEY or --api-key-file FILE does"
        ));
    }
    say(&format!("listening on http://{address}"));
    let ender = server.ender();
    // What is learnt of the model's habits is written when this is dropped, after the last answer; what was recorded then too.
    let learnt = Arc::new(Mutex::new(None));
    let keep = learnt.clone();
    server.run(move || {
        let (loaded, recording) = load(&args, &interrupts)?;
        *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some((recording, loaded.engine.clone()));
        interrupts.ask(move || {
            ender.end();
            say("ending: answers in progress are written, new requests are not taken; once more ends at once");
        });
        Ok(loaded)
    })?;
    match &*learnt.lock().unwrap_or_else(PoisonError::into_inner) {
        Some((_, engine)) => Ok(open::finish(engine)?),
        None => Ok(()),
    }
}

fn load(args: &ServeArgs, interrupts: &Interrupts) -> Result<(Loaded, Recording)> {
    let mut options = open::options(&args.load, &args.machine.cores);
    options.wanted = Some(device::wanted(&args.place)?);
    options.context = args.machine.ctx_size;
    options.rewind = args.machine.rewind.unwrap_or(options.rewind);
    options.template = run::template(&args.template);
    (options.sessions, options.logits) = (args.parallel, args.parallel);
    open::draft(&args.draft, &args.model, &args.load, &mut options, interrupts)?;
    let Opened { engine, name, recording } = open::open(&args.model, &args.load, &options, interrupts)?;
    // A name to be typed into clients.
    let name = if name == bundled::NAME { "bundled".to_string() } else { name };
    let predicted = predicted(&engine, &options, &recording)?;
    Ok((Loaded { engine, name, predicted }, recording))
}

/// Tokens a second to be expected of one answer alone, early in its context, where this machine was measured before: a server
/// that is waited for does not measure.
fn predicted(engine: &Engine, options: &Options, recording: &Recording) -> Result<Option<f64>> {
    let Some(mut foresight) = Foresight::new(engine, options, recording.place(), false)? else { return Ok(None) };
    Ok(foresight.rates(1, EARLY)?.map(|(_, rate)| rate))
}

/// A folder that is there. Errors (usage): anything else.
fn slot_folder(path: Option<&Path>) -> Result<Option<PathBuf>> {
    match path {
        Some(path) if !path.is_dir() => {
            Err(Error::Usage(format!("--slot-save-path {}: expected a folder that is there", path.display())))
        }
        path => Ok(path.map(Path::to_path_buf)),
    }
}

/// Keys as given, and the lines of the file. Errors (usage): a file without keys, and keys no header can carry.
fn keys(given: &[String], file: Option<&Path>) -> Result<Vec<String>> {
    let fits = |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    let wrong = |from: String| {
        let expected =
            "an API key is empty or has blanks or other characters than ASCII; expected letters, digits and signs";
        Err(Error::Usage(format!("{from}: {expected}")))
    };
    if given.iter().any(|key| !fits(key)) {
        return wrong("--api-key".into());
    }
    let mut keys = given.to_vec();
    let Some(file) = file else { return Ok(keys) };
    for (at, line) in run::read_text(file)?.lines().map(str::trim).enumerate() {
        // What begins with # is a remark.
        match line {
            _ if line.is_empty() || line.starts_with('#') => {}
            key if fits(key) => keys.push(key.into()),
            _ => return wrong(format!("{}, line {}", file.display(), at + 1)),
        }
    }
    match keys.len() == given.len() {
        true => Err(Error::Usage(format!("{} holds no key: one on each line is expected", file.display()))),
        false => Ok(keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_both_places() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("keys");
        std::fs::write(&file, "one\n\n two \n").expect("writes");
        assert_eq!(keys(&["zero".into()], Some(&file)).expect("reads"), ["zero", "one", "two"]);
        std::fs::write(&file, "\n \n# none\n").expect("writes");
        assert!(keys(&[], Some(&file)).is_err());
        std::fs::write(&file, "# mine\nthree\n").expect("writes");
        assert_eq!(keys(&[], Some(&file)).expect("reads"), ["three"]);
        std::fs::write(&file, "one\ntwo words\n").expect("writes");
        assert!(keys(&[], Some(&file)).unwrap_err().to_string().contains("line 2"));
        assert!(keys(&["with space".into()], None).is_err() && keys(&[String::new()], None).is_err());
        assert!(keys(&[], None).expect("none is fine").is_empty());
    }
}
