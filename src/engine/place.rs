//! Where the weights of a model go, decided before anything large is allocated: what a run takes, line by line, held
//! against what it may take.

use super::away::{self, There};
use super::ledger::{Budget, Ledger, Lines};
use super::{CONTEXT, MOST_CONTEXT, Options};
use crate::checkpoint::{Checkpoint, DownOrder, Kind, Part, Sizes, Weights};
use crate::config::Config;
use crate::config::placement::{Placement, Slots};
use crate::config::size::{argument, shown};
use crate::device::Accelerator;
use crate::error::{Error, Result};
use crate::experts::policy::{self, Shape};
use crate::experts::{least_slots, slot_bytes};
use crate::model::{KvShape, step_bytes};
use crate::planner::budget::{Change, Needs, Plan, Tiered, Wish, advice};
use crate::planner::hardware;
use crate::planner::hybrid::Footprint;
use crate::planner::memory::{self, Bound, Free};
use kernels::attend::KvFormat;
use std::path::PathBuf;
use std::sync::Arc;

/// What is decided.
pub(super) struct Placed {
    pub kv: KvShape,
    pub placement: Placement,
    pub there: Option<There>,
    pub ledger: Ledger,
    /// The file experts are read from, and the bytes of one of them.
    pub on_disk: Option<(PathBuf, usize)>,
}

/// Of what is free this share is left to others, and never less than `LEAST_MARGIN`.
const MARGIN: u64 = 20;
const LEAST_MARGIN: u64 = 256 << 20;
/// Held by a process whose system does not say what it holds.
const UNKNOWN_BASE: u64 = 64 << 20;
/// Memory of a thread: what of its stack is used, its scratch, and what the allocator keeps for it.
const THREAD: u64 = 512 << 10;
const LOADER: u64 = 128 << 10;
/// What the allocator keeps of memory that was given back, pages of 2 MiB at the edges of what is large, and tables.
const ALLOCATOR: u64 = 16 << 20;

/// What a run takes whatever is decided, and what may still be chosen.
struct Account<'a> {
    config: &'a Config,
    options: &'a Options,
    sizes: Sizes,
    /// Held already: program, vocabulary, headers; and code that will come into memory as it runs.
    base: u64,
    threads: usize,
    slot: u64,
    /// What lies on an accelerator.
    away: Option<&'a There>,
}

