//! `logits`: what a model says about given tokens, as numbers for other programs.

use super::args::LogitsArgs;
use super::interrupt::Interrupts;
use super::open::{self, Opened};
use super::{Done, device, terminal};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes little-endian f32, `[positions][vocabulary]`, row after row: never more than one step's logits in memory.
pub fn run(args: &LogitsArgs) -> Done {
    let tokens = read_tokens(&args.tokens)?;
    let interrupts = Interrupts::watch()?;
    let mut options = open::options(&args.load, &args.cores);
    options.wanted = Some(device::wanted(&args.place)?);
    options.context = Some(tokens.len());
    options.logits = args.last.unwrap_or(tokens.len());
    let Opened { engine, mut recording, .. } = open::open(&args.model, &args.load, &options, &interrupts)?;
    if args.load.profile.is_none() {
        recording.stop(); // nobody says that these tokens are text
    }
    check_ids(&tokens, engine.config().vocab, &args.tokens)?;
    let first = args.last.map_or(0, |last| tokens.len().saturating_sub(last));
    let failed = |e: std::io::Error| Error::Runtime(format!("{} cannot be written: {e}", args.out.display()));
    let mut out = BufWriter::new(File::create(&args.out).map_err(failed)?);
    let mut written = Ok(());
    let mut session = engine.session();
    session.feed(&tokens, first..tokens.len(), &mut |_, logits| {
        for value in logits {
            if written.is_ok() {
                written = out.write_all(&value.to_le_bytes());
            }
        }
    })?;
    written.and_then(|()| out.flush()).map_err(failed)?;
    open::finish(&engine)?;
    let (rows, vocab) = (tokens.len() - first, engine.config().vocab);
    terminal::say(&format!("{rows} x {vocab} f32 in {}", args.out.display()));
    Ok(())
}

fn read_tokens(path: &Path) -> Result<Vec<u32>> {
    let text = super::run::read_text(path)?;
    let ids = text.split_whitespace().map(|word| {
        word.parse().map_err(|_| Error::Usage(format!("{}: a token id is expected, {word:?} found", path.display())))
    });
    let ids = ids.collect::<Result<Vec<u32>>>()?;
    match ids.is_empty() {
        true => Err(Error::Usage(format!("{} holds no token ids", path.display()))),
        false => Ok(ids),
    }
}

fn check_ids(tokens: &[u32], vocab: usize, path: &Path) -> Result<()> {
    match tokens.iter().position(|id| *id as usize >= vocab) {
        Some(at) => Err(Error::Usage(format!(
            "{}: token {} at position {at} is beyond the model's vocabulary of {vocab}",
            path.display(),
            tokens[at]
        ))),
        None => Ok(()),
    }
}
