//! `plan`: what a model would do on this machine, where its experts would lie, and what more memory would buy. Reads
//! headers only.

mod gpu;
mod report;
mod told;

pub use gpu::{Gpu, parse as parse_gpu};
pub use told::Rule;

use super::args::{LoadArgs, ModelArgs, PlanArgs};
use super::interrupt::Interrupts;
use super::terminal::{self, Passing, say, say_note};
use super::{Done, bundled, forecast, open, profile};
use crate::checkpoint::hub::{ModelName, Remote};
use crate::checkpoint::pack::cache;
use crate::checkpoint::{Checkpoint, DownOrder, Header, Kind, Part, Quant, Sizes};
use crate::config::Config;
use crate::config::size::shown;
use crate::engine::{Options, Requirements};
use crate::error::{Error, Result};
use crate::experts::PIECE;
use crate::planner::budget::Plan as Memory;
use crate::planner::cost::{Costs, Forecast, Setup, Work};
use crate::planner::hardware::machine::{Machine, Timing};
use crate::planner::picture;
use crate::planner::plan::{Choice, LayerProblem, Problem, Solution};
use crate::planner::profile::Profile;
use crate::planner::rehearsal::{Keeping, Reading};
use crate::pool::Pool;
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
    /// What the accelerator would be.
    gpu: Option<Gpu>,
    budget: Option<u64>,
    memory: Memory,
    choices: Vec<Choice>,
    ledger: Vec<(String, u64)>,
    vram: Vec<(String, u64)>,
    token: Forecast,
    prompt: Forecast,
    bound: Option<f64>,
    /// What would buy how many tokens/s; the next-best plan.
    prices: Vec<(String, f64)>,
    other: Option<(String, f64)>,
}

pub fn run(args: &PlanArgs) -> Done {
    Interrupts::watch()?;
    refuse(args)?;
    let options = options(args);
    let isa = Isa::from_env().map_err(Error::Usage)?;
    let mut machine = forecast::machine(isa, args.probe);
    let model = model(&args.model, &args.load, options.quant)?;
    let planned = plan(args, &options, model, &mut machine, isa)?;
    if let Some(file) = &args.picture {
        draw(file, &planned)?;
    }
    if let Some(which) = args.explain {
        return terminal::answer(&report::explain(&planned, which)?);
    }
    match args.json {
        true => terminal::answer(&format!("{:#}\n", report::value(&planned))),
        false => terminal::answer(&report::text(&planned)),
    }
}

