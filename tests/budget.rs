//! A budget is kept, measured from outside the process; what is too small is refused with advice that works.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "made for the tests of the command line")]
#[path = "cli/program.rs"]
mod program;
mod tiny;

use kernels::Format;
use program::{Home, Outcome};
use std::path::PathBuf;
use std::time::Duration;
use tiny::Tiny;

const MIB: u64 = 1 << 20;

/// 128 experts of 417,792 bytes each: 51 MiB, and 2 MiB of everything else.
fn model() -> Tiny {
    Tiny { layers: 4, experts: 32, active: 4, vocab: 288, context: 4096, ..Tiny::wide() }
}

const EXPERTS: usize = 128;

struct Case {
    home: Home,
    model: String,
}

impl Case {
    fn new(tiny: &Tiny) -> Case {
        let home = Home::new();
        let path: PathBuf = tiny.write_gguf(&home.path("model.gguf"), Format::Q8_0);
        Case { home, model: path.to_str().expect("UTF-8").to_string() }
    }

    /// A prompt of about 800 tokens and an answer of 64, from the file as it lies.
    fn line<'l>(&'l self, more: &[&'l str]) -> Vec<&'l str> {
        let mut line = vec!["--no-pack", "--raw", "-m", &self.model, "-f", "prompt", "--temp", "0", "-n", "64"];
        line.extend(["-t", "2", "--logit-bias", "0-inf,2-inf"]);
        line.extend(more);
        line
    }

    fn run(&self, more: &[&str]) -> Outcome {
        std::fs::write(self.home.path("prompt"), "the quick brown fox jumps over it ".repeat(24)).expect("writes");
        self.home.run(&self.line(more))
    }

    /// The same, with the most memory the process held, as others see it.
    fn watched(&self, more: &[&str]) -> (Outcome, u64) {
        std::fs::write(self.home.path("prompt"), "the quick brown fox jumps over it ".repeat(24)).expect("writes");
        let child = self.home.command(&self.line(more)).spawn().expect("the program starts");
        let status = format!("/proc/{}/status", child.id());
        let watching = std::thread::spawn(move || {
            let mut peak = 0;
            // A process that has ended and is not waited for yet has no such line.
            while let Some(now) = peak_of(&status) {
                peak = now;
                std::thread::sleep(Duration::from_micros(500));
            }
            peak
        });
        let outcome = program::finished(child.wait_with_output().expect("the program ends"));
        (outcome, watching.join().expect("watches"))
    }
}

fn peak_of(status: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|k| k * 1024)
}

/// How many experts the program said stay in memory.
fn slots(outcome: &Outcome) -> Option<usize> {
    let before = outcome.stderr.split(&format!(" of {EXPERTS} experts in memory")).next()?;
    before.rsplit(' ').next()?.parse().ok()
}

#[test]
fn the_peak_is_within_the_budget_and_the_answer_is_the_same() {
    let case = Case::new(&model());
    let (free, whole) = case.watched(&["-c", "1024", "-ub", "128"]);
    assert_eq!(free.code, 0, "{free:?}");
    assert_eq!(slots(&free), None, "{free:?}");
    assert!(whole > 60 * MIB, "{whole} bytes for a model of 53 MiB");
    let mut before = 0;
    for (ram, chunk) in [(56, "128"), (64, "512"), (72, "32")] {
        let (asked, limit) = (format!("{ram}M"), ram * MIB);
        let (outcome, peak) = case.watched(&["-c", "1024", "-ub", chunk, "--ram", &asked]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.stdout, free.stdout, "--ram {asked}");
        assert!(peak <= limit, "--ram {asked}: {peak} bytes at the peak: {}", outcome.stderr);
        // What is left is the allocator's margin and code that did not run.
        assert!(peak > limit - 28 * MIB, "--ram {asked}: only {peak} bytes were used: {}", outcome.stderr);
        let here = slots(&outcome).unwrap_or_else(|| panic!("no slots: {outcome:?}"));
        assert!(here > before && here < EXPERTS, "{here} of {EXPERTS} with {asked}");
        before = here;
        let said = &outcome.stderr;
        assert!(said.contains("at hand") && said.contains("from the disk") && said.contains("hidden"), "{said}");
        assert!(said.contains(&format!("budget {ram}.0 MiB, ledger")) && said.contains("peak"), "{said}");
        assert!(!said.contains("NOT kept"), "{said}");
    }
    // Everything fits: as without a budget.
    let (outcome, peak) = case.watched(&["-c", "1024", "-ub", "128", "--ram", "120M"]);
    assert_eq!((outcome.code, &outcome.stdout), (0, &free.stdout));
    assert!(outcome.stderr.contains("the whole model in memory") && peak <= 120 * MIB, "{peak}: {outcome:?}");
}

/// `Any of these fits: -c 256, or -ctk q8_0 -ctv q8_0, or --ram 812M`
fn advice(outcome: &Outcome) -> Vec<Vec<String>> {
    let list = outcome.stderr.split(" fits: ").nth(1).unwrap_or_else(|| panic!("no advice: {outcome:?}"));
    let one = |flags: &str| flags.split_whitespace().map(str::to_string).collect();
    list.trim_end().split(", or ").map(one).collect()
}

