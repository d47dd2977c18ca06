//! The picture of the house in docs/ARCHITECTURE.md, kept true: a room imports from lower floors only, rooms of one
//! floor are strangers, and each dependency has its rooms.

use std::path::{Path, PathBuf};

/// Floors from the ground up; rooms of one floor do not know each other.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["config", "pool", "timeline"],
    &["host"],
    &["checkpoint", "bridge"],
    &["device"],
    &["experts"],
    &["model", "planner"],
    &["engine"],
    &["serve"],
    &["cli"],
];

/// Words that may appear only in files under these paths (relative to the repository).
const RESERVED: &[(&[&str], &[&str])] = &[
    (
        &["candle_core", "candle_nn"],
        &[
            "src/bridge.rs",
            "src/device/",
            "src/experts/device.rs",
            "src/model/",
            "src/error.rs",
            "src/engine/sampler",
            "examples/",
            "tests/",
        ],
    ),
    (&["candle_transformers"], &["src/engine/sampler"]),
    (&["ureq", "hf_hub"], &["src/checkpoint/hub"]),
    (&["std::arch", "core::arch"], &["kernels/src/arch/", "kernels/src/isa.rs"]),
    (&["memmap2"], &["src/checkpoint/", "src/experts/slots.rs", "src/planner/hardware"]),
    (&["tokenizers::"], &["src/engine/text", "tests/", "examples/"]),
    (&["llguidance", "toktrie"], &["src/engine/grammar"]),
    (&["minijinja"], &["src/engine/text"]),
    (&["clap::", "clap_complete", "rustyline", "indicatif"], &["src/cli/", "src/main.rs", "examples/"]),
    (
        &["thread::spawn", "thread::Builder"],
        &["src/pool.rs", "src/experts/loader.rs", "src/serve/mod.rs", "tests/", "examples/"],
    ),
    (&["axum", "tokio", "futures_core", "async "], &["src/serve/", "tests/", "examples/"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust source under `under`: (path relative to the repository, text).
fn sources(under: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(under), &mut found);
    assert!(!found.is_empty(), "no sources under {under}");
    let name = |p: &Path| p.strip_prefix(root()).expect("walked from the root").to_string_lossy().replace('\\', "/");
    found.iter().map(|p| (name(p), std::fs::read_to_string(p).expect("a source is text"))).collect()
}

fn all() -> Vec<(String, String)> {
    ["src", "kernels/src", "tests", "examples"].iter().flat_map(|d| sources(d)).collect()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Rooms named by `crate::room` in code (comment lines left out), `crate::{a, b}` included.
fn imports(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect();
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' || before == '$' {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let names: String = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or("").to_string(),
            None => rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect(),
        };
        rooms.extend(names.split(',').map(|n| n.trim().split("::").next().unwrap_or("").to_string()));
    }
    rooms
}

#[test]
fn rooms_import_from_lower_floors_only() {
    let mut wrong = Vec::new();
    for (file, text) in sources("src") {
        let inside = file.strip_prefix("src/").expect("under src");
        let room = inside.split(['/', '.']).next().expect("a first part");
        if ["lib", "main"].contains(&room) {
            continue;
        }
        let Some(own) = floor(room) else {
            wrong.push(format!("{file}: room `{room}` has no floor"));
            continue;
        };
        for name in imports(&text) {
            match floor(&name) {
                Some(other) if other > own || (other == own && name != room) => {
                    wrong.push(format!("{file}: `{room}` (floor {own}) imports `{name}` (floor {other})"));
                }
                None if !["Error", "Result"].contains(&name.as_str()) => {
                    wrong.push(format!("{file}: `crate::{name}` is no room"));
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_dependency_has_its_rooms() {
    let all = all();
    let mut wrong = Vec::new();
    for (words, rooms) in RESERVED {
        let outside = |file: &str| file != "tests/floors.rs" && !rooms.iter().any(|r| file.starts_with(r));
        for (file, text) in all.iter().filter(|(file, _)| outside(file)) {
            for (number, line) in text.lines().enumerate() {
                if !line.trim_start().starts_with("//") && words.iter().any(|w| line.contains(w)) {
                    wrong.push(format!("{file}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "outside their rooms:\n{}", wrong.join("\n"));
}

#[test]
fn no_file_outgrows_the_house() {
    let sources = ["src", "kernels/src", "examples"].iter().flat_map(|d| sources(d));
    let long: Vec<_> = sources.map(|(f, t)| (f, t.lines().count())).filter(|(_, lines)| *lines > 600).collect();
    assert!(long.is_empty(), "files over 600 lines: {long:?}");
}
