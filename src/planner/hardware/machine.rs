//! What was measured on this machine, kept as JSON for the next time; another machine's figures are not used.

use crate::device::Speeds;
use crate::error::{Error, Result};
use crate::planner::disk::DiskSpeed;
use crate::pool::Pool;
use kernels::Isa;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Figures of another version were measured in another way, or with other kernels.
const VERSION: u64 = 3;
/// No file of figures is near as long.
const MOST_BYTES: u64 = 16 << 20;

/// How long one thing takes, in seconds: the median of some repetitions, and the quarters around it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    pub seconds: f64,
    pub low: f64,
    pub high: f64,
}

impl Timing {
    pub fn new(seconds: f64) -> Timing {
        Timing { seconds, low: seconds, high: seconds }
    }

    /// So many times the same, one after the other.
    pub fn times(self, n: f64) -> Timing {
        Timing { seconds: self.seconds * n, low: self.low * n, high: self.high * n }
    }

    /// On the line through `self` at 0 and `other` at 1, and never below nothing.
    pub fn towards(self, other: Timing, at: f64) -> Timing {
        let mix = |a: f64, b: f64| (a + (b - a) * at).max(0.0);
        Timing {
            seconds: mix(self.seconds, other.seconds),
            low: mix(self.low, other.low),
            high: mix(self.high, other.high),
        }
    }
}

impl std::ops::Add for Timing {
    type Output = Timing;

    fn add(self, other: Timing) -> Timing {
        Timing { seconds: self.seconds + other.seconds, low: self.low + other.low, high: self.high + other.high }
    }
}

impl std::iter::Sum for Timing {
    fn sum<I: Iterator<Item = Timing>>(all: I) -> Timing {
        all.fold(Timing::default(), |a, b| a + b)
    }
}

/// What one thing took, and how fast memory was then: on shared machines that changes by the minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub timing: Timing,
    /// Bytes it reads from memory, and those that a plain long product read a second, just before.
    pub bytes: f64,
    pub pace: f64,
}

impl Measured {
    /// What it takes where memory gives `pace` bytes a second. The nearer it came to memory's speed, the more of its time
    /// was waiting for memory: the square of its share of the pace, which is all of it for a long product and a tenth for
    /// products that compute much (docs/PLANNER.md).
    pub fn at(&self, pace: f64) -> Timing {
        let rate = self.bytes / self.timing.seconds.max(f64::MIN_POSITIVE);
        let bound = (rate / self.pace).min(1.0).powi(2);
        self.timing.times(1.0 + bound * (self.pace / pace - 1.0))
    }

    fn list(&self) -> Value {
        let Measured { timing: t, bytes, pace } = self;
        json!([t.seconds, t.low, t.high, bytes.round(), pace.round()])
    }
}

/// The figures of one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Processor, cores, instruction set.
    pub name: String,
    timings: BTreeMap<String, Measured>,
    /// By disk and bytes of a read: reads in flight and bytes per second, and whether the page cache was avoided.
    disks: BTreeMap<String, (Vec<(usize, f64)>, bool)>,
    /// By the name each is called.
    accelerators: BTreeMap<String, Speeds>,
}

impl Machine {
    /// This one, nothing measured yet.
    pub fn here(isa: Isa) -> Machine {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let model = model.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
        let name = format!("{model}, {} cores, {}", Pool::cores(), isa.name());
        Machine { name, timings: BTreeMap::new(), disks: BTreeMap::new(), accelerators: BTreeMap::new() }
    }

    pub fn measured(&self, key: &str) -> Option<Measured> {
        self.timings.get(key).copied()
    }

    pub fn keep(&mut self, key: String, measured: Measured) {
        self.timings.insert(key, measured);
    }

    /// How fast the disk under a file gives reads of `piece` bytes, if that was measured.
    pub fn disk(&self, file: &Path, piece: usize) -> Option<DiskSpeed> {
        let (by_depth, direct) = self.disks.get(&disk_key(file, piece)?)?.clone();
        Some(DiskSpeed { piece, by_depth, direct })
    }

