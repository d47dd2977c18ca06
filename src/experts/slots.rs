//! Memory for some experts at a time, and the lock under which it is shared out.
#![allow(unsafe_code)]

use super::ExpertId;
use super::image::Images;
use super::policy::Policy;
use super::schedule::{Piece, Schedule, Whole};
use crate::error::{Error, Result};
use memmap2::{MmapMut, MmapRaw};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

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

    /// Bytes of all slots.
    pub fn bytes(&self) -> usize {
        self.memory.count * self.memory.slot_bytes
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

    /// A pin on an expert that was found here.
    pub fn pin(&self, id: ExpertId, slot: usize) -> Pin<'_> {
        Pin { slots: self, id, slot }
    }

    /// Waits for an arrival, not much longer than a moment, and counts the time.
    pub fn wait<'a>(&'a self, mut schedule: MutexGuard<'a, Schedule>) -> MutexGuard<'a, Schedule> {
        schedule.meter.wait();
        let waited = self.arrived.wait_timeout(schedule, MOMENT);
        let (mut schedule, _) = waited.expect("nothing panics while holding the schedule");
        schedule.meter.go_on();
        schedule
    }

    /// Tells those who wait that an expert came or failed.
    pub fn announce(&self) {
        self.arrived.notify_all();
    }

    /// Tells a loader that there may be something to read. It calls the next one where there is more: waking a thread takes
    /// the time of whoever wakes it, and the computation has none to spare.
    pub fn call(&self) {
        self.work.notify_one();
    }

    /// The next piece for a loader, waiting for one; `None` at the end.
    pub fn next(&self) -> Option<Piece> {
        let mut schedule = self.lock();
        loop {
            if schedule.stopped {
                return None;
            }
            if let Some(piece) = schedule.next() {
                if schedule.has_more() {
                    self.work.notify_one();
                }
                return Some(piece);
            }
            schedule = self.work.wait(schedule).expect("nothing panics while holding the schedule");
        }
    }

    /// A loader's pause before it tries again. False at the end.
    pub fn pause(&self, time: Duration) -> bool {
        let paused = self.halt.wait_timeout_while(self.lock(), time, |schedule| !schedule.stopped);
        !paused.expect("nothing panics while holding the schedule").0.stopped
    }

    /// Ends the loaders' work.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.work.notify_all();
        self.halt.notify_all();
    }
}

/// Keeps an expert in its slot.
pub struct Pin<'a> {
    slots: &'a Slots,
    id: ExpertId,
    slot: usize,
}

impl<'a> Pin<'a> {
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.slots.images.image(self.id).bytes;
        // SAFETY: an expert that is here is only read, and it stays here while it is pinned: the schedule lets go of none
        // that is.
        unsafe { self.slots.memory.readable(self.slot, bytes) }
    }

    pub fn images(&self) -> &'a Images {
        &self.slots.images
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut schedule = self.slots.lock();
        schedule.unpin(self.slots.images.index(self.id));
        if schedule.is_waiting() {
            self.slots.call();
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
