//! What packing tells while it runs. Drawing is somebody else's room.

use std::path::Path;

/// One thing that happened. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// Said first: `name` will be packed to `to`, which will have `bytes` and take about `seconds`.
    Begin { name: &'a str, to: &'a Path, bytes: u64, seconds: f64 },
    /// Another process packs this very model; we wait for it.
    Waiting { to: &'a Path },
    /// So much is written.
    Bytes {
        done: u64,
        bytes: u64,
        /// `None` until a rate is known.
        seconds_left: Option<f64>,
    },
    /// The file is whole and in its place.
    End { to: &'a Path, bytes: u64, seconds: f64 },
    /// Something is not as it should be: why, and what that costs.
    Note(&'a str),
}

/// Told of every event, and asked now and then whether to go on.
pub trait Progress {
    fn event(&mut self, event: &Event<'_>);

    /// True stops with `Error::Interrupted`; nothing is left behind.
    fn interrupted(&self) -> bool {
        false
    }
}

impl<F: FnMut(&Event<'_>)> Progress for F {
    fn event(&mut self, event: &Event<'_>) {
        self(event)
    }
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn event(&mut self, _: &Event<'_>) {}
}
