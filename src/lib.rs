//! thermocline: sparse mixture-of-experts language models on the machine people already own.
//!
//! The floors of the house, from the ground: [`error`] and the `kernels` crate; [`config`] and [`pool`];
//! [`checkpoint`]; [`device`]; [`experts`]; [`model`] and [`planner`]; [`engine`]; [`serve`]; [`cli`]. A room imports from lower floors only
//! (`tests/floors.rs` keeps it so). See `docs/ARCHITECTURE.md`.

mod bridge;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod device;
pub mod engine;
pub mod error;
pub mod experts;
pub mod host;
pub mod model;
pub mod planner;
pub mod pool;
pub mod serve;
pub mod timeline;

pub use error::{Error, Result};