/// Requests that contradict themselves.
fn refuse(args: &PlanArgs) -> Result<()> {
    let place = &args.place;
    let wrong = |text: &str| Err(Error::Usage(text.to_string()));
    let gpu_wanted = place.vram.is_some() || place.gpu_layers.is_some_and(|n| n > 0);
    if args.gpu.is_none() && gpu_wanted {
        return wrong(
            "this program has no accelerator to use: describe one with --gpu to plan for it, or leave --vram and --gpu-layers out",
        );
    }
    if place.cpu && (args.gpu.is_some() || gpu_wanted) {
        return wrong(
            "--cpu says that everything runs on the processor: leave it out, or leave out --gpu, --vram and --gpu-layers",
        );
    }
    if let Some(device) = &place.device {
        match (["cpu", "none"].contains(&device.to_lowercase().as_str()), args.gpu.is_some()) {
            (false, false) => {
                return wrong("--device: only the CPU is there; --gpu describes an accelerator to plan for");
            }
            (true, true) => return wrong("--device says that only the CPU is used: leave it out, or leave out --gpu"),
            (true, false) | (false, true) => {}
        }
    }
    match &args.picture {
        Some(path) if path.extension().is_none_or(|e| e != "svg") => {
            wrong("--picture: pictures are drawn as SVG; expected a name that ends with .svg")
        }
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

fn plan(args: &PlanArgs, options: &Options, model: Model, machine: &mut Machine, isa: Isa) -> Result<Planned> {
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
        depth: args.n_depth.unwrap_or(0).max(64).min(wish.context),
        prompt: args.n_prompt.unwrap_or(512).min(wish.context).max(1),
        chunk: wish.chunk,
        mapped: args.gpu.is_none() && needs_of.budget().is_none_or(|b| needs_of.needs().plan(b) == Some(Memory::Whole)),
    };
    let work = Work::of(&model.config, model.down, &|part| model.kind(part));
    let budget = needs_of.budget();
    let (told, said) = told::told(args, &model)?;
    said.iter().try_for_each(|note| downgrade(note, args.load.strict))?;
    let gpu = args.gpu.clone().map(|gpu| Gpu { vram: args.place.vram.unwrap_or(gpu.vram), ..gpu });
    let needs = needs_of.needs();
    let fits = |budget: Option<u64>| budget.map_or(Some(Memory::Whole), |budget| needs.plan(budget));
    if gpu.is_none() && fits(budget).is_none() {
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
    let (ledger_plan, choices, token, prompt, bound, vram, gpu_price) = match &gpu {
        None => {
            let memory = fits(budget).expect("a plan that does not fit was refused above");
            let (token, prompt) = forecast::both(&ground.costs, &profile, ground.keeping(memory), &reading);
            (memory, by_heat(&profile, memory), token, prompt, None, vec![], None)
        }
        Some(gpu) => {
            let problem = problem(&told, &work, &ground, gpu, &needs_of, budget, slot)?;
            let Some(found) = problem.solve() else {
                return Err(Error::Infeasible(no_room(args, &problem, gpu, budget)));
            };
            let more = Problem { vram: problem.vram + (1 << 30), ..problem.clone() }.solve();
            let gain = more.map(|more| 1.0 / (more.seconds + extra(&ground)) - 1.0 / (found.seconds + extra(&ground)));
            hybrid(&problem, found, &ground, gpu, gain)
        }
    };
    let prices = prices(&ground, &needs, budget, &token, gpu.is_none(), gpu_price);
    let other = if gpu.is_none() { other(&ground, options, &model, slot, budget, &token) } else { None };
    let ledger = needs_of.ledger(ledger_plan).lines.into_iter().filter(|l| l.bytes > 0).map(|l| (l.name, l.bytes));
    let ledger = ledger.collect();
    Ok(Planned {
        machine: machine.name.clone(),
        setup,
        gpu,
        budget,
        memory: ledger_plan,
        choices,
        ledger,
        vram,
        token,
        prompt,
        bound,
        prices,
        other,
        profile,
        model,
    })
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

/// The heat of a layer's experts, descending.
fn heat(profile: &Profile, layer: usize) -> Vec<f64> {
    let mut heat: Vec<f64> = (0..profile.experts).map(|e| profile.frequency(layer, e)).collect();
    heat.sort_by(|a, b| b.total_cmp(a));
    heat
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

/// Seconds of a token beside its layers.
fn extra(ground: &Ground<'_>) -> f64 {
    ground.costs.head.seconds
}

/// Of what an accelerator's memory could give, so much is reached by kernels that read and multiply.
const REACHED: f64 = 0.7;
/// Seconds to start work there, and for a way there and back.
const LAUNCH: f64 = 8e-6;
const CROSSING: f64 = 30e-6;
/// Bytes of its memory that are not ours: the driver's, the desktop's.
const GPU_MARGIN: u64 = 512 << 20;

fn problem(
    told: &[told::Layer],
    work: &Work,
    ground: &Ground<'_>,
    gpu: &Gpu,
    needs: &Requirements<'_>,
    budget: Option<u64>,
    slot: u64,
) -> Result<Problem> {
    let layers = work.layers.len();
    let at = |bytes: f64| bytes / (gpu.bandwidth * REACHED) + LAUNCH;
    let wide = work.config.width as f64 * 8.0 / gpu.link;
    let cache = needs.cache() / layers as u64;
    let layer = |l: usize| {
        let cost = &ground.costs.layers[l];
        let dense = work.dense_bytes(l);
        let expert = work.expert_bytes(l) as f64;
        let read = expert * (1.0 + 2.0 * ground.profile.firing(l)) / 3.0;
        let k = ground.costs.active as f64;
        let all = cost.one.seconds + cost.more.seconds * (k - 1.0);
        let mut problem = LayerProblem {
            heat: heat(ground.profile, l),
            dense: (cost.fixed().seconds, at(dense as f64) + 4.0 * LAUNCH),
            dense_bytes: (dense, dense + cache),
            cpu: all / k,
            gpu: at(read) - LAUNCH + LAUNCH / k,
            read: ground.reading.among.seconds,
            crossing: CROSSING + wide,
            expert_bytes: slot,
            on_gpu: (0, work.config.experts),
            dense_on_gpu: None,
            on_disk: (0, work.config.experts),
        };
        told[l].bind(&mut problem);
        problem
    };
    let problem = (0..layers).map(layer).collect::<Vec<_>>();
    let needs = needs.needs();
    let dense: u64 = (0..layers).map(|l| work.dense_bytes(l)).sum();
    // What stays in memory whatever is decided: the embedding, the head, the cache, the program.
    let beside = needs.tiered.as_ref().map_or(0, |t| t.dense.saturating_sub(dense)) + needs.fixed;
    let ram = budget.map_or(u64::MAX / 4, |budget| budget.saturating_sub(beside));
    Ok(Problem { layers: problem, vram: gpu.vram.saturating_sub(GPU_MARGIN), ram })
}

fn no_room(args: &PlanArgs, problem: &Problem, gpu: &Gpu, budget: Option<u64>) -> String {
    let least = |of: fn((u64, u64)) -> u64| -> u64 {
        let layer = |l: &LayerProblem| {
            let all = [false, true].into_iter().filter(|on| l.dense_on_gpu.is_none_or(|only| only == *on));
            let few = Choice { gpu: l.on_gpu.0, disk: l.on_disk.1.min(l.heat.len() - l.on_gpu.0), dense_on_gpu: false };
            all.map(|dense_on_gpu| of(l.bytes(Choice { dense_on_gpu, ..few }))).min().unwrap_or(0)
        };
        problem.layers.iter().map(layer).sum()
    };
    let (vram, ram) = (least(|bytes| bytes.0), least(|bytes| bytes.1));
    if vram > problem.vram {
        let told = args.place.gpu_layers.map_or(String::new(), |n| format!("--gpu-layers {n}: "));
        return format!(
            "{told}{} bytes of the accelerator's memory are the least that does, {} too few in its {}: --vram {} fits, or \
             fewer --gpu-layers, or --cpu-moe",
            vram,
            vram - problem.vram,
            shown(gpu.vram),
            crate::config::size::argument(vram + GPU_MARGIN)
        );
    }
    let short = ram.saturating_sub(problem.ram);
    format!(
        "{} bytes of memory are missing beside the accelerator: --ram {} fits",
        short,
        crate::config::size::argument(budget.unwrap_or(0) + short)
    )
}

type Hybrid = (Memory, Vec<Choice>, Forecast, Forecast, Option<f64>, Vec<(String, u64)>, Option<(String, f64)>);

/// A plan with an accelerator, as figures.
fn hybrid(problem: &Problem, found: Solution, ground: &Ground<'_>, gpu: &Gpu, gain: Option<f64>) -> Hybrid {
    let seconds = found.seconds + extra(ground);
    let by_layer: Vec<f64> = problem.layers.iter().zip(&found.choices).map(|(l, c)| l.seconds(*c)).collect();
    let dense = problem.layers.iter().zip(&found.choices);
    let dense: f64 = dense.map(|(l, c)| if c.dense_on_gpu { l.dense.1 } else { l.dense.0 }).sum();
    let parts =
        vec![("all but experts", dense), ("experts, crossings", found.seconds - dense), ("head", extra(ground))];
    let missing = problem.layers.iter().zip(&found.choices);
    let missing = missing.map(|(l, c)| l.heat[l.heat.len() - c.disk..].iter().sum::<f64>()).sum();
    // Nothing of the accelerator was measured.
    let timing = Timing { seconds, low: seconds * 0.75, high: seconds * 1.5 };
    let token = Forecast { seconds: timing, parts, by_layer, missing };
    // Prompts are computed where the weights lie; what the accelerator would save of them is not forecast.
    let layers = ground.costs.layers.len();
    let prompt = crate::planner::cost::prompt(&ground.costs, &vec![0.0; layers], ground.reading.among);
    let here = |c: &Choice, l: &LayerProblem| l.heat.len() - c.gpu - c.disk;
    let count: usize = problem.layers.iter().zip(&found.choices).map(|(l, c)| here(c, l)).sum();
    let all: usize = problem.layers.iter().map(|l| l.heat.len()).sum();
    let memory = if count == all { Memory::Whole } else { Memory::Slots(count) };
    let experts: usize = found.choices.iter().map(|c| c.gpu).sum();
    let slot = problem.layers.first().map_or(0, |l| l.expert_bytes);
    let there = problem.layers.iter().zip(&found.choices).filter(|(_, c)| c.dense_on_gpu);
    let dense_bytes: Vec<u64> = there.map(|(l, _)| l.dense_bytes.1).collect();
    let vram = vec![
        (format!("attention and cache of {} layers", dense_bytes.len()), dense_bytes.iter().sum()),
        (format!("{experts} experts"), experts as u64 * slot),
        ("left to driver and desktop".to_string(), GPU_MARGIN.min(gpu.vram)),
    ];
    let price = gain.map(|gain| ("+1 GiB of the accelerator's memory".to_string(), gain));
    (memory, found.choices, token, prompt, Some(found.bound + extra(ground)), vram, price)
}

/// What more memory would buy, in tokens/s.
fn prices(
    ground: &Ground<'_>,
    needs: &crate::planner::budget::Needs,
    budget: Option<u64>,
    token: &Forecast,
    host_only: bool,
    gpu: Option<(String, f64)>,
) -> Vec<(String, f64)> {
    let mut prices: Vec<(String, f64)> = gpu.into_iter().collect();
    let Some(budget) = budget.filter(|_| host_only) else { return prices };
    for (more, name) in [(1u64 << 30, "+1 GiB of memory"), (2 << 30, "+2 GiB of memory")] {
        if let Some(plan) = needs.plan(budget + more) {
            prices.push((name.to_string(), ground.rate(plan) - 1.0 / token.seconds.seconds));
        }
    }
    prices
}

/// The next-best plan: the best of those that give something up for room, or keep one thread free.
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
    let text = picture::svg(&planned.model.name, &heats, &planned.choices);
    let failed = |e| Error::Usage(format!("the picture {} cannot be written: {e}", file.display()));
    std::fs::write(file, text).map_err(failed)?;
    say(&format!("{} ({} layers, {} experts each)", file.display(), layers, planned.profile.experts));
    Ok(())
}
