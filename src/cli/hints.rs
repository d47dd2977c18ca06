//! llama.cpp's flags that we do not have: what to use instead, or why there is nothing to set.

/// One answer for all its spellings.
struct Hint {
    flags: &'static [&'static str],
    answer: &'static str,
}

const fn hint(flags: &'static [&'static str], answer: &'static str) -> Hint {
    Hint { flags, answer }
}

/// A sentence for a flag llama.cpp has and `command` has not; `None` for a flag nobody knows.
pub fn for_flag(flag: &str, command: &str) -> Option<String> {
    let found = HINTS.iter().find(|h| h.flags.contains(&flag)).or_else(|| {
        // Families of flags that share their beginning.
        PREFIXES.iter().find(|h| h.flags.iter().any(|prefix| flag.starts_with(prefix)))
    })?;
    let place = match command {
        "thermocline" | "run" => String::new(),
        other => format!(" in `{other}`"),
    };
    Some(format!("there is no {flag} here{place}: {}", found.answer))
}

const DEVICE: &str = "one accelerator is used at most, and --device, --vram, --gpu-layers and --n-cpu-moe of run, bench and serve say \
                      what goes there; everything else runs on the CPU";
const MAPPED: &str = "weights that need no conversion are read from the mapped file, converted ones are held in memory; --verbose prints which";
const CHAT: &str = "with a terminal and without --prompt it chats anyway; --prompt gives one answer, --raw leaves the chat template out";
const GRAMMAR: &str =
    "`run` holds answers to it; of a server each request asks for its own form (response_format, json_schema, grammar)";
const DRAFT: &str = "guessing is set by --model-draft, --draft-max, --draft-min and --draft-p-min in `run` and `serve`; a draft model \
     has the model's context, threads and cache";
const ROPE: &str =
    "positions are rotated as the model's own config says, and contexts beyond its training are not stretched";
const LORA: &str = "adapters are not applied; merge them into the checkpoint first";
const SAMPLER: &str = "the samplers here are --temp, --top-k, --top-p, --min-p, the penalties and --logit-bias";
const PARALLEL: &str =
    "one conversation runs at a time; `thermocline serve` writes several answers at once, --parallel says how many";
const SHIFT: &str = "a full context ends the answer with a sentence; a larger --ctx-size makes room, and windowed layers forget by themselves";
const LOG: &str = "what is not the answer goes to standard error; --verbose says more, --no-perf less, 2>FILE keeps it";
const CORES: &str = "--threads and --threads-batch set how many cores work; `taskset` (or `numactl`) in front of the command says which";

