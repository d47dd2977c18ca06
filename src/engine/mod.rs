//! Text in, text out: opens a model, keeps sessions, samples, streams.
//!
//! An [`Engine`] owns the weights and is shared; a [`Session`] owns one conversation's cache; an [`Answer`] is what is
//! being written in one. All are plain values: no global state, no thread of their own.

mod across;
mod adjust;
mod answer;
mod away;
mod draft;
pub mod grammar;
mod kept;
mod ledger;
mod pin;
mod place;
pub mod sampler;
mod session;
pub mod stops;
pub mod text;
mod wanted;

pub use across::{Moves, Rearranged};
pub use adjust::Adjusted;
pub use answer::{Answer, Finish, Generation, Limits, Piece, Stats, Token, advance};
pub use away::most_there;
pub use draft::Drafting;
pub use ledger::{Budget, Ledger, Line};
pub use session::Session;
pub use wanted::{Rule, Wanted, none_on_disk};

use crate::checkpoint::{Beside, Checkpoint, Part, Quant, Relay, Weights};
use crate::config::Config;
pub use crate::config::placement::{DeviceName, OnDevice, Placement, PolicyName, Slots};
use crate::device::Accelerator;
use crate::error::{Error, Result};
use crate::experts::trace::{Header, Recorder};
use crate::experts::{ExpertId, ExpertStore, LayerCounts, Wrap};
pub use crate::experts::{LayerMap, LayerStats, Lies, Map, StoreStats};
use crate::host::Host;
pub use crate::host::{Share, Spent};
use crate::model::{KvShape, Model};
use crate::planner::cost::Work;
use crate::pool::Pool;
use crate::timeline::Timeline;
use across::Across;
use draft::{Chances, Pace};
use grammar::{Form, Grammar, Grammars};
use kept::Identity;
use kernels::Isa;
use kernels::attend::KvFormat;
pub use place::Requirements;
use place::{Placed, place};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
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
    /// Most bytes this process may hold at once, everything counted; `None`: what is free, less a margin.
    pub ram: Option<u64>,
    /// Where experts are kept; without slots the budget decides whether there are any.
    pub placement: Placement,
    /// What is asked of an accelerator, unless the placement says what lies there; `None`: nothing.
    pub wanted: Option<Wanted>,
    /// How slots are used that the budget decides on.
    pub policy: PolicyName,
    pub loaders: usize,
    pub ahead: usize,
    pub verify: bool,
    /// Pin weights in memory.
    pub lock: bool,
    /// Experts may move between memory and disk between turns, as others take memory or give it back.
    pub adjust: bool,
    /// Sessions, and positions whose logits are worked out at once, that the budget must have room for.
    pub sessions: usize,
    pub logits: usize,
    /// How answers are written ahead of the model; changes no token. Of one step so many logits more are asked for.
    pub drafting: Drafting,
    /// A smaller model of the same vocabulary that guesses, opened with the same options. It is lent the threads.
    pub draft: Option<Engine>,
    pub template: TemplateOverride,
    /// Refuse weights that are not finite (reads every weight once).
    pub check: bool,
    /// Where to write which experts the routers choose.
    pub trace: Option<PathBuf>,
    /// Where to write what each moment was spent on.
    pub timeline: Option<PathBuf>,
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
            ram: None,
            placement: Placement::default(),
            wanted: None,
            policy: PolicyName::default(),
            loaders: Slots::LOADERS,
            ahead: Slots::AHEAD,
            verify: false,
            lock: false,
            adjust: true,
            sessions: 1,
            logits: 1,
            drafting: Drafting { max: 0, ..Drafting::default() },
            draft: None,
            template: TemplateOverride::default(),
            check: false,
            trace: None,
            timeline: None,
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
    /// Rows of logits there is room for at once.
    most_logits: usize,
    notes: Vec<String>,
    ledger: Ledger,
    on_disk: Option<(PathBuf, usize)>,
    grammars: OnceLock<Result<Grammars>>,
    work: Option<Work>,
    /// Experts stay where they were put.
    fixed: bool,
    across: Across,
    /// It was said what becomes of mapped weights where memory is short.
    warned: AtomicBool,
    identity: Identity,
    drafting: Drafting,
    draft: Option<Engine>,
    /// What steps of so many tokens take, and how often guesses were right.
    pace: Pace,
    chances: Mutex<Chances>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("model", &self.shared.config.name).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the model in `path` (a folder or a `.gguf` file). `progress(done, total)` counts bytes while weights are
    /// converted; it is not called for weights that are used as they lie.
    pub fn open(path: &Path, options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Engine> {
        Engine::with(Checkpoint::open(path)?, options, progress)
    }

    /// The same for a checkpoint that is open already.
    pub fn with(checkpoint: Checkpoint, options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Engine> {
        Engine::with_tier(checkpoint, options, &|files| files, progress)
    }

    /// The same, with another tier before the model's files where experts are kept in slots.
    pub fn with_tier(
        mut checkpoint: Checkpoint,
        options: &Options,
        tier: &Wrap<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Engine> {
        let config = checkpoint.config.clone();
        let mut notes = config.notes.clone();
        let text = Text::open(&checkpoint.text, &config, options.template.clone())?;
        notes.extend_from_slice(text.notes());
        checkpoint.forget_text();
        let checkpoint = Arc::new(checkpoint);
        let threads = threads(options, &mut notes)?;
        let most = threads.0.max(threads.1);
        let Placed { kv, placement, there, ledger, on_disk } = place(&checkpoint, options, most, &mut notes)?;
        let away = there.as_ref().map(|there| (&there.device, &there.accelerator));
        let isa = options.isa.map_or_else(Isa::from_env, Ok).map_err(Error::Usage)?;
        let host = match &options.draft {
            Some(draft) => {
                draft::same_vocabulary(draft, &text)?;
                draft.shared.host.clone() // one model computes while the other waits: the same threads
            }
            None => {
                let mut host = Host::new(isa, most);
                host.skip = options.skip;
                host.timeline = options.timeline.as_deref().map(Timeline::create).transpose()?;
                Arc::new(host)
            }
        };
        if options.check {
            checkpoint.check_finite(&|n, job| host.pool.run(n, job), progress)?;
        }
        let identity = Identity::of(&checkpoint, &format!("{:?}", options.quant));
        let holds = |part| away.is_some_and(|(device, _)| device.holds(part));
        let beside = Beside { experts_read: placement.slots.is_some(), away: Some(&holds) };
        let spread = |n, job: &(dyn Fn(usize) + Sync)| host.pool.run(n, job);
        let weights = Weights::load_beside(checkpoint, options.quant, options.relay, &beside, &spread, progress)?;
        let work = placement.device.is_none().then(|| work(&config, &weights, placement.slots.is_some()));
        let accelerator = away.map(|(_, accelerator)| accelerator);
        let experts = ExpertStore::with_tier(&config, &weights, &placement, accelerator, tier)?;
        notes.extend_from_slice(experts.notes());
        if options.lock {
            notes.extend(pin::pin(&weights, &experts, &placement));
        }
        let mut model = Model::new(&config, &weights, experts, host.clone(), away)?;
        if let Some(path) = &options.trace {
            model.record(Recorder::create(path, &header(&config, &model))?);
        }
        let all = config.layers.len() * config.experts;
        let resident = placement.slots.as_ref().map_or(1.0, |slots| slots.count.min(all) as f64 / all as f64);
        let shared = Shared {
            identity,
            pace: Pace::new(&config, resident),
            chances: Mutex::default(),
            drafting: options.drafting,
            draft: options.draft.clone(),
            config,
            text,
            model,
            host,
            kv,
            threads,
            most_logits: options.logits.max(1),
            notes,
            ledger,
            on_disk,
            grammars: OnceLock::new(),
            work,
            fixed: options.lock || !options.adjust,
            across: Across::of(there.and_then(|there| there.reasons)),
            warned: AtomicBool::new(false),
        };
        Ok(Engine { shared: Arc::new(shared) })
    }

    /// The accelerator some of the model lies on, if any does.
    pub fn accelerator(&self) -> Option<&Accelerator> {
        self.shared.model.accelerator().map(|accelerator| &**accelerator)
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Whether weights are used where they lie in their mapped file.
    pub fn is_mapped(&self) -> bool {
        self.shared.ledger.lines.iter().any(|line| line.mapped && line.bytes > 0)
    }

    /// The matrices a token goes through, as they lie here; `None` where an accelerator has a part in it.
    pub fn work(&self) -> Option<&Work> {
        self.shared.work.as_ref()
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

    /// Positions a session can hold.
    pub fn context(&self) -> usize {
        self.shared.kv.context
    }

    /// Bytes of one session's cache; the system gives them as they are first written.
    pub fn cache_bytes(&self) -> u64 {
        self.shared.kv.bytes()
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

    /// What time and bytes went into since the engine was opened; `set_fine` tells what experts and attention consist of, at some cost.
    pub fn spent(&self) -> Vec<(Share, Spent)> {
        self.shared.host.spent()
    }

    /// What the store of experts has done since the engine was opened; `None` where all of them lie in memory.
    pub fn store_stats(&self) -> Option<StoreStats> {
        self.shared.model.experts().stats()
    }

    /// The experts in slots now; none where all of them lie in memory.
    pub fn experts_at_hand(&self) -> Vec<ExpertId> {
        self.shared.model.experts().at_hand()
    }

    /// Where every expert is now and how often it was chosen.
    pub fn map(&self) -> Map {
        self.shared.model.experts().map()
    }

    /// What the routers chose since the engine was opened, by layer.
    pub fn counts(&self) -> Vec<LayerCounts> {
        self.shared.model.experts().tally().counts()
    }

    /// The file experts are read from and the bytes of one of them; `None` where all of them lie in memory.
    pub fn experts_on_disk(&self) -> Option<(PathBuf, usize)> {
        self.shared.on_disk.clone()
    }

    /// How fast memory gives weights just now, to as many threads as answer: bytes a second of the head, its longest matrix.
    /// Takes a few of a token's times. `None` where the head lies on an accelerator.
    pub fn pace(&self) -> Option<f64> {
        self.shared.host.pool.set_width(self.shared.threads.0);
        self.shared.model.pace()
    }

    /// Seconds spent waiting for other threads at the ends of regions.
    pub fn waited(&self) -> f64 {
        self.shared.host.pool.waited()
    }

    pub fn set_fine(&self, fine: bool) {
        self.shared.host.set_fine(fine);
    }

    /// Ends the trace, if one was asked for. The answer is a note where the trace holds less than what was run.
    pub fn finish_trace(&self) -> Result<Option<String>> {
        self.shared.model.trace().map_or(Ok(None), Recorder::finish)
    }

    /// The same for the timeline.
    pub fn finish_timeline(&self) -> Result<Option<String>> {
        self.shared.host.timeline.as_ref().map_or(Ok(None), Timeline::finish)
    }

    /// Compiles a grammar; the first makes a trie of the vocabulary. Takes milliseconds, within limits.
    ///
    /// Errors (usage): see [`Grammars::compile`].
    pub fn grammar(&self, form: &Form) -> Result<Grammar> {
        let grammars = self.shared.grammars.get_or_init(|| Grammars::new(&self.shared.text));
        grammars.as_ref().map_err(Error::clone)?.compile(form)
    }

    /// Starts an empty conversation; allocates its cache.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }
}

/// The matrices a token goes through. Experts in slots lie as in their file.
fn work(config: &Config, weights: &Weights, in_slots: bool) -> Work {
    Work::of(config, weights.down(), &|part| match part {
        Part::Gate(..) | Part::Up(..) | Part::Down(..) if in_slots => weights.checkpoint().kind(part),
        _ => weights.matrix(part).kind(),
    })
}

/// What a trace of this model begins with.
fn header(config: &Config, model: &Model) -> Header {
    Header {
        model: config.name.clone().unwrap_or_else(|| config.family.to_string()),
        layers: config.layers.len(),
        experts: config.experts,
        active: config.active,
        expert_bytes: model.experts().expert_bytes(),
    }
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
