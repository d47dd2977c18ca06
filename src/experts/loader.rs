//! Threads that read experts into slots.

use super::schedule::{Piece, Then, Whole};
use super::slots::Slots;
use super::tier::Tier;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Between tries to read a piece: a disk that is busy or waking up gets a moment.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// More would only wait in the disk's queue.
pub const MOST: usize = 256;

/// A loader calls the system and hashes; it needs no more stack than that.
const STACK: usize = 256 << 10;

/// The threads, until this is dropped; reads in flight are waited for, since they write to our memory.
pub struct Loaders {
    pub slots: Arc<Slots>,
    threads: Vec<JoinHandle<()>>,
}

impl Loaders {
    pub fn start(slots: Arc<Slots>, tier: Arc<dyn Tier>, count: usize) -> Result<Loaders> {
        let mut loaders = Loaders { slots, threads: Vec::with_capacity(count) };
        for i in 0..count {
            let (slots, tier) = (loaders.slots.clone(), tier.clone());
            let thread = std::thread::Builder::new().name(format!("read-{i}")).stack_size(STACK);
            let thread = thread.spawn(move || work(&slots, &*tier));
            loaders.threads.push(thread.map_err(|e| Error::Memory(format!("a loader thread cannot be started: {e}")))?);
        }
        Ok(loaders)
    }
}

impl Drop for Loaders {
    fn drop(&mut self) {
        self.slots.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a loader catches what a tier throws
        }
    }
}

/// A loader's life.
fn work(slots: &Slots, tier: &dyn Tier) {
    while let Some(mut piece) = slots.next() {
        let result = read(slots, tier, &mut piece);
        let then = slots.lock().landed(piece, result);
        match then {
            Then::Nothing => {}
            Then::Failed => slots.tell(|_| ()),
            Then::Whole(whole) => check(slots, whole),
        }
    }
}

/// Reads a piece, a few times if need be.
fn read(slots: &Slots, tier: &dyn Tier, piece: &mut Piece) -> Result<()> {
    let id = slots.images.id(piece.expert());
    let (start, len) = (piece.range().start, piece.range().len());
    let mut pauses = PAUSES.iter();
    loop {
        let into = slots.bytes_of(piece);
        let read = catch_unwind(AssertUnwindSafe(|| tier.read(id, start, into)));
        let error = match read {
            Ok(Ok(n)) if n == len => return Ok(()),
            Ok(Ok(n)) => Error::Runtime(format!(
                "{}: a read came short: {n} of {len} bytes from byte {start} of the expert",
                slots.images.place(id)
            )),
            Ok(Err(error)) => error,
            Err(_) => Error::Runtime(format!("{}: reading it panicked", slots.images.place(id))),
        };
        let Some(pause) = pauses.next() else {
            return Err(Error::Runtime(format!("{error} (tried {} times)", PAUSES.len() + 1)));
        };
        slots.lock().meter.again();
        if !slots.pause(*pause) {
            return Err(error);
        }
    }
}