#[test]
fn what_is_too_small_is_3_and_the_advice_works() {
    // A cache that weighs: 4,096 positions of 8 KiB.
    let case = Case::new(&Tiny { kv_heads: 4, layers: 8, experts: 8, ..model() });
    let base = ["-ub", "512"];
    for (ram, context) in [("44M", "4096"), ("50M", "4096"), ("30M", "1024")] {
        let asked = [&base[..], &["-c", context, "--ram", ram]].concat();
        let refused = case.run(&asked);
        assert_eq!((refused.code, refused.stdout.as_str()), (3, ""), "{ram}: {refused:?}");
        for words in ["bytes are the least", "too few", "for a cache of", "--ram"] {
            assert!(refused.stderr.contains(words), "{words}: {refused:?}");
        }
        let advice = advice(&refused);
        assert!(advice.iter().flatten().any(|word| word == "--ram"), "{advice:?}");
        for flags in &advice {
            let mut line: Vec<&str> = asked.to_vec();
            for flag in flags.chunks(2) {
                // The prompt does not fit in a shorter context; that is another refusal.
                line.extend(flag.iter().map(String::as_str));
            }
            line.extend(["-f", "short", "-n", "4"]);
            let kept = line.iter().rposition(|word| *word == "-f").expect("just added");
            std::fs::write(case.home.path("short"), "fox").expect("writes");
            let replaced = dedup(&line[..kept], &line[kept..]);
            let outcome = case.home.run(&case_line(&case.model, &replaced));
            assert_eq!(outcome.code, 0, "--ram {ram} and {flags:?}: {outcome:?}");
        }
    }
}

