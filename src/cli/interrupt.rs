//! Ctrl-C: stops an answer that is being written; a second one, or one at any other time, ends the program.

use super::terminal::say;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Set up once, before anything slow begins.
#[derive(Clone)]
pub struct Interrupts {
    /// An answer is being written, so the first signal only asks it to stop.
    answering: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// Called with the first signal while an answer is written.
    hook: Arc<Mutex<Option<Hook>>>,
}

type Hook = Box<dyn Fn() + Send>;

impl Interrupts {
    pub fn watch() -> Result<Interrupts> {
        let here = Interrupts { answering: Arc::default(), stop: Arc::default(), hook: Arc::default() };
        let seen = here.clone();
        ctrlc::set_handler(move || {
            // The order matters: outside of an answer `stop` must stay as it is.
            if seen.answering.load(Ordering::SeqCst) && !seen.stop.swap(true, Ordering::SeqCst) {
                if let Some(hook) = &*seen.hook.lock().unwrap_or_else(PoisonError::into_inner) {
                    hook();
                }
                return;
            }
            say("");
            std::process::exit(i32::from(Error::Interrupted.exit_code()));
        })
        .map_err(|e| Error::Runtime(format!("signals cannot be watched: {e}")))?;
        Ok(here)
    }

    /// From here on the first signal calls `hook`, for good; the next one ends the program.
    pub fn ask(&self, hook: impl Fn() + Send + 'static) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
        self.stop.store(false, Ordering::SeqCst);
        self.answering.store(true, Ordering::SeqCst);
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
