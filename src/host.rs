//! The processor as the parts of a model see it: its instruction set, its cores, and an account of the bytes they read
//! and of the time that passed.

use crate::pool::Pool;
use crate::timeline::Timeline;
use kernels::Isa;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// What a step's time and bytes are spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Embed,
    /// Rounding activations for the integer kernels.
    Round,
    Router,
    Norm,
    Qkv,
    Rope,
    Attend,
    AttentionOut,
    /// Asking for experts, and waiting for those that are read from the disk.
    Wait,
    /// The matrices of chosen experts: what of it is told apart (`Host::set_fine`) goes to the four that follow.
    Experts,
    Gate,
    Up,
    /// Grouping tokens by expert, counting, and rounding between an expert's matrices.
    Regroup,
    Down,
    /// Adding up the experts.
    Gather,
    /// Adding what a part gave to the residual stream.
    Residual,
    Head,
    /// A whole token on an accelerator that has every part of the model.
    Away,
    /// Choosing a token, and its text.
    Sample,
}

impl Share {
    pub const ALL: [Share; 19] = {
        use Share::*;
        [
            Embed,
            Round,
            Router,
            Norm,
            Qkv,
            Rope,
            Attend,
            AttentionOut,
            Wait,
            Experts,
            Gate,
            Up,
            Regroup,
            Down,
            Gather,
            Residual,
            Head,
            Away,
            Sample,
        ]
    };

    pub fn name(self) -> &'static str {
        match self {
            Share::Embed => "embedding",
            Share::Round => "rounding x",
            Share::Router => "router",
            Share::Norm => "norms",
            Share::Qkv => "q, k, v",
            Share::Rope => "rotation, cache",
            Share::Attend => "attention",
            Share::AttentionOut => "attention out",
            Share::Wait => "waiting for experts",
            Share::Experts => "experts",
            Share::Gate => "gate",
            Share::Up => "up",
            Share::Regroup => "regrouping, rounding h",
            Share::Down => "down",
            Share::Gather => "sum of experts",
            Share::Residual => "residual sums",
            Share::Head => "head",
            Share::Away => "on the accelerator",
            Share::Sample => "sampling",
        }
    }
}

/// One share's account.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub seconds: f64,
    pub bytes: u64,
}

/// What every part computes with. Shared by all sessions of an engine.
pub struct Host {
    pub isa: Isa,
    pub pool: Pool,
    /// Whether weights of silent neurons are left unread. Changes no bit.
    pub skip: bool,
    /// Where every share's spans of time go too.
    pub timeline: Option<Timeline>,
    bytes: [AtomicU64; Share::ALL.len()],
    nanoseconds: [AtomicU64; Share::ALL.len()],
    /// Whether regions with two shares are told apart, which takes a clock reading in every chunk.
    fine: AtomicBool,
}

impl Host {
    pub fn new(isa: Isa, threads: usize) -> Host {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Host {
            isa,
            pool: Pool::new(threads),
            skip: true,
            timeline: None,
            bytes: zeros(),
            nanoseconds: zeros(),
            fine: AtomicBool::new(false),
        }
    }

    /// Counts `bytes` of weights or cache as read once for `share`.
    pub fn touch(&self, share: Share, bytes: usize) {
        self.bytes[share as usize].fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes of weights and cache read since the host was made. Reading a weight once for many tokens counts once.
    pub fn touched(&self) -> u64 {
        self.bytes.iter().map(|b| b.load(Relaxed)).sum()
    }

    /// Runs `work` and puts its wall time on the account of `share`.
    pub fn timed<R>(&self, share: Share, work: impl FnOnce() -> R) -> R {
        let started = Instant::now();
        let result = work();
        let took = started.elapsed();
        self.nanoseconds[share as usize].fetch_add(took.as_nanos() as u64, Relaxed);
        if let Some(timeline) = &self.timeline {
            timeline.span(share.name(), started, took, None);
        }
        result
    }

    /// Runs `work`, in which shares are timed, and notes in the timeline that they belong together.
    pub fn spanned<R>(&self, name: &'static str, tokens: usize, work: impl FnOnce() -> R) -> R {
        let Some(timeline) = &self.timeline else { return work() };
        let started = Instant::now();
        let result = work();
        timeline.span(name, started, started.elapsed(), Some(tokens));
        result
    }

    /// As `timed`, for one of several shares inside a region that is timed as `whole`: only when `fine` is on, and divided
    /// by the threads that work at once.
    pub fn timed_within<R>(&self, whole: Share, share: Share, work: impl FnOnce() -> R) -> R {
        if !self.fine.load(Relaxed) {
            return work();
        }
        let started = Instant::now();
        let result = work();
        let passed = started.elapsed().as_nanos() as u64 / self.pool.width() as u64;
        self.nanoseconds[share as usize].fetch_add(passed, Relaxed);
        self.nanoseconds[whole as usize].fetch_sub(passed, Relaxed);
        result
    }

    /// Tells shares inside one region apart from now on, or no longer.
    pub fn set_fine(&self, fine: bool) {
        self.fine.store(fine, Relaxed);
    }

    /// Every share's account since the host was made.
    pub fn spent(&self) -> Vec<(Share, Spent)> {
        let spent = |share: Share| Spent {
            seconds: self.nanoseconds[share as usize].load(Relaxed) as i64 as f64 * 1e-9,
            bytes: self.bytes[share as usize].load(Relaxed),
        };
        Share::ALL.iter().map(|&share| (share, spent(share))).collect()
    }
}
