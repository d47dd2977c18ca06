//! Places experts can be read from.

mod file;

pub use file::FileTier;

use super::ExpertId;
use crate::error::Result;

/// Somewhere experts lie that is slower than memory.
pub trait Tier: Send + Sync {
    /// Fills `into` with the bytes of one expert's slot from byte `at` on, both whole pages. Blocks; called by loader
    /// threads, several at a time.
    ///
    /// Returns how many bytes came: fewer than asked for is a fault, and so is an error. Both are tried again a few times.
    fn read(&self, id: ExpertId, at: usize, into: &mut [u8]) -> Result<usize>;
}
