//! How fast one thread attends: GB/s of cache read per token at depth, beside what one thread reads from the same memory,
//! and GFLOP/s over a prompt. Answers are checked against scalar code before they are timed.
//!
//! `cargo bench -p thermocline-kernels --bench attend [-- depth] [format ..] [instruction set ..]`

use std::hint::black_box;
use std::time::Instant;

use kernels::Isa;
use kernels::attend::{self, Buffer, KvFormat, KvHead, Queries, Ring, Scratch, Span};
use thermocline_kernels as kernels;

const WIDTH: usize = 128;
/// More cache than any last level holds.
const BYTES: usize = 384 << 20;
const REPEATS: usize = 7;

fn main() {
    let depth = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(16_384);
    let memory: Vec<u64> = (0..BYTES as u64 / 8).collect();
    let read = median(|| {
        black_box(memory.chunks_exact(64).fold([0u64; 8], |mut sum, line| {
            line.as_chunks::<8>().0.iter().for_each(|line| (0..8).for_each(|i| sum[i] ^= line[i]));
            sum
        }));
    });
    println!("one thread reads {:.1} GB/s from memory", BYTES as f64 / read / 1e9);
    drop(memory);
    let wanted = |name: &str, all: &[&str]| {
        let mut named = std::env::args().skip(1).filter(|a| all.contains(&a.as_str())).peekable();
        named.peek().is_none() || named.any(|a| a == name)
    };
    let names = KvFormat::ALL.map(KvFormat::name);
    let formats: Vec<_> = KvFormat::ALL.into_iter().filter(|f| wanted(f.name(), &names)).collect();
    let names: Vec<_> = Isa::available().map(Isa::name).collect();
    let sets: Vec<_> = Isa::available().skip(1).filter(|isa| wanted(isa.name(), &names)).collect();
    for format in &formats {
        decode(*format, depth, &sets);
    }
    for isa in &sets {
        for format in &formats {
            prefill(*isa, *format, 2048);
        }
    }
}

/// Seconds this thread has computed, so that a busy neighbour does not count; where the system does not tell, seconds.
fn seconds() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| start.elapsed().as_secs_f64(), |n| n / 1e9)
}

/// The median of what one call takes, each time over so many calls as make a tenth of a second: the system counts a
/// thread's time in steps of some milliseconds.
fn median(mut f: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let (start, mut calls) = (seconds(), 0);
            loop {
                f();
                calls += 1;
                let time = seconds() - start;
                if time > 0.1 {
                    return time / f64::from(calls);
                }
            }
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[REPEATS / 2]
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A kv head with something in every slot.
fn head(ring: Ring, positions: usize) -> (Buffer, Buffer) {
    let (mut keys, mut values) = (ring.buffer(), ring.buffer());
    let rows = numbers(positions * WIDTH);
    ring.store_keys(Isa::best(), 0, &rows, WIDTH, &mut keys);
    ring.store_values(Isa::best(), 0, &rows, WIDTH, &mut values);
    (keys, values)
}

fn result(queries: &Queries, head: &KvHead, scratch: &mut Scratch) -> Vec<u32> {
    attend::attend(queries, head, scratch).iter().map(|x| x.to_bits()).collect()
}

fn decode(format: KvFormat, depth: usize, sets: &[Isa]) {
    let ring = Ring::new(format, WIDTH, depth);
    let heads: Vec<_> = (0..(BYTES / (2 * ring.bytes())).max(1)).map(|_| head(ring, depth)).collect();
    let view = |i: usize| {
        let (keys, values): &(Buffer, Buffer) = &heads[i];
        KvHead::new(ring, keys, ring, values)
    };
    for group in [6, 7] {
        let span = Span { first: depth - 1, tokens: 1, window: None };
        let q = numbers(group * WIDTH);
        let mut scratch = Scratch::new();
        let mut queries = Queries::new(Isa::SCALAR);
        queries.fill(span, group, WIDTH, &q, q.len());
        let judge = result(&queries, &view(0), &mut scratch);
        for &isa in sets {
            let mut queries = Queries::new(isa);
            queries.fill(span, group, WIDTH, &q, q.len());
            assert!(result(&queries, &view(0), &mut scratch) == judge, "{isa} differs from scalar");
            let time = median(|| {
                for i in 0..heads.len() {
                    black_box(attend::attend(&queries, &view(i), &mut scratch));
                }
            }) / heads.len() as f64;
            let near = median(|| {
                let mut partial = vec![0.0; queries.partial_len()];
                for _ in 0..1000 {
                    attend::attend_blocks(&queries, &view(0), 0..1, black_box(&mut partial), &mut scratch);
                }
            }) / 1000.0;
            println!(
                "decode at {depth}, {:>4}, group {group}, {isa:>7}: {:5.1} GB/s from memory, {:5.1} from cache",
                format.name(),
                2.0 * ring.bytes() as f64 / time / 1e9,
                (2 * ring.bytes() / ring.capacity() * attend::BLOCK) as f64 / near / 1e9
            );
        }
    }
}

fn prefill(isa: Isa, format: KvFormat, positions: usize) {
    let ring = Ring::new(format, WIDTH, positions);
    let (keys, values) = head(ring, positions);
    let head = KvHead::new(ring, &keys, ring, &values);
    for group in [6, 7] {
        let q = numbers(attend::TOKENS * group * WIDTH);
        let mut queries = Queries::new(isa);
        let mut scratch = Scratch::new();
        let time = median(|| {
            for first in (0..positions).step_by(attend::TOKENS * 8) {
                let span = Span { first, tokens: attend::TOKENS, window: None };
                queries.fill(span, group, WIDTH, &q, group * WIDTH);
                black_box(attend::attend(&queries, &head, &mut scratch));
            }
        });
        let seen: usize = (0..positions).step_by(attend::TOKENS * 8).map(|f| f * attend::TOKENS).sum();
        println!(
            "prompt of {positions}, {:>4}, group {group}, {isa:>7}: {:6.1} GFLOP/s",
            format.name(),
            4.0 * (seen * group * WIDTH) as f64 / time / 1e9
        );
    }
}
