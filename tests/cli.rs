//! The program as people and scripts meet it: exit codes, sentences, what goes where. Everything runs on the bundled model.

#[path = "cli/download.rs"]
mod download;
#[allow(dead_code, reason = "made for the tests of downloads")]
mod fake_hub;
#[path = "cli/form.rs"]
mod form;
#[path = "cli/program.rs"]
mod program;
#[cfg(unix)]
#[path = "cli/terminal.rs"]
mod terminal;

use program::Home;

/// Every way to be wrong on the command line ends with 2 and one sentence on standard error.
#[test]
fn wrong_usage_is_2_and_a_sentence() {
    let home = Home::new();
    for (line, words) in [
        (&["-t", "0", "-p", "x"][..], "at least one thread"),
        (&["--quant", "q5_0", "-p", "x"], "q4_0"),
        (&["-ctk", "q4_0", "-p", "x"], "q8_0"),
        (&["--top-p", "1.5"], "from 0 to 1"),
        (&["--logit-bias", "x"], "15043+1"),
        (&["-c", "1"], "at least 2 positions"),
        (&["-c", "18446744073709551615", "-p", "x"], "not supported"),
        (&["--frobnicate"], "--frobnicate"),
        (&["frobnicate"], "frobnicate"),
        (&["-m", "a", "-hf", "b/c"], "one model at a time"),
        (&["-m", ""], "--model is empty"),
        (&["-p", ""], "the prompt is empty"),
        (&["-f", "no-such-file"], "no-such-file"),
        (&["--chat-template", "x", "--chat-template-file", "y", "-p", "x"], "not both"),
        (&["-p", "x", "bench"], "thermocline bench"),
        (&["bench", "-p", "0", "-n", "0"], "nothing to measure"),
        (&["bench", "-p", "1,x"], "separated by commas"),
        (&["logits", "--tokens", "no-such-file", "-o", "out"], "no-such-file"),
        (&["logits"], "--tokens"),
        (&["completions", "tcsh"], "bash"),
        (&["-m", "not a name", "-p", "x"], "not a name"),
    ] {
        let outcome = home.run(line);
        assert_eq!(outcome.code, 2, "{line:?}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{line:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{line:?}");
    }
}

/// The stand-in answers as the processor does, says what lies there and keeps to its bound.
#[test]
fn an_accelerator_is_asked_for_and_told_of() {
    let home = Home::new();
    let ask = ["-p", "hello", "-n", "4", "--temp", "0"];
    let with = |more: &[&str]| home.run(&[&ask, more].concat());
    let plain = with(&["--cpu"]);
    let there = with(&["-dev", "stand-in", "-v"]);
    assert_eq!((there.code, &there.stdout), (0, &plain.stdout), "{there:?}");
    for words in ["stand-in: attention of 6 of 6 layers, 96 of 96 experts and the head", "stand-in: ledger"] {
        assert!(there.stderr.contains(words), "{there:?}");
    }
    let some = with(&["-dev", "stand-in", "-ngl", "2", "-ncmoe", "5", "-v"]);
    assert!(some.code == 0 && some.stderr.contains("attention of 2 of 6 layers, 16 of 96 experts, "), "{some:?}");
    let ruled =
        with(&["-dev", "stand-in", "-ot", r"blk\.[135]\..*_exps=GPU", "-ot", "exps=CPU", "-ot", "attn_q=CPU", "-v"]);
    assert!(
        ruled.code == 0 && ruled.stderr.contains("attention of 0 of 6 layers, 48 of 96 experts and the head"),
        "{ruled:?}"
    );
    assert_eq!(with(&["-ot", "exps=CPU"]).stdout, plain.stdout);
    for (line, code, words) in [
        (&["-dev", "stand-in", "--cpu"][..], 2, "--cpu"),
        (&["-ot", "no_such_tensor=CPU"], 2, "names no tensor"),
        (&["--cpu", "-ot", "no_such_tensor=CPU"], 2, "names no tensor"),
        (&["--cpu", "-ot", "exps=GPU"], 2, "leave one out"),
        (&["-dev", "stand-in", "-ot", "ffn_up_exps=GPU", "-ot", "exps=CPU"], 2, "lie together"),
        (&["-dev", "stand-in", "-ot", "exps=DISK"], 2, "kept by use"),
        (&["-dev", "stand-in", "--cpu-moe", "-ncmoe", "1"], 2, "only some"),
        (&["-dev", "stand-in", "--vram", "1M", "-ngl", "6"], 3, "--vram"),
        (&["-dev", "abacus"], 2, "stand-in"),
    ] {
        let refused = with(line);
        assert!(refused.code == code && refused.stderr.contains(words), "{line:?}: {refused:?}");
    }
    if cfg!(not(any(feature = "cuda", feature = "metal"))) {
        let noted = with(&["-ngl", "99"]);
        assert!(noted.code == 0 && noted.stderr.contains("built without CUDA"), "{noted:?}");
        assert_eq!(with(&["-ngl", "99", "--strict"]).code, 2);
    }
}