/// Of flags given twice the last counts; clap takes each once.
fn dedup<'l>(line: &[&'l str], more: &[&'l str]) -> Vec<&'l str> {
    let mut kept: Vec<[&str; 2]> = vec![];
    for pair in line.chunks(2).chain(more.chunks(2)) {
        kept.retain(|k| k[0] != pair[0]);
        kept.push([pair[0], pair[1]]);
    }
    kept.concat()
}

fn case_line<'l>(model: &'l str, more: &[&'l str]) -> Vec<&'l str> {
    [&["--no-pack", "--raw", "-m", model, "--temp", "0"][..], more].concat()
}

#[test]
fn fewer_than_a_token_uses_is_a_loud_note() {
    // 64 layers of 4 active experts: 256 of 2,048 are one token's.
    let many = Tiny { layers: 48, experts: 16, active: 4, neurons: 64, ..model() };
    let case = Case::new(&many);
    let refused = case.run(&["-c", "64", "-ub", "16", "--ram", "1M"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    let least = advice(&refused).concat();
    let ram = least.iter().skip_while(|word| *word != "--ram").nth(1).expect("a budget").clone();
    let line =
        ["--no-pack", "--raw", "-m", &case.model, "-p", "fox", "-n", "4", "-c", "64", "-ub", "16", "--ram", &ram];
    let outcome = case.home.run(&line);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("fewer than the 192 that one token uses"), "{outcome:?}");
    assert!(outcome.stderr.contains("tokens/s at best from a disk of 1 GiB/s"), "{outcome:?}");
    let strict = case.home.run(&[&line[..], &["--strict", "--chat-template", "chatml"]].concat());
    assert_eq!(strict.code, 2, "{strict:?}");
    assert!(strict.stderr.contains("one token uses"), "{strict:?}");
}

#[test]
fn experts_that_would_be_rounded_cannot_stay_on_disk() {
    let home = Home::new();
    let folder = home.path("model");
    std::fs::create_dir(&folder).expect("creates");
    model().write_folder(&folder, Format::BF16);
    let path = folder.to_str().expect("UTF-8");
    let line = ["--no-pack", "--quant", "q8_0", "--raw", "-m", path, "-p", "fox", "-n", "4", "-c", "64"];
    let refused = home.run(&[&line[..], &["--ram", "60M"]].concat());
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("thermocline pack"), "{refused:?}");
    let packed = home.path("packed.gguf");
    let packed = packed.to_str().expect("UTF-8");
    let made = home.run(&["pack", path, "--quant", "q8_0", "-o", packed]);
    assert_eq!(made.code, 0, "{made:?}");
    let line = ["--raw", "-m", packed, "-p", "fox", "-n", "4", "-c", "64", "--verify", "--ram", "60M"];
    let outcome = home.run(&line);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(slots(&outcome).is_some_and(|here| here < EXPERTS), "{outcome:?}");
}

#[test]
fn bench_tells_what_the_disk_gave() {
    let case = Case::new(&model());
    let line = ["bench", "--no-pack", "-m", &case.model, "-p", "32", "-n", "8", "-r", "2", "--ram", "56M"];
    let rows = case.home.json(&[&line[..], &["-o", "json"]].concat());
    for row in rows.as_array().expect("a list") {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} is no number: {row}"));
        assert!((0.0..1.0).contains(&number("hit_rate")) && number("disk_bytes_per_token") > 0.0, "{row}");
        assert!((0.0..=1.0).contains(&number("share_of_disk_time_hidden")), "{row}");
        assert!(number("disk_gigabytes_per_second") > 0.0, "{row}");
        assert!(number("disk_ceiling_gigabytes_per_second") > 0.0, "{row}");
        assert_eq!(number("budget_bytes"), (56 * MIB) as f64);
        assert!(number("peak_rss_bytes") <= (56 * MIB) as f64, "{row}");
    }
    let parts = case.home.run(&[&line[..], &["--parts", "--policy", "lru", "--loaders", "2"]].concat());
    assert_eq!(parts.code, 0, "{parts:?}");
    assert!(parts.stderr.contains("waiting for experts"), "{parts:?}");
    assert!(parts.stdout.contains("at hand") && parts.stdout.contains("disk: "), "{parts:?}");
}

/// The bit of CAP_IPC_LOCK, which lets a process pin what it likes.
const MAY_PIN: u64 = 1 << 14;

#[test]
fn pinning_is_done_or_the_line_that_permits_it_is_named() {
    let case = Case::new(&model());
    let text = std::fs::read_to_string("/proc/self/status").expect("it is there");
    let bits = text.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a line");
    let may = u64::from_str_radix(bits.trim(), 16).expect("hexadecimal") & MAY_PIN != 0;
    // Root gives the right up, where there is a program for it.
    let give_up = "setpriv --inh-caps=-ipc_lock --bounding-set=-ipc_lock";
    let able = may
        && std::process::Command::new("sh")
            .args(["-c", &format!("{give_up} true")])
            .status()
            .is_ok_and(|s| s.success());
    let small = Case::new(&Tiny::speaking());
    let run = |limit: &str, model: &str, ram: &str| {
        let line = format!(
            "ulimit -l {limit}; exec {} {} --no-pack --raw -m {} -p fox -n 4 -c 64 --mlock --ram {ram}",
            if able { give_up } else { "" },
            env!("CARGO_BIN_EXE_thermocline"),
            model
        );
        let plain = case.home.command(&[]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &line]).env_clear().envs(plain.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let outcome = program::finished(shell.stdin(std::process::Stdio::null()).output().expect("a shell starts"));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        outcome.stderr
    };
    // Slots for a few experts, and a map of the whole: both below what a process may usually raise its limit to.
    for (model, ram) in [(&case.model, "49M"), (&small.model, "200M")] {
        let said = run("64", model, ram);
        if may && !able {
            assert!(!said.contains("cannot be pinned"), "{said}");
            continue;
        }
        assert!(said.contains("only 65536 bytes"), "{said}");
        let limit = said.split("`ulimit -l ").nth(1).and_then(|rest| rest.split('`').next()).expect("the line");
        let again = run(limit, model, ram);
        // A few pages more at the start may cost a slot; then the other number would be named.
        let experts = |said: &str| {
            said.split_once(" experts in memory").and_then(|(line, _)| line.lines().last().map(str::to_string))
        };
        if experts(&said) == experts(&again) {
            assert!(!again.contains("cannot be pinned"), "--ram {ram} with ulimit -l {limit}: {again}");
        }
    }
}

/// As root, where version 1 of control groups is mounted:
/// `cargo test --release --test budget -- --ignored --nocapture`
#[test]
#[ignore = "makes a control group, which only root may"]
fn a_group_is_a_budget_and_is_kept() {
    let group = PathBuf::from("/sys/fs/cgroup/memory/thermocline-test");
    std::fs::create_dir_all(&group).expect("root makes groups");
    let write = |name: &str, text: String| std::fs::write(group.join(name), text).expect("root sets limits");
    let case = Case::new(&model());
    // Without --ram: what is free in the group, less 256 MiB.
    for (limit, whole) in [(312 * MIB, false), (512 * MIB, true)] {
        write("memory.limit_in_bytes", limit.to_string());
        write("memory.failcnt", "0".into());
        let line = case.line(&["-c", "1024", "-ub", "128"]).join(" ");
        std::fs::write(case.home.path("prompt"), "the quick brown fox jumps over it ".repeat(24)).expect("writes");
        let inner = case.home.command(&[]);
        let mut shell = std::process::Command::new("sh");
        let enter =
            format!("echo $$ > {}/cgroup.procs; exec {} {line}", group.display(), env!("CARGO_BIN_EXE_thermocline"));
        shell.args(["-c", &enter]).current_dir(case.home.path("")).env_clear();
        shell.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?)))).stdin(std::process::Stdio::null());
        let outcome = program::finished(shell.output().expect("a shell starts"));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        println!("{}", outcome.stderr);
        assert_eq!(slots(&outcome).is_none(), whole, "{outcome:?}");
        assert_eq!(outcome.stderr.contains("that are free"), !whole, "{outcome:?}");
        let failed = std::fs::read_to_string(group.join("memory.failcnt")).expect("a count");
        assert_eq!(failed.trim(), "0", "the limit was met");
    }
    std::fs::remove_dir(&group).expect("it is empty");
}
