//! The processor as the parts of a model see it: its instruction set, its cores, and a count of the bytes they read.

use crate::pool::Pool;
use kernels::Isa;
use std::sync::atomic::{AtomicU64, Ordering};

/// What every part computes with. Shared by all sessions of an engine.
pub struct Host {
    pub isa: Isa,
    pub pool: Pool,
    touched: AtomicU64,
}

impl Host {
    pub fn new(isa: Isa, threads: usize) -> Host {
        Host { isa, pool: Pool::new(threads), touched: AtomicU64::new(0) }
    }

    /// Counts `bytes` of weights or cache as read once.
    pub fn touch(&self, bytes: usize) {
        self.touched.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of weights and cache read since the host was made. Reading a weight once for many tokens counts once.
    pub fn touched(&self) -> u64 {
        self.touched.load(Ordering::Relaxed)
    }
}
