//! Memory for some experts at a time, and the lock under which it is shared out.
#![allow(unsafe_code)]

use super::image::Images;
use super::policy::Policy;
use super::schedule::{Piece, Schedule, Whole};
use super::{Expert, ExpertId};
use crate::error::{Error, Result};
use memmap2::{MmapMut, MmapRaw};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often someone who waits for the disk looks whether to go on waiting.
const MOMENT: Duration = Duration::from_millis(50);

/// Slots of one size.
pub struct Slots {
    memory: Memory,
    pub images: Arc<Images>,
    schedule: Mutex<Schedule>,
    /// There is something to read, for loaders; or the end.
    work: Condvar,
    /// An expert has come, or cannot be had: for those who wait for it.
    arrived: Condvar,
    /// The end, for loaders that pause.
    halt: Condvar,
}

impl Slots {
    /// `count` slots for any of `images`. Memory is taken as they are filled.
    pub fn new(images: Arc<Images>, count: usize, policy: Box<dyn Policy>) -> Result<Slots> {
        Ok(Slots {
            memory: Memory::new(count, images.slot_bytes())?,
            schedule: Mutex::new(Schedule::new(images.clone(), count, policy)),
            images,
            work: Condvar::new(),
            arrived: Condvar::new(),
            halt: Condvar::new(),
        })
    }

    /// Slots there are, in use or not.
    pub fn count(&self) -> usize {
        self.memory.count
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> usize {
        self.memory.count * self.memory.slot_bytes
    }

    /// Uses `wanted` slots from now on, as near as can be, and gives the memory of the others back: their experts are read
    /// again when they are needed. How many are in use then.
    pub fn resize(&self, wanted: usize) -> usize {
        let mut schedule = self.lock();
        for slot in schedule.resize(wanted.min(self.memory.count)) {
            // SAFETY: the schedule gives this slot to nobody before it is resized again, for which it has to be unlocked.
            unsafe { self.memory.give_back(slot) };
        }
        schedule.in_use()
    }

    /// Has the system keep all slots in memory.
    pub fn lock_memory(&self) -> std::io::Result<()> {
        #[cfg(unix)]
        return self.memory.map.lock();
        #[cfg(not(unix))]
        Err(std::io::ErrorKind::Unsupported.into())
    }

    pub fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().expect("nothing panics while holding the schedule")
    }

    /// The first page of the first slot, before anybody else knows the slots.
    pub fn first_page(&mut self, bytes: usize) -> &mut [u8] {
        // SAFETY: `&mut self` says that there is no other reference into the memory.
        unsafe { self.memory.writable(0, 0..bytes) }
    }

    /// The bytes a piece is to be read into.
    pub fn bytes_of<'a>(&'a self, piece: &'a mut Piece) -> &'a mut [u8] {
        // SAFETY: the schedule hands out each range of a slot once while it is being read, and reads of a slot begin again
        // only when all its pieces have been given back (`landed` takes them by value). The piece is borrowed for as long as
        // its bytes. Nobody looks at a slot before its expert is admitted.
        unsafe { self.memory.writable(piece.slot(), piece.range()) }
    }

    /// The bytes of an expert that has come whole.
    pub fn bytes_of_whole<'a>(&'a self, whole: &'a Whole) -> &'a [u8] {
        let bytes = self.images.image(self.images.id(whole.expert())).bytes;
        // SAFETY: all pieces of the slot have been given back, and none is handed out before `whole` is (by value).
        unsafe { self.memory.readable(whole.slot(), bytes) }
    }

    /// Changes what is asked for, and calls a loader if there is something to read then. It calls the next one where there
    /// is more: waking a thread takes the time of whoever wakes it, and the computation has none to spare.
    pub fn ask<R>(&self, change: impl FnOnce(&mut Schedule) -> R) -> R {
        let mut schedule = self.lock();
        let result = change(&mut schedule);
        let call = schedule.idle > 0 && schedule.has_more();
        drop(schedule); // who wakes finds the lock free
        if call {
            self.work.notify_one();
        }
        result
    }

    /// Changes what a loader has done, and tells those who wait for experts. What is to be read next it will see itself.
    pub fn tell<R>(&self, change: impl FnOnce(&mut Schedule) -> R) -> R {
        let mut schedule = self.lock();
        let result = change(&mut schedule);
        let waiting = schedule.meter.is_waited_for();
        drop(schedule);
        if waiting {
            self.arrived.notify_all();
        }
        result
    }

    /// Waits for an arrival, not much longer than a moment, and counts the time for experts of `layer`.
    pub fn wait<'a>(&'a self, mut schedule: MutexGuard<'a, Schedule>, layer: u16) -> MutexGuard<'a, Schedule> {
        let started = Instant::now();
        schedule.meter.wait();
        let waited = self.arrived.wait_timeout(schedule, MOMENT);
        let (mut schedule, _) = waited.expect("nothing panics while holding the schedule");
        schedule.meter.go_on(layer, started.elapsed().as_secs_f64());
        schedule
    }

    /// The next piece for a loader, waiting for one; `None` at the end.
    pub fn next(&self) -> Option<Piece> {
        let mut schedule = self.lock();
        loop {
            if schedule.stopped {
                return None;
            }
            if let Some(piece) = schedule.next() {
                let call = schedule.idle > 0 && schedule.has_more();
                drop(schedule);
                if call {
                    self.work.notify_one();
                }
                return Some(piece);
            }
            schedule.idle += 1;
            schedule = self.work.wait(schedule).expect("nothing panics while holding the schedule");
            schedule.idle -= 1;
        }
    }