#[test]
fn flags_of_llama_cpp_are_answered() {
    let home = Home::new();
    for (flag, words) in [
        ("-mg", "CPU"),
        ("--no-mmap", "mapped"),
        ("-fa", "score matrix"),
        ("-sm", "CPU"),
        ("-i", "chat"),
        ("-cnv", "chat"),
        ("--color", "NO_COLOR"),
        ("--numa", "numactl"),
        ("-ngld", "--model-draft"),
        ("--rope-freq-scale", "config"),
        ("--lora", "adapters"),
        ("-r", "--stop"),
    ] {
        let outcome = home.run(&[flag, "1"]);
        assert_eq!(outcome.code, 2, "{flag}: {outcome:?}");
        assert!(outcome.stderr.contains(&format!("no {flag} here")) && outcome.stderr.contains(words), "{outcome:?}");
    }
}

#[test]
fn without_a_terminal_something_must_be_asked() {
    let home = Home::new();
    // Standard input is /dev/null, then a pipe that holds nothing but blanks.
    for outcome in [home.run(&[]), home.run(&["chat"]), home.piped(&[], " \n")] {
        assert_eq!(outcome.code, 2, "{outcome:?}");
        assert!(outcome.stderr.contains("--prompt"), "{outcome:?}");
    }
}

