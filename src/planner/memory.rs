//! What memory this machine has left for us, what this process holds, and what it may pin.
//!
//! Everything is read from files of the system (Linux); elsewhere the questions go unanswered. The files are looked for
//! under a root that tests choose.

use std::path::{Path, PathBuf};

/// What a process holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Resident now: memory of our own, and pages of files in use (shared ones included).
    pub own: u64,
    pub files: u64,
    /// The most it ever held at once.
    pub peak: u64,
}

impl Held {
    pub fn now(&self) -> u64 {
        self.own + self.files
    }
}

/// What this process holds.
pub fn held() -> Option<Held> {
    held_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn held_in(status: &str) -> Option<Held> {
    let line = |key| kilobytes_after(status, key).map(|k| k * 1024);
    // Kernels before 4.5 do not tell own and file pages apart.
    let (own, files) = match (line("RssAnon:"), line("RssFile:")) {
        (Some(own), Some(files)) => (own, files + line("RssShmem:").unwrap_or(0)),
        _ => (line("VmRSS:")?, 0),
    };
    Some(Held { own, files, peak: line("VmHWM:")? })
}

/// The most memory this process ever held at once, file pages in use included, where the system says (Linux).
pub fn peak_bytes() -> Option<u64> {
    held().map(|held| held.peak)
}

/// Bytes of this program's code (and its libraries') that no one has looked at yet: they come into memory as they run.
pub fn code_to_come() -> u64 {
    std::fs::read_to_string("/proc/self/smaps").map_or(0, |smaps| code_to_come_in(&smaps))
}

fn code_to_come_in(smaps: &str) -> u64 {
    let code = |map: &&Mapping| map.rights.starts_with("r-x") && map.of_file;
    let to_come = |map: Mapping| map.bytes("Size:").saturating_sub(map.bytes("Rss:"));
    mappings(smaps).iter().filter(code).copied().map(to_come).sum()
}

/// Which share of the large files this process has mapped lies in huge pages, of what is in memory; `None` where none is
/// mapped, and where the system does not say.
pub fn files_in_huge_pages() -> Option<f64> {
    files_in_huge_pages_in(&std::fs::read_to_string("/proc/self/smaps").ok()?)
}

fn files_in_huge_pages_in(smaps: &str) -> Option<f64> {
    const LARGE: u64 = 64 << 20;
    let all = mappings(smaps);
    let large = all.iter().filter(|map| map.of_file && map.bytes("Rss:") >= LARGE);
    let (huge, resident) =
        large.fold((0, 0), |(huge, resident), map| (huge + map.bytes("FilePmdMapped:"), resident + map.bytes("Rss:")));
    (resident > 0).then(|| huge as f64 / resident as f64)
}

/// A mapping, as the system describes it.
#[derive(Clone, Copy)]
pub(super) struct Mapping<'a> {
    /// From its first address to the one behind its last.
    pub addresses: (usize, usize),
    rights: &'a str,
    of_file: bool,
    lines: &'a str,
}

impl Mapping<'_> {
    /// Zero where nothing is said of it.
    pub fn bytes(&self, key: &str) -> u64 {
        kilobytes_after(self.lines, key).unwrap_or(0) * 1024
    }
}

/// What a process has mapped, from its `smaps`.
pub(super) fn mappings<'a>(smaps: &'a str) -> Vec<Mapping<'a>> {
    let mut heads = Vec::new();
    let mut at = 0;
    for line in smaps.split_inclusive('\n') {
        heads.extend(address_range(line).map(|addresses| (at, addresses, line)));
        at += line.len();
    }
    let ends: Vec<usize> = heads.iter().skip(1).map(|(start, ..)| *start).chain([smaps.len()]).collect();
    let mapping = |((start, addresses, head), end): ((usize, (usize, usize), &'a str), usize)| Mapping {
        addresses,
        rights: head.split_whitespace().nth(1).unwrap_or_default(),
        of_file: head.contains('/'),
        lines: &smaps[start..end],
    };
    heads.into_iter().zip(ends).map(mapping).collect()
}

/// `7f00-7f10 rw-p ...` as numbers.
fn address_range(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split_whitespace().next()?.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

/// Percent of the last ten seconds in which some process waited for memory; `None` where the system does not say (Linux
/// with pressure accounting does).
pub fn pressure() -> Option<f64> {
    pressure_in(&std::fs::read_to_string("/proc/pressure/memory").ok()?)
}

fn pressure_in(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

/// Memory that could be had without swapping, and what set the bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Free {
    pub bytes: u64,
    pub bound: Bound,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    Machine,
    /// A control group, by its folder, and its limit in bytes.
    Group(PathBuf, u64),
}

/// What is free for this process: the machine's available memory, or less where a control group (a container) allows less.
/// `None` where the system does not say.
pub fn free() -> Option<Free> {
    free_under(Path::new("/"))
}

fn free_under(root: &Path) -> Option<Free> {
    let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).ok();
    let machine = meminfo.and_then(|text| kilobytes_after(&text, "MemAvailable:"));
    let machine = machine.map(|k| Free { bytes: k * 1024, bound: Bound::Machine });
    machine.into_iter().chain(groups(root)).min_by_key(|free| free.bytes)
}

