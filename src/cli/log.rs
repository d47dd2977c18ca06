//! The log of a server: on standard error, one event a line, as text or as JSON.

use super::values::LogFormat;
use crate::error::{Error, Result};
use clap::Args;
use clap::builder::FalseyValueParser;
use tracing_subscriber::EnvFilter;

/// What a server says of itself.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// How events are written on standard error
    #[arg(long, value_name = "FORM", env = "THERMOCLINE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Which events are written: a level, or module=level, with commas between (as RUST_LOG) [default: info; debug with -v]
    #[arg(long, value_name = "FILTER", env = "THERMOCLINE_LOG_FILTER")]
    pub log_filter: Option<String>,
    /// Write what people ask into the log too, which otherwise holds figures only
    #[arg(long, env = "THERMOCLINE_LOG_PROMPTS", value_parser = FalseyValueParser::new())]
    pub log_prompts: bool,
}

/// From now on events go to standard error. `verbose` says more where no filter is given.
///
/// Errors (usage): a filter that makes no sense.
pub fn start(args: &LogArgs, verbose: bool) -> Result<()> {
    let text = args.log_filter.as_deref().unwrap_or(if verbose { "info,thermocline=debug" } else { "info" });
    let filter = EnvFilter::try_new(text).map_err(|e| {
        Error::Usage(format!(
            "--log-filter {text:?}: {e}; expected a level (error, warn, info, debug, trace) or module=level, with commas between"
        ))
    })?;
    // That nobody can read it is no reason to stop, which complaining about it where nobody reads would be.
    let log = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_writer(std::io::stderr);
    let started = match args.log_format {
        LogFormat::Text => log.with_ansi(super::terminal::coloured()).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|e| Error::Runtime(format!("the log cannot be written: {e}")))?;
    super::terminal::say_in_log();
    Ok(())
}
