//! What the system's own files say. Tests choose the root they are looked for under.

use super::super::terminal::bytes;
use super::{Finding, State};
use crate::planner::memory::{self, Bound};
use std::path::{Path, PathBuf};

fn read(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok()
}

/// Memory there is, and memory that is free for us.
pub fn memory(root: &Path) -> Finding {
    let all = read(root, "proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?.to_string();
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    });
    let (Some(all), Some(free)) = (all, memory::free()) else {
        return Finding::new("memory", State::Unknown, "this system does not say how much there is")
            .advise("say how much may be used with --ram");
    };
    let bound = match &free.bound {
        Bound::Machine => String::new(),
        Bound::Group(folder, limit) => format!("; the control group {} allows {}", folder.display(), bytes(*limit)),
    };
    let fact = format!("{} free of {}{bound}", bytes(free.bytes), bytes(all));
    Finding::new("memory", State::Good, fact).figure("bytes", all).figure("free_bytes", free.bytes)
}

/// Whether large allocations get huge pages.
pub fn huge_pages(root: &Path) -> Finding {
    let path = "sys/kernel/mm/transparent_hugepage/enabled";
    let Some(text) = read(root, path) else {
        return Finding::new("huge pages", State::Unknown, "this system does not say whether it has any");
    };
    let mode = text.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap_or("unknown").to_string();
    let finding = match mode.as_str() {
        "always" | "madvise" => Finding::new("huge pages", State::Good, format!("given on request ({mode})")),
        _ => {
            Finding::new("huge pages", State::Could, format!("not given ({mode}): memory is read up to a fifth slower"))
                .advise(format!("as root: echo madvise > /{path}"))
        }
    };
    finding.figure("mode", mode)
}

/// What `--mlock` may pin.
pub fn pinning() -> Finding {
    #[cfg(unix)]
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    #[cfg(not(unix))]
    let limit: Option<u64> = None;
    pinning_within(limit)
}

fn pinning_within(limit: Option<u64>) -> Finding {
    match limit {
        None => Finding::new("pinning", State::Good, "--mlock may pin all memory"),
        Some(limit) if limit < 1 << 30 => {
            let fact = format!("--mlock may pin only {}", bytes(limit));
            Finding::new("pinning", State::Could, fact)
                .advise("raise memlock in /etc/security/limits.conf, or LimitMEMLOCK of the unit")
        }
        Some(limit) => Finding::new("pinning", State::Good, format!("--mlock may pin {}", bytes(limit))),
    }
}

/// The folder packed models go to; `existing` is the part of its path that is there.
pub fn folder(folder: &Path, existing: &Path) -> Finding {
    let name = "cache folder";
    let fits = |free: u64| format!("{}, {} free", folder.display(), bytes(free));
    let writable = existing.is_dir() && writable(existing);
    if !writable {
        let fact = format!("{} cannot be written", folder.display());
        return Finding::new(name, State::Missing, fact)
            .advise("set THERMOCLINE_CACHE to a folder that can, or models are loaded anew each time");
    }
    match free_bytes(existing) {
        None => Finding::new(name, State::Good, folder.display().to_string()),
        Some(free) if free < 16 << 30 => Finding::new(name, State::Could, fits(free))
            .figure("free_bytes", free)
            .advise("the packed file of the 21B model takes 12 GiB beside its download"),
        Some(free) => Finding::new(name, State::Good, fits(free)).figure("free_bytes", free),
    }
}

fn writable(path: &Path) -> bool {
    #[cfg(unix)]
    return rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    #[cfg(not(unix))]
    return std::fs::metadata(path).is_ok_and(|meta| !meta.permissions().readonly());
}

fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(path).ok().map(|system| system.f_bavail * system.f_frsize);
    #[cfg(not(unix))]
    return None;
}

/// What kind of disk lies under a folder, and how far the system reads ahead of it (which mapped weights feel).
pub fn block_device(folder: &Path, root: &Path) -> Option<Finding> {
    #[cfg(not(target_os = "linux"))]
    return {
        let _ = (folder, root); // only Linux says
        None
    };
    #[cfg(target_os = "linux")]
    {
        let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(folder).ok()?);
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        block_device_at(&root.join(format!("sys/dev/block/{major}:{minor}")))
    }
}

