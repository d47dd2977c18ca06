//! Splits work among cores; the only place that starts compute threads.
//!
//! A *region* is one parallel loop. Its chunks are claimed from a shared cursor, by the caller too, and the caller
//! waits only for helpers that *entered* the region: a helper the system has descheduled costs its share of the speed,
//! never a stall. Idle helpers spin for a bounded time and then park. Which thread ran a chunk cannot change a
//! result: chunks write to places of their own.

use kernels::Columns;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{JoinHandle, Thread};
use std::time::Instant;

/// Looks at the region word before a helper parks: about half a millisecond, longer than the serial gaps of a decode
/// step and far shorter than a user's pause.
const SPINS: u32 = 20_000;

/// Region word: generation in the high half, then one bit "closed", then the count of helpers that entered.
const CLOSED: u64 = 1 << 31;
const ENTERED: u64 = CLOSED - 1;
const GENERATION: u64 = 1 << 32;

type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// One published region. Written by the caller while no helper is inside.
struct Region {
    job: Option<Job<'static>>,
    chunks: usize,
    /// Helpers with an index below this take part.
    helpers: usize,
}

struct Shared {
    word: AtomicU64,
    region: UnsafeCell<Region>,
    cursor: AtomicUsize,
    left: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

#[allow(unsafe_code)]
// SAFETY: `region` is written only by the holder of `Pool::turn` after every helper that entered the previous region
// has left and while the word says closed, so nobody can enter; it is read only by helpers that entered.
unsafe impl Sync for Shared {}

/// Persistent compute threads.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<Thread>,
    joins: Vec<JoinHandle<()>>,
    /// Held by the one region in flight. Who finds it taken runs alone.
    turn: Mutex<()>,
    width: AtomicUsize,
    /// Nanoseconds callers have waited for helpers.
    waited: AtomicU64,
}

impl Pool {
    /// Cores this process may use: affinity and cgroup quota respected.
    pub fn cores() -> usize {
        std::thread::available_parallelism().map_or(1, |n| n.get())
    }

