//! What can be said on the command line: the types clap fills in.
//!
//! Spellings follow llama.cpp where it has one. Every flag can also be given as `THERMOCLINE_<LONG_NAME>` in the
//! environment; the command line wins.

use super::values::{
    CacheType, Output, Quant, Shell, bias, context, counts, draft, fraction, length, positive, seed, threads,
};
use crate::engine::{PolicyName, Slots};
use clap::builder::FalseyValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::path::PathBuf;

#[derive(Parser, Debug)]
#[command(
    name = "thermocline",
    version,
    about = "Runs sparse mixture-of-experts language models on the machine you already own",
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Commands (without one: run)",
    after_help = "Every flag can be set in the environment too: --ctx-size is THERMOCLINE_CTX_SIZE.\n\
        Exit codes: 0 ok, 1 failed while running, 2 usage, 3 does not fit the budget, 4 download or access, \
        5 bad or unsupported model, 6 out of memory, 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

/// The definition clap works from. Variables are left out of `--help`, which says once how they are named.
pub fn command() -> clap::Command {
    let quiet = |arg: clap::Arg| arg.hide_env(true);
    Cli::command().mut_args(quiet).mut_subcommands(|command| command.mut_args(quiet))
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Answer a prompt, or chat in the terminal (what bare flags mean)
    #[command(visible_alias = "chat")]
    Run(Box<RunArgs>),
    /// Answer requests over HTTP, as OpenAI's API does, and show a chat page
    Serve(Box<super::serve::ServeArgs>),
    /// Measure prompt and decode speed against this machine's memory bandwidth
    Bench(Box<BenchArgs>),
    /// Print what a model is, without reading its weights
    Inspect(InspectArgs),
    /// Write the logits of given tokens to a file
    Logits(Box<LogitsArgs>),
    /// Measure how well a model predicts a text
    Perplexity(Box<PerplexityArgs>),
    /// Say how fast a model would be here, where its experts would lie, and what more memory would buy; reads headers only
    Plan(Box<PlanArgs>),
    /// Learn from texts which experts a model uses, for better plans (every run learns a little)
    Profile(Box<ProfileArgs>),
    /// Write a model once in the layout that is read fastest (large ones are packed by themselves on first use)
    Pack(PackArgs),
    /// Look after the packed files of models
    Cache(CacheArgs),
    /// Replay a trace (what --trace wrote) through every cache policy, and through perfect foresight
    CacheSim(CacheSimArgs),
    /// Say what this machine can do, what is missing and what would help
    Doctor(super::doctor::DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// Which model, and where its name is looked up.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A folder, a .gguf file, or a hub name (owner/repo, owner/repo:Q4_0); without it the small model inside this program
    #[arg(short, long, value_name = "MODEL", env = "THERMOCLINE_MODEL")]
    pub model: Option<String>,
    /// [-hf] A hub name, even where a folder of that name exists; owner/repo:QUANT picks a GGUF
    #[arg(long, value_name = "OWNER/REPO[:QUANT]", env = "THERMOCLINE_HF_REPO")]
    pub hf_repo: Option<String>,
    /// Branch, tag or commit on the hub
    #[arg(long, value_name = "REVISION", env = "THERMOCLINE_REVISION")]
    pub revision: Option<String>,
    /// Use only what is on this machine already
    #[arg(long, env = "THERMOCLINE_OFFLINE", value_parser = FalseyValueParser::new())]
    pub offline: bool,
}

/// What is done to weights while they are loaded.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Model")]
pub struct LoadArgs {
    /// Quantise safetensors while loading [default: q4_0, and none for models under 64 MB]
    #[arg(long, value_name = "FORMAT", env = "THERMOCLINE_QUANT")]
    pub quant: Option<Quant>,
    /// Run the model's own file where its packed file would be made or used: slower, the same answers
    #[arg(long, env = "THERMOCLINE_NO_PACK", value_parser = FalseyValueParser::new())]
    pub no_pack: bool,
    /// Read every weight once and refuse any that is not a finite number
    #[arg(long, env = "THERMOCLINE_CHECK", value_parser = FalseyValueParser::new())]
    pub check: bool,
    /// Where to keep what runs show of the model's habits; none: nowhere [default: beside its packed file]
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_PROFILE")]
    pub profile: Option<PathBuf>,
    /// Make every fallback an error instead of a note
    #[arg(long, env = "THERMOCLINE_STRICT", value_parser = FalseyValueParser::new())]
    pub strict: bool,
    /// Write which experts each token chooses to FILE, for `cache-sim`
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_TRACE")]
    pub trace: Option<PathBuf>,
    /// Write what each moment was spent on to FILE, as Chrome trace events: ui.perfetto.dev opens it
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_TIMELINE")]
    pub timeline: Option<PathBuf>,
    /// Say more: where the memory goes, which instructions are used
    #[arg(short, long, env = "THERMOCLINE_VERBOSE", value_parser = FalseyValueParser::new())]
    pub verbose: bool,
    #[command(flatten)]
    pub memory: MemoryArgs,
}

/// How much memory, and what happens to experts that do not fit in it.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Memory")]
pub struct MemoryArgs {
    /// Most memory this program may hold, everything counted: 8G, 1.5G, 800M (G is 2^30 bytes); experts that do not fit are
    /// read from the disk when they are needed [default: what is free, less a margin]
    #[arg(long, value_name = "SIZE", env = "THERMOCLINE_RAM", value_parser = super::values::size)]
    pub ram: Option<u64>,
    /// Which expert makes room for another, where not all fit: the one whose next use is expected latest (odds; ahead asks
    /// the next layer's router too), or lru, lfu, slru
    #[arg(long, value_name = "NAME", env = "THERMOCLINE_POLICY", value_parser = super::values::policy, default_value_t)]
    pub policy: PolicyName,
    /// Threads that read experts from the disk, where not all fit
    #[arg(long, value_name = "N", env = "THERMOCLINE_LOADERS", value_parser = super::values::loaders, default_value_t = Slots::LOADERS)]
    pub loaders: usize,
    /// How many layers ahead experts are guessed and read while the disk would idle, where not all fit; 0: none
    #[arg(long, value_name = "LAYERS", env = "THERMOCLINE_READ_AHEAD", value_parser = length, default_value_t = Slots::AHEAD)]
    pub read_ahead: usize,
    /// Hold every expert that is read from a packed file against its hash
    #[arg(long, env = "THERMOCLINE_VERIFY", value_parser = FalseyValueParser::new())]
    pub verify: bool,
    /// Pin the weights in memory, so that the system cannot take them away
    #[arg(long, env = "THERMOCLINE_MLOCK", value_parser = FalseyValueParser::new())]
    pub mlock: bool,
}

/// How the machine is used.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Positions the context can hold; 0: all the model was trained for [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", env = "THERMOCLINE_CTX_SIZE", value_parser = context)]
    pub ctx_size: Option<usize>,
    #[command(flatten)]
    pub cores: CoreArgs,
    /// Positions a windowed layer keeps beyond its window, so that the last turn can be taken back [default: 1024]
    #[arg(long, value_name = "N", env = "THERMOCLINE_REWIND", value_parser = length)]
    pub rewind: Option<usize>,
}

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Machine")]
pub struct CoreArgs {
    /// Threads while answering [default: all cores this process may use]
    #[arg(short, long, value_name = "N", env = "THERMOCLINE_THREADS", value_parser = threads)]
    pub threads: Option<usize>,
    /// [-tb] Threads while reading the prompt [default: as --threads]
    #[arg(long, value_name = "N", env = "THERMOCLINE_THREADS_BATCH", value_parser = threads)]
    pub threads_batch: Option<usize>,
    /// [-ub] Prompt tokens computed in one step [default: 512]
    #[arg(long, value_name = "N", env = "THERMOCLINE_UBATCH_SIZE", value_parser = positive)]
    pub ubatch_size: Option<usize>,
    /// Accepted for familiarity: the smaller of this and --ubatch-size counts
    #[arg(short, long, value_name = "N", env = "THERMOCLINE_BATCH_SIZE", value_parser = positive)]
    pub batch_size: Option<usize>,
    /// Compute silent neurons too: the same answers, slower; shows what leaving them out saves
    #[arg(long, env = "THERMOCLINE_DENSE", value_parser = FalseyValueParser::new())]
    pub dense: bool,
    /// [-ctk] Number format of cached keys
    #[arg(long, alias = "ctk", value_name = "FORMAT", env = "THERMOCLINE_CACHE_TYPE_K", default_value = "f16")]
    pub cache_type_k: CacheType,
    /// [-ctv] Number format of cached values
    #[arg(long, alias = "ctv", value_name = "FORMAT", env = "THERMOCLINE_CACHE_TYPE_V", default_value = "f16")]
    pub cache_type_v: CacheType,
}

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Seed of the random draws; the same seed gives the same answer [default: a new one each time]
    #[arg(short, long, value_name = "N", env = "THERMOCLINE_SEED", value_parser = seed, allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// 0 always takes the likeliest token [default: 0.6]
    #[arg(long, alias = "temperature", value_name = "T", env = "THERMOCLINE_TEMP", value_parser = super::values::temperature)]
    pub temp: Option<f32>,
    /// Draw among the K likeliest tokens; 0: among all [default: 20]
    #[arg(long, value_name = "K", env = "THERMOCLINE_TOP_K", value_parser = length)]
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens that together reach this probability [default: 0.95]
    #[arg(long, value_name = "P", env = "THERMOCLINE_TOP_P", value_parser = fraction)]
    pub top_p: Option<f32>,
    /// Leave out tokens less likely than P times the likeliest [default: 0]
    #[arg(long, value_name = "P", env = "THERMOCLINE_MIN_P", value_parser = fraction)]
    pub min_p: Option<f32>,
    /// Above 1: tokens seen lately become less likely [default: 1]
    #[arg(long, value_name = "X", env = "THERMOCLINE_REPEAT_PENALTY", value_parser = super::values::above_zero)]
    pub repeat_penalty: Option<f32>,
    /// How many of the last tokens the penalties look at [default: 64]
    #[arg(long, value_name = "N", env = "THERMOCLINE_REPEAT_LAST_N", value_parser = length)]
    pub repeat_last_n: Option<usize>,
    /// Subtracted once from a token seen lately [default: 0]
    #[arg(long, value_name = "X", env = "THERMOCLINE_PRESENCE_PENALTY", value_parser = super::values::finite, allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Subtracted for each time a token was seen lately [default: 0]
    #[arg(long, value_name = "X", env = "THERMOCLINE_FREQUENCY_PENALTY", value_parser = super::values::finite, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Make a token likelier or less likely: 15043+1, 15043-1, 15043-inf (repeatable)
    #[arg(short, long, value_name = "ID(+|-)BIAS", env = "THERMOCLINE_LOGIT_BIAS", value_parser = bias, value_delimiter = ',')]
    pub logit_bias: Vec<(u32, f32)>,
}

