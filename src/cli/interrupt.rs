//! Ctrl-C: stops an answer that is being written; a second one, or one at any other time, ends the program.

use super::terminal::say;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set up once, before anything slow begins.
#[derive(Clone)]
pub struct Interrupts {
    /// An answer is being written, so the first signal only asks it to stop.
    answering: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Interrupts {
    pub fn watch() -> Result<Interrupts> {
        let here = Interrupts { answering: Arc::default(), stop: Arc::default() };
        let seen = here.clone();
        ctrlc::set_handler(move || {
            // The order matters: outside of an answer `stop` must stay as it is.
            if seen.answering.load(Ordering::SeqCst) && !seen.stop.swap(true, Ordering::SeqCst) {
                return;
            }
            say("");
            std::process::exit(i32::from(Error::Interrupted.exit_code()));
        })
        .map_err(|e| Error::Runtime(format!("signals cannot be watched: {e}")))?;
        Ok(here)
    }

    /// From here until the value is dropped a signal asks the answer to stop.
    pub fn answer(&self) -> Answering<'_> {
        self.stop.store(false, Ordering::SeqCst);
        self.answering.store(true, Ordering::SeqCst);
        Answering(self)
    }
}

pub struct Answering<'a>(&'a Interrupts);

impl Answering<'_> {
    /// What a signal sets.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.stop.clone()
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.answering.store(false, Ordering::SeqCst);
    }
}
