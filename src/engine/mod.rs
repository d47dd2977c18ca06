//! Text in, text out: opens a model, keeps sessions, samples, streams.
//!
//! An [`Engine`] owns the weights and is shared; a [`Session`] owns one conversation's cache. Both are
//! plain values: no global state, no thread of their own.

mod ledger;
pub mod sampler;
mod session;
pub mod stops;
pub mod text;

pub use ledger::Ledger;
pub use session::{Finish, Generation, Limits, Session, Stats};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::Result;
use std::path::Path;
use std::sync::Arc;

/// Everything about a run that is not the model itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Positions a session can hold; `None`: the model's own context, at most 4,096 (noted when clamped).
    pub context: Option<usize>,
    /// Threads while decoding and while reading the prompt; `None`: all cores this process may use.
    pub threads: Option<usize>,
    pub threads_batch: Option<usize>,
    /// Prompt tokens per step.
    pub chunk: usize,
    /// Positions a windowed layer keeps beyond its window, so that the last turn can be taken back.
    pub rewind: usize,
    /// Refuse weights that are not finite (reads every weight once).
    pub check: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { context: None, threads: None, threads_batch: None, chunk: 512, rewind: 1024, check: false }
    }
}

/// An opened model, ready to start sessions. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub config: Config,
    pub notes: Vec<String>,
}

impl Engine {
    /// Opens the model in `path` (a folder or a `.gguf` file). `progress(done, total)` counts bytes while weights are
    /// converted; it is not called for weights that are used as they lie.
    pub fn open(path: &Path, options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Engine> {
        let _ = (Checkpoint::open(path)?, options, progress);
        todo!()
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Assumptions and downgrades, one sentence each, in the order they were made.
    pub fn notes(&self) -> &[String] {
        &self.shared.notes
    }

    /// Where the bytes of this process go, line by line.
    pub fn ledger(&self) -> Ledger {
        todo!()
    }

    /// Threads used while decoding and while reading a prompt.
    pub fn threads(&self) -> (usize, usize) {
        todo!()
    }

    /// Name of the instruction set the kernels run on.
    pub fn isa(&self) -> &'static str {
        todo!()
    }

    /// Starts an empty conversation; allocates its cache.
    pub fn session(&self) -> Result<Session> {
        todo!()
    }
}
