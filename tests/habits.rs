//! What runs learn of a model's habits, as people meet it: where it is kept, what becomes of damage, how to say no.

#[allow(dead_code, reason = "each test crate uses its own part")]
#[path = "cli/program.rs"]
mod program;

use program::Home;
use serde_json::Value;

fn tokens(path: &std::path::Path) -> f64 {
    let text = std::fs::read_to_string(path).expect("a profile is there");
    let value: Value = serde_json::from_str(&text).expect("a profile is JSON");
    value["tokens"].as_f64().expect("it counts tokens")
}

#[test]
fn every_run_adds_to_the_profile_that_is_named() {
    let home = Home::new();
    let file = home.path("habits.json");
    let profile = file.to_str().expect("UTF-8");
    let line = ["-p", "What is 2 + 3?", "-n", "4", "--temp", "0", "--profile", profile];
    assert_eq!(home.run(&line).code, 0);
    let once = tokens(&file);
    assert!(once > 4.0, "{once}");
    assert_eq!(home.run(&line).code, 0);
    let twice = tokens(&file);
    assert!((twice - 2.0 * once).abs() < 0.02 * once, "{once} {twice}");

    // Damage costs what was known, not the answer.
    std::fs::write(&file, "{ no profile").expect("writes");
    let outcome = home.run(&line);
    assert_eq!(outcome.code, 0);
    assert!(outcome.stderr.contains("is no JSON") && outcome.stderr.contains("begun anew"), "{outcome:?}");
    assert_eq!(tokens(&file), once);

    // So does a place that cannot be written.
    let outcome = home.run(&["-p", "Hi", "-n", "2", "--profile", "/dev/null/x"]);
    assert_eq!(outcome.code, 0);
    assert!(outcome.stderr.contains("/dev/null/x"), "{outcome:?}");
}

#[test]
fn a_run_keeps_its_profile_in_the_cache_unless_told_not_to() {
    let home = Home::new();
    let cache = home.path("cache");
    let there = || {
        let files = std::fs::read_dir(cache.join("thermocline/packed")).into_iter().flatten().flatten();
        files.filter(|f| f.file_name().to_string_lossy().ends_with(".profile.json")).count()
    };
    let variables = [("XDG_CACHE_HOME", cache.to_str().expect("UTF-8"))];
    let home = home.with(&variables);
    assert_eq!(home.run(&["-p", "Hi", "-n", "2", "--profile", "none"]).code, 0);
    assert_eq!(home.run(&["bench", "-p", "8", "-n", "2", "-r", "1"]).code, 0);
    assert_eq!(there(), 0, "random tokens teach nothing");
    assert_eq!(home.run(&["-p", "Hi", "-n", "2"]).code, 0);
    assert_eq!(there(), 1);
}

#[test]
fn texts_teach_on_purpose() {
    let home = Home::new();
    let (a, b, file) = (home.path("a.txt"), home.path("b.txt"), home.path("p.json"));
    std::fs::write(&a, "2 + 3 = 5\n".repeat(100)).expect("writes");
    std::fs::write(&b, "once upon a time\n".repeat(100)).expect("writes");
    let [a, b, profile] = [&a, &b, &file].map(|p| p.to_str().expect("UTF-8"));
    let outcome = home.run(&["profile", "--text", a, b, "--profile", profile]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for words in ["tokens known", "hottest quarter", "neurons fire", "token before"] {
        assert!(outcome.stdout.contains(words), "{outcome:?}");
    }
    assert!(tokens(&file) > 500.0);
    for (line, words) in [
        (&["profile"][..], "--text"),
        (&["profile", "--text", "no-such-file"], "no-such-file"),
        (&["profile", "--text", a, "--profile", "none"], "nowhere to write"),
        (&["profile", "--text", a, "-c", "2"], "at least 4"),
    ] {
        let outcome = home.run(line);
        assert_eq!(outcome.code, 2, "{line:?}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
}