const HINTS: &[Hint] = &[
    hint(&["-ngl", "--gpu-layers", "--n-gpu-layers"], DEVICE),
    hint(
        &["-fa", "--flash-attn"],
        "attention never builds the whole score matrix here, so there is nothing to switch on",
    ),
    hint(&["-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe"], DEVICE),
    hint(&["-ot", "--override-tensor", "-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu"], DEVICE),
    hint(
        &[
            "-dev",
            "--device",
            "--list-devices",
            "-nkvo",
            "--no-kv-offload",
            "-fit",
            "--fit",
            "-nopo",
            "--no-op-offload",
        ],
        DEVICE,
    ),
    hint(
        &["--mmap", "--no-mmap", "-mmp", "-lm", "--load-mode", "-dio", "--direct-io", "-ndio", "--no-direct-io"],
        MAPPED,
    ),
    hint(
        &["-nr", "--no-repack", "--repack"],
        "the layout of weights in memory is chosen for speed and never changes a result",
    ),
    hint(&["--check-tensors"], "use --check, which refuses weights that are not finite numbers"),
    hint(&["--grammar", "--grammar-file", "-j", "--json-schema", "-jf", "--json-schema-file"], GRAMMAR),
    hint(&["-i", "--interactive", "-if", "--interactive-first", "-ins", "--instruct", "-cnv", "--conversation"], CHAT),
    hint(&["-st", "--single-turn"], "--prompt gives one answer and ends"),
    hint(&["-co", "--color"], "colours appear on a terminal by themselves; NO_COLOR=1 switches them off"),
    hint(&["-r", "--reverse-prompt"], "use --stop TEXT (repeatable); the text itself is not printed"),
    hint(&["-mli", "--multiline-input"], "paste several lines as they are, or end a line with \\ to go on"),
    hint(
        &["--in-prefix", "--in-suffix", "--in-prefix-bos"],
        "the chat template says what surrounds a message; --chat-template or --raw replace it",
    ),
    hint(&["-sysf", "--system-prompt-file"], "use --system-prompt \"$(cat FILE)\""),
    hint(&["--jinja", "--no-jinja"], "chat templates are always Jinja; --raw uses none"),
    hint(&["--no-escape"], "a backslash stays a backslash unless --escape is given"),
    hint(&["-bf", "--binary-file"], "use --file, which reads UTF-8 text"),
    hint(
        &["--no-display-prompt", "--display-prompt"],
        "the prompt is never repeated; only the answer is on standard output",
    ),
    hint(&["-sp", "--special"], "control tokens are never part of the answer; `logits` shows everything a model says"),
    hint(&["--ignore-eos"], "use --logit-bias ID-inf with the id of the end token; `inspect` prints it"),
    hint(&["--keep", "--context-shift", "--no-context-shift", "-gan", "-gaw", "--grp-attn-n", "--grp-attn-w"], SHIFT),
    hint(&["--swa-full"], "use --rewind N: how many positions a windowed layer keeps beyond its window"),
    hint(
        &["-ctxcp", "--ctx-checkpoints", "--swa-checkpoints"],
        "use --rewind N: how far the last turns can be taken back at no cost",
    ),
    hint(
        &["-kvu", "--kv-unified", "-dt", "--defrag-thold", "-cram", "--cache-ram"],
        "the cache is allocated once for --ctx-size and needs no care",
    ),
    hint(
        &["-np", "--parallel", "-ns", "--sequences", "-cb", "--cont-batching", "-nocb", "--no-cont-batching"],
        PARALLEL,
    ),
    hint(
        &["--prompt-cache", "--prompt-cache-all", "--prompt-cache-ro", "--slot-save-path"],
        "in a chat only what is new is computed; /save and /load keep a conversation's text, and `serve --slot-save-path` \
         what was computed of it",
    ),
    hint(
        &["--samplers", "--sampler-seq", "--sampling-seq", "--typical", "--top-nsigma", "--top-n-sigma", "--tfs"],
        SAMPLER,
    ),
    hint(&["-C", "--cpu-mask", "-Cr", "--cpu-range", "--cpu-strict", "--numa", "-Cb", "--cpu-mask-batch"], CORES),
    hint(
        &["--prio", "--prio-batch", "--poll", "--poll-batch"],
        "priority is the system's to give (`nice`), and idle threads wait without spinning for long",
    ),
    hint(
        &["-mu", "--model-url"],
        "download the file and give it to --model, or use a hub name: --model owner/repo:Q4_0",
    ),
    hint(&["-hff", "--hf-file"], "put the quantisation behind the name: -hf owner/repo:Q4_0"),
    hint(&["-hft", "--hf-token"], "set HF_TOKEN in the environment, where other users of the machine cannot see it"),
    hint(&["-dr", "--docker-repo"], "models come from a folder, a .gguf file or the hub: --model owner/repo"),
    hint(&["-a", "--alias"], "a model goes by the name it was opened with"),
    hint(&["--model-draft", "-hfd", "-hfrd", "--hf-repo-draft", "-devd", "-ngld", "-cd", "-td", "-tbd"], DRAFT),
    hint(&["-mm", "-mmu", "--image", "--audio"], "only text goes in"),
    hint(&["--warmup", "--no-warmup"], "nothing is warmed up before an answer; `bench` warms up before it measures"),
    hint(&["--perf"], "speeds are printed unless --no-perf is given"),
    hint(
        &["--verbose-prompt", "--log-file", "-lv", "--verbosity", "--simple-io", "--show-timings", "--no-show-timings"],
        LOG,
    ),
    hint(&["-pg", "-gp", "--delay", "--progress"], "rows are chosen with -p, -n and -d"),
    hint(
        &["--all-logits", "--hellaswag", "--winogrande", "--multiple-choice", "--kl-divergence", "--ppl-stride"],
        "`perplexity` measures perplexity by window, and `logits` writes logits for any other measure",
    ),
    hint(&["--usage"], "use --help"),
];

const PREFIXES: &[Hint] = &[
    hint(&["--rope-", "--yarn-"], ROPE),
    hint(&["--lora", "--control-vector"], LORA),
    hint(&["--draft", "--spec-"], DRAFT),
    hint(&["--dry-", "--xtc-", "--dynatemp", "--mirostat", "--adaptive-"], SAMPLER),
    hint(&["--mmproj", "--image-"], "only text goes in"),
    hint(&["--log-"], LOG),
    hint(
        &["--reasoning", "--think", "--no-think"],
        "a model that thinks aloud is shown as it writes; its template decides",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flag_is_answered_twice() {
        let mut all: Vec<&str> = HINTS.iter().chain(PREFIXES).flat_map(|h| h.flags.iter().copied()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn flags_an_answer_names_exist() {
        let root = super::super::args::command();
        let ours: Vec<String> = std::iter::once(&root)
            .chain(root.get_subcommands())
            .flat_map(|c| c.get_arguments())
            .filter_map(|a| a.get_long().map(|long| format!("--{long}")))
            .chain(["--help".to_string()])
            .collect();
        for answer in HINTS.iter().chain(PREFIXES).map(|h| h.answer) {
            for word in
                answer.split(|c: char| c.is_whitespace() || ",;:()`".contains(c)).filter(|w| w.starts_with("--"))
            {
                assert!(ours.iter().any(|o| o == word), "{word} in {answer:?}");
            }
        }
    }

    #[test]
    fn families_and_strangers() {
        assert!(for_flag("--rope-freq-base", "run").expect("known").contains("config"));
        assert!(for_flag("-t", "inspect").is_none());
        assert!(for_flag("--frobnicate", "run").is_none());
        assert!(for_flag("-ngl", "pack").expect("known").contains("in `pack`"));
    }
}
