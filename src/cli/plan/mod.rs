//! `plan`: what a model would do on this machine, where its experts would lie, and what more memory would buy. Reads
//! headers only.

mod gpu;
mod hybrid;
mod report;

pub use gpu::{Gpu, parse as parse_gpu};

use super::args::{LoadArgs, ModelArgs, PlanArgs};
use super::interrupt::Interrupts;
use super::terminal::{self, Passing, say, say_note};
use super::{Done, bundled, device, forecast, open, profile};
use crate::checkpoint::hub::{ModelName, Remote};
use crate::checkpoint::pack::cache;
use crate::checkpoint::{Checkpoint, DownOrder, Header, Kind, Part, Quant, Sizes};
use crate::config::Config;
use crate::device::Accelerator;
use crate::engine::{Options, Requirements, Wanted, none_on_disk};
use crate::error::{Error, Result};
use crate::experts::PIECE;
use crate::planner::budget::Plan as Memory;
use crate::planner::cost::{Costs, Forecast, Setup, Work};
use crate::planner::hardware::machine::{Machine, Timing};
use crate::planner::hybrid::heat;
use crate::planner::picture;
use crate::planner::plan::Choice;
use crate::planner::profile::Profile;
use crate::planner::rehearsal::{Keeping, Reading};
use crate::pool::Pool;
use hybrid::{Plan, Target};
use kernels::Isa;
use kernels::attend::KvFormat;
use std::path::{Path, PathBuf};

/// A model as its headers tell it.
struct Model {
    name: String,
    config: Config,
    down: DownOrder,
    /// What GGUF files call a part's tensor.
    tensor: fn(Part) -> String,
    /// By `Config::parts`: how each lies when it runs.
    kinds: Vec<Kind>,
    /// A file on the disk it would be read from, and where its habits are kept.
    file: Option<PathBuf>,
    habits: Option<PathBuf>,
}

impl Model {
    fn kind(&self, part: Part) -> Kind {
        self.kinds[self.config.part_index(part).expect("a part of this model")]
    }

    fn sizes(&self) -> (Sizes, u64) {
        let (mut dense, mut experts) = (0, 0);
        for part in self.config.parts().filter(|part| !(self.config.tied && *part == Part::Head)) {
            let bytes = self.kind(part).bytes() as u64;
            match part {
                Part::Gate(..) | Part::Up(..) | Part::Down(..) => experts += bytes,
                _ => dense += bytes,
            }
        }
        let page = |part| (self.kind(part).bytes() as u64).next_multiple_of(4096);
        let slot = |l: u16| Part::expert(l, 0).map(page).iter().sum::<u64>();
        let slot = (0..self.config.layers.len() as u16).map(slot).max().unwrap_or(0);
        // An embedding of its own is read row by row from the file.
        let looked_up = if self.config.tied { 0 } else { self.kind(Part::Embedding).bytes() as u64 };
        (Sizes { mapped: dense + experts, dense: Some(dense - looked_up), ..Sizes::default() }, slot)
    }
}

fn model(model: &ModelArgs, load: &LoadArgs, quant: Option<Quant>) -> Result<Model> {
    let named = open::name(model)?;
    let shown = named.as_ref().map_or(bundled::NAME.to_string(), open::shown);
    let local = match &named {
        None => Some(bundled::folder()?),
        Some(ModelName::Local(path)) => Some(path.clone()),
        Some(_) => None,
    };
    let laid = |config: &Config, down: DownOrder, quant: Quant, small: bool, kind: &dyn Fn(Part) -> Kind| {
        let one = |part: Part| if small { kind(part) } else { kind(part).packed(part, down, quant) };
        config.parts().map(one).collect::<Vec<_>>()
    };
    if let (None, Some(name)) = (&local, &named) {
        let mut passing = Passing::show("reading headers");
        let remote = Remote::open(name, &open::hub_options(model))?;
        let header = Header::remote(&remote, &shown)?;
        passing.clear();
        remote.notes().iter().for_each(|note| say_note(note));
        let floats = header.container == "safetensors";
        let quant = quant.unwrap_or(if floats { Quant::Q4_0 } else { Quant::None });
        let kinds = laid(&header.config, header.down, quant, false, &|part| header.kind(part));
        let file = largest(&cache::folder());
        let habits = load.profile.clone().filter(|path| path.as_os_str() != "none");
        let tensor = header.gguf_name();
        return Ok(Model { name: shown, down: header.down, tensor, kinds, file, habits, config: header.config });
    }
    let path = local.expect("what is not on the hub is local");
    let checkpoint = Checkpoint::open(&path)?;
    let quant = quant.unwrap_or_else(|| Quant::default_for(&checkpoint));
    let small = checkpoint.weight_bytes() < SMALL || load.no_pack || checkpoint.packed().is_some();
    let kinds = laid(&checkpoint.config, checkpoint.down, quant, small, &|part| checkpoint.kind(part));
    let habits = profile::place(load.profile.as_deref(), &checkpoint, &path, Some(quant));
    let file = Some(checkpoint.file_of(Part::Gate(0, 0)).to_path_buf());
    let tensor = checkpoint.gguf_name();
    Ok(Model { name: shown, down: checkpoint.down, tensor, kinds, file, habits, config: checkpoint.config })
}

