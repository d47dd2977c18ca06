//! Where people come in: one file per command, and what they share.
//!
//! The answer goes to standard output and everything else to standard error; progress is drawn on terminals only.

mod args;
mod argv;
mod bench;
mod bundled;
mod cache;
mod cache_sim;
mod chat;
mod completions;
mod conversation;
mod device;
mod doctor;
mod expected;
mod forecast;
mod form;
mod ground;
mod hints;
mod inspect;
mod interrupt;
mod log;
mod logits;
mod map;
mod markdown;
mod memory;
mod open;
mod pack;
mod perplexity;
mod places;
mod plan;
mod profile;
mod progress;
mod run;
mod serve;
mod table;
mod terminal;
mod values;

use crate::error::{Error, Result};
use args::{Cli, Command, ModelArgs};
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};
use std::ffi::OsString;
use std::process::ExitCode;

/// Why a command ended before its end.
#[derive(Debug)]
enum Stop {
    Failed(Error),
    /// Whoever read standard output has gone: nobody is left to tell anything.
    PipeClosed,
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Failed(e)
    }
}

type Done<T = ()> = std::result::Result<T, Stop>;

/// The whole program. Never panics on what users or files say; every failure is a sentence and an exit code.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Refused::Clap(e)) => {
            // Help and version go to standard output with code 0, errors to standard error with code 2.
            let _ = e.print();
            return ExitCode::from(e.exit_code() as u8);
        }
        Err(Refused::Sentence(e)) => return fail(&e),
    };
    let done = match cli.command {
        None => run::run(cli.run),
        Some(Command::Run(args)) => run::run(*args),
        Some(Command::Serve(args)) => serve::run(*args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Inspect(args)) => inspect::run(&args),
        Some(Command::Logits(args)) => logits::run(&args),
        Some(Command::Perplexity(args)) => perplexity::run(&args),
        Some(Command::Plan(args)) => plan::run(&args),
        Some(Command::Profile(args)) => profile::run(&args),
        Some(Command::Pack(args)) => pack::run(&args),
        Some(Command::Cache(args)) => cache::run(&args),
        Some(Command::CacheSim(args)) => cache_sim::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Completions(args)) => completions::run(&args),
    };
    match done {
        Ok(()) | Err(Stop::PipeClosed) => ExitCode::SUCCESS,
        Err(Stop::Failed(e)) => fail(&e),
    }
}

fn fail(e: &Error) -> ExitCode {
    match e {
        // Whoever interrupted us knows.
        Error::Interrupted => {}
        e => terminal::say_error(e),
    }
    ExitCode::from(e.exit_code())
}

enum Refused {
    Clap(Box<clap::Error>),
    Sentence(Error),
}

impl From<clap::Error> for Refused {
    fn from(e: clap::Error) -> Refused {
        Refused::Clap(Box::new(e))
    }
}

fn parse(argv: impl IntoIterator<Item = OsString>) -> std::result::Result<Cli, Refused> {
    let mut root = args::command();
    let argv = argv::normalise(argv, &root).map_err(Refused::Sentence)?;
    let matches = root.try_get_matches_from_mut(argv)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    let inner = matches.subcommand().map_or(&matches, |(_, inner)| inner);
    settle(&mut cli, inner).map_err(Refused::Sentence)?;
    Ok(cli)
}

/// Of two flags that exclude each other, one on the command line outdoes one in the environment; clap would call that a
/// conflict.
fn settle(cli: &mut Cli, matches: &ArgMatches) -> Result<()> {
    let (model, name) = match &mut cli.command {
        None => (&mut cli.run.model, None),
        Some(Command::Run(args)) => (&mut args.model, None),
        Some(Command::Serve(args)) => (&mut args.model, None),
        Some(Command::Bench(args)) => (&mut args.model, None),
        Some(Command::Logits(args)) => (&mut args.model, args.name.take()),
        Some(Command::Perplexity(args)) => (&mut args.model, args.name.take()),
        Some(Command::Plan(args)) => (&mut args.model, args.name.take()),
        Some(Command::Profile(args)) => (&mut args.model, args.name.take()),
        Some(Command::Inspect(args)) => (&mut args.model, args.name.take()),
        Some(Command::Pack(args)) => (&mut args.model, args.name.take()),
        Some(Command::Cache(_) | Command::CacheSim(_) | Command::Doctor(_) | Command::Completions(_)) => return Ok(()),
    };
    settle_model(model, name, matches)?;
    match &mut cli.command {
        None => cli.run.form.settle(|flag| said(matches, flag))?,
        Some(Command::Run(args)) => args.form.settle(|flag| said(matches, flag))?,
        Some(_) => {}
    }
    let template = match &mut cli.command {
        None => &mut cli.run.text.template,
        Some(Command::Run(args)) => &mut args.text.template,
        Some(Command::Serve(args)) => &mut args.template,
        Some(_) => return Ok(()),
    };
    let (inline, file) = ("chat_template", "chat_template_file");
    if template.chat_template.is_some() && template.chat_template_file.is_some() {
        match (said(matches, inline), said(matches, file)) {
            (true, false) => template.chat_template_file = None,
            (false, true) => template.chat_template = None,
            _ => return Err(Error::Usage("give --chat-template or --chat-template-file, not both".into())),
        }
    }
    Ok(())
}

