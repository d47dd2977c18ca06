//! Writing to people and to pipes.

use super::{Done, Stop};
use crate::error::Error;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Bytes for people.
pub use crate::config::size::shown as bytes;

/// Writes to standard output and flushes: pieces of an answer must be seen as they come.
pub fn answer(text: &str) -> Done {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output_failed)
}

/// Columns and rows of the terminal behind standard output; `None` where there is none.
pub fn size() -> Option<(usize, usize)> {
    let (columns, rows) = rustyline::DefaultEditor::new().ok()?.dimensions()?;
    Some((columns.into(), rows.into()))
}

/// What a failed write to standard output means.
pub fn output_failed(e: std::io::Error) -> Stop {
    match e.kind() {
        ErrorKind::BrokenPipe => Stop::PipeClosed,
        _ => Stop::Failed(Error::Runtime(format!("standard output cannot be written: {e}"))),
    }
}

/// Whether standard error may carry colours: a terminal that can, and a user who did not say NO_COLOR.
pub fn coloured() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stderr().is_terminal() && !set("NO_COLOR") && !dumb
}

fn paint(code: &str, text: &str) -> String {
    if coloured() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

pub fn dim(text: &str) -> String {
    paint("2", text)
}

pub fn bold(text: &str) -> String {
    paint("1", text)
}

/// Whether there is a log, which then holds all that is said.
static LOGGED: AtomicBool = AtomicBool::new(false);

/// From now on what is said goes into the log.
pub fn say_in_log() {
    LOGGED.store(true, Relaxed);
}

/// One line on standard error. That nobody can read it is no reason to stop.
pub fn say(line: &str) {
    if LOGGED.load(Relaxed) {
        return tracing::info!("{line}");
    }
    let _ = writeln!(std::io::stderr(), "{line}");
}

pub fn say_note(note: &str) {
    if LOGGED.load(Relaxed) {
        return tracing::warn!("{note}");
    }
    say(&format!("{} {note}", paint("33", "note:")));
}

pub fn say_error(e: &Error) {
    if LOGGED.load(Relaxed) {
        return tracing::error!("{e}");
    }
    say(&format!("{} {e}", paint("1;31", "error:")));
}

/// A line that the next output replaces; nothing where standard error is not a terminal.
pub struct Passing(bool);

impl Passing {
    pub fn show(text: &str) -> Passing {
        let shown = std::io::stderr().is_terminal();
        if shown {
            let _ = write!(std::io::stderr(), "{}", dim(text));
        }
        Passing(shown)
    }

    /// Takes the line away. Doing it twice does nothing.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.0) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1000, 1_234_567].map(grouped)[..]);
    }
}