/// Models below this run as they lie (and are quick anyway).
const SMALL: u64 = 64_000_000;

/// The largest packed file, to measure the disk with.
fn largest(folder: &Option<PathBuf>) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder.as_ref()?).ok()?.flatten().map(|entry| entry.path());
    files.max_by_key(|path| std::fs::metadata(path).map_or(0, |meta| meta.len()))
}

/// A plan with everything that is said of it.
struct Planned {
    model: Model,
    machine: String,
    setup: Setup,
    profile: Profile,
    /// The accelerator that is planned for.
    target: Option<Target>,
    budget: Option<u64>,
    plan: Plan,
    /// Memory, line by line.
    ledger: Vec<(String, u64)>,
}

pub fn run(args: &PlanArgs) -> Done {
    Interrupts::watch()?;
    let wanted = device::wanted(&args.place)?;
    refuse(args, &wanted)?;
    let options = options(args);
    let isa = Isa::from_env().map_err(Error::Usage)?;
    let mut machine = forecast::machine(isa, args.probe);
    let model = model(&args.model, &args.load, options.quant)?;
    let planned = plan(args, &options, &wanted, model, &mut machine, isa)?;
    if let Some(file) = &args.picture {
        draw(file, &planned)?;
    }
    if let Some(which) = args.explain {
        let text = report::explain(&planned, which)?;
        return terminal::answer(&match args.json {
            true => format!("{:#}\n", report::explained(&planned, which, &text)),
            false => text,
        });
    }
    match args.json {
        true => terminal::answer(&format!("{:#}\n", report::value(&planned))),
        false => terminal::answer(&report::text(&planned)),
    }
}

/// How a picture is kept, by the end of its name.
enum Drawn {
    Svg,
    Png,
}

impl Drawn {
    fn of(path: &Path) -> Option<Drawn> {
        match path.extension()?.to_str()?.to_lowercase().as_str() {
            "svg" => Some(Drawn::Svg),
            "png" => Some(Drawn::Png),
            _ => None,
        }
    }
}

