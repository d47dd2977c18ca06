//! What this machine can do, and what fits on it.

pub mod budget;
pub mod cost;
pub mod disk;
pub mod hardware;
pub mod hybrid;
pub mod memory;
pub mod picture;
pub mod plan;
pub mod profile;
pub mod rehearsal;
pub mod replan;
