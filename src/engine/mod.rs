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

use crate::checkpoint::{Checkpoint, Quant, Relay, Weights};
use crate::config::Config;
pub use crate::config::placement::{Placement, PolicyName, Slots};
use crate::error::{Error, Result};
use crate::experts::ExpertStore;
pub use crate::experts::StoreStats;
use crate::host::Host;
pub use crate::host::{Share, Spent};
use crate::model::{KvShape, Model};
use crate::planner::memory;
use crate::pool::Pool;
use kernels::Isa;
use kernels::attend::KvFormat;
use std::path::Path;
use std::sync::Arc;
use text::{TemplateOverride, Text};

/// Positions a session holds when nothing is said and the model could hold more.
const CONTEXT: usize = 4096;
/// Beyond anything a model is made for, and small enough that no size of a cache overflows.
const MOST_CONTEXT: usize = 1 << 30;

/// Everything about a run that is not the model itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// How weights are kept; `None`: as they lie in a GGUF file or a small model, else Q4_0.
    pub quant: Option<Quant>,
    /// Which weights are re-laid in memory for the faster kernels; changes no number.
    pub relay: Relay,
    /// Positions a session can hold; `None`: the model's own context, at most 4,096; 0: all of it.
    pub context: Option<usize>,
    /// Threads while decoding and while reading the prompt; `None`: all cores this process may use.
    pub threads: Option<usize>,
    pub threads_batch: Option<usize>,
    /// Instruction set the kernels run on; `None`: what `KERNELS_ISA` names, else the fastest this processor has.
    pub isa: Option<Isa>,
    /// Leave the weights of silent neurons unread; off, it shows what that saves. Changes no bit.
    pub skip: bool,
    /// Formats of the cache.
    pub keys: KvFormat,
    pub values: KvFormat,
    /// Prompt tokens per step.
    pub chunk: usize,
    /// Positions a windowed layer keeps beyond its window, so that the last turn can be taken back.
    pub rewind: usize,
    /// Where experts are kept.
    pub placement: Placement,
    pub template: TemplateOverride,
    /// Refuse weights that are not finite (reads every weight once).
    pub check: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            quant: None,
            relay: Relay::Rounded,
            context: None,
            threads: None,
            threads_batch: None,
            isa: None,
            skip: true,
            keys: KvFormat::F16,
            values: KvFormat::F16,
            chunk: 512,
            rewind: 1024,
            placement: Placement::default(),
            template: TemplateOverride::default(),
            check: false,
        }
    }
}

/// An opened model, ready to start sessions. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    text: Text,
    model: Model,
    host: Arc<Host>,
    kv: KvShape,
    /// While decoding, while reading a prompt.
    threads: (usize, usize),
    notes: Vec<String>,
    ledger: Ledger,
}