/// Guesses of how an answer goes on. They change its speed and no token of it.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Speculation")]
pub struct DraftArgs {
    /// [-md] A smaller model of the same vocabulary that guesses how an answer goes on; the same answers, perhaps sooner
    #[arg(long, value_name = "MODEL", env = "THERMOCLINE_MODEL_DRAFT")]
    pub model_draft: Option<String>,
    /// Most tokens guessed for one step, from what the text said before or by --model-draft; 0: none
    /// [default: 16 with --model-draft, else 0]
    #[arg(long, aliases = ["draft", "draft-n"], value_name = "N", env = "THERMOCLINE_DRAFT_MAX", value_parser = draft)]
    pub draft_max: Option<usize>,
    /// Guess so many tokens for a step or none
    #[arg(long, alias = "draft-n-min", value_name = "N", env = "THERMOCLINE_DRAFT_MIN", value_parser = draft, default_value = "0")]
    pub draft_min: usize,
    /// --model-draft stops guessing where its likeliest token is less probable
    #[arg(long, value_name = "P", env = "THERMOCLINE_DRAFT_P_MIN", value_parser = fraction, default_value = "0.75")]
    pub draft_p_min: f32,
}

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Text")]
pub struct TextArgs {
    /// [-sys] What the model is told before the conversation
    #[arg(long, value_name = "TEXT", env = "THERMOCLINE_SYSTEM_PROMPT", allow_hyphen_values = true)]
    pub system_prompt: Option<String>,
    #[command(flatten)]
    pub template: TemplateArgs,
    /// [-no-cnv] No chat template: the model continues the prompt as it stands
    #[arg(long, visible_alias = "no-cnv", alias = "no-conversation", env = "THERMOCLINE_RAW", value_parser = FalseyValueParser::new())]
    pub raw: bool,
}

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Text")]
pub struct TemplateArgs {
    /// Chat template (Jinja) instead of the model's own
    #[arg(long, value_name = "TEMPLATE", env = "THERMOCLINE_CHAT_TEMPLATE", allow_hyphen_values = true)]
    pub chat_template: Option<String>,
    /// The same, from a file
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_CHAT_TEMPLATE_FILE")]
    pub chat_template_file: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
pub struct RunArgs {
    /// Answer this and end
    #[arg(short, long, value_name = "TEXT", env = "THERMOCLINE_PROMPT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Answer what is in this file and end (- is standard input); after --prompt, if both are given
    #[arg(short, long, value_name = "FILE", env = "THERMOCLINE_FILE")]
    pub file: Option<PathBuf>,
    /// Most tokens in an answer; -1: until the context is full [default: -1]
    #[arg(short = 'n', long, aliases = ["n-predict"], value_name = "N", env = "THERMOCLINE_PREDICT",
          value_parser = super::values::predict, allow_negative_numbers = true)]
    pub predict: Option<super::values::Predict>,
    /// End the answer before this text (repeatable)
    #[arg(long, value_name = "TEXT", env = "THERMOCLINE_STOP", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Turn \n, \t, \\, \" and \' in --prompt and --system-prompt into what they stand for
    #[arg(short, long, env = "THERMOCLINE_ESCAPE", value_parser = FalseyValueParser::new())]
    pub escape: bool,
    /// Show answers as they are written, without laying out their Markdown (which only a terminal sees)
    #[arg(long, env = "THERMOCLINE_NO_MARKDOWN", value_parser = FalseyValueParser::new())]
    pub no_markdown: bool,
    /// Do not print speeds at the end
    #[arg(long, env = "THERMOCLINE_NO_PERF", value_parser = FalseyValueParser::new())]
    pub no_perf: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub form: super::form::FormArgs,
    #[command(flatten)]
    pub draft: DraftArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
}

