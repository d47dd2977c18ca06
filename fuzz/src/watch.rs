//! An allocator that counts, and ends the process when it is asked for more than any door may take.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Bytes held now, the most since work began that is measured, and the largest single piece since then.
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);
/// No allocation beyond this succeeds, whatever the system would promise.
const CEILING: usize = 4 << 30;

fn took(size: usize) {
    MOST.fetch_max(HELD.fetch_add(size, Relaxed) + size, Relaxed);
    LARGEST.fetch_max(size, Relaxed);
}

// SAFETY: every call that is not refused goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > CEILING {
            return std::ptr::null_mut();
        }
        took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > CEILING {
            return std::ptr::null_mut();
        }
        took(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > CEILING {
            return std::ptr::null_mut();
        }
        took(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Memory that some work took at most, at once and in one piece.
pub struct Taken {
    pub at_once: usize,
    pub in_one: usize,
}

pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    LARGEST.store(0, Relaxed);
    let done = work();
    (done, Taken { at_once: MOST.load(Relaxed) - before, in_one: LARGEST.load(Relaxed) })
}
