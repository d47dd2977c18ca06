//! `serve`: answers requests over HTTP until it is told to end.

use super::args::ServeArgs;
use super::interrupt::Interrupts;
use super::open::{self, Opened};
use super::profile::Recording;
use super::terminal::{say, say_note};
use super::{Done, bundled, device, log, run};
use crate::error::{Error, Result};
use crate::serve::{Loaded, Server, Settings};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Answers written and waiting together, where nothing is said.
const PLACES: usize = 64;

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
            say("ending: answers in progress are written, new requests are not taken; once more ends at once");
            ender.end();
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
    options.wanted = device::wanted(&args.place)?;
    options.context = args.machine.ctx_size;
    options.rewind = args.machine.rewind.unwrap_or(options.rewind);
    options.template = run::template(&args.template);
    (options.sessions, options.logits) = (args.parallel, args.parallel);
    open::draft(&args.draft, &args.model, &args.load, &mut options, interrupts)?;
    let Opened { engine, name, recording } = open::open(&args.model, &args.load, &options, interrupts)?;
    // A name to be typed into clients.
    let name = if name == bundled::NAME { "bundled".to_string() } else { name };
    Ok((Loaded { engine, name, predicted: None }, recording))
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
    let mut keys = given.to_vec();
    if let Some(file) = file {
        let text = run::read_text(file)?;
        let before = keys.len();
        keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from));
        if keys.len() == before {
            return Err(Error::Usage(format!("{} holds no key: one on each line is expected", file.display())));
        }
    }
    match keys.iter().all(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())) {
        true => Ok(keys),
        false => Err(Error::Usage(
            "an API key is empty or has characters no HTTP header carries; expected letters, digits and signs".into(),
        )),
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
        std::fs::write(&file, "\n \n").expect("writes");
        assert!(keys(&[], Some(&file)).is_err());
        assert!(keys(&["with space".into()], None).is_err() && keys(&[String::new()], None).is_err());
        assert!(keys(&[], None).expect("none is fine").is_empty());
    }
}