/// Requests that contradict themselves.
fn refuse(args: &PlanArgs, wanted: &Wanted) -> Result<()> {
    let wrong = |text: &str| Err(Error::Usage(text.to_string()));
    if args.gpu.is_some() && (args.place.cpu || args.place.device.is_some()) {
        return wrong(
            "--gpu describes an accelerator to plan for, --device names one that is there and --cpu says that none is used: \
             leave all but one out",
        );
    }
    let asked = wanted.memory.is_some() || wanted.layers.is_some_and(|n| n > 0) || wanted.overrides_to_accelerator();
    if args.gpu.is_none() && wanted.name.is_none() && asked && Accelerator::first(None).is_none() {
        return wrong(
            "this program has no accelerator to use: describe one with --gpu to plan for it, or leave --vram, --gpu-layers \
             and -ot for it out",
        );
    }
    match &args.picture {
        Some(path) if Drawn::of(path).is_none() => Err(Error::Usage(format!(
            "--picture {}: pictures are drawn as SVG or PNG; expected a name that ends with .svg or .png",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn options(args: &PlanArgs) -> Options {
    let mut options = open::options(&args.load, &args.machine.cores);
    options.context = args.machine.ctx_size;
    options.rewind = args.machine.rewind.unwrap_or(options.rewind);
    options
}

/// What measured things are put together from.
struct Ground<'a> {
    costs: Costs,
    options: &'a Options,
    reading: Reading,
    profile: &'a Profile,
}

impl Ground<'_> {
    /// Who keeps which experts, where not all are in memory.
    fn keeping(&self, memory: Memory) -> Option<Keeping> {
        let Memory::Slots(slots) = memory else { return None };
        Some(Keeping { slots, policy: self.options.policy, ahead: self.options.ahead })
    }

    /// Tokens/s with the experts where `memory` has them.
    fn rate(&self, memory: Memory) -> f64 {
        1.0 / forecast::seconds(&self.costs, self.profile, self.keeping(memory), &self.reading)
    }
}

fn plan(
    args: &PlanArgs,
    options: &Options,
    wanted: &Wanted,
    model: Model,
    machine: &mut Machine,
    isa: Isa,
) -> Result<Planned> {
    let target = hybrid::target(args, wanted, machine)?;
    let mut notes = model.config.notes.clone();
    let (sizes, slot) = model.sizes();
    let needs_of = Requirements::new(&model.config, options, sizes, slot, &mut notes)?;
    notes.iter().for_each(|note| say_note(note));
    let profile = known(&model, args.load.strict)?;
    let wish = *needs_of.wish();
    let decode = options.threads.unwrap_or_else(Pool::cores);
    let setup = Setup {
        threads: (decode, options.threads_batch.unwrap_or(decode)),
        keys: options.keys,
        values: options.values,
        depth: within("-d", args.n_depth.unwrap_or(64), wish.context, args.load.strict)?,
        prompt: within("-p", args.n_prompt.unwrap_or(512), wish.context, args.load.strict)?,
        chunk: wish.chunk,
        mapped: target.is_none() && needs_of.budget().is_none_or(|b| needs_of.needs().plan(b) == Some(Memory::Whole)),
    };
    let work = Work::of(&model.config, model.down, &|part| model.kind(part));
    let budget = needs_of.budget();
    let (told, said) = wanted.told(&model.config, model.tensor)?;
    said.iter().try_for_each(|note| downgrade(note, args.load.strict))?;
    none_on_disk(&told)?;
    let needs = needs_of.needs();
    let fits = |budget: Option<u64>| budget.map_or(Some(Memory::Whole), |budget| needs.plan(budget));
    if target.is_none() && fits(budget).is_none() {
        return Err(Error::Infeasible(needs_of.refusal(budget.unwrap_or(0))));
    }
    let (costs, measured) = forecast::costs(&work, &profile, &setup, machine, isa, None)?;
    let mut measured = measured;
    let disk_needed = fits(budget) != Some(Memory::Whole);
    let alike =
        |time: Timing| Reading { alone: time, among: time, ahead: time, pieces: slot.div_ceil(PIECE as u64) as f64 };
    let reading = match (args.disk, &model.file) {
        (Some(rate), _) => alike(Timing::new(slot as f64 / rate as f64)),
        (None, Some(file)) if disk_needed => {
            let (speed, new) = forecast::disk(machine, file, slot as usize)?;
            measured |= new;
            forecast::reading(&speed, slot as usize, options.loaders)
        }
        (None, None) if disk_needed => {
            say_note("there is no file to measure the disk with: 1 GB/s is assumed (--disk 3G says otherwise)");
            alike(Timing { seconds: slot as f64 / 1e9, low: slot as f64 / 3e9, high: slot as f64 / 0.3e9 })
        }
        _ => Reading::default(),
    };
    if measured {
        forecast::keep(machine);
    }
    let ground = Ground { costs, options, reading, profile: &profile };
    let plan = match &target {
        None => {
            let memory = fits(budget).expect("a plan that does not fit was refused above");
            let (token, prompt) = forecast::both(&ground.costs, &profile, ground.keeping(memory), &reading);
            let prices = prices(&ground, &needs, budget, &token);
            // Room is worth nothing where everything has it.
            let cramped = memory != Memory::Whole;
            let other = cramped.then(|| other(&ground, options, &model, slot, budget, &token)).flatten();
            let choices = by_heat(&profile, memory);
            Plan { memory, choices, token, prompt, bound: None, vram: vec![], prices, other, away: (0, 0) }
        }
        Some(target) => {
            let room = needs_of.footprint(budget, (model.down, &|part| model.kind(part)), target.accelerator.as_ref());
            hybrid::plan(&work, &ground, target, room, &told, budget)?
        }
    };
    let ledger = needs_of.ledger(plan.memory, plan.away).lines.into_iter();
    let mut ledger: Vec<(String, u64)> = ledger.filter(|l| l.bytes > 0).map(|l| (l.name, l.bytes)).collect();
    let shared = target.as_ref().is_some_and(|target| target.is_shared());
    let there: u64 = if shared { plan.vram.iter().map(|line| line.1).sum() } else { 0 };
    ledger.extend((there > 0).then(|| ("what lies on the accelerator".to_string(), there)));
    Ok(Planned { machine: machine.name.clone(), setup, target, budget, plan, ledger, profile, model })
}

/// Tokens that were asked for, as far as the context holds them.
fn within(flag: &str, tokens: usize, context: usize, strict: bool) -> Result<usize> {
    if tokens > context {
        downgrade(&format!("{flag} {tokens}: planned with the {context} that the context holds (-c)"), strict)?;
    }
    Ok(tokens.min(context))
}

/// The model's habits, or an even choice where none are known.
fn known(model: &Model, strict: bool) -> Result<Profile> {
    let read = model.habits.as_deref().map(|path| Profile::read(path, &model.config));
    let known = match read.unwrap_or(Ok(None)) {
        Ok(known) => known,
        Err(e) => {
            downgrade(&format!("{e}; every expert is taken to be as likely as any other"), strict)?;
            None
        }
    };
    Ok(known.unwrap_or_else(|| Profile::even(&model.config)))
}

/// Says what is done instead of what was asked; an error where nothing may be.
fn downgrade(note: &str, strict: bool) -> Result<()> {
    if strict {
        return Err(Error::Usage(format!("--strict: {note}")));
    }
    say_note(note);
    Ok(())
}

/// With slots: the hottest of all experts are those most often in memory.
fn by_heat(profile: &Profile, memory: Memory) -> Vec<Choice> {
    let layers = profile.layers.len();
    let Memory::Slots(count) = memory else { return vec![Choice::default(); layers] };
    let heats = (0..layers).map(|l| heat(profile, l));
    // Of equally hot ones, each layer keeps its share.
    let mut all: Vec<(f64, usize, usize)> =
        heats.enumerate().flat_map(|(l, heat)| heat.into_iter().enumerate().map(move |(e, q)| (q, e, l))).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut choices = vec![Choice { disk: profile.experts, ..Choice::default() }; layers];
    all.iter().take(count).for_each(|(_, _, l)| choices[*l].disk -= 1);
    choices
}

/// What more memory would buy, in tokens/s.
fn prices(
    ground: &Ground<'_>,
    needs: &crate::planner::budget::Needs,
    budget: Option<u64>,
    token: &Forecast,
) -> Vec<(String, f64)> {
    let mut prices = vec![];
    let Some(budget) = budget else { return prices };
    for (more, name) in [(1u64 << 30, "+1 GiB of memory"), (2 << 30, "+2 GiB of memory")] {
        if let Some(plan) = needs.plan(budget.saturating_add(more)) {
            // What fits in less fits in more.
            prices.push((name.to_string(), (ground.rate(plan) - 1.0 / token.seconds.seconds).max(0.0)));
        }
    }
    prices
}

/// The next-best plan: the best of those that give something up for room.
fn other(
    ground: &Ground<'_>,
    options: &Options,
    model: &Model,
    slot: u64,
    budget: Option<u64>,
    token: &Forecast,
) -> Option<(String, f64)> {
    let mut tries = vec![];
    let context = options.context.unwrap_or(4096);
    if context > 1024 {
        let half = Options { context: Some(context / 2), ..options.clone() };
        tries.push((format!("half the context (-c {})", context / 2), half));
    }
    if options.keys == KvFormat::F16 && model.config.head_width.is_multiple_of(KvFormat::Q8_0.multiple()) {
        let eight = Options { keys: KvFormat::Q8_0, values: KvFormat::Q8_0, ..options.clone() };
        tries.push(("a cache of 8 bits (-ctk q8_0 -ctv q8_0)".to_string(), eight));
    }
    let rate = |options: &Options| -> Option<f64> {
        let needs = Requirements::new(&model.config, options, model.sizes().0, slot, &mut vec![]).ok()?.needs();
        let plan = needs.plan(budget?)?;
        Some(ground.rate(plan))
    };
    let rated = tries.into_iter().filter_map(|(name, options)| Some((name, rate(&options)?)));
    let best = rated.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (best.1 > 0.5 / token.seconds.seconds).then_some(best)
}

fn draw(file: &Path, planned: &Planned) -> Result<()> {
    let layers = planned.profile.layers.len();
    let heats: Vec<Vec<f64>> = (0..layers).map(|l| heat(&planned.profile, l)).collect();
    let (name, choices) = (&planned.model.name, &planned.plan.choices);
    let bytes = match Drawn::of(file) {
        Some(Drawn::Png) => picture::png(name, &heats, choices),
        _ => picture::svg(name, &heats, choices).into_bytes(),
    };
    let failed = |e| Error::Usage(format!("the picture {} cannot be written: {e}", file.display()));
    std::fs::write(file, bytes).map_err(failed)?;
    say(&format!("{} ({} layers, {} experts each)", file.display(), layers, planned.profile.experts));
    Ok(())
}