#[derive(Args, Debug, Clone)]
pub struct BenchArgs {
    /// Prompt lengths: one row ppN each
    #[arg(short = 'p', long, value_name = "N[,N]", env = "THERMOCLINE_N_PROMPT", value_parser = counts, default_value = "512")]
    pub n_prompt: super::values::Counts,
    /// Answer lengths: one row tgN each
    #[arg(short = 'n', long, value_name = "N[,N]", env = "THERMOCLINE_N_GEN", value_parser = counts, default_value = "128")]
    pub n_gen: super::values::Counts,
    /// Tokens already in the context when a row begins
    #[arg(short = 'd', long, value_name = "N[,N]", env = "THERMOCLINE_N_DEPTH", value_parser = counts, default_value = "0")]
    pub n_depth: super::values::Counts,
    /// [-np] Sequences that decode together, a token each in one step: one row tgN xM for each number above 1
    #[arg(long, value_name = "N[,N]", env = "THERMOCLINE_BENCH_PARALLEL", value_parser = counts, default_value = "1")]
    pub parallel: super::values::Counts,
    /// How often each row is measured; the median is printed with the slowest and the fastest
    #[arg(short = 'r', long, value_name = "N", env = "THERMOCLINE_REPETITIONS", value_parser = positive, default_value = "5")]
    pub repetitions: usize,
    /// Say where the time of a decoded token goes, part by part (on standard error)
    #[arg(long, env = "THERMOCLINE_PARTS", value_parser = FalseyValueParser::new())]
    pub parts: bool,
    /// How the rows are printed
    #[arg(short = 'o', long, value_name = "FORM", env = "THERMOCLINE_BENCH_OUTPUT", default_value = "md")]
    pub output: Output,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub cores: CoreArgs,
}

