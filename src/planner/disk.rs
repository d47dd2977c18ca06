//! How fast the disk under a file gives pieces of the size experts have: the ceiling of everything that is read from it.

use super::hardware::written;
use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Read bandwidth of a disk, in bytes per second.
#[derive(Clone, Debug)]
pub struct DiskSpeed {
    /// Bytes of one read.
    pub piece: usize,
    /// (reads in flight, bytes per second), ascending.
    pub by_depth: Vec<(usize, f64)>,
    /// Whether the reads went past the system's page cache; otherwise the figure may be that of memory.
    pub direct: bool,
}

impl DiskSpeed {
    /// The best over all depths, and that depth.
    pub fn best(&self) -> (usize, f64) {
        self.by_depth.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).expect("one depth is always measured")
    }
}

impl DiskSpeed {
    /// Bytes a second with so many reads in flight, as was measured with the most that are no more.
    pub fn at(&self, depth: usize) -> f64 {
        let known = self.by_depth.iter().rev().find(|known| known.0 <= depth).or(self.by_depth.first());
        known.expect("one depth is always measured").1
    }
}

const DEPTHS: [usize; 4] = [1, 2, 4, 8];
/// What unbuffered reads are multiples of, in the file and in memory.
const ALIGNMENT: usize = 4096;

/// At each depth, for a figure to keep; and for a look at how the disk is just now.
pub const WHOLE: Duration = Duration::from_millis(250);
pub const GLANCE: Duration = Duration::from_millis(60);

/// Reads pieces of `piece` bytes (rounded up to whole pages) at places all over `file`, several at a time, for `time` at
/// each depth. Takes eight pieces of memory.
pub fn read_speed(file: &Path, piece: usize, time: Duration) -> Result<DiskSpeed> {
    let failed = |e: std::io::Error| Error::Runtime(format!("{}: cannot be read: {e}", file.display()));
    let size = std::fs::metadata(file).map_err(failed)?.len();
    let piece = piece.max(1).next_multiple_of(ALIGNMENT);
    let places = (size / ALIGNMENT as u64).saturating_sub((piece / ALIGNMENT) as u64);
    if places == 0 {
        return Err(Error::Runtime(format!(
            "{}: {size} bytes are too few to measure reads of {piece} with",
            file.display()
        )));
    }
    let mut source = Source::open(file).map_err(failed)?;
    // Some file systems open a file so and then refuse to read it.
    // In huge pages, as experts lie: a read into scattered small ones is many reads for the disk.
    let mut memory = written(piece * DEPTHS[DEPTHS.len() - 1])?;
    if source.direct && source.read(&mut memory[..piece], 0).is_err() {
        source = Source { file: File::open(file).map_err(failed)?, direct: false };
    }
    let mut rate = |depth| rate(&source, &mut memory[..depth * piece], (places, depth), time).map(|rate| (depth, rate));
    let by_depth = DEPTHS.into_iter().map(&mut rate).collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    Ok(DiskSpeed { piece, by_depth, direct: source.direct })
}

/// Bytes per second with `depth` reads in flight, each into its part of `memory`.
fn rate(source: &Source, memory: &mut [u8], (places, depth): (u64, usize), time: Duration) -> std::io::Result<f64> {
    let piece = memory.len() / depth;
    let (bytes, next, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let start = Instant::now();
    let read = |buffer: &mut [u8]| -> std::io::Result<()> {
        // At least once each, however slow the disk is.
        loop {
            let place = scattered(next.fetch_add(1, Relaxed) + depth as u64 * 1_000_003) % places;
            source.read(buffer, place * ALIGNMENT as u64)?;
            bytes.fetch_add(piece as u64, Relaxed);
            if stop.load(Relaxed) || start.elapsed() >= time {
                return Ok(());
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = memory.chunks_mut(piece).map(|buffer| scope.spawn(|| read(buffer))).collect();
        threads.into_iter().try_for_each(|thread| {
            let done = thread.join().expect("a read does not panic");
            stop.store(done.is_err(), Relaxed);
            done
        })
    })?;
    Ok(bytes.load(Relaxed) as f64 / start.elapsed().as_secs_f64())
}

/// Numbers that look random (SplitMix64).
fn scattered(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct Source {
    file: File,
    direct: bool,
}

impl Source {
    /// Past the page cache where the system can.
    fn open(path: &Path) -> std::io::Result<Source> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{Mode, OFlags};
            let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
            if let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) {
                return Ok(Source { file: file.into(), direct: true });
            }
        }
        Ok(Source { file: File::open(path)?, direct: false })
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset);
        #[cfg(not(unix))]
        {
            use std::io::{Read, Seek, SeekFrom};
            let mut file = self.file.try_clone()?;
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(buffer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_speed_and_a_small_one_has_none() {
        // Not in memory: such file systems know no unbuffered reads, and both ways must work.
        for folder in [Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), std::env::temp_dir()] {
            let Ok(folder) = tempfile::tempdir_in(&folder) else { continue };
            let file = folder.path().join("model");
            std::fs::write(&file, vec![7u8; 1 << 20]).expect("writes");
            let speed = read_speed(&file, 10_000, GLANCE).expect("measures");
            assert_eq!(speed.piece, 12288);
            assert_eq!(speed.by_depth.iter().map(|d| d.0).collect::<Vec<_>>(), DEPTHS);
            assert!(speed.by_depth.iter().all(|(_, rate)| *rate > 0.0), "{speed:?}");
            assert!(speed.best().1 >= speed.by_depth[0].1);
            let sentence = read_speed(&file, 2 << 20, GLANCE).unwrap_err().to_string();
            assert!(sentence.contains("1048576 bytes are too few"), "{sentence}");
        }
        assert!(read_speed(Path::new("no such file"), 1, GLANCE).is_err());
    }
}