#[cfg(target_os = "linux")]
fn block_device_at(device: &Path) -> Option<Finding> {
    // A partition has no queue of its own: its disk, one folder up, does.
    let device = std::fs::canonicalize(device).ok()?;
    let queue: PathBuf = [device.join("queue"), device.join("../queue")].into_iter().find(|queue| queue.is_dir())?;
    let number = |name: &str| std::fs::read_to_string(queue.join(name)).ok()?.trim().parse::<u64>().ok();
    let (ahead, turns) = (number("read_ahead_kb")?, number("rotational") == Some(1));
    let kind = if turns { "said to be a turning disk, as virtual ones are too" } else { "solid state" };
    let fact = format!("{kind}, read-ahead {ahead} KiB");
    let finding = match (turns, ahead > 512) {
        (true, _) => {
            Finding::new("disk queue", State::Could, fact).advise("if it does turn, keep models on a solid-state disk")
        }
        (false, true) => Finding::new("disk queue", State::Could, fact)
            .advise("mapped weights are read piecemeal: a read-ahead of 128 KiB reads less that is not needed"),
        (false, false) => Finding::new("disk queue", State::Good, fact),
    };
    Some(finding.figure("read_ahead_kib", ahead).figure("rotational", turns))
}

/// Accelerators, and why they are or are not used.
pub fn gpu(root: &Path, cuda: bool, metal: bool) -> Finding {
    let mut names: Vec<String> = Vec::new();
    for folder in std::fs::read_dir(root.join("proc/driver/nvidia/gpus")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(folder.path().join("information")).unwrap_or_default();
        let model = text.lines().find_map(|line| Some(line.strip_prefix("Model:")?.trim().to_string()));
        names.push(model.unwrap_or_else(|| "an NVIDIA card".into()));
    }
    let finding = match (names.is_empty(), cuda) {
        (false, true) => Finding::new("accelerator", State::Good, names.join(", ")),
        (false, false) => Finding::new(
            "accelerator",
            State::Could,
            format!("{}; not used: this program was built without cuda", names.join(", ")),
        )
        .advise("cargo install --path . --features cuda"),
        (true, _) if metal && cfg!(target_os = "macos") => Finding::new("accelerator", State::Good, "Metal"),
        (true, _) => {
            let other = root.join("dev/dri/renderD128").exists();
            let why = match (other, root.join("dev/nvidia0").exists()) {
                (_, true) => "an NVIDIA device without its driver's files in /proc/driver/nvidia",
                (true, false) => "a graphics device of another maker, for which there are no kernels",
                (false, false) => "none found",
            };
            Finding::new("accelerator", State::Unknown, format!("{why}; the processor does the work"))
        }
    };
    finding.figure("names", names).figure("built_with_cuda", cuda)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(tempfile::TempDir);

    impl Root {
        fn with(files: &[(&str, &str)]) -> Root {
            let root = tempfile::tempdir().expect("a temporary folder");
            for (path, text) in files {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
                std::fs::write(path, text).expect("writes");
            }
            Root(root)
        }
    }

    #[test]
    fn huge_pages_are_read_from_the_brackets() {
        let path = "sys/kernel/mm/transparent_hugepage/enabled";
        let state = |text: &str| huge_pages(Root::with(&[(path, text)]).0.path()).state;
        assert_eq!(state("always [madvise] never\n"), State::Good);
        assert_eq!(state("always madvise [never]\n"), State::Could);
        assert_eq!(huge_pages(Root::with(&[]).0.path()).state, State::Unknown);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_partition_is_read_by_its_disk() {
        let files =
            [("sda/queue/read_ahead_kb", "4096\n"), ("sda/queue/rotational", "0\n"), ("sda/sda1/partition", "1")];
        let root = Root::with(&files);
        let found = block_device_at(&root.0.path().join("sda/sda1")).expect("a queue");
        assert!(found.state == State::Could && found.fact.contains("4096 KiB"), "{found:?}");
        assert!(block_device_at(&root.0.path().join("none")).is_none());
    }

    #[test]
    fn a_card_is_named_with_the_reason_it_is_idle() {
        let root = Root::with(&[("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t Card X\nIRQ: 5\n")]);
        let idle = gpu(root.0.path(), false, false);
        assert!(idle.state == State::Could && idle.fact.starts_with("Card X; not used"), "{idle:?}");
        assert_eq!(gpu(root.0.path(), true, false).state, State::Good);
        assert!(gpu(Root::with(&[]).0.path(), true, false).fact.contains("none found"));
    }

    #[test]
    fn what_may_be_pinned_is_judged() {
        assert_eq!(pinning_within(None).state, State::Good);
        assert!(pinning_within(Some(8 << 20)).advice.is_some_and(|advice| advice.contains("memlock")));
    }
}