impl Engine {
    /// Opens the model in `path` (a folder or a `.gguf` file). `progress(done, total)` counts bytes while weights are
    /// converted; it is not called for weights that are used as they lie.
    pub fn open(path: &Path, options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Engine> {
        Engine::with(Checkpoint::open(path)?, options, progress)
    }

    /// The same for a checkpoint that is open already.
    pub fn with(checkpoint: Checkpoint, options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Engine> {
        let checkpoint = Arc::new(checkpoint);
        let config = checkpoint.config.clone();
        let mut notes = config.notes.clone();
        let text = Text::open(&checkpoint.text, &config, options.template.clone())?;
        notes.extend_from_slice(text.notes());
        let kv = kv_shape(&config, options, &mut notes)?;
        let threads = threads(options, &mut notes)?;
        let isa = options.isa.map_or_else(Isa::from_env, Ok).map_err(Error::Usage)?;
        let mut host = Host::new(isa, threads.0.max(threads.1));
        host.skip = options.skip;
        let host = Arc::new(host);
        if options.check {
            checkpoint.check_finite(&|n, job| host.pool.run(n, job), progress)?;
        }
        let weights =
            Weights::load(checkpoint, options.quant, options.relay, &|n, job| host.pool.run(n, job), progress)?;
        let ledger = ledger(&weights, &config, &kv);
        let experts = ExpertStore::open(&config, &weights, &options.placement)?;
        let model = Model::new(&config, &weights, experts, host.clone());
        Ok(Engine { shared: Arc::new(Shared { config, text, model, host, kv, threads, notes, ledger }) })
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Tokenizer and chat template.
    pub fn text(&self) -> &Text {
        &self.shared.text
    }

    /// Assumptions and downgrades, one sentence each, in the order they were made.
    pub fn notes(&self) -> &[String] {
        &self.shared.notes
    }

    /// Where the bytes of this process go, line by line; one session counted.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Threads used while decoding and while reading a prompt.
    pub fn threads(&self) -> (usize, usize) {
        self.shared.threads
    }

    /// Name of the instruction set the kernels run on.
    pub fn isa(&self) -> &'static str {
        self.shared.host.isa.name()
    }

    /// Bytes of weights and cache read since the engine was opened.
    pub fn bytes_touched(&self) -> u64 {
        self.shared.host.touched()
    }

    /// What time and bytes went into since the engine was opened; `set_fine` tells gate and up apart, at some cost.
    pub fn spent(&self) -> Vec<(Share, Spent)> {
        self.shared.host.spent()
    }

    /// What the store of experts has done since the engine was opened; `None` where all of them lie in memory.
    pub fn store_stats(&self) -> Option<StoreStats> {
        self.shared.model.experts().stats()
    }

    /// Seconds spent waiting for other threads at the ends of regions.
    pub fn waited(&self) -> f64 {
        self.shared.host.pool.waited()
    }

    pub fn set_fine(&self, fine: bool) {
        self.shared.host.set_fine(fine);
    }

    /// Starts an empty conversation; allocates its cache.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }
}

fn kv_shape(config: &Config, options: &Options, notes: &mut Vec<String>) -> Result<KvShape> {
    if options.chunk == 0 {
        return Err(Error::Usage("the prompt is read in steps of -ub tokens; at least 1 is needed, found 0".into()));
    }
    let context = match options.context {
        Some(0) => config.context, // llama.cpp's spelling for "all the model can hold"
        Some(n) if n > MOST_CONTEXT => {
            return Err(Error::Usage(format!("-c {n}: more than {MOST_CONTEXT} positions are not supported")));
        }
        Some(n) => n,
        None => config.context.min(CONTEXT),
    };
    if context > config.context {
        notes.push(format!(
            "context: {context} positions, but this model was made for {}; answers beyond that may be poor",
            config.context
        ));
    }
    for (format, name) in [(options.keys, "-ctk"), (options.values, "-ctv")] {
        if !config.head_width.is_multiple_of(format.multiple()) {
            return Err(Error::Usage(format!(
                "{name} {}: this model's heads of {} do not divide into its blocks",
                format.name(),
                config.head_width
            )));
        }
    }
    let (chunk, rewind) = (options.chunk.min(context), options.rewind.min(context));
    let shape = |context| KvShape::new(config, context, chunk, rewind, options.keys, options.values);
    match memory::free().map(|free| free.bytes) {
        Some(free) if shape(context).bytes() > free => Err(no_room(context, free, &|n| shape(n).bytes())),
        _ => Ok(shape(context)),
    }
}

/// Why a cache does not fit, and the largest context that does. `bytes` grows with the context.
fn no_room(context: usize, free: u64, bytes: &dyn Fn(usize) -> u64) -> Error {
    let (mut fits, mut fails) = (0, context);
    while fails - fits > 1 {
        let middle = fits + (fails - fits) / 2;
        if bytes(middle) > free { fails = middle } else { fits = middle }
    }
    Error::Infeasible(format!(
        "a context of {context} positions takes a cache of {} bytes, but {free} bytes of memory are free: {} too few; \
         -c {fits} fits",
        bytes(context),
        bytes(context) - free
    ))
}

fn threads(options: &Options, notes: &mut Vec<String>) -> Result<(usize, usize)> {
    let cores = Pool::cores();
    let decode = options.threads.unwrap_or(cores);
    let batch = options.threads_batch.unwrap_or(decode);
    for (threads, name) in [(decode, "-t"), (batch, "-tb")] {
        if threads == 0 {
            return Err(Error::Usage(format!("{name} 0: at least one thread is needed")));
        }
        if threads > 1024 {
            return Err(Error::Usage(format!("{name} {threads}: more than 1024 threads are not supported")));
        }
    }
    if decode.max(batch) > cores {
        notes.push(format!("threads: {} on {cores} cores; more threads than cores are slower", decode.max(batch)));
    }
    Ok((decode, batch))
}

fn ledger(weights: &Weights, config: &Config, kv: &KvShape) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.add_mapped("weights as they lie in the file", weights.mapped_bytes());
    ledger.add("weights in memory", weights.owned_bytes());
    ledger.add(format!("cache, {} positions", kv.context), kv.bytes() - kv.rewind_bytes());
    ledger.add(format!("cache, {} positions of rewind", kv.rewind), kv.rewind_bytes());
    // Per prompt token of a step: residual, normed and rounded copies, attention heads, experts' hidden and output
    // vectors of the tokens in one wave.
    let per_token = 4 * (5 * config.width + 3 * config.heads * config.head_width) + 5 * config.width;
    ledger.add("activations", (kv.chunk * per_token + config.vocab * 4) as u64);
    ledger
}
