//! What a download tells while it runs. Drawing is somebody else's room.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Rates are taken over this long: short enough to follow a change, long enough not to flicker.
const RATE_OVER: Duration = Duration::from_secs(5);
/// `Bytes` events come no closer than this; twenty a second look smooth.
const BETWEEN_EVENTS: Duration = Duration::from_millis(50);

/// One thing that happened. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// `files` files of `bytes` in all are to come; `have` of them lie here already from an earlier attempt.
    Begin { files: usize, bytes: u64, have: u64 },
    /// The next file begins, at `have`.
    File { name: &'a str, bytes: u64, have: u64 },
    /// The part from an earlier attempt is read again for the checksum; `done` of `bytes` so far.
    Checking { name: &'a str, done: u64, bytes: u64 },
    /// More arrived: how far this file is, how far all of it is, and how fast.
    Bytes {
        name: &'a str,
        done: u64,
        bytes: u64,
        total_done: u64,
        total_bytes: u64,
        bytes_per_second: f64,
        /// `None` until a rate is known.
        seconds_left: Option<f64>,
    },
    /// Another process downloads this very file; we wait for it.
    Waiting { name: &'a str },
    /// A connection failed; the next one is made after `wait`.
    Retry { name: &'a str, reason: &'a str, wait: Duration },
    /// The file is whole, checked and in the cache.
    FileDone { name: &'a str },
    /// All files are.
    End,
}

/// Told of every event, and asked now and then whether to go on.
pub trait Progress {
    fn event(&mut self, event: &Event<'_>);

    /// True stops the download with `Error::Interrupted`; what has arrived stays for the next time.
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

/// Counts bytes over all files and turns them into `Bytes` events.
pub(super) struct Meter<'a> {
    progress: &'a mut dyn Progress,
    total_done: u64,
    total_bytes: u64,
    /// (when, bytes received since the beginning), oldest first.
    seen: VecDeque<(Instant, u64)>,
    received: u64,
    told: Option<Instant>,
}

impl<'a> Meter<'a> {
    /// `total_done` of `total_bytes` are here before the first byte arrives.
    pub(super) fn new(progress: &'a mut dyn Progress, total_done: u64, total_bytes: u64) -> Meter<'a> {
        Meter { progress, total_done, total_bytes, seen: VecDeque::new(), received: 0, told: None }
    }

    pub(super) fn tell(&mut self, event: Event<'_>) {
        self.progress.event(&event);
    }

    pub(super) fn interrupted(&self) -> bool {
        self.progress.interrupted()
    }

    /// `more` bytes of file `name` came in; it now has `done` of `bytes`.
    pub(super) fn arrived(&mut self, name: &str, more: u64, done: u64, bytes: u64) {
        self.received += more;
        self.total_done += more;
        let now = Instant::now();
        let last = done == bytes;
        if self.told.is_some_and(|told| now - told < BETWEEN_EVENTS) && !last {
            return;
        }
        self.told = Some(now);
        self.seen.push_back((now, self.received));
        while self.seen.len() > 2 && now - self.seen[0].0 > RATE_OVER {
            self.seen.pop_front();
        }
        let (since, then) = self.seen[0];
        let seconds = (now - since).as_secs_f64();
        let rate = if seconds > 0.0 { (self.received - then) as f64 / seconds } else { 0.0 };
        let left = self.total_bytes.saturating_sub(self.total_done) as f64;
        self.progress.event(&Event::Bytes {
            name,
            done,
            bytes,
            total_done: self.total_done,
            total_bytes: self.total_bytes,
            bytes_per_second: rate,
            seconds_left: (rate > 0.0).then(|| left / rate),
        });
    }

    /// `counted` bytes of a file were part of the total; there are `now`. Returns `now`.
    pub(super) fn recount(&mut self, counted: u64, now: u64) -> u64 {
        self.total_done = self.total_done.saturating_sub(counted) + now;
        now
    }
}
