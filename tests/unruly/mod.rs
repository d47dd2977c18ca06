//! A tier that does what disks do: it comes late, out of order, short, wrong, or not at all.
#![allow(dead_code, reason = "each test crate uses its own part")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thermocline::experts::ExpertId;
use thermocline::experts::tier::Tier;
use thermocline::{Error, Result};

/// What happens to one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Well,
    Late(Duration),
    /// Fails, after having written nonsense.
    Fails,
    /// Half of the bytes come.
    Short,
    /// One byte is another.
    Wrong,
    Panics,
}

type Fates = dyn Fn(ExpertId, usize, u64) -> Fate + Send + Sync;

/// Stands before another tier and decides about each read: by expert, the byte it begins at, and how often this piece was
/// asked for before.
pub struct Unruly {
    inner: Arc<dyn Tier>,
    fates: Box<Fates>,
    log: Arc<Log>,
}

/// What was asked for.
#[derive(Default)]
pub struct Log {
    pub bytes: AtomicU64,
    pub reads: AtomicU64,
    asked: Mutex<HashMap<(ExpertId, usize), u64>>,
    /// Bytes asked for of each expert.
    pub of_each: Mutex<HashMap<ExpertId, u64>>,
}

impl Log {
    /// Bytes asked for since this was called last.
    pub fn taken(&self) -> u64 {
        self.bytes.swap(0, Ordering::SeqCst)
    }
}

impl Unruly {
    pub fn wrap<F: Fn(ExpertId, usize, u64) -> Fate + Send + Sync + Clone + 'static>(
        log: &Arc<Log>,
        fates: F,
    ) -> impl Fn(Arc<dyn Tier>) -> Arc<dyn Tier> + use<F> {
        let log = log.clone();
        move |inner| Arc::new(Unruly { inner, fates: Box::new(fates.clone()), log: log.clone() })
    }
}

impl Tier for Unruly {
    fn read(&self, id: ExpertId, at: usize, into: &mut [u8]) -> Result<usize> {
        let before = {
            let mut asked = self.log.asked.lock().unwrap();
            let count = asked.entry((id, at)).or_default();
            *count += 1;
            *count - 1
        };
        self.log.reads.fetch_add(1, Ordering::SeqCst);
        self.log.bytes.fetch_add(into.len() as u64, Ordering::SeqCst);
        *self.log.of_each.lock().unwrap().entry(id).or_default() += into.len() as u64;
        match (self.fates)(id, at, before) {
            Fate::Well => self.inner.read(id, at, into),
            Fate::Late(time) => {
                std::thread::sleep(time);
                self.inner.read(id, at, into)
            }
            Fate::Fails => {
                into.fill(0xee);
                Err(Error::Runtime("planted: the disk is gone".into()))
            }
            Fate::Short => {
                self.inner.read(id, at, into)?;
                let half = into.len() / 2;
                into[half..].fill(0xee);
                Ok(half)
            }
            Fate::Wrong => {
                let n = self.inner.read(id, at, into)?;
                into[n / 3] ^= 0x40;
                Ok(n)
            }
            Fate::Panics => panic!("planted"),
        }
    }
}