    pub fn keep_disk(&mut self, file: &Path, speed: &DiskSpeed) {
        if let Some(key) = disk_key(file, speed.piece) {
            self.disks.insert(key, (speed.by_depth.clone(), speed.direct));
        }
    }

    /// How fast an accelerator is, if that was measured.
    pub fn accelerator(&self, name: &str) -> Option<Speeds> {
        self.accelerators.get(name).copied()
    }

    pub fn keep_accelerator(&mut self, name: String, speeds: Speeds) {
        self.accelerators.insert(name, speeds);
    }

    /// What is known of this machine at `path`: nothing where there is no such file or it is another machine's. Damage is
    /// a sentence.
    pub fn read(path: &Path, isa: Isa) -> Result<Machine> {
        let mut machine = Machine::here(isa);
        let wrong = |why: String| Error::Runtime(format!("{}: {why}", path.display()));
        match std::fs::metadata(path) {
            Err(_) => return Ok(machine),
            Ok(meta) if meta.len() > MOST_BYTES => return Err(wrong("is too long for figures of a machine".into())),
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("is no JSON: {e}")))?;
        if value["version"].as_u64() != Some(VERSION) || value["machine"].as_str() != Some(&machine.name) {
            return Ok(machine);
        }
        let empty = Map::new();
        let map = |key: &str| value[key].as_object().unwrap_or(&empty);
        for (key, value) in map("timings") {
            let number = |i: usize| value[i].as_f64().filter(|x| x.is_finite() && *x >= 0.0);
            let (Some(seconds), Some(low), Some(high)) = (number(0), number(1), number(2)) else {
                return Err(wrong(format!("{key}: expected five numbers, found {value}")));
            };
            let (Some(bytes), Some(pace)) = (number(3), number(4).filter(|pace| *pace > 0.0)) else {
                return Err(wrong(format!("{key}: expected five numbers, found {value}")));
            };
            machine.timings.insert(key.clone(), Measured { timing: Timing { seconds, low, high }, bytes, pace });
        }
        for (key, value) in map("disks") {
            let pair = |v: &Value| Some((v[0].as_u64()? as usize, v[1].as_f64().filter(|x| *x > 0.0)?));
            let depths = value["by_depth"].as_array().map(|all| all.iter().map(pair).collect::<Option<Vec<_>>>());
            let Some(Some(depths)) = depths.filter(|d| d.as_ref().is_some_and(|d| !d.is_empty())) else {
                return Err(wrong(format!("{key}: expected pairs of numbers, found {value}")));
            };
            machine.disks.insert(key.clone(), (depths, value["direct"].as_bool().unwrap_or(false)));
        }
        for (name, value) in map("accelerators") {
            let number = |i: usize| value[i].as_f64().filter(|x| x.is_finite() && *x > 0.0);
            let [Some(bandwidth), Some(launch), Some(crossing), Some(link)] = [0, 1, 2, 3].map(number) else {
                return Err(wrong(format!("{name}: expected four numbers above 0, found {value}")));
            };
            if value.get(4).is_none() {
                continue; // measured before kernels in a row were: it is measured again
            }
            let speeds = Speeds { bandwidth, launch, crossing, link, chained: number(4), measured: true };
            machine.keep_accelerator(name.clone(), speeds);
        }
        Ok(machine)
    }

    /// Writes it beside its place and renames it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |e| Error::Runtime(format!("{}: cannot be written: {e}", path.display()));
        let timings: Map<String, Value> = self.timings.iter().map(|(key, m)| (key.clone(), m.list())).collect();
        let disks: Map<String, Value> = self
            .disks
            .iter()
            .map(|(key, (by_depth, direct))| (key.clone(), json!({"by_depth": by_depth, "direct": direct})))
            .collect();
        let accelerators: Map<String, Value> = self
            .accelerators
            .iter()
            .map(|(name, s)| (name.clone(), json!([s.bandwidth, s.launch, s.crossing, s.link, s.chained])))
            .collect();
        let value = json!({
            "version": VERSION, "machine": self.name, "timings": timings, "disks": disks, "accelerators": accelerators,
        });
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
        let beside = path.with_extension(format!("{}.partial", std::process::id()));
        let text = format!("{value:#}\n");
        std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path)).map_err(|e| {
            let _ = std::fs::remove_file(&beside); // only tidying
            failed(e)
        })
    }
}