#[derive(Args, Debug, Clone)]
pub struct InspectArgs {
    /// A folder, a .gguf file, or a hub name; without it the small model inside this program
    #[arg(value_name = "MODEL")]
    pub name: Option<String>,
    /// Print it as JSON
    #[arg(long, env = "THERMOCLINE_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Args, Debug, Clone)]
pub struct LogitsArgs {
    /// A folder, a .gguf file, or a hub name
    #[arg(value_name = "MODEL")]
    pub name: Option<String>,
    /// Token ids, separated by white space (- is standard input)
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_TOKENS")]
    pub tokens: PathBuf,
    /// Write only the logits of the last N positions
    #[arg(long, value_name = "N", env = "THERMOCLINE_LAST", value_parser = positive)]
    pub last: Option<usize>,
    /// Where to write them: little-endian f32, [positions][vocabulary]
    #[arg(short = 'o', long, value_name = "OUT", env = "THERMOCLINE_OUT")]
    pub out: PathBuf,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub cores: CoreArgs,
}

#[derive(Args, Debug, Clone)]
pub struct PerplexityArgs {
    /// A folder, a .gguf file, or a hub name
    #[arg(value_name = "MODEL")]
    pub name: Option<String>,
    /// The text (- is standard input)
    #[arg(short, long, value_name = "TEXT", env = "THERMOCLINE_FILE")]
    pub file: PathBuf,
    /// Tokens in a window; the second half of each is scored
    #[arg(short, long, value_name = "N", env = "THERMOCLINE_PERPLEXITY_CTX_SIZE", value_parser = positive, default_value = "512")]
    pub ctx_size: usize,
    /// Special tokens spelled out in the text are those tokens, not their letters
    #[arg(long, env = "THERMOCLINE_PARSE_SPECIAL", value_parser = FalseyValueParser::new())]
    pub parse_special: bool,
    /// Stop after this many windows
    #[arg(long, value_name = "N", env = "THERMOCLINE_CHUNKS", value_parser = positive)]
    pub chunks: Option<usize>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub cores: CoreArgs,
}

#[derive(Args, Debug, Clone)]
pub struct ProfileArgs {
    /// A folder, a .gguf file, or a hub name
    #[arg(value_name = "MODEL")]
    pub name: Option<String>,
    /// Texts like those the model will be used for (- is standard input)
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_TEXT", num_args = 1.., required = true)]
    pub text: Vec<PathBuf>,
    /// Tokens in a window; each is read alone
    #[arg(short, long, value_name = "N", env = "THERMOCLINE_PROFILE_CTX_SIZE", value_parser = positive, default_value = "512")]
    pub ctx_size: usize,
    /// Special tokens spelled out in the texts are those tokens, not their letters
    #[arg(long, env = "THERMOCLINE_PROFILE_PARSE_SPECIAL", value_parser = FalseyValueParser::new())]
    pub parse_special: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub cores: CoreArgs,
}

/// What is laid down about where things are computed: bounds on a plan.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Placement")]
pub struct PlaceArgs {
    /// Memory of the accelerator that may be used
    #[arg(long, value_name = "BYTES", env = "THERMOCLINE_VRAM", value_parser = crate::config::size::parse)]
    pub vram: Option<u64>,
    /// [-ngl] So many layers, the last ones, whole on the accelerator and no others
    #[arg(long, alias = "n-gpu-layers", value_name = "N", env = "THERMOCLINE_GPU_LAYERS", value_parser = length,
        allow_negative_numbers = true)]
    pub gpu_layers: Option<usize>,
    /// [-cmoe] No experts on the accelerator
    #[arg(long, env = "THERMOCLINE_CPU_MOE", value_parser = FalseyValueParser::new())]
    pub cpu_moe: bool,
    /// [-ncmoe] No experts of the first N layers on the accelerator
    #[arg(long, value_name = "N", env = "THERMOCLINE_N_CPU_MOE", value_parser = length,
        allow_negative_numbers = true)]
    pub n_cpu_moe: Option<usize>,
    /// [-ot] Where tensors lie whose names (as in GGUF files) a regular expression finds; DEV is CPU, GPU (any accelerator), CUDA0 or METAL
    #[arg(long, value_name = "REGEX=DEV", env = "THERMOCLINE_OVERRIDE_TENSOR", value_parser = crate::engine::Rule::parse,
        value_delimiter = ',', allow_hyphen_values = true)]
    pub override_tensor: Vec<crate::engine::Rule>,
    /// Everything on the processor
    #[arg(long, env = "THERMOCLINE_CPU", value_parser = FalseyValueParser::new())]
    pub cpu: bool,
    /// [-dev] The accelerator to use: cuda, cuda:1, metal; cpu: none; stand-in: the processor in its place, slow, to try
    /// placements [default: the first there is]
    #[arg(long, value_name = "NAME", env = "THERMOCLINE_DEVICE")]
    pub device: Option<String>,
}

