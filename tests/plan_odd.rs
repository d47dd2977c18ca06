//! Requests of `plan` that make no sense, or hardly: each is a plan, or a sentence that says what is wrong (exit code 2; 5 for a
//! file that is no model) or what would fit (3). Nothing crashes, and nothing that was asked is dropped in silence.

#[allow(dead_code, reason = "made for the tests of the whole program")]
#[path = "cli/program.rs"]
mod program;

use program::{Home, Outcome};

const GPU: [&str; 2] = ["--gpu", "vram=2G,bandwidth=200G"];

fn plan(home: &Home, flags: &[&str]) -> Outcome {
    let line: Vec<&str> = ["plan", "--disk", "1G"].iter().chain(flags).copied().collect();
    let outcome = home.run(&line);
    let Outcome { code, stdout, stderr } = &outcome;
    assert!(!stderr.contains("panicked"), "{flags:?}: {outcome:?}");
    match code {
        0 => assert!(stdout.contains("tokens/s expected"), "{flags:?}: {outcome:?}"),
        2 | 3 | 5 => assert!(stdout.is_empty() && stderr.split_whitespace().count() > 4, "{flags:?}: {outcome:?}"),
        _ => panic!("{flags:?}: {outcome:?}"),
    }
    outcome
}

/// With the accelerator before.
fn hybrid(home: &Home, flags: &[&str]) -> Outcome {
    plan(home, &[&GPU, flags].concat())
}

#[test]
fn each_is_a_plan_or_a_sentence() {
    let home = Home::new();
    std::fs::write(home.path("text.gguf"), "this is no model").expect("writes");
    let refused: &[(&[&str], i32, &str)] = &[
        // Budgets.
        (&["--ram", "0"], 2, "at least 1 byte"),
        (&["--ram", "1"], 3, "too few"),
        (&["--ram", "4K"], 3, "This fits: --ram"),
        (&["--ram", "-5G"], 2, "unexpected argument"),
        (&["--ram", "lots"], 2, "size"),
        (&["--ram", "99999999999999999999G"], 2, "64 bits"),
        // Contexts and threads.
        (&["-c", "99999999999"], 2, "positions are not supported"),
        (&["-c", "-1"], 2, "unexpected argument"),
        (&["-t", "0"], 2, "thread"),
        (&["-t", "4000"], 2, "threads"),
        (&["-ub", "0"], 2, "at least 1"),
        (&["-p", "0"], 2, "at least 1"),
        // Accelerators that are not there.
        (&["--gpu", "voodoo 2"], 2, "not known here"),
        (&["--gpu", ""], 2, "not known here"),
        (&["--gpu", "vram=8G"], 2, "bandwidth"),
        (&["--gpu", "vram=8G,bandwidth=0"], 2, "bandwidth"),
        (&["--gpu", "vram=0,bandwidth=1G"], 2, "vram"),
        (&["--vram", "4G"], 2, "no accelerator"),
        (&["-ngl", "5"], 2, "no accelerator"),
        (&["-dev", "CUDA7"], 2, "cuda:7"),
        (&["--cpu", "--gpu", "rtx 4060"], 2, "--cpu says"),
        (&["--cpu", "-ngl", "3"], 2, "leave"),
        (&["-dev", "none", "--gpu", "rtx 4060"], 2, "--device"),
        (&["-dev", "stand-in", "--gpu", "rtx 4060"], 2, "--device"),
        (&["--cpu", "-ot", "exps=CUDA0"], 2, "leave one out"),
        // Flags that are no numbers, or out of reach.
        (&["-ngl", "many"], 2, "whole number"),
        (&["-ngl", "-1"], 2, "whole number"),
        (&["--n-cpu-moe", "-3"], 2, "whole number"),
        // Tensors.
        (&["-ot", "exps=CUDA0"], 2, "no accelerator"),
        (&["-ot", "exps=TPU"], 2, "no device"),
        (&["-ot", "blk.(=CPU"], 2, "no regular expression"),
        (&["-ot", "exps"], 2, "REGEX=DEV"),
        (&["-ot", "=CPU"], 2, "before the ="),
        (&["-ot", "no_such_tensor=CPU"], 2, "names no tensor"),
        (&["-ot", "exps=CPU", "-ot", "exps=CPU"], 2, "named before"),
        (&["-ot", "attn_q=DISK"], 2, "only experts"),
        (&["-ot", "exps=DISK"], 2, "kept by use"),
        // Questions about what is not there.
        (&["--explain", "99.0"], 2, "layers 0 to"),
        (&["--explain", "0.99"], 2, "experts 0 to"),
        (&["--explain", "first"], 2, "--explain"),
        (&["--picture", "map.jpg"], 2, ".svg or .png"),
        (&["--picture", "no/such/folder/map.svg"], 2, "cannot be written"),
        // What is no model.
        (&["-m", "text.gguf"], 5, "expected GGUF"),
        (&["-m", "no-such-folder"], 2, "no-such-folder"),
        (&["--profile", "text.gguf", "--strict"], 2, "is no JSON"),
        (&["--n-cpu-moe", "999", "--strict"], 2, "--strict"),
    ];
    for (flags, code, words) in refused {
        let outcome = plan(&home, flags);
        assert_eq!(outcome.code, *code, "{flags:?}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{flags:?}, {words:?}: {outcome:?}");
    }
}

