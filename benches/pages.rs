//! Would it pay to read only the rows of an expert's firing neurons? Reads experts from a file as they are read now, whole, and
//! as they could be: gate first, then, of `up` and `down` kept side by side for each neuron, only the pages that firing neurons
//! touch. Past the page cache, eight reads in flight.
//!
//! ```text
//! cargo bench --bench pages -- FILE
//! ```
//!
//! FILE: a model of some GB, packed or not. Which neurons fire is drawn: 40 % of them, each like the other; or as if they
//! had been ordered by how often they fire, half of them 70 % of the time and half 10 %. Whole and in part take turns, expert by
//! expert; medians.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use thermocline::checkpoint::{Checkpoint, Reader};

const PAGE: usize = 4096;
const THREADS: usize = 8;
const PIECE: usize = 512 << 10;
const ROUNDS: usize = 60;
const NEURONS: usize = 768;

struct Draw(u64);

impl Draw {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn main() {
    let Some(path) = std::env::args().skip(1).find(|arg| !arg.starts_with("--")) else {
        println!("pages: no file given, nothing measured");
        return;
    };
    let checkpoint = Checkpoint::open(Path::new(&path)).expect("a model");
    let file = checkpoint.reader(0, true).expect("a file that can be read past the page cache");
    let size = file.size().expect("a size") as usize;
    println!("{THREADS} reads in flight, {ROUNDS} experts of each kind");
    println!(
        "| shape | neurons fire | pages of up, down | reads an expert | whole, us | in part, us | in part / whole |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|");
    for (shape, width) in [("4B", 1536), ("21B", 2560)] {
        for (how, chances) in [("40 %, any", [0.4, 0.4]), ("70 % and 10 %, in order", [0.7, 0.1])] {
            measure(&file, size, shape, width, how, chances);
        }
    }
}

fn measure(file: &Reader, size: usize, shape: &str, width: usize, how: &str, chances: [f64; 2]) {
    let bundle = 2 * (width / 32 * 18); // Q4_0
    let gate = (NEURONS * bundle / 2).next_multiple_of(PAGE);
    let whole = gate + (NEURONS * bundle).next_multiple_of(PAGE);
    let mut draw = Draw(7);
    let (mut pages, mut reads, mut times) = (0, 0, [vec![], vec![]]);
    for _ in 0..ROUNDS {
        let mut touched = vec![false; (whole - gate) / PAGE];
        for neuron in 0..NEURONS {
            if draw.next() < chances[neuron * 2 / NEURONS] {
                let (first, last) = (neuron * bundle / PAGE, ((neuron + 1) * bundle - 1) / PAGE);
                touched[first..=last].fill(true);
            }
        }
        let runs: Vec<(usize, usize)> = touched
            .chunk_by(|a, b| a == b)
            .scan(gate, |at, run| {
                let start = *at;
                *at += run.len() * PAGE;
                Some((run[0], start, run.len() * PAGE))
            })
            .filter_map(|(touched, start, bytes)| touched.then_some((start, bytes)))
            .collect();
        pages += touched.iter().filter(|touched| **touched).count();
        reads += runs.len();
        for (kind, time) in times.iter_mut().enumerate() {
            let place = (draw.next() * ((size - whole) / PAGE) as f64) as usize * PAGE;
            time.push(match kind {
                0 => fetch(file, place, &pieces(0, whole)),
                _ => fetch(file, place, &pieces(0, gate)) + fetch(file, place, &runs),
            });
        }
    }
    let [whole_us, part_us] = times.map(|mut times| {
        times.sort();
        times[ROUNDS / 2].as_secs_f64() * 1e6
    });
    let share = 100.0 * pages as f64 / (ROUNDS * (whole - gate) / PAGE) as f64;
    println!(
        "| {shape} | {how} | {share:.0} % | {:.0} | {whole_us:.0} | {part_us:.0} | {:.2} |",
        reads as f64 / ROUNDS as f64,
        part_us / whole_us
    );
}

fn pieces(start: usize, bytes: usize) -> Vec<(usize, usize)> {
    (0..bytes).step_by(PIECE).map(|at| (start + at, PIECE.min(bytes - at))).collect()
}

/// Reads all (offset, bytes), as many at a time as there are threads. The time without starting them.
fn fetch(file: &Reader, place: usize, list: &[(usize, usize)]) -> Duration {
    let (next, barrier) = (AtomicUsize::new(0), std::sync::Barrier::new(THREADS + 1));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut memory = vec![0u8; PIECE + PAGE];
                let skip = memory.as_ptr().align_offset(PAGE);
                let buffer = &mut memory[skip..][..PIECE];
                barrier.wait();
                while let Some(&(start, bytes)) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                    read(file, (place + start) as u64, bytes, buffer);
                }
                barrier.wait();
            });
        }
        barrier.wait();
        let started = Instant::now();
        barrier.wait();
        started.elapsed()
    })
}

fn read(file: &Reader, offset: u64, bytes: usize, buffer: &mut [u8]) {
    for done in (0..bytes).step_by(buffer.len()) {
        let into = &mut buffer[..(bytes - done).min(PIECE)];
        assert_eq!(file.read(offset + done as u64, into).expect("the file is there"), into.len());
    }
}