#[derive(Args, Debug, Clone)]
pub struct PlanArgs {
    /// A folder, a .gguf file, or a hub name (nothing is downloaded); without it the small model inside this program
    #[arg(value_name = "MODEL")]
    pub name: Option<String>,
    /// Plan for an accelerator that is not there: "rtx 4060", or vram=8G,bandwidth=272G[,link=25G]
    #[arg(long, value_name = "GPU", env = "THERMOCLINE_GPU", value_parser = super::plan::parse_gpu)]
    pub gpu: Option<super::plan::Gpu>,
    /// Length of a prompt whose first token is waited for [default: 512]
    #[arg(short = 'p', long, value_name = "N", env = "THERMOCLINE_PLAN_N_PROMPT", value_parser = positive)]
    pub n_prompt: Option<usize>,
    /// Tokens in the context while answering [default: 64]
    #[arg(short = 'd', long, value_name = "N", env = "THERMOCLINE_PLAN_N_DEPTH", value_parser = length)]
    pub n_depth: Option<usize>,
    /// Bytes a second from the disk, instead of measuring
    #[arg(long, value_name = "BYTES", env = "THERMOCLINE_DISK", value_parser = crate::config::size::parse)]
    pub disk: Option<u64>,
    /// Measure this machine anew
    #[arg(long, env = "THERMOCLINE_PROBE", value_parser = FalseyValueParser::new())]
    pub probe: bool,
    /// Say why one expert lies where it does
    #[arg(long, value_name = "LAYER.EXPERT", env = "THERMOCLINE_EXPLAIN", value_parser = super::values::layer_expert)]
    pub explain: Option<(usize, usize)>,
    /// Draw a map of layers by experts, coloured by heat, with the lines between tiers
    #[arg(long, value_name = "FILE.svg|png", env = "THERMOCLINE_PICTURE")]
    pub picture: Option<PathBuf>,
    /// Print it as JSON
    #[arg(long, env = "THERMOCLINE_PLAN_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
}