#[test]
fn what_makes_sense_is_planned_and_said() {
    let home = Home::new();
    for flags in [
        &["--ram", "64T"] as &[&str],
        &["--picture", "map.png"],
        &["-c", "0"],
        &["-d", "999999"],
        &["-p", "1"],
        &["-dev", "cpu"],
        &["--cpu"],
        &["--cpu-moe"],
        &["-ot", "exps=CPU"],
        &["-ngl", "0"],
    ] {
        assert_eq!(plan(&home, flags).code, 0, "{flags:?}");
    }
    for flags in [
        &["-ngl", "999"] as &[&str],
        &["-ngl", "0"],
        &["-ngl", "99", "--cpu-moe"],
        &["--vram", "600M"],
        &["-ot", "blk\\.0\\..*_exps=CUDA0"],
        &["--cpu-moe", "-ot", "attn=CUDA0,ffn_gate_inp=CUDA0,ffn_norm=CUDA0"],
    ] {
        assert_eq!(hybrid(&home, flags).code, 0, "{flags:?}");
    }
    let clamped = hybrid(&home, &["--n-cpu-moe", "999"]);
    assert!(clamped.code == 0 && clamped.stderr.contains("999"), "{clamped:?}");
}

#[test]
fn constraints_are_kept_and_contradictions_are_named() {
    let home = Home::new();
    let layers = |flags: &[&str]| {
        let outcome = home.run(&[&["plan", "--json", "--disk", "1G"], &GPU as &[&str], flags].concat());
        assert_eq!(outcome.code, 0, "{flags:?}: {outcome:?}");
        let value: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        value["layers"].as_array().expect("a list").clone()
    };
    let first = &layers(&[])[0]; // one plan: the next may differ, since speeds are measured
    let places = ["experts_on_gpu", "experts_in_memory", "experts_on_disk"];
    let all: u64 = places.iter().map(|place| first[place].as_u64().expect("a count")).sum();
    for layer in layers(&["-ngl", "99", "--cpu-moe"]) {
        assert!(layer["attention_on_gpu"] == true && layer["experts_on_gpu"] == 0, "{layer}");
    }
    let some = layers(&["-ot", "blk\\.[02]\\.ffn_(gate|up|down)_exps=CUDA0", "-ot", "exps=CPU", "-ot", "attn=CPU"]);
    for (l, layer) in some.iter().enumerate() {
        let there = if l == 0 || l == 2 { all } else { 0 };
        assert!(layer["experts_on_gpu"] == there && layer["attention_on_gpu"] == false, "{layer}");
    }
    // Runs keep the processor's experts by use, so a plan that bound some to the disk would be none.
    let bound = hybrid(&home, &["-ot", "exps=DISK"]);
    assert!(bound.code == 2 && bound.stderr.contains("kept by use"), "{bound:?}");
    // Half of an expert on the accelerator: refused, not halved.
    let torn = hybrid(&home, &["-ot", "ffn_gate_exps=CUDA0", "-ot", "exps=CPU"]);
    assert!(torn.code == 2 && torn.stderr.contains("lie together"), "{torn:?}");
    let both = hybrid(&home, &["--cpu-moe", "-ot", "exps=CUDA0"]);
    assert!(both.code == 2 && both.stderr.contains("leave one out"), "{both:?}");
    let partly = hybrid(&home, &["--cpu-moe", "--n-cpu-moe", "1"]);
    assert!(partly.code == 2 && partly.stderr.contains("only some"), "{partly:?}");
    let small = hybrid(&home, &["-ngl", "99", "--vram", "512M"]);
    assert!(small.code == 3 && small.stderr.contains("fits"), "{small:?}");
}

