//! Where the experts of a model are kept while it runs, as plain data.

use super::Part;
use crate::error::Error;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The default keeps every expert where the weights lie: in the map, or in the memory they were converted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Some experts in memory, the others on the disk.
    pub slots: Option<Slots>,
    /// What lies on an accelerator and is computed there: neither in memory nor in slots.
    pub device: Option<OnDevice>,
}

/// An accelerator and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDevice {
    pub name: DeviceName,
    /// Most bytes of its memory that may be used; `None`: what is free.
    pub memory: Option<u64>,
    /// By layer: whether its attention, norms, router and cache lie there. Layers beyond the list do not.
    pub dense: Vec<bool>,
    /// The last norm and the head.
    pub head: bool,
    /// Layer and index of each expert that lies there.
    pub experts: BTreeSet<(u16, u16)>,
}

impl OnDevice {
    /// Whether this part of a model lies there.
    pub fn holds(&self, part: Part) -> bool {
        match part {
            Part::Embedding => false, // its rows are read one by one
            Part::OutputNorm | Part::Head => self.head,
            Part::NormIn(l)
            | Part::Query(l)
            | Part::Key(l)
            | Part::Value(l)
            | Part::AttentionOut(l)
            | Part::NormFfn(l)
            | Part::Router(l) => self.dense.get(l as usize).copied().unwrap_or(false),
            Part::Gate(l, e) | Part::Up(l, e) | Part::Down(l, e) => self.experts.contains(&(l, e)),
        }
    }
}

/// The accelerators there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor in the place of an accelerator, to try placements without one: right, and slow.
    StandIn,
    Cuda(usize),
    Metal,
}

impl DeviceName {
    /// Whether its memory is the processor's too.
    pub fn is_unified(self) -> bool {
        matches!(self, DeviceName::StandIn | DeviceName::Metal)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::StandIn => f.write_str("stand-in"),
            DeviceName::Cuda(number) => write!(f, "cuda:{number}"),
            DeviceName::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceName, Error> {
        let lower = text.to_lowercase();
        match lower.as_str() {
            "stand-in" => return Ok(DeviceName::StandIn),
            "cuda" => return Ok(DeviceName::Cuda(0)),
            "metal" => return Ok(DeviceName::Metal),
            _ => {}
        }
        let number = lower.strip_prefix("cuda").map(|rest| rest.trim_start_matches(':'));
        number.and_then(|number| number.parse().ok()).map(DeviceName::Cuda).ok_or_else(|| {
            Error::Usage(format!("unknown device {text:?}: expected cpu, cuda, cuda:1 and so on, metal, or stand-in"))
        })
    }
}

/// Memory for some experts at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// How many experts are held; never more are allocated than the model has.
    pub count: usize,
    /// Whom to let go when one more is needed.
    pub policy: PolicyName,
    /// Threads that read from the disk.
    pub loaders: usize,
    /// How many layers ahead experts are guessed and read while the disk would idle; 0: none are.
    pub ahead: usize,
    /// Hold every expert against the hash it was packed with, each time it is read.
    pub verify: bool,
}

impl Slots {
    /// Reads in flight that keep a disk busy.
    pub const LOADERS: usize = 8;
    /// Far enough that an expert has come when its layer's turn does, near enough that most guesses are right.
    pub const AHEAD: usize = 2;

    /// `count` slots, all else as usual.
    pub fn new(count: usize) -> Slots {
        Slots { count, policy: PolicyName::default(), loaders: Slots::LOADERS, ahead: Slots::AHEAD, verify: false }
    }
}

/// The policies of `experts::policy`, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyName {
    /// Least recently used.
    Lru,
    /// Least frequently used, older uses counting less.
    Lfu,
    /// Least recently used, what was used again protected.
    Slru,
    /// The one whose next use is expected latest.
    #[default]
    Odds,
    /// The same, asking the next layer's router.
    Ahead,
}

impl PolicyName {
    pub const ALL: [PolicyName; 5] =
        [PolicyName::Lru, PolicyName::Lfu, PolicyName::Slru, PolicyName::Odds, PolicyName::Ahead];

    /// The spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            PolicyName::Lru => "lru",
            PolicyName::Lfu => "lfu",
            PolicyName::Slru => "slru",
            PolicyName::Odds => "odds",
            PolicyName::Ahead => "ahead",
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PolicyName {
    type Err = Error;

    fn from_str(text: &str) -> Result<PolicyName, Error> {
        PolicyName::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let choices = PolicyName::ALL.map(PolicyName::name).join(", ");
            Error::Usage(format!("unknown policy {text:?}: expected one of {choices}"))
        })
    }
}
