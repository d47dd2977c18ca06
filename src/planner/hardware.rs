//! Measures this machine: how fast its memory can be read, which is the ceiling of every decode speed we print.
//!
//! The probe sums a buffer far larger than the caches with plain adds that the compiler turns into vectors, on one thread up
//! to all of them, each over its own part. It is what a perfect engine could do, not what this one does.

#![allow(unsafe_code)]

pub mod machine;
pub mod probe;

use super::memory::{self, Mapping, mappings};
use crate::error::{Error, Result};
use memmap2::MmapMut;
use std::fmt;
use std::time::Instant;

/// Memory read bandwidth, in bytes per second.
#[derive(Clone, Debug)]
pub struct ReadBandwidth {
    /// (threads, median bytes per second), ascending threads.
    pub by_threads: Vec<(usize, f64)>,
    pub buffer_bytes: usize,
    pub pages: Pages,
}

impl ReadBandwidth {
    /// The best median over all thread counts, and that count: the ceiling.
    pub fn best(&self) -> (usize, f64) {
        self.by_threads.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).expect("one thread is always measured")
    }
}

/// What the probe's buffer lay in: huge pages read up to a fifth faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// At least nine tenths in pages of 2 MiB or more.
    Huge,
    Small,
    Mixed,
    /// The system does not say.
    Unknown,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pages::Huge => "huge pages",
            Pages::Small => "4 KiB pages",
            Pages::Mixed => "part huge, part 4 KiB pages",
            Pages::Unknown => "pages of unknown size",
        })
    }
}

/// Far beyond the last-level cache of a personal machine.
const BUFFER_BYTES: usize = 1 << 30;
/// A machine short of memory is probed with less, but never so little that caches would answer.
const SMALLEST_BUFFER_BYTES: usize = 128 << 20;
/// Passes per thread count; the median counts.
const PASSES: usize = 5;
/// Bytes summed per step of the inner loop: 16 numbers in eight 16-byte registers hide the latency of the adds.
const STEP: usize = 128;

/// Measures with 1 up to `most` threads (doubling, and `most` itself). Takes about a second; uses up to 1 GiB for that time,
/// and at most half of a budget.
pub fn read_bandwidth(most: usize, budget: Option<u64>) -> Result<ReadBandwidth> {
    let buffer_bytes = memory::free().map_or(BUFFER_BYTES, |free| {
        let quarter = usize::try_from(free.bytes / 4).unwrap_or(usize::MAX);
        quarter.clamp(SMALLEST_BUFFER_BYTES, BUFFER_BYTES) / STEP * STEP
    });
    let allowed = budget.map_or(usize::MAX, |bytes| usize::try_from(bytes / 2).unwrap_or(usize::MAX));
    let buffer_bytes = buffer_bytes.min(allowed / STEP * STEP).max(STEP);
    let buffer = written(buffer_bytes)?;
    let mut by_threads = Vec::new();
    let mut threads = 1;
    loop {
        by_threads.push((threads, median_rate(&buffer, threads)));
        if threads >= most {
            break;
        }
        threads = (threads * 2).min(most);
    }
    Ok(ReadBandwidth { by_threads, buffer_bytes, pages: pages_of(&buffer) })
}

/// Memory to measure with, in huge pages where the system has them: without them the measurement stands all the same.
pub(super) fn written(bytes: usize) -> Result<MmapMut> {
    let mut buffer = MmapMut::map_anon(bytes)
        .map_err(|e| Error::Memory(format!("{bytes} bytes to measure with could not be had: {e}")))?;
    #[cfg(target_os = "linux")]
    let _ = buffer.advise(memmap2::Advice::HugePage);
    // Written, or every page would be the one page of zeros.
    for (i, page) in buffer.chunks_mut(4096).enumerate() {
        page.fill(i as u8);
    }
    Ok(buffer)
}

fn median_rate(buffer: &[u8], threads: usize) -> f64 {
    let part = buffer.len().div_ceil(threads).next_multiple_of(STEP);
    let mut rates: Vec<f64> = (0..PASSES)
        .map(|_| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for bytes in buffer.chunks(part) {
                    scope.spawn(move || std::hint::black_box(sum(bytes)));
                }
            });
            buffer.len() as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[PASSES / 2]
}

/// Sum of all bytes as 64-bit numbers, in 16 lanes; bytes beyond the last whole step are left out.
fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; STEP / 8];
    for step in bytes.chunks_exact(STEP) {
        for (lane, number) in lanes.iter_mut().zip(step.chunks_exact(8)) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(number.try_into().expect("chunks of eight")));
        }
    }
    lanes.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Gives memory that was freed back to the system, where the allocator knows how: after work that used much for a short
/// time, so that what is held is what is in use.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointer, and looks only at memory that nobody has allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn pages_of(buffer: &[u8]) -> Pages {
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return Pages::Unknown };
    huge_bytes(&smaps, buffer.as_ptr() as usize, buffer.len()).map_or(Pages::Unknown, |huge| {
        match huge as f64 / buffer.len() as f64 {
            share if share >= 0.9 => Pages::Huge,
            share if share <= 0.1 => Pages::Small,
            _ => Pages::Mixed,
        }
    })
}

/// `AnonHugePages` of the maps that touch `[start, start + len)`; the kernel may have merged or split the map.
fn huge_bytes(smaps: &str, start: usize, len: usize) -> Option<u64> {
    let touches = |map: &Mapping| map.addresses.0 < start + len && map.addresses.1 > start;
    let huge: Vec<u64> =
        mappings(smaps).iter().filter(|map| touches(map)).map(|map| map.bytes("AnonHugePages:")).collect();
    (!huge.is_empty()).then(|| huge.iter().sum::<u64>().min(len as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_whole_step_is_summed() {
        let bytes: Vec<u8> = (0..STEP * 3 + 7).map(|i| u8::from(i % 8 == 0)).collect();
        assert_eq!(sum(&bytes), u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]) * 48);
    }

    #[test]
    fn smaps_are_read_by_address() {
        let smaps = "1000-3000 rw-p 0 00:00 0\nSize: 8 kB\nAnonHugePages:     4 kB\n\
                     3000-4000 rw-p 0 00:00 0\nAnonHugePages:     2 kB\n9000-a000 r--p 0 00:00 0\nAnonHugePages: 1 kB\n";
        assert_eq!(huge_bytes(smaps, 0x1000, 0x3000), Some(6 * 1024));
        assert_eq!(huge_bytes(smaps, 0x1000, 0x1000), Some(4 * 1024));
        assert_eq!(huge_bytes(smaps, 0x5000, 0x1000), None);
    }

    #[test]
    fn the_best_of_all_counts_is_the_ceiling() {
        let measured =
            ReadBandwidth { by_threads: vec![(1, 10e9), (2, 19e9), (4, 18e9)], buffer_bytes: 1, pages: Pages::Unknown };
        assert_eq!(measured.best(), (2, 19e9));
    }
}
