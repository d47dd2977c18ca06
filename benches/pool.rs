//! What a parallel region costs: empty ones, and ones of 20 us of work cut in sixteen, on a free machine and beside a
//! neighbour that keeps one core busy. `cargo bench --bench pool`

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use thermocline::pool::Pool;

/// Nanoseconds per call: median, 90th percentile and worst of `rounds` batches.
fn measure(rounds: usize, batch: usize, mut call: impl FnMut()) -> (f64, f64, f64) {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let started = Instant::now();
            (0..batch).for_each(|_| call());
            started.elapsed().as_nanos() as f64 / batch as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[rounds / 2], times[rounds * 9 / 10], times[rounds - 1])
}

/// Work of a known length that no compiler removes.
fn busy(steps: usize) {
    let mut x = 1u64;
    for _ in 0..steps {
        x = black_box(x.wrapping_mul(6364136223846793005).wrapping_add(1));
    }
}

fn report(pool: &Pool, label: &str) {
    let (alone, ..) = measure(200, 10, || (0..16).for_each(|_| busy(600)));
    let (median, p90, worst) = measure(200, 100, || pool.run(16, |_| {}));
    println!("{label:<28} empty region      {median:>9.0} ns  90 % {p90:>9.0}  worst {worst:>10.0}");
    let (median, p90, worst) = measure(200, 10, || pool.run(16, |_| busy(600)));
    println!(
        "{label:<28} 16 pieces of work {median:>9.0} ns  90 % {p90:>9.0}  worst {worst:>10.0}  (serial {alone:.0})"
    );
}

fn main() {
    let threads = Pool::cores();
    let pool = Pool::new(threads);
    report(&pool, &format!("{threads} threads, free machine"));
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let neighbour = std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            busy(1000);
        }
    });
    report(&pool, &format!("{threads} threads, busy neighbour"));
    stop.store(true, Ordering::Relaxed);
    neighbour.join().expect("the neighbour only counts");
}