    /// A pool in which `threads` threads compute, the caller included.
    pub fn new(threads: usize) -> Pool {
        assert!(threads >= 1, "a pool needs at least the calling thread");
        let shared = Arc::new(Shared {
            word: AtomicU64::new(CLOSED),
            region: UnsafeCell::new(Region { job: None, chunks: 0, helpers: 0 }),
            cursor: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
        });
        let joins: Vec<_> = (0..threads - 1)
            .map(|index| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("compute-{}", index + 1))
                    .spawn(move || shared.help(index))
                    .expect("the system starts a thread")
            })
            .collect();
        let helpers = joins.iter().map(|j| j.thread().clone()).collect();
        Pool {
            shared,
            helpers,
            joins,
            turn: Mutex::new(()),
            width: AtomicUsize::new(threads),
            waited: AtomicU64::new(0),
        }
    }

    /// Threads that take part in a region now.
    pub fn width(&self) -> usize {
        self.width.load(Ordering::Relaxed)
    }

    /// Lets `threads` of the pool's threads take part from the next region on.
    pub fn set_width(&self, threads: usize) {
        self.width.store(threads.clamp(1, self.helpers.len() + 1), Ordering::Relaxed);
    }

    /// Runs `job(0) .. job(chunks - 1)`, each once, on some thread; returns when all are done.
    /// A panic in a chunk is raised again here.
    pub fn run(&self, chunks: usize, job: impl Fn(usize) + Sync) {
        let helpers = self.width() - 1;
        let turn = match self.turn.try_lock() {
            _ if helpers == 0 || chunks < 2 => None,
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()), // a chunk panicked once; the region had ended
            Err(TryLockError::WouldBlock) => None,
        };
        if turn.is_none() {
            (0..chunks).for_each(job);
            return;
        }
        let s = &*self.shared;
        self.publish(&job, chunks, helpers);
        let mine = catch_unwind(AssertUnwindSafe(|| s.claim(&job, chunks)));
        // Nobody may enter from here on; wait for those inside.
        let entered = s.word.fetch_or(CLOSED, Ordering::AcqRel) & ENTERED;
        self.wait(entered);
        let panicked = s.panicked.swap(false, Ordering::Relaxed); // taken before raising: the next region starts clean
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!panicked, "a chunk of parallel work panicked");
    }

    /// Until all helpers that entered have left.
    fn wait(&self, entered: u64) {
        let started = Instant::now();
        if spin_until(|| self.shared.left.load(Ordering::Acquire) as u64 >= entered) {
            self.waited.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// Seconds callers have waited for helpers to finish their last chunk.
    pub fn waited(&self) -> f64 {
        self.waited.load(Ordering::Relaxed) as f64 * 1e-9
    }

    #[allow(unsafe_code)]
    fn publish(&self, job: Job<'_>, chunks: usize, helpers: usize) {
        let s = &*self.shared;
        // SAFETY: the lifetime is only widened for storage: `run` does not return before every helper that entered has
        // left, and none can enter after it closed the region. The cell is ours by the argument at `impl Sync`.
        unsafe {
            let job = std::mem::transmute::<Job<'_>, Job<'static>>(job);
            *s.region.get() = Region { job: Some(job), chunks, helpers };
        }
        s.cursor.store(0, Ordering::Relaxed);
        s.left.store(0, Ordering::Relaxed);
        let generation = (s.word.load(Ordering::Relaxed) / GENERATION).wrapping_add(1);
        s.word.store(generation.wrapping_mul(GENERATION), Ordering::SeqCst);
        for (index, thread) in self.helpers.iter().enumerate().take(helpers) {
            if s.parked[index].load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
    }

    /// Splits `count` items into ranges of a size that keeps every thread busy: about four chunks a thread, none
    /// smaller than `least`, each a multiple of `step` but the last. Calls `job` once per range.
    pub fn ranges(&self, count: usize, least: usize, step: usize, job: impl Fn(Range<usize>) + Sync) {
        let size = self.chunk(count, least, step);
        self.run(count.div_ceil(size), |i| job(i * size..((i + 1) * size).min(count)));
    }

    /// The chunk size `ranges` uses.
    pub fn chunk(&self, count: usize, least: usize, step: usize) -> usize {
        let even = count.div_ceil(self.width() * 4);
        even.max(least).next_multiple_of(step).max(1)
    }

    /// `out` is `[t][stride]`: hands disjoint column ranges of it, of about equal size, to the chunks of one region.
    pub fn columns(
        &self,
        out: &mut Vec<f32>,
        stride: usize,
        (least, step): (usize, usize),
        job: impl Fn(Range<usize>, &mut Columns<'_>) + Sync,
    ) {
        let size = self.chunk(stride, least, step);
        self.grid(std::slice::from_mut(out), stride, size, |_, range, part| job(range, part));
    }

    /// Each of `outs` is `[t][stride]`, `t` its own: one chunk for every output and every `size` columns of it.
    #[allow(unsafe_code)]
    pub fn grid(
        &self,
        outs: &mut [impl AsMut<[f32]>],
        stride: usize,
        size: usize,
        job: impl Fn(usize, Range<usize>, &mut Columns<'_>) + Sync,
    ) {
        let outs = Outputs::new(outs, stride, size);
        self.run(outs.len() * outs.cuts(), |chunk| {
            let (out, cut) = (chunk / outs.cuts(), chunk % outs.cuts());
            // SAFETY: each pair is one chunk's, and the outputs stay borrowed until the region has ended.
            let mut part = unsafe { outs.part(out, cut) };
            job(out, outs.range(cut), &mut part);
        });
    }

    /// Two [`Pool::grid`]s in one region: `then` reads a whole output of `first` and fills that of `second` of the same index.
    /// Chunks of both kinds come in turn, so that cores do unlike work at a time.
    #[allow(unsafe_code)]
    pub fn grid_then(
        &self,
        (first, stride, size): (&mut [impl AsMut<[f32]>], usize, usize),
        job: impl Fn(usize, Range<usize>, &mut Columns<'_>) + Sync,
        (second, second_stride, second_size): (&mut [impl AsMut<[f32]>], usize, usize),
        then: impl Fn(usize, &[f32], Range<usize>, &mut Columns<'_>) + Sync,
    ) {
        let (first, second) = (Outputs::new(first, stride, size), Outputs::new(second, second_stride, second_size));
        assert_eq!(first.len(), second.len(), "each output has one that is made of it");
        // An output is read when every thread has had another chunk to begin since.
        let lag = self.width().div_ceil(first.cuts());
        let mut chunks = Vec::new();
        for out in 0..first.len() + lag {
            if out < first.len() {
                chunks.extend((0..first.cuts()).map(|cut| (out, cut, false)));
            }
            if let Some(out) = out.checked_sub(lag) {
                chunks.extend((0..second.cuts()).map(|cut| (out, cut, true)));
            }
        }
        let left: Vec<AtomicUsize> = (0..first.len()).map(|_| AtomicUsize::new(first.cuts())).collect();
        self.run(chunks.len(), |chunk| {
            let (out, cut, reads) = chunks[chunk];
            if !reads {
                let _done = Done(&left[out]);
                // SAFETY: as for `grid`; and who reads this output waits for all its cuts.
                let mut part = unsafe { first.part(out, cut) };
                return job(out, first.range(cut), &mut part);
            }
            // Its cuts were claimed before this chunk, by threads that wait for nobody.
            spin_until(|| left[out].load(Ordering::Acquire) == 0);
            // SAFETY: nobody writes to the first any more; for the second as for `grid`.
            let (whole, mut part) = unsafe { (first.whole(out), second.part(out, cut)) };
            then(out, whole, second.range(cut), &mut part);
        });
    }

    /// Cuts `out` into pieces of `size` elements and hands each to one chunk.
    #[allow(unsafe_code)]
    pub fn pieces<T: Send>(&self, out: &mut [T], size: usize, job: impl Fn(usize, &mut [T]) + Sync) {
        let (len, base) = (out.len(), Shareable(out.as_mut_ptr()));
        self.run(len.div_ceil(size), |i| {
            let start = i * size;
            // SAFETY: pieces are disjoint and inside `out`, which stays borrowed until the region has ended.
            let piece = unsafe { std::slice::from_raw_parts_mut(base.at(start), size.min(len - start)) };
            job(i, piece);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.helpers.iter().for_each(Thread::unpark);
        for join in self.joins.drain(..) {
            let _ = join.join(); // a helper catches its chunks' panics, so this cannot fail in a way we could mend
        }
    }
}

impl Shared {
    /// Claims chunks until none is left.
    fn claim(&self, job: Job<'_>, chunks: usize) {
        loop {
            let chunk = self.cursor.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                return;
            }
            job(chunk);
        }
    }

    /// A helper's life.
    fn help(&self, index: usize) {
        let (mut seen, mut spins) = (0u64, 0u32);
        while !self.stop.load(Ordering::Relaxed) {
            let word = self.word.load(Ordering::Acquire);
            let fresh = word / GENERATION != seen && word & CLOSED == 0;
            if fresh && self.enter(word) {
                seen = word / GENERATION;
                self.work(index);
                self.left.fetch_add(1, Ordering::Release);
                spins = 0;
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                self.park(index, seen);
                spins = 0;
            }
        }
    }

    fn enter(&self, word: u64) -> bool {
        self.word.compare_exchange(word, word + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    #[allow(unsafe_code)]
    fn work(&self, index: usize) {
        // SAFETY: we entered, so the region is ours to read until we leave.
        let region = unsafe { &*self.region.get() };
        let job = region.job.expect("a published region has a job");
        if index < region.helpers && catch_unwind(AssertUnwindSafe(|| self.claim(job, region.chunks))).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }

    /// Sleeps until a region newer than `seen` may be open. The flag is raised before the word is read again and the
    /// caller writes the word before it reads the flag, so one of the two sees the other.
    fn park(&self, index: usize, seen: u64) {
        self.parked[index].store(true, Ordering::SeqCst);
        let word = self.word.load(Ordering::SeqCst);
        if (word / GENERATION == seen || word & CLOSED != 0) && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.parked[index].store(false, Ordering::SeqCst);
    }
}

/// Outputs, each `[t][stride]` and `t` its own, in cuts of `size` columns: what chunks write to and, later, read.
struct Outputs<'a> {
    outs: Vec<(usize, Shareable<f32>)>,
    stride: usize,
    size: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> Outputs<'a> {
    fn new(outs: &'a mut [impl AsMut<[f32]>], stride: usize, size: usize) -> Outputs<'a> {
        let out = |out: &'a mut [f32]| {
            assert!(out.len().is_multiple_of(stride), "every output is whole rows of {stride}");
            (out.len() / stride, Shareable(out.as_mut_ptr()))
        };
        Outputs { outs: outs.iter_mut().map(|o| out(o.as_mut())).collect(), stride, size, borrow: PhantomData }
    }

    fn len(&self) -> usize {
        self.outs.len()
    }

    fn cuts(&self) -> usize {
        self.stride.div_ceil(self.size)
    }

    fn range(&self, cut: usize) -> Range<usize> {
        cut * self.size..((cut + 1) * self.size).min(self.stride)
    }

    /// # Safety
    /// Nobody else has this cut of this output, nor the whole of it.
    #[allow(unsafe_code)]
    unsafe fn part(&self, out: usize, cut: usize) -> Columns<'_> {
        let ((t, base), range) = (&self.outs[out], self.range(cut));
        // SAFETY: cuts are in bounds and disjoint; the caller promises the rest.
        unsafe { Columns::from_raw(base.at(range.start), self.stride, range.len(), *t) }
    }

    /// # Safety
    /// Nobody writes to this output while it is read.
    #[allow(unsafe_code)]
    unsafe fn whole(&self, out: usize) -> &[f32] {
        let (t, base) = &self.outs[out];
        // SAFETY: that many numbers were borrowed; the caller promises the rest.
        unsafe { std::slice::from_raw_parts(base.at(0), t * self.stride) }
    }
}

/// Spins, for a while without giving up the core. Whether it had to.
fn spin_until(done: impl Fn() -> bool) -> bool {
    let mut spins = 0u32;
    while !done() {
        spins += 1;
        if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
    spins > 0
}

/// Counts a chunk as done, however it ends.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// A base address chunks compute their own disjoint parts from.
struct Shareable<T>(*mut T);

#[allow(unsafe_code)]
// SAFETY: the pointer is only turned into disjoint parts, one per chunk, inside this room.
unsafe impl<T: Send> Sync for Shareable<T> {}

impl<T> Shareable<T> {
    #[allow(unsafe_code)]
    fn at(&self, index: usize) -> *mut T {
        // SAFETY: every caller passes an index inside the slice the pointer came from.
        unsafe { self.0.add(index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once() {
        for threads in [1, 2, 3, 7] {
            let pool = Pool::new(threads);
            for chunks in [0, 1, 2, 3, 50, 1000] {
                let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads, {chunks} chunks");
            }
        }
    }

    #[test]
    fn many_regions_with_pauses_between() {
        let pool = Pool::new(4);
        let total = AtomicUsize::new(0);
        for round in 0..3000 {
            if round % 1000 == 999 {
                std::thread::sleep(std::time::Duration::from_millis(20)); // long enough for helpers to park
            }
            pool.set_width(1 + round % 4);
            pool.run(8, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(total.load(Ordering::Relaxed), 24_000);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(20, |i| assert!(i != bad, "planted"))));
            assert!(result.is_err());
        }
        let all_at_once = catch_unwind(AssertUnwindSafe(|| pool.run(20, |_| panic!("planted"))));
        assert!(all_at_once.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(100, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 4950);
    }

    #[test]
    fn regions_within_regions_and_from_several_threads_run() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(4, |_| {
                            pool.run(4, |_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 3 * 200 * 16);
    }

    #[test]
    fn the_second_of_two_grids_finds_the_first_whole() {
        for (threads, size, later) in [(1, 7, 5), (2, 100, 100), (3, 7, 64), (7, 33, 9), (3, 100, 11)] {
            let pool = Pool::new(threads);
            for count in [1, 2, 5, 40] {
                let mut first: Vec<Vec<f32>> = (0..count).map(|e| vec![0.0; (e % 3 + 1) * 100]).collect();
                let mut second: Vec<Vec<f32>> = (0..count).map(|e| vec![0.0; (e % 3 + 1) * 64]).collect();
                pool.grid_then(
                    (&mut first, 100, size),
                    |e, _, part| (0..part.t()).for_each(|t| part.row(t).fill((e + t) as f32)),
                    (&mut second, 64, later),
                    |_, whole, _, part| (0..part.t()).for_each(|t| part.row(t).fill(whole.iter().sum())),
                );
                for (e, second) in second.iter().enumerate() {
                    let sum: usize = (0..e % 3 + 1).map(|t| 100 * (e + t)).sum();
                    assert!(second.iter().all(|&v| v == sum as f32), "{threads} threads, output {e} of {count}");
                }
            }
        }
    }

    #[test]
    fn a_panic_in_the_first_of_two_grids_ends_both() {
        let pool = Pool::new(3);
        for bad in 0..10 {
            let (mut first, mut second) = (vec![vec![0f32; 64]; 10], vec![vec![0f32; 64]; 10]);
            let job = |e, _, _: &mut Columns<'_>| assert!(e != bad, "planted");
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.grid_then((&mut first, 64, 16), job, (&mut second, 64, 64), |_, _, _, _| {});
            }));
            assert!(result.is_err());
        }
    }

    #[test]
    fn columns_and_pieces_cover_everything_once() {
        let pool = Pool::new(3);
        let mut out = vec![0f32; 5 * 77];
        pool.columns(&mut out, 77, (1, 4), |range, part| {
            for t in 0..5 {
                for (c, v) in range.clone().zip(part.row(t)) {
                    *v += (t * 77 + c) as f32;
                }
            }
        });
        assert!(out.iter().enumerate().all(|(i, &v)| v == i as f32));
        let mut bytes = vec![0u8; 1003];
        pool.pieces(&mut bytes, 100, |i, piece| piece.fill(i as u8 + 1));
        assert!(bytes.iter().enumerate().all(|(i, &b)| b as usize == i / 100 + 1));
    }
}