/// Holds an expert against its hash where there is one, and admits it.
fn check(slots: &Slots, whole: Whole) {
    let id = slots.images.id(whole.expert());
    let wrong = match &slots.images.image(id).sha256 {
        None => false,
        Some(expected) => {
            let digest = Sha256::digest(slots.bytes_of_whole(&whole));
            let found: String = digest.iter().map(|b| format!("{b:02x}")).collect();
            found != *expected
        }
    };
    if !wrong {
        return slots.tell(|schedule| schedule.admit(whole));
    }
    let error = Error::Runtime(format!(
        "{}: read twice, it does not have the hash it was packed with: the file is damaged; remove it and pack the model \
         again",
        slots.images.place(id)
    ));
    slots.tell(|schedule| schedule.wrong(whole, error));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::placement::PolicyName;
    use crate::experts::ExpertId;
    use crate::experts::image::Images;
    use crate::experts::policy::{Shape, policy};
    use crate::experts::schedule::Found;
    use crate::experts::slots::{Pins, Slots};
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    const LAYERS: usize = 3;
    const EXPERTS: usize = 7;

    /// Fills every 8 bytes with the expert's number and where they lie. Every fiftieth read comes short, but never the one
    /// that tries a piece again: how the threads take turns must not have one piece fail for good.
    struct Pattern {
        delay: Duration,
        reads: AtomicU64,
        /// Pieces that came short and have not been tried again.
        short: Mutex<HashSet<(ExpertId, usize)>>,
    }

    fn word(id: ExpertId, at: usize) -> u64 {
        (id.layer as u64) << 48 | (id.index as u64) << 32 | at as u64
    }

    impl Tier for Pattern {
        fn read(&self, id: ExpertId, at: usize, into: &mut [u8]) -> Result<usize> {
            let count = self.reads.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(self.delay);
            for (i, bytes) in into.chunks_exact_mut(8).enumerate() {
                bytes.copy_from_slice(&word(id, at + 8 * i).to_le_bytes());
            }
            let mut short = self.short.lock().unwrap();
            if count % 50 == 49 && short.insert((id, at)) {
                return Ok(0);
            }
            short.remove(&(id, at));
            Ok(into.len())
        }
    }

    fn loaders(slots: usize, threads: usize, delay: Duration) -> Loaders {
        let images = Arc::new(Images::plain(LAYERS, EXPERTS, 640 << 10));
        let shape = Shape { layers: LAYERS, experts: EXPERTS, active: 2, slots };
        let slots = Slots::new(images, slots, policy(PolicyName::default(), shape)).unwrap();
        let tier = Pattern { delay, reads: AtomicU64::new(0), short: Mutex::default() };
        Loaders::start(Arc::new(slots), Arc::new(tier), threads).unwrap()
    }

    /// A step over all layers: takes each chosen expert as it comes, and looks at all of its bytes.
    fn step(slots: &Slots, choose: &mut dyn FnMut() -> Vec<u16>) {
        let turn = slots.lock().begin(1);
        for layer in 0..LAYERS as u16 {
            let ids: Vec<_> = choose().into_iter().map(|index| ExpertId { layer, index }).collect();
            slots.ask(|schedule| {
                schedule.prefetch(turn, layer, &ids);
                ids.iter().for_each(|&id| schedule.want(turn, slots.images.index(id)));
            });
            let mut pending = ids;
            while !pending.is_empty() {
                let mut pins = Pins::new(slots, pending.len());
                let mut schedule = slots.lock();
                while pins.is_empty() {
                    pending.retain(|&id| match schedule.look(turn, slots.images.index(id)) {
                        Found::Here(slot) => (pins.add(id, slot), false).1,
                        Found::NotYet => true,
                        Found::Failed(error) => panic!("{error}"),
                    });
                    if pins.is_empty() {
                        schedule = slots.wait(schedule, pending[0].layer);
                    }
                }
                drop(schedule);
                for (id, bytes) in pins.bytes() {
                    for (i, bytes) in bytes.chunks_exact(8).enumerate() {
                        assert_eq!(u64::from_le_bytes(bytes.try_into().unwrap()), word(id, 8 * i), "{id:?}");
                    }
                }
            }
        }
        slots.lock().end(turn);
    }

    #[test]
    fn many_threads_and_few_slots() {
        for (slots, threads) in [(1, 1), (2, 3), (5, 8), (20, 4)] {
            let loaders = loaders(slots, threads, Duration::ZERO);
            std::thread::scope(|scope| {
                for who in 0..4u64 {
                    let slots = loaders.slots.clone();
                    scope.spawn(move || {
                        let mut seed = who + 1;
                        let mut choose = || {
                            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                            let first = (seed >> 33) as usize % EXPERTS;
                            let count = 1 + (seed >> 50) as usize % 3;
                            (0..count).map(|i| ((first + 2 * i) % EXPERTS) as u16).collect()
                        };
                        (0..25).for_each(|_| step(&slots, &mut choose));
                    });
                }
            });
            let stats = loaders.slots.lock().stats();
            assert!(stats.resident <= slots && stats.misses > 0 && stats.retries > 0, "{stats:?}");
        }
    }

    #[test]
    fn it_ends_with_reads_in_flight() {
        let loaders = loaders(6, 4, Duration::from_millis(40));
        let slots = loaders.slots.clone();
        let turn = slots.lock().begin(1);
        let ids: Vec<_> = (0..EXPERTS as u16).map(|index| ExpertId { layer: 1, index }).collect();
        slots.ask(|schedule| schedule.prefetch(turn, 1, &ids));
        std::thread::sleep(Duration::from_millis(10));
        drop(loaders);
        assert_eq!(Arc::strong_count(&slots), 1, "a loader lives on");
    }
}