#[test]
fn help_names_the_commands_and_goes_to_standard_output() {
    let home = Home::new();
    let outcome = home.run(&["--help"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    for word in
        ["serve", "bench", "inspect", "logits", "perplexity", "pack", "cache", "completions", "--prompt", "Exit codes"]
    {
        assert!(outcome.stdout.contains(word), "{word}");
    }
    for command in ["run", "chat", "serve", "bench", "inspect", "logits", "perplexity", "pack", "cache", "completions"]
    {
        let outcome = home.run(&[command, "--help"]);
        assert_eq!(outcome.code, 0);
        assert!(outcome.stdout.contains("Usage: thermocline "), "{outcome:?}");
    }
    assert!(home.run(&["--version"]).stdout.starts_with("thermocline "));
}

#[test]
fn completions_know_commands_and_flags() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let outcome = home.run(&["completions", shell]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
        assert!(outcome.stdout.contains("perplexity") && outcome.stdout.contains("ctx-size"), "{shell}");
    }
}

#[test]
fn models_that_are_none_end_with_5_and_downloads_with_4() {
    let home = Home::new();
    let empty = home.path("empty");
    std::fs::create_dir(&empty).expect("creates");
    let garbage = home.path("garbage.gguf");
    std::fs::write(&garbage, [7u8; 300]).expect("writes");
    for path in [&empty, &garbage, &home.path("nothing/here.gguf")] {
        let path = path.to_str().expect("UTF-8");
        for line in [&["-m", path, "-p", "x"][..], &["inspect", path], &["bench", "-m", path]] {
            let outcome = home.run(line);
            assert_eq!(outcome.code, 5, "{line:?}: {outcome:?}");
            assert!(outcome.stderr.contains("error: "), "{outcome:?}");
        }
    }
    let outcome = home.run(&["-m", "nobody/nothing", "--offline", "-p", "x"]);
    assert_eq!(outcome.code, 4, "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
}

#[test]
fn the_answer_and_nothing_else_is_on_standard_output() {
    let home = Home::new();
    let outcome = home.run(&["-p", "What is 2 + 3?", "-n", "12", "--temp", "0"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(!outcome.stdout.trim().is_empty() && outcome.stdout.ends_with('\n'), "{outcome:?}");
    assert!(outcome.stderr.contains("tok/s") && outcome.stderr.contains("GB/s"), "{outcome:?}");
    assert!(!outcome.stdout.contains("tok/s") && !outcome.stdout.contains('\x1b'), "{outcome:?}");
    assert!(!outcome.stderr.contains('\x1b') && !outcome.stderr.contains('\r'), "no drawing in a pipe: {outcome:?}");
    // The same words, from standard input, a file, the environment.
    let quiet = ["-n", "12", "--temp", "0", "--no-perf"];
    let file = home.path("question");
    std::fs::write(&file, "What is 2 + 3?\n").expect("writes");
    let file = file.to_str().expect("UTF-8");
    let others = [
        home.piped(&quiet, "What is 2 + 3?\n"),
        home.piped(&[&quiet[..], &["-f", "-"]].concat(), "What is 2 + 3?"),
        home.run(&[&quiet[..], &["-f", file]].concat()),
        home.with(&[("THERMOCLINE_PROMPT", "What is 2 + 3?")]).run(&quiet),
        home.run(&[&["run", "-p", "What is 2 + 3?"], &quiet[..]].concat()),
    ];
    for other in others {
        assert_eq!((other.code, &other.stdout), (0, &outcome.stdout), "{other:?}");
        assert!(!other.stderr.contains("tok/s"), "{other:?}");
    }
}

#[test]
fn the_environment_sets_flags_and_the_command_line_wins() {
    let home = Home::new();
    let zero = home.with(&[("THERMOCLINE_THREADS", "0")]).run(&["-p", "x"]);
    assert_eq!(zero.code, 2);
    assert!(zero.stderr.contains("at least one thread"), "{zero:?}");
    let won = home.with(&[("THERMOCLINE_PREDICT", "0"), ("THERMOCLINE_NO_PERF", "1")]).run(&["-p", "x", "-n", "2"]);
    assert_eq!(won.code, 0, "{won:?}");
    assert!(!won.stderr.contains("tok/s"), "{won:?}");
    let off = home.with(&[("THERMOCLINE_NO_PERF", "0")]).run(&["-p", "x", "-n", "2"]);
    assert!(off.stderr.contains("tok/s"), "{off:?}");
    // One in the environment is no second model beside one on the command line.
    let nowhere = home.path("nowhere.gguf");
    let nowhere = nowhere.to_str().expect("UTF-8");
    let named =
        home.with(&[("THERMOCLINE_HF_REPO", "a/b"), ("THERMOCLINE_OFFLINE", "1")]).run(&["-m", nowhere, "-p", "x"]);
    assert_eq!(named.code, 5, "{named:?}");
    assert!(named.stderr.contains("nowhere.gguf"), "{named:?}");
}

#[test]
fn a_seed_decides_the_answer() {
    let home = Home::new();
    let ask = |seed: &str| home.run(&["-p", "Tell me a story.", "-n", "24", "--temp", "1.5", "-s", seed, "--no-perf"]);
    let (one, again) = (ask("7"), ask("7"));
    assert_eq!((one.code, &one.stdout), (0, &again.stdout));
    let others = ["8", "9", "10", "11"].map(|seed| ask(seed).stdout);
    assert!(others.iter().any(|other| *other != one.stdout), "{one:?}");
}

#[test]
fn answers_end_where_they_are_told() {
    let home = Home::new();
    let no_end = no_end(&home);
    let start = ["--raw", "-p", "One day", "--temp", "0", "--logit-bias", &no_end];
    let ask = |more: &[&str]| home.run(&[&start[..], more].concat());
    let long = ask(&["-n", "30"]);
    assert_eq!(long.code, 0, "{long:?}");
    assert!(long.stderr.contains("all that --predict allows"), "{long:?}");
    // Any later piece of the answer serves as a stop text.
    let stop: String = long.stdout.trim_end().chars().skip(8).take(3).collect();
    let stopped = ask(&["-n", "30", "--stop", &stop]);
    let want = &long.stdout[..long.stdout.find(&stop).expect("it is from there")];
    assert_eq!(stopped.stdout.trim_end_matches('\n'), want.trim_end_matches('\n'), "{stop:?}: {stopped:?}");
}

#[test]
fn a_full_context_is_a_sentence() {
    let home = Home::new();
    // Half a terabyte of cache; the largest context that fits is named.
    let huge = home.run(&["-p", "x", "-c", "1000000000", "-ctk", "f32", "-ctv", "f32"]);
    assert_eq!((huge.code, huge.stdout.as_str()), (3, ""), "{huge:?}");
    assert!(huge.stderr.contains("bytes of memory are free") && huge.stderr.contains("fits"), "{huge:?}");
    // Numbers beyond all reason that cost nothing.
    for line in [["--rewind", "18446744073709551615"], ["-ub", "18446744073709551615"], ["--top-k", "9999999999999"]] {
        let outcome = home.run(&[&["-p", "What is 2 + 3?", "-n", "4", "-c", "64"], &line[..]].concat());
        assert_eq!(outcome.code, 0, "{line:?}: {outcome:?}");
    }
    let full = home.run(&["--raw", "-p", "One day", "-c", "24", "--temp", "0", "--logit-bias", &no_end(&home)]);
    assert_eq!(full.code, 0, "{full:?}");
    assert!(full.stderr.contains("the context of 24 positions is full"), "{full:?}");
    let long = home.run(&["-p", &"word ".repeat(200), "-c", "24"]);
    assert_ne!(long.code, 0, "{long:?}");
    assert!(long.stderr.contains("24") && !long.stderr.contains("panicked"), "{long:?}");
}

/// A `--logit-bias` that keeps the bundled model from ending its answer.
fn no_end(home: &Home) -> String {
    let ids = &home.json(&["inspect", "--json"])["eos"];
    let ids = ids.as_array().expect("a list").iter().map(|id| format!("{id}-inf"));
    ids.collect::<Vec<_>>().join(",")
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let home = Home::new();
    for line in [&["-p", "Tell me a story.", "-n", "64"][..], &["inspect"], &["completions", "bash"]] {
        let outcome = home.unread(line);
        assert_eq!(outcome.code, 0, "{line:?}: {outcome:?}");
        assert!(!outcome.stderr.contains("error") && !outcome.stderr.contains("panicked"), "{outcome:?}");
    }
}

#[test]
fn bench_prints_rows_programs_can_read() {
    let home = Home::new();
    let line = ["bench", "-p", "8", "-n", "3", "-d", "0,5", "-r", "2", "-t", "1"];
    let rows = home.json(&[&line[..], &["-o", "json"]].concat());
    let rows = rows.as_array().expect("a list");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["test"].as_str()).collect();
    assert_eq!(names, ["pp8", "tg3", "pp8 @ d5", "tg3 @ d5"]);
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
        assert!(number("min") > 0.0 && number("min") <= number("tokens_per_second"), "{row}");
        assert!(number("tokens_per_second") <= number("max"), "{row}");
        assert!(number("gigabytes_per_second") > 0.0 && number("share_of_ceiling") > 0.0, "{row}");
        assert!(number("peak_rss_bytes") > 1e6 && number("threads") == 1.0, "{row}");
        assert_eq!(row["model"], "bundled model");
    }
    let csv = home.run(&["bench", "-p", "4", "-n", "0", "-r", "1", "-o", "csv"]);
    assert_eq!(csv.stdout.lines().count(), 2, "{csv:?}");
    assert!(csv.stdout.starts_with("test,tokens_per_second,min,max,"), "{csv:?}");
    let table = home.run(&["bench", "-p", "4", "-n", "0", "-r", "1"]);
    assert!(table.stdout.contains("| pp4 ") && table.stdout.contains("ceiling: "), "{table:?}");
}

#[test]
fn inspect_says_what_the_model_is() {
    let home = Home::new();
    let text = home.run(&["inspect"]);
    assert_eq!((text.code, text.stderr.as_str()), (0, ""), "{text:?}");
    assert!(text.stdout.contains("smallthinker") && text.stdout.contains("experts"), "{text:?}");
    let value = home.json(&["inspect", "--json"]);
    assert_eq!(value["family"], "smallthinker");
    let parts = value["parts"].as_array().expect("a list");
    let sum: u64 = parts.iter().filter_map(|part| part["bytes"].as_u64()).sum();
    assert_eq!(value["bytes"].as_u64(), Some(sum));
    assert_eq!(value["layers"].as_array().map(|l| l.len() > 4), Some(true));
}

#[test]
fn logits_are_rows_of_the_vocabulary() {
    let home = Home::new();
    let vocab = home.json(&["inspect", "--json"])["vocab"].as_u64().expect("a number") as usize;
    let tokens = home.path("tokens");
    std::fs::write(&tokens, "1 2 3\n4 5 6 7\n").expect("writes");
    let run = |name: &str, more: &[&str]| {
        let out = home.path(name);
        let line = ["logits", "--tokens", tokens.to_str().expect("UTF-8"), "-o", out.to_str().expect("UTF-8")];
        let outcome = home.run(&[&line[..], more].concat());
        assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{outcome:?}");
        std::fs::read(out).expect("written")
    };
    let all = run("all", &[]);
    assert_eq!(all.len(), 7 * vocab * 4);
    assert!(all.chunks_exact(4).all(|b| f32::from_le_bytes(b.try_into().expect("four bytes")).is_finite()));
    // The last two, on one thread and in other steps: the same bits.
    assert!(run("last", &["--last", "2", "-t", "1", "-ub", "3"]) == all[5 * vocab * 4..]);
    assert!(run("more", &["--last", "99"]) == all);
    std::fs::write(&tokens, "1 99999999").expect("writes");
    let outcome = home.run(&["logits", "--tokens", tokens.to_str().expect("UTF-8"), "-o", "out"]);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("99999999") && outcome.stderr.contains("vocabulary"), "{outcome:?}");
}

#[test]
fn perplexity_has_an_error_bar() {
    let home = Home::new();
    let text = home.path("text");
    std::fs::write(&text, "One day a small fox went to the river. It was cold. ".repeat(12)).expect("writes");
    let text = text.to_str().expect("UTF-8");
    let outcome = home.run(&["perplexity", "-f", text, "-c", "32", "--chunks", "3"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{outcome:?}");
    assert!(lines[0].starts_with("window 1 of 3: ") && lines[3].contains("+/-"), "{outcome:?}");
    // Half of each window, less the last position: 3 x 15.
    assert!(lines[3].contains("45 tokens scored"), "{outcome:?}");
    let short = home.run(&["perplexity", "-f", text, "-c", "4096"]);
    assert_eq!(short.code, 2, "{short:?}");
    assert!(short.stderr.contains("fewer than one window"), "{short:?}");
}

#[test]
fn verbose_says_where_memory_goes() {
    let home = Home::new();
    let outcome = home.run(&["-p", "x", "-n", "1", "-v"]);
    assert!(outcome.stderr.contains("MiB") && outcome.stderr.contains("kernels"), "{outcome:?}");
}

/// A signal while a single answer is written: what there is of it stays, the code is 130.
#[cfg(unix)]
#[test]
fn an_interrupted_answer_is_130() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::io::Read;
    let home = Home::new();
    let no_end = no_end(&home);
    let line = ["-p", "Tell me a story.", "-c", "40000", "-t", "1", "--logit-bias", &no_end];
    let mut child = home.command(&line).env("KERNELS_ISA", "scalar").spawn().expect("the program starts");
    let mut first = [0];
    child.stdout.as_mut().expect("it is piped").read_exact(&mut first).expect("an answer begins");
    kill_process(Pid::from_child(&child), Signal::INT).expect("the program is there");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(output.stdout.ends_with(b"\n"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("tok/s"), "{output:?}");
}

#[test]
fn packed_files_are_made_listed_verified_and_removed() {
    let home = Home::new();
    let cache = home.path("cache");
    let cache = [("THERMOCLINE_CACHE", cache.to_str().expect("UTF-8"))];
    let home_with = home.with(&cache);
    assert_eq!(home_with.run(&["cache", "ls"]).stdout, "");
    let outcome = home_with.run(&["pack"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("packing") && outcome.stderr.contains("about"), "{outcome:?}");
    let packed = outcome.stdout.trim_end().to_string();
    assert!(packed.contains("thermocline/packed/") && packed.ends_with(".gguf"), "{outcome:?}");
    let again = home_with.run(&["pack"]);
    assert!(again.code == 0 && again.stdout.trim_end() == packed && again.stderr.contains("already"), "{again:?}");

    let name = packed.rsplit('/').next().expect("a name");
    let listed = home_with.run(&["cache", "ls"]);
    assert!(listed.stdout.contains(name) && listed.stdout.contains("from /"), "{listed:?}");
    assert!(home_with.run(&["cache", "verify"]).stdout.contains("sound"));
    // The answer of the packed file is that of the model.
    let ask = ["-p", "What is 2 + 3?", "-n", "12", "--temp", "0", "--no-perf"];
    let (plain, mapped) = (home.run(&ask), home.run(&[&["-m", packed.as_str()], &ask[..]].concat()));
    assert!(mapped.code == 0 && mapped.stdout == plain.stdout, "{mapped:?}");
    let inspected = home.run(&["inspect", &packed]);
    assert!(inspected.stdout.contains("packed file"), "{inspected:?}");

    let out = home.path("own.gguf");
    let out = out.to_str().expect("UTF-8");
    assert_eq!(home.run(&["pack", "--quant", "q8_0", "-o", out]).code, 0);
    let outcome = home.run(&["pack", "-o", out]);
    assert!(outcome.code == 2 && outcome.stderr.contains("there already"), "{outcome:?}");
    let outcome = home.run(&["pack", out]);
    assert!(outcome.code == 2 && outcome.stderr.contains("packed file already"), "{outcome:?}");

    let mut bytes = std::fs::read(&packed).expect("reads");
    let last = bytes.len() - 1000;
    bytes[last] ^= 1;
    std::fs::write(&packed, bytes).expect("writes");
    let outcome = home_with.run(&["cache", "verify", name]);
    assert!(outcome.code == 5 && outcome.stdout.contains("damaged"), "{outcome:?}");
    assert_eq!(home_with.run(&["cache", "rm", "other.gguf"]).code, 2);
    let outcome = home_with.run(&["cache", "rm", "all"]);
    assert!(outcome.code == 0 && outcome.stderr.contains("freed"), "{outcome:?}");
    assert_eq!(home_with.run(&["cache", "ls"]).stdout, "");
}

/// A run writes down which experts it chose; `cache-sim` replays that through every policy, or says why it cannot.
#[test]
fn traces_are_written_and_replayed() {
    let home = Home::new();
    let outcome = home.run(&["-p", "Hello!", "-n", "8", "--temp", "0", "-ub", "1", "--trace", "trace"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let trace = std::fs::read_to_string(home.path("trace")).expect("a trace was written");
    assert!(trace.starts_with("{\"trace\":\"thermocline\",\"version\":1,"), "{trace}");

    let outcome = home.run(&["cache-sim", "trace", "--share", "25%", "--slots", "96", "-o", "json"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("hints: of a layer's experts"), "{outcome:?}");
    let rows: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let rows = rows.as_array().expect("a list");
    let misses = |policy: &str, slots: u64| {
        let row = rows.iter().find(|row| row["policy"] == policy && row["slots"] == slots).expect("a row");
        row["misses_per_token"].as_f64().expect("a number")
    };
    assert!(misses("foresight", 24) <= misses("odds", 24) && misses("odds", 24) <= 12.0, "{rows:?}");
    assert!(misses("foresight", 96) == misses("lru", 96), "{rows:?}");
    assert!(rows[0]["closed"] == 0.0 && rows[0]["hit_rate"].is_f64(), "{rows:?}");

    let shown = home.run(&["cache-sim", "trace"]);
    assert!(shown.stdout.contains("| foresight ") && shown.stdout.contains("2 of 16 experts"), "{shown:?}");
    for (line, words) in [
        (&["cache-sim", "no-such-file"][..], "cannot be read"),
        (&["cache-sim", "broken"], "line 1: expected a line of JSON"),
        (&["cache-sim", "trace", "--slots", "1"], "expected at least 2"),
        (&["cache-sim", "trace", "--slots", "97"], "at most all 96"),
        (&["cache-sim", "trace", "--share", "0%"], "like 25%,60%"),
        (&["-p", "x", "--trace", "no/such/folder"], "cannot be written"),
    ] {
        std::fs::write(home.path("broken"), "x\n").expect("a file");
        let outcome = home.run(line);
        assert_eq!(outcome.code, 2, "{line:?}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{line:?}: {outcome:?}");
    }
}

#[test]
fn the_doctor_looks_and_changes_nothing() {
    let home = Home::new();
    let outcome = home.run(&["doctor", "--json"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("an object");
    let findings = report["findings"].as_array().expect("a list");
    for name in [
        "processor",
        "memory",
        "memory bandwidth",
        "huge pages",
        "pinning",
        "cache folder",
        "disk",
        "accelerator",
        "hub",
    ] {
        let found =
            findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"));
        assert!(found["fact"].as_str().is_some_and(|fact| !fact.is_empty()), "{found}");
    }
    let bandwidth = findings.iter().find(|finding| finding["name"] == "memory bandwidth").expect("found above");
    assert!(bandwidth["figures"]["bytes_per_second"].as_f64().is_some_and(|rate| rate > 1e8), "{bandwidth}");
    assert!(outcome.stdout.contains("not asked"), "the hub is left alone");
}