/// Which files of a control group say what: they differ between the two versions.
struct Version {
    limits: &'static [&'static str],
    usage: &'static str,
    /// Keys of `memory.stat`: file pages used lately, file pages not used lately, file pages mapped by some process.
    stat: [&'static str; 3],
}

const ONE: Version = Version {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    stat: ["total_active_file", "total_inactive_file", "total_mapped_file"],
};
const TWO: Version = Version {
    // Beyond `high` a group is slowed down until it is hardly alive.
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    stat: ["active_file", "inactive_file", "file_mapped"],
};

/// The room left in each group this process is in, from the innermost up to the outermost that can be seen.
fn groups(root: &Path) -> Vec<Free> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let (mounts, memberships) = (read("proc/self/mountinfo"), read("proc/self/cgroup"));
    let mut found = vec![];
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let version = match (number, controllers) {
            ("0", "") => &TWO,
            (_, list) if list.split(',').any(|c| c == "memory") => &ONE,
            _ => continue,
        };
        let Some((top, folder)) = mounted(&mounts, std::ptr::eq(version, &TWO)) else { continue };
        // Where only a part of the hierarchy is mounted, paths are told from its real root all the same.
        let inside = Path::new(path).strip_prefix(&top).unwrap_or(Path::new(""));
        let top = root.join(folder.strip_prefix("/").unwrap_or(&folder));
        let own = top.join(inside);
        found.extend(own.ancestors().take_while(|at| at.starts_with(&top)).filter_map(|at| room(at, version)));
    }
    found
}

/// Where the memory controller is mounted: (root of the mount within its hierarchy, folder).
fn mounted(mountinfo: &str, two: bool) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split_whitespace();
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = match two {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|o| o == "memory"),
        };
        let mut left = left.split_whitespace().skip(3);
        fits.then_some((PathBuf::from(left.next()?), PathBuf::from(left.next()?)))
    })
}

/// What is left in one group; `None` where it has no limit.
fn room(folder: &Path, version: &Version) -> Option<Free> {
    let number = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max" is no number, and version 1 says "none" by a number no machine has.
    let limit = version.limits.iter().filter_map(|name| number(name)).min().filter(|limit| *limit < 1 << 60)?;
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let [active, inactive, mapped] = version.stat.map(|key| {
        let line = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
    });
    // Cached file pages are given back before anyone is refused; those that a process has mapped are in use.
    let cache = inactive.max((active + inactive).saturating_sub(mapped));
    let used = number(version.usage)?.saturating_sub(cache);
    Some(Free { bytes: limit.saturating_sub(used), bound: Bound::Group(folder.to_path_buf(), limit) })
}

