//! What this machine can do, and (later) what fits on it.

pub mod hardware;