/// Shape of the cache, place of the experts and the ledger. `threads` compute threads will run. Notes are added to.
///
/// Errors with `Error::Infeasible` when a budget is too small, naming what would fit.
pub(super) fn place(
    checkpoint: &Checkpoint,
    options: &Options,
    threads: usize,
    notes: &mut Vec<String>,
) -> Result<Placed> {
    let config = &checkpoint.config;
    let wish = wish(config, options, notes)?;
    // Opening it takes memory of ours, which counts with what is held.
    let accelerator = away::open(options, notes)?;
    hardware::trim();
    let base = memory::held().map_or(UNKNOWN_BASE, |held| held.now() + memory::code_to_come());
    let free = if options.ram.is_some() { None } else { memory::free() };
    let budget = options.ram.or_else(|| free.as_ref().map(|free| budget_of(free, base)));
    let sizes = |away: Option<&dyn Fn(Part) -> bool>| Weights::sizes(checkpoint, options.quant, options.relay, away);
    let slot = slot_bytes(checkpoint, options.verify) as u64;
    let alone = Account { config, options, sizes: sizes(None)?, base, threads, slot, away: None };
    let told = away::told(checkpoint, options, notes)?;
    let there = match accelerator {
        None => None,
        Some(accelerator) => {
            let kinds = Weights::kinds(checkpoint, options.quant, options.relay)?;
            let kind = |part| kinds[config.part_index(part).expect("a part of this model")];
            let room = alone.footprint(&wish, budget, (checkpoint.down, &kind), Some(&accelerator));
            Some(away::there(checkpoint, options, accelerator, told, (room, &kind), notes)?)
        }
    };
    let holds = |part| there.as_ref().is_some_and(|there| there.device.holds(part));
    let account = Account { sizes: sizes(Some(&holds))?, away: there.as_ref(), ..alone };
    account.fits_away(&wish, notes)?;
    let needs = account.needs(&wish);
    if let (Some(asked), Some(free)) = (options.ram, memory::free()) {
        notes.extend(more_than_free(needs.bytes(Plan::Whole).min(asked), base, &free));
    }
    let plan = match (&options.placement.slots, budget) {
        (Some(slots), _) => Plan::Slots(slots.count.clamp(1, account.experts().max(1))),
        (None, None) => Plan::Whole,
        (None, Some(budget)) => {
            needs.plan(budget).ok_or_else(|| Error::Infeasible(account.refusal(&wish, budget, free.as_ref())))?
        }
    };
    let slots = match plan {
        Plan::Whole => options.placement.slots.clone(),
        Plan::Slots(count) => {
            let Options { policy, loaders, ahead, verify, .. } = *options;
            let asked = Slots { count, policy, loaders, ahead, verify };
            Some(options.placement.slots.clone().unwrap_or(asked))
        }
    };
    let placement = Placement { slots, device: there.as_ref().map(|there| there.device.clone()) };
    let mut ledger = account.ledger(&wish, plan);
    let all = account.experts();
    let slots = if let Plan::Slots(count) = plan { Some((count, all)) } else { None };
    ledger.budget = budget.map(|bytes| Budget { bytes, asked: options.ram.is_some(), slots });
    if let (Plan::Slots(count), Some(tiered)) = (plan, &needs.tiered) {
        notes.extend(cost(tiered, count, free.as_ref().zip(budget).map(|(_, budget)| budget)));
    }
    let on_disk = slots.map(|_| (checkpoint.file_of(Part::Gate(0, 0)).to_path_buf(), account.slot as usize));
    let kv = account.kv(&wish);
    Ok(Placed { kv, placement, there, ledger, on_disk })
}

/// What is said to a budget that will be used beyond what there is.
fn more_than_free(used: u64, base: u64, free: &Free) -> Option<String> {
    let there = base.saturating_add(free.bytes);
    (used > there).then(|| {
        format!(
            "--ram: {} will be used, but only {} are free: the system may swap, or end this program",
            shown(used),
            shown(there)
        )
    })
}

/// What may be used of `free` bytes, `least` and a share of them left to others.
pub(super) fn less_margin(free: u64, least: u64) -> u64 {
    free.saturating_sub((free / MARGIN).max(least))
}

/// The budget where none was given: what is held already and what is free, less a margin.
fn budget_of(free: &Free, base: u64) -> u64 {
    base.saturating_add(less_margin(free.bytes, LEAST_MARGIN))
}

/// What is wished for, checked.
fn wish(config: &Config, options: &Options, notes: &mut Vec<String>) -> Result<Wish> {
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
    Ok(Wish { context, keys: options.keys, values: options.values, chunk: options.chunk.min(context) })
}

/// What a run of a model would take, from its headers alone.
pub struct Requirements<'a> {
    account: Account<'a>,
    wish: Wish,
}