/// The number after `key` at the start of a line.
fn kilobytes_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_the_share_of_ten_seconds() {
        let text = "some avg10=12.50 avg60=3.00 avg300=1.00 total=99\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=9\n";
        assert_eq!((pressure_in(text), pressure_in("full avg10=1.00"), pressure_in("")), (Some(12.5), None, None));
    }

    /// A system's files under a temporary root.
    struct System(tempfile::TempDir);

    impl System {
        fn new(files: &[(&str, &str)]) -> System {
            let system = System(tempfile::tempdir().expect("a temporary folder"));
            system.write("proc/meminfo", "MemTotal: 100 kB\nMemAvailable:   16777216 kB\n");
            for (path, text) in files {
                system.write(path, text);
            }
            system
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
            std::fs::write(path, text).expect("writes");
        }

        fn free(&self) -> Option<Free> {
            free_under(self.0.path())
        }
    }

    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const V2: &str = "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn without_groups_the_machine_decides() {
        let expected = Free { bytes: 16 << 30, bound: Bound::Machine };
        assert_eq!(System::new(&[]).free(), Some(expected.clone()));
        // A group without a limit is none.
        let unlimited = System::new(&[
            ("proc/self/mountinfo", V1),
            ("proc/self/cgroup", "4:memory:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1000\n"),
        ]);
        assert_eq!(unlimited.free(), Some(expected.clone()));
        let unlimited = System::new(&[
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.current", "1000\n"),
        ]);
        assert_eq!(unlimited.free(), Some(expected));
    }

    #[test]
    fn version_1_takes_cached_pages_off() {
        let folder = "sys/fs/cgroup/memory/box";
        let system = System::new(&[
            ("proc/self/mountinfo", V1),
            ("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/box\n0::/\n"),
            (&format!("{folder}/memory.limit_in_bytes"), "1073741824\n"),
            (&format!("{folder}/memory.usage_in_bytes"), "900000000\n"),
            (
                &format!("{folder}/memory.stat"),
                "inactive_file 5\ntotal_inactive_file 400000000\ntotal_active_file 300000000\ntotal_mapped_file 250000000\n",
            ),
        ]);
        let free = system.free().expect("it says");
        // Mapped pages are in use: 450,000,000 bytes of cache can go.
        assert_eq!(free.bytes, (1 << 30) - (900_000_000 - 450_000_000));
        assert_eq!(free.bound, Bound::Group(system.0.path().join(folder), 1 << 30));
    }

    #[test]
    fn the_tightest_of_nested_groups_counts() {
        let system = System::new(&[
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/outer/inner/leaf\n"),
            ("sys/fs/cgroup/outer/memory.max", "2000000000"),
            ("sys/fs/cgroup/outer/memory.current", "1900000000"),
            ("sys/fs/cgroup/outer/inner/memory.max", "3000000000"),
            ("sys/fs/cgroup/outer/inner/memory.high", "1500000000"),
            ("sys/fs/cgroup/outer/inner/memory.current", "100"),
            ("sys/fs/cgroup/outer/inner/leaf/memory.max", "max"),
            ("sys/fs/cgroup/outer/inner/leaf/memory.current", "50"),
        ]);
        let outer = system.0.path().join("sys/fs/cgroup/outer");
        assert_eq!(system.free(), Some(Free { bytes: 100_000_000, bound: Bound::Group(outer, 2_000_000_000) }));
        system.write("sys/fs/cgroup/outer/memory.max", "max");
        assert_eq!(system.free().expect("it says").bytes, 1_500_000_000 - 100);
    }

    /// A container sees its own group as the root of the mount, but its membership by the name outside.
    #[test]
    fn a_mount_of_a_part_of_the_hierarchy() {
        let system = System::new(&[
            ("proc/self/mountinfo", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"),
            ("proc/self/cgroup", "4:memory:/docker/abc/sub\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "400000"),
        ]);
        assert_eq!(system.free().expect("it says").bytes, 600_000);
        system.write("proc/self/cgroup", "4:memory:/elsewhere\n");
        assert_eq!(system.free().expect("it says").bytes, 600_000);
    }

    #[test]
    fn a_group_over_its_limit_leaves_nothing() {
        let system = System::new(&[
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1000"),
            ("sys/fs/cgroup/memory.current", "5000"),
        ]);
        assert_eq!(system.free().expect("it says").bytes, 0);
    }

    #[test]
    fn what_is_held_is_told_apart() {
        let status = "VmHWM:\t  300 kB\nVmRSS:\t 200 kB\nRssAnon:\t 120 kB\nRssFile:\t 70 kB\nRssShmem:\t 10 kB\n";
        let held = held_in(status).expect("it says");
        assert_eq!((held.own, held.files, held.peak, held.now()), (120 << 10, 80 << 10, 300 << 10, 200 << 10));
        assert_eq!(held_in("VmHWM: 3 kB\nVmRSS: 2 kB\n").expect("it says").now(), 2048);
        assert_eq!(held_in(""), None);
    }

    #[test]
    fn code_not_yet_run_is_counted() {
        let smaps = "1000-3000 r-xp 0 00:00 0  /bin/x\nSize:  800 kB\nRss:  300 kB\nPss: 1 kB\n\
                     3000-4000 r--p 0 00:00 0  /bin/x\nSize:  999 kB\nRss:  0 kB\n\
                     5000-6000 r-xp 0 00:00 0  [vdso]\nSize:  8 kB\nRss:  0 kB\n\
                     7000-8000 r-xp 0 00:00 0  /lib/y\nSize:  50 kB\nRss:  50 kB\n";
        assert_eq!(code_to_come_in(smaps), 500 << 10);
    }

    #[test]
    fn large_files_lie_in_huge_pages_or_not() {
        let map = |path: &str, rss: u64, huge: u64| {
            format!(
                "1000-2000 r--s 0 00:00 0  {path}\nSize: 900000 kB\nRss: {rss} kB\nFilePmdMapped: {huge} kB\nVmFlags: rd\n"
            )
        };
        let share = |maps: &[String]| files_in_huge_pages_in(&maps.concat());
        let (model, own) = (map("/m.gguf", 200_000, 50_000), map("", 200_000, 0));
        assert_eq!(share(&[map("/bin/x", 8_000, 0), own.clone()]), None);
        assert_eq!(share(&[map("/bin/x", 8_000, 0), model.clone(), own]), Some(0.25));
        assert_eq!(share(&[model, map("/n.gguf", 200_000, 150_000)]), Some(0.5));
    }
}