    /// A loader's pause before it tries again. False at the end.
    pub fn pause(&self, time: Duration) -> bool {
        let paused = self.halt.wait_timeout_while(self.lock(), time, |schedule| !schedule.stopped);
        !paused.expect("nothing panics while holding the schedule").0.stopped
    }

    /// Ends the loaders' work, after a panic too.
    pub fn stop(&self) {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.work.notify_all();
        self.halt.notify_all();
    }
}

/// Experts that were found here and stay so while this is held.
pub struct Pins<'a> {
    slots: &'a Slots,
    /// With the slot each lies in.
    pinned: Vec<(ExpertId, usize)>,
}

impl<'a> Pins<'a> {
    /// Nothing yet: to be given what [`Schedule::look`] finds.
    pub fn new(slots: &'a Slots, room: usize) -> Pins<'a> {
        Pins { slots, pinned: Vec::with_capacity(room) }
    }

    pub fn add(&mut self, id: ExpertId, slot: usize) {
        self.pinned.push((id, slot));
    }

    pub fn is_empty(&self) -> bool {
        self.pinned.is_empty()
    }

    /// The bytes of each.
    pub fn bytes(&self) -> impl Iterator<Item = (ExpertId, &[u8])> {
        self.pinned.iter().map(|&(id, slot)| {
            let bytes = self.slots.images.image(id).bytes;
            // SAFETY: an expert that is here is only read, and it stays here while it is pinned: the schedule lets go of
            // none that is.
            (id, unsafe { self.slots.memory.readable(slot, bytes) })
        })
    }

    /// Views of each.
    pub fn views(&self) -> impl Iterator<Item = Expert<'_>> {
        self.bytes().map(|(id, bytes)| self.slots.images.view(id, bytes))
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        if !self.is_empty() {
            let unpin = |schedule: &mut Schedule, &(id, _): &_| schedule.unpin(self.slots.images.index(id));
            self.slots.ask(|schedule| self.pinned.iter().for_each(|pin| unpin(schedule, pin)));
        }
    }
}

/// Zero pages until they are written; huge ones where the system has them, since those read faster.
struct Memory {
    map: MmapRaw,
    slot_bytes: usize,
    count: usize,
}

impl Memory {
    fn new(count: usize, slot_bytes: usize) -> Result<Memory> {
        let bytes = count.checked_mul(slot_bytes);
        let map = bytes.map(MmapMut::map_anon).transpose().map_err(|e| e.to_string());
        let map = map.and_then(|map| map.ok_or_else(|| "more than there are addresses".to_string()));
        let map = map
            .map_err(|e| Error::Memory(format!("no memory for {count} experts of {slot_bytes} bytes in slots: {e}")))?;
        #[cfg(target_os = "linux")]
        // Advice only: where it is refused, reading is a little slower.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Memory { map: map.into(), slot_bytes, count })
    }

    fn at(&self, slot: usize, range: &Range<usize>) -> *mut u8 {
        assert!(slot < self.count && range.start <= range.end && range.end <= self.slot_bytes, "inside one slot");
        // SAFETY: in bounds of the map by the line above.
        unsafe { self.map.as_mut_ptr().add(slot * self.slot_bytes + range.start) }
    }

    /// The pages of a slot become the system's again; they are zeros when they are next looked at. Where it refuses (they are
    /// locked), the slot keeps its memory.
    ///
    /// # Safety
    ///
    /// No reference to any byte of the slot.
    unsafe fn give_back(&self, slot: usize) {
        let at = self.at(slot, &(0..self.slot_bytes)) as usize - self.map.as_ptr() as usize;
        #[cfg(unix)]
        // SAFETY: nobody refers to these bytes, and zeros are as good as any.
        let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, self.slot_bytes) };
        #[cfg(not(unix))]
        let _ = at;
    }

    /// # Safety
    ///
    /// No other reference to these bytes while this one lives.
    #[expect(clippy::mut_from_ref, reason = "slots are shared out by the schedule, not by borrowing the memory")]
    unsafe fn writable(&self, slot: usize, range: Range<usize>) -> &mut [u8] {
        // SAFETY: in bounds, initialised (pages of zeros), and unshared by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(slot, &range), range.len()) }
    }

    /// # Safety
    ///
    /// Nobody writes to these bytes while this reference lives.
    unsafe fn readable(&self, slot: usize, bytes: usize) -> &[u8] {
        // SAFETY: in bounds, initialised, and not written to by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(slot, &(0..bytes)), bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::placement::PolicyName;
    use crate::experts::policy::{Shape, policy};

    #[test]
    fn a_slot_that_is_given_back_is_empty_and_can_be_used_again() {
        let images = Arc::new(Images::plain(2, 4, 64 << 10));
        let shape = Shape { layers: 2, experts: 4, active: 2, slots: 4 };
        let slots = Slots::new(images, 4, policy(PolicyName::default(), shape)).unwrap();
        for slot in 0..4 {
            // SAFETY: nobody else knows these slots.
            unsafe { slots.memory.writable(slot, 0..64 << 10) }.fill(7);
        }
        assert_eq!(slots.resize(1), 1);
        // SAFETY: as above.
        let sums =
            (0..4).map(|slot| unsafe { slots.memory.readable(slot, 64 << 10) }.iter().map(|b| *b as usize).sum());
        let mut sums: Vec<usize> = sums.collect();
        sums.sort_unstable();
        assert_eq!(sums, [0, 0, 0, 7 * (64 << 10)]);
        assert_eq!((slots.resize(9), slots.resize(3), slots.lock().stats().slots), (4, 3, 3));
    }
}