impl<'a> Requirements<'a> {
    /// `slot`: bytes of one expert where not all are in memory. Notes are added to.
    pub fn new(
        config: &'a Config,
        options: &'a Options,
        sizes: Sizes,
        slot: u64,
        notes: &mut Vec<String>,
    ) -> Result<Requirements<'a>> {
        let wish = wish(config, options, notes)?;
        let threads = super::threads(options, notes)?;
        let base = memory::held().map_or(UNKNOWN_BASE, |held| held.now() + memory::code_to_come());
        // Words and merges are not read for a plan.
        let base = base + config.vocab as u64 * WORD;
        Ok(Requirements {
            account: Account { config, options, sizes, base, threads: threads.0.max(threads.1), slot, away: None },
            wish,
        })
    }

    /// What it may take: what was asked for, or what is free less a margin.
    pub fn budget(&self) -> Option<u64> {
        self.account.options.ram.or_else(|| memory::free().map(|free| budget_of(&free, self.account.base)))
    }

    pub fn wish(&self) -> &Wish {
        &self.wish
    }

    pub fn needs(&self) -> Needs {
        self.account.needs(&self.wish)
    }

    /// Where memory goes, so many bytes of weights and of the cache being on an accelerator.
    pub fn ledger(&self, plan: Plan, away: (u64, u64)) -> Ledger {
        let mut ledger = self.account.ledger(&self.wish, plan);
        for (name, bytes) in [("weights", away.0), ("cache", away.1)] {
            if let Some(line) = ledger.lines.iter_mut().find(|line| line.name.starts_with(name)) {
                line.bytes = line.bytes.saturating_sub(bytes);
            }
        }
        ledger
    }

    /// What there is to place on an accelerator, and the room that a budget leaves for it in memory: see [`Footprint`].
    pub fn footprint(
        &self,
        budget: Option<u64>,
        lies: (DownOrder, &dyn Fn(Part) -> Kind),
        accelerator: Option<&Arc<Accelerator>>,
    ) -> Footprint {
        self.account.footprint(&self.wish, budget, lies, accelerator)
    }

    /// Why `budget` is too small, and the smallest changes that fit.
    pub fn refusal(&self, budget: u64) -> String {
        let free = if self.account.options.ram.is_some() { None } else { memory::free() };
        self.account.refusal(&self.wish, budget, free.as_ref())
    }
}

/// Memory for a word of a vocabulary, with its merges.
const WORD: u64 = 320;

/// The cache of a session on the host alone.
fn shape(config: &Config, options: &Options, wish: &Wish) -> KvShape {
    let (chunk, rewind) = (wish.chunk.min(wish.context), options.rewind.min(wish.context));
    KvShape::new(config, wish.context, chunk, rewind, wish.keys, wish.values)
}