#[derive(Args, Debug, Clone)]
pub struct PackArgs {
    /// A folder, a .gguf file, or a hub name
    #[arg(value_name = "MODEL")]
    pub name: Option<String>,
    /// Where to write the packed file [default: where runs of this model look for it]
    #[arg(short = 'o', long, value_name = "FILE", env = "THERMOCLINE_OUT")]
    pub out: Option<PathBuf>,
    /// Quantise safetensors while packing [default: q4_0, and none for models under 64 MB]
    #[arg(long, value_name = "FORMAT", env = "THERMOCLINE_QUANT")]
    pub quant: Option<Quant>,
    /// Threads [default: all cores this process may use]
    #[arg(short, long, value_name = "N", env = "THERMOCLINE_THREADS", value_parser = threads)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Args, Debug, Clone)]
pub struct CacheArgs {
    #[command(subcommand)]
    pub action: CacheAction,
}

#[derive(Subcommand, Debug, Clone)]
pub enum CacheAction {
    /// List the packed files with their sizes and what they were made from
    Ls,
    /// Remove packed files
    Rm {
        /// Names as `cache ls` prints them; `stale`: all that will not be used again; `all`
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Read packed files whole and hold them against their hashes
    Verify {
        /// Names as `cache ls` prints them, or paths; without one: all
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Args, Debug, Clone)]
pub struct CacheSimArgs {
    /// What --trace has written
    #[arg(value_name = "TRACE")]
    pub trace: PathBuf,
    /// How many experts can be at hand
    #[arg(long, value_name = "N[,N]", env = "THERMOCLINE_SLOTS", value_parser = counts)]
    pub slots: Option<super::values::Counts>,
    /// The same, as shares of all experts [default: 25%,60%]
    #[arg(long, value_name = "P%[,P%]", env = "THERMOCLINE_SHARE", value_parser = super::values::shares)]
    pub share: Option<super::values::Shares>,
    /// How the rows are printed
    #[arg(short = 'o', long, value_name = "FORM", env = "THERMOCLINE_BENCH_OUTPUT", default_value = "md")]
    pub output: Output,
}

#[derive(Args, Debug, Clone)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}