/// What tells one disk from another; `None` where the file is not there.
fn disk_key(file: &Path, piece: usize) -> Option<String> {
    #[cfg(unix)]
    let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(file).ok()?);
    #[cfg(not(unix))]
    let device = file.components().next()?.as_os_str().to_string_lossy().into_owned();
    Some(format!("disk {device}, reads of {piece}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_back_and_those_of_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        let isa = Isa::best();
        let mut machine = Machine::read(&path, isa).unwrap();
        let timing = Timing { seconds: 2e-6, low: 1e-6, high: 3e-6 };
        machine.keep("a".into(), Measured { timing, bytes: 1e4, pace: 2e10 });
        machine.keep_disk(&path, &DiskSpeed { piece: 4096, by_depth: vec![(1, 1e9)], direct: true });
        let speeds = Speeds { measured: true, ..Speeds::described(272e9, 25e9) };
        machine.keep_accelerator("cuda:0, some card".into(), speeds);
        let without = Speeds { chained: None, ..speeds };
        machine.keep_accelerator("another".into(), without);
        machine.write(&path).unwrap();
        assert_eq!(Machine::read(&path, isa).unwrap().measured("a"), machine.measured("a"));
        assert_eq!(Machine::read(&path, isa).unwrap().accelerator("cuda:0, some card"), Some(speeds));
        assert_eq!(Machine::read(&path, isa).unwrap().accelerator("another"), Some(without));
        let mut other = machine.clone();
        other.name.push('x');
        other.write(&path).unwrap();
        assert_eq!(Machine::read(&path, isa).unwrap(), Machine::here(isa));
        for damage in ["", "{", "[1]x"] {
            std::fs::write(&path, damage).unwrap();
            assert!(Machine::read(&path, isa).unwrap_err().to_string().contains("JSON"));
        }
        let name = &machine.name;
        std::fs::write(
            &path,
            json!({"version": VERSION, "machine": name, "timings": {"a": [1, 2, 3, 4, "x"]}}).to_string(),
        )
        .unwrap();
        assert!(Machine::read(&path, isa).unwrap_err().to_string().contains("five numbers"));
        std::fs::write(
            &path,
            json!({"version": VERSION, "machine": name, "accelerators": {"a": [1, 2, 3, 0]}}).to_string(),
        )
        .unwrap();
        assert!(Machine::read(&path, isa).unwrap_err().to_string().contains("four numbers"));
    }

    #[test]
    fn a_slower_memory_slows_what_waits_for_it() {
        let timing = Timing { seconds: 1.0, low: 0.5, high: 2.0 };
        let of = |bytes| Measured { timing, bytes, pace: 10.0 };
        assert_eq!(of(10.0).at(5.0), timing.times(2.0));
        assert_eq!(of(5.0).at(5.0), timing.times(1.25));
        assert_eq!(of(0.0).at(5.0), timing);
        assert_eq!(of(5.0).at(10.0), timing);
    }

    #[test]
    fn times_add_up() {
        let a = Timing { seconds: 2.0, low: 1.0, high: 3.0 };
        assert_eq!(a + a, a.times(2.0));
        assert_eq!(Timing::new(1.0).towards(Timing::new(3.0), 0.5), Timing::new(2.0));
        assert_eq!(Timing::new(1.0).towards(Timing::new(3.0), -9.0), Timing::new(0.0));
    }
}