impl Account<'_> {
    fn kv(&self, wish: &Wish) -> KvShape {
        let shape = shape(self.config, self.options, wish);
        match self.away {
            Some(there) => shape.on_device(&there.accelerator, &there.device.dense),
            None => shape,
        }
    }

    /// Experts that do not lie on an accelerator.
    fn experts(&self) -> usize {
        self.config.layers.len() * self.config.experts - self.away.map_or(0, |there| there.device.experts.len())
    }

    /// What lies on an accelerator: weights, and the cache of all sessions.
    fn bytes_away(&self, wish: &Wish) -> (u64, u64) {
        (self.away.map_or(0, |there| there.weights), self.kv(wish).bytes_there().saturating_mul(self.sessions()))
    }

    /// What lies on an accelerator whose memory is this machine's.
    fn unified(&self, wish: &Wish) -> u64 {
        let ours = self.away.is_some_and(|there| there.device.name.is_unified());
        let (weights, cache) = self.bytes_away(wish);
        if ours { weights.saturating_add(cache) } else { 0 }
    }

    /// Errors where the accelerator's bound is too small for what is to lie there.
    fn fits_away(&self, wish: &Wish, notes: &mut Vec<String>) -> Result<()> {
        let Some(There { device, .. }) = self.away else { return Ok(()) };
        let (weights, cache) = self.bytes_away(wish);
        let least = weights.saturating_add(cache);
        if let Some(most) = device.memory.filter(|most| least > *most) {
            return Err(Error::Infeasible(format!(
                "{}: {least} bytes are to lie there, {weights} of weights and {cache} of a cache of {} positions, {} more \
                 than the {most} that may be used: --vram {} fits, or fewer layers or experts there",
                device.name,
                wish.context,
                least - most,
                argument(least)
            )));
        }
        let eight = [wish.keys, wish.values].contains(&KvFormat::Q8_0);
        if eight && device.dense.contains(&true) {
            notes.push(format!("{}: caches of 8 bits are kept as f16 there, about twice the bytes", device.name));
        }
        Ok(())
    }

    /// What there is to place, and the room that `budget` leaves for it in memory: none yet on the accelerator, for which
    /// the cache takes as many bytes as here where none is opened.
    fn footprint(
        &self,
        wish: &Wish,
        budget: Option<u64>,
        (order, kind): (DownOrder, &dyn Fn(Part) -> Kind),
        accelerator: Option<&Arc<Accelerator>>,
    ) -> Footprint {
        let shape = shape(self.config, self.options, wish);
        let cache = |layer| {
            let (here, there) = shape.bytes_of(layer, accelerator);
            (here.saturating_mul(self.sessions()), there.saturating_mul(self.sessions()))
        };
        let room = Footprint::of(self.config, order, kind, self.slot, &cache);
        let needs = self.needs(wish);
        let placed = room.layers.iter().map(|layer| layer.dense.0).sum::<u64>() + room.head.0;
        let beside = match &needs.tiered {
            Some(tiered) => tiered.dense,
            None => needs.weights.saturating_sub(self.slot * self.experts() as u64),
        };
        let others = needs.fixed.saturating_add(beside).saturating_sub(placed);
        // Without end is a quarter of all numbers, so that sums and differences of it are numbers too.
        let ram = budget.map_or(u64::MAX, |budget| budget.saturating_sub(others)).min(u64::MAX / 4);
        let short = budget.map_or(0, |budget| others.saturating_sub(budget));
        Footprint { ram, short, disk: needs.tiered.is_some(), least: least_slots(self.config), ..room }
    }

    fn sessions(&self) -> u64 {
        self.options.sessions.max(1) as u64
    }

    /// The cache of all sessions.
    fn cache(&self, wish: &Wish) -> u64 {
        self.kv(wish).bytes().saturating_mul(self.sessions())
    }

    /// What the allocator takes beside what is asked for: each buffer of a cache may begin and end within a page.
    fn allocator(&self) -> u64 {
        const EDGES: u64 = 4096 + 64;
        let buffers = (2 * self.config.layers.len() * self.config.kv_heads) as u64;
        ALLOCATOR + buffers * EDGES * self.sessions()
    }

    fn step(&self, wish: &Wish) -> u64 {
        let tokens = wish.chunk.min(wish.context);
        let wanted = self.options.logits + self.options.drafting.max;
        step_bytes(self.config, tokens.max(wanted), wanted.max(1))
    }

    /// The smaller model that guesses: it was opened before, and what it holds by now is counted twice.
    fn draft(&self) -> u64 {
        self.options.draft.as_ref().map_or(0, |draft| draft.ledger().total())
    }

    fn threads(&self, plan: Plan) -> u64 {
        let loaders = if plan == Plan::Whole { 0 } else { self.options.loaders };
        self.threads as u64 * THREAD + loaders as u64 * LOADER
    }

    /// What the policy keeps, were every expert at hand.
    fn policy(&self) -> u64 {
        let Config { experts, active, .. } = *self.config;
        let layers = self.config.layers.len();
        policy::bytes(self.options.policy, Shape { layers, experts, active, slots: layers * experts })
    }

    fn needs(&self, wish: &Wish) -> Needs {
        let own = [self.base, self.cache(wish), self.step(wish), self.threads(Plan::Whole), self.allocator()];
        let beside = self.draft().saturating_add(self.unified(wish));
        let tiered = self.sizes.dense.map(|dense| Tiered {
            dense: dense + self.policy() + self.threads(Plan::Slots(0)) - self.threads(Plan::Whole),
            slot: self.slot,
            experts: self.experts(),
            least: least_slots(self.config).min(self.experts()),
            token: self.config.layers.len() * self.config.active,
        });
        Needs {
            fixed: own.into_iter().fold(beside, u64::saturating_add),
            weights: self.sizes.mapped + self.sizes.edges + self.sizes.owned,
            tiered,
        }
    }

    fn ledger(&self, wish: &Wish, plan: Plan) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.add("program, vocabulary, headers", self.base);
        match plan {
            Plan::Whole => {
                ledger.add_mapped("weights as they lie in the file", self.sizes.mapped);
                ledger.add("weights in memory", self.sizes.owned);
            }
            Plan::Slots(count) => {
                ledger.add("weights beside the experts", self.sizes.dense.unwrap_or(0));
                let all = self.experts();
                let name = format!("{count} of {all} experts, {} each", shown(self.slot));
                ledger.add(name, self.slot * count as u64);
                ledger.add("what is known of experts", self.policy());
            }
        }
        let (kv, cache) = (self.kv(wish), self.cache(wish));
        let rewind = kv.rewind_bytes() * self.sessions();
        ledger.add(format!("cache, {} positions", wish.context), cache - rewind);
        ledger.add(format!("cache, {} positions of rewind", kv.rewind), rewind);
        ledger.add(format!("activations, steps of {}", kv.chunk), self.step(wish));
        ledger.add("threads", self.threads(plan));
        if self.draft() > 0 {
            ledger.add("the model that guesses", self.draft());
        }
        let edges = if plan == Plan::Whole { self.sizes.edges } else { 0 };
        ledger.add("allocator, edges of pages", self.allocator() + edges);
        ledger.add("what lies on the accelerator", self.unified(wish));
        if let Some(there) = self.away {
            let (weights, cache) = self.bytes_away(wish);
            let (name, what) = (there.device.name.to_string(), away::sentence(self.config, there));
            ledger.away = Some(Lines { name, what, weights, cache, most: there.device.memory });
        }
        ledger
    }

    /// Why `wish` does not fit, and what would. `free`: the budget was not given but found.
    fn refusal(&self, wish: &Wish, budget: u64, free: Option<&Free>) -> String {
        let needs = self.needs(wish);
        let least = needs.least();
        let weights = least - needs.fixed;
        let given = match free {
            None => format!("--ram {budget}"),
            Some(Free { bytes, bound: Bound::Machine }) => {
                format!("{bytes} bytes of memory are free, of which {budget} may be used")
            }
            Some(Free { bytes, bound: Bound::Group(folder, limit) }) => format!(
                "{bytes} bytes of memory are free under the limit of {limit} of {}, of which {budget} may be used",
                folder.display()
            ),
        };
        let experts = match &needs.tiered {
            Some(tiered) if weights < needs.weights => format!(" and {} experts", tiered.least),
            _ => String::new(),
        };
        let mut text = format!(
            "{given}: {least} bytes are the least this model runs in, {} too few. It takes {weights} bytes for its \
             weights{experts}, {} bytes for a cache of {} positions, {} bytes for prompt steps of {} tokens and {} bytes \
             for all else.",
            least - budget,
            self.cache(wish),
            wish.context,
            self.step(wish),
            wish.chunk,
            self.base + self.threads(Plan::Whole) + self.allocator(),
        );
        let eight = self.config.head_width.is_multiple_of(KvFormat::Q8_0.multiple());
        let cheapest = if eight { KvFormat::Q8_0 } else { KvFormat::F16 };
        let changes = advice(*wish, budget, cheapest, &|wish| self.needs(wish).least());
        let flags = changes.iter().filter(|change| free.is_none() || matches!(change, Change::To(_)));
        let flags: Vec<String> = flags.map(|change| change.flags(wish)).collect();
        match flags.is_empty() {
            true => text.push_str(" Nothing that could be given up makes it fit."),
            false if flags.len() == 1 => text.push_str(&format!(" This fits: {}", flags[0])),
            false => text.push_str(&format!(" Any of these fits: {}", flags.join(", or "))),
        }
        if needs.tiered.is_none() {
            text.push_str(
                ". Its experts are rounded while they are loaded and have to be in memory at once; packed \
                 (`thermocline pack`, or without --no-pack) they can stay on disk",
            );
        }
        text
    }
}

/// What it costs that only `count` experts are in memory. `found`: the budget, where nobody asked for it.
fn cost(tiered: &Tiered, count: usize, found: Option<u64>) -> Option<String> {
    let missing = tiered.missing_per_token(count);
    let speed = |bytes: u64| (1u64 << 30) as f64 / bytes.max(1) as f64;
    if count < tiered.token {
        return Some(format!(
            "{count} experts fit in memory, fewer than the {} that one token uses: nearly all {} of them are read from the \
             disk for every token, {:.1} tokens/s at best from a disk of 1 GiB/s",
            tiered.token,
            shown(missing),
            speed(missing)
        ));
    }
    let budget = found?;
    Some(format!(
        "the model does not fit in the {} that are free: {count} of {} experts stay in memory and the others are read from \
         the disk when they are needed, up to {} for a token; --ram sets another bound",
        shown(budget),
        tiered.experts,
        shown(missing)
    ))
}