fn settle_model(model: &mut ModelArgs, name: Option<String>, matches: &ArgMatches) -> Result<()> {
    let (flag, hub) = (said(matches, "model"), said(matches, "hf_repo"));
    if usize::from(name.is_some()) + usize::from(flag) + usize::from(hub) > 1 {
        return Err(Error::Usage("one model at a time: give MODEL, --model or --hf-repo, not several".into()));
    }
    if let Some(name) = name {
        (model.model, model.hf_repo) = (Some(name), None);
    } else if flag {
        model.hf_repo = None;
    } else if hub {
        model.model = None;
    }
    let named = [("--model", &model.model), ("--hf-repo", &model.hf_repo)];
    if let Some((flag, _)) = named.iter().find(|(_, name)| name.as_deref().is_some_and(|n| n.trim().is_empty())) {
        return Err(Error::Usage(format!("{flag} is empty; leave it out for the model inside this program")));
    }
    Ok(())
}

/// Whether it stands on the command line (not merely in the environment).
fn said(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(line: &[&str]) -> std::result::Result<Cli, Refused> {
        parse(std::iter::once("thermocline").chain(line.iter().copied()).map(OsString::from))
    }

    fn sentence(line: &[&str]) -> String {
        match cli(line) {
            Err(Refused::Sentence(e)) => e.to_string(),
            Err(Refused::Clap(e)) => e.to_string(),
            Ok(cli) => panic!("{line:?}: {cli:?}"),
        }
    }

    #[test]
    fn the_definition_holds_together() {
        args::command().debug_assert();
    }

    #[test]
    fn bare_flags_mean_run() {
        let cli = cli(&["-m", "x", "-p", "hi", "-n", "7", "-c", "0", "--temp", "0"]).ok().expect("parses");
        assert!(cli.command.is_none());
        assert_eq!(cli.run.model.model.as_deref(), Some("x"));
        assert_eq!(cli.run.predict, Some(values::Predict::Most(7)));
        assert_eq!(cli.run.machine.ctx_size, Some(0));
        assert_eq!(cli.run.sampling.temp, Some(0.0));
    }

    #[test]
    fn chat_is_run() {
        for name in ["run", "chat"] {
            let cli = cli(&[name, "-hf", "a/b:Q4_0", "-n", "-1", "-s", "-1", "-l", "1-inf"]).ok().expect("parses");
            let Some(Command::Run(args)) = cli.command else { panic!("{name} is not run") };
            assert_eq!(args.model.hf_repo.as_deref(), Some("a/b:Q4_0"));
            assert_eq!(args.sampling.logit_bias, [(1, f32::NEG_INFINITY)]);
        }
    }

    #[test]
    fn one_model_at_a_time() {
        assert!(sentence(&["-m", "x", "-hf", "a/b"]).contains("one model"));
        assert!(sentence(&["inspect", "x", "-m", "y"]).contains("one model"));
        assert!(sentence(&["-m", ""]).contains("empty"));
    }

    #[test]
    fn refusals_are_sentences() {
        assert!(sentence(&["-t", "0"]).contains("at least one thread"));
        assert!(sentence(&["--quant", "q5"]).contains("q4_0"));
        assert!(sentence(&["-ctk", "q4"]).contains("q8_0"));
        assert!(sentence(&["--top-p", "2"]).contains("from 0 to 1"));
        assert!(sentence(&["-mg", "1"]).contains("CPU"));
        assert!(sentence(&["--frobnicate"]).contains("--frobnicate"));
        assert!(sentence(&["-p", "x", "bench"]).contains("command comes first"));
    }

    /// Every flag can be set in the environment, under the name of its long form.
    #[test]
    fn every_flag_has_its_variable() {
        let root = args::command();
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            for arg in command.get_arguments().filter(|a| a.get_long().is_some()) {
                let long = arg.get_long().expect("filtered");
                let variable = arg.get_env().and_then(|v| v.to_str()).unwrap_or_else(|| panic!("--{long} has none"));
                let end = long.to_uppercase().replace('-', "_");
                assert!(variable.starts_with("THERMOCLINE_") && variable.ends_with(&end), "--{long} has {variable}");
            }
        }
    }
}