/// Too little memory beside an accelerator is refused, and what is said to fit does.
#[test]
fn what_is_said_to_fit_fits() {
    let home = Home::new();
    let advised = |outcome: &Outcome, flag: &str| {
        let words: Vec<&str> = outcome.stderr.split_whitespace().collect();
        let at = words.iter().position(|word| *word == flag).expect("a flag that fits");
        words[at + 1].to_string()
    };
    for flags in
        [&["--ram", "1"][..], &["--ram", "30M"], &["--ram", "1M", "-ngl", "0"], &["--ram", "9M", "-ot", "exps=CPU"]]
    {
        let refused = hybrid(&home, flags);
        assert!(refused.code == 3 && refused.stderr.contains("least that does"), "{flags:?}: {refused:?}");
        let ram = advised(&refused, "--ram");
        let more = [&["--ram", &ram], &flags[2..]].concat();
        let fits = home.run(&[&["plan", "--json", "--disk", "1G"], &GPU as &[&str], &more].concat());
        assert_eq!(fits.code, 0, "{more:?}: {fits:?}");
        let value: serde_json::Value = serde_json::from_str(&fits.stdout).expect("JSON");
        let held =
            value["memory"].as_array().expect("a list").iter().map(|line| line["bytes"].as_u64().expect("bytes"));
        assert!(held.sum::<u64>() <= value["budget_bytes"].as_u64().expect("a budget"), "{value}");
    }
    let refused = hybrid(&home, &["--vram", "513M", "-ngl", "99"]);
    let vram = advised(&refused, "--vram");
    assert_eq!(hybrid(&home, &["--vram", &vram, "-ngl", "99"]).code, 0, "{refused:?}");
}

#[test]
fn parts_add_up_and_answers_are_whole() {
    let home = Home::new();
    let value = |flags: &[&str]| -> serde_json::Value {
        let outcome = home.run(&[&["plan", "--json", "--disk", "1G"], flags].concat());
        assert_eq!(outcome.code, 0, "{flags:?}: {outcome:?}");
        serde_json::from_str(&outcome.stdout).expect("JSON")
    };
    // Everything there, some of it, nothing.
    for flags in [&GPU[..], &["--gpu", "vram=514M,bandwidth=200G"], &["--gpu", "vram=512M,bandwidth=200G"], &[]] {
        let plan = value(flags);
        let parts = plan["token_seconds"].as_array().expect("a list").iter();
        let parts: Vec<f64> = parts.map(|part| part["seconds"].as_f64().expect("a number")).collect();
        let whole = 1.0 / plan["tokens_per_second"]["expected"].as_f64().expect("a number");
        assert!(parts.iter().all(|part| *part >= 0.0), "{plan}");
        assert!((parts.iter().sum::<f64>() / whole - 1.0).abs() < 1e-6, "{plan}");
        for gain in plan["gains"].as_array().expect("a list") {
            assert!(gain["tokens_per_second"].as_f64().is_some_and(|gain| gain >= 0.0), "{plan}");
        }
    }
    let explained = value(&["--explain", "1.2"]);
    assert!(explained["explanation"]["text"].as_str().is_some_and(|text| text.contains("expert 2 of layer 1")));
    assert_eq!(value(&["-d", "0"])["depth"], 0);
    assert_eq!(value(&["--ram", "18446744073709551615"])["budget_bytes"], u64::MAX);
    let clamped = plan(&home, &["-d", "5000"]);
    assert!(clamped.stderr.contains("-d 5000"), "{clamped:?}");
    // A stand-in has no speed.
    let stand_in = value(&["-dev", "stand-in"]);
    assert!(stand_in["tokens_per_second"].is_null() && stand_in["bound_seconds"].is_null(), "{stand_in}");
}
