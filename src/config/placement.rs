//! Where the experts of a model are kept while it runs, as plain data.

use crate::error::Error;
use std::fmt;
use std::str::FromStr;

/// The default keeps every expert where the weights lie: in the map, or in the memory they were converted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Some experts in memory, the others on the disk.
    pub slots: Option<Slots>,
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
