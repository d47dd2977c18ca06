//! Rounding while loading takes the memory of the result and of what is in hand, however large the files are.
#![cfg(target_os = "linux")]

mod tiny;

use kernels::Format;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use thermocline::checkpoint::{Checkpoint, Quant, Relay, Weights};
use tiny::Tiny;

/// A line of `/proc/self/status`, in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Half of the jobs on another thread.
fn two(n: usize, job: &(dyn Fn(usize) + Sync)) {
    std::thread::scope(|s| {
        s.spawn(|| (0..n).step_by(2).for_each(job));
        (1..n).step_by(2).for_each(job);
    });
}

/// Bytes at the peak of loading beyond those before it, and of the result.
fn load(path: &Path, quant: Quant) -> (u64, u64) {
    let model = Arc::new(Checkpoint::open(path).unwrap());
    // Forgets the peak so far.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let loaded = Weights::load(model, Some(quant), Relay::Rounded, &two, &mut |_, _| {}).unwrap();
    (status("VmHWM:").saturating_sub(before), loaded.owned_bytes())
}

/// Bytes by which the system may miscount: each processor keeps a batch of pages to itself (Linux, `percpu_counter_batch`).
fn uncounted() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    processors * (2 * processors).max(32) * 4096
}

#[test]
fn the_result_and_what_is_in_hand() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Tiny { vocab: 60_000, experts: 16, tied: false, ..Tiny::wide() };
    let path = tiny.write_folder(dir.path(), Format::BF16);
    let (peak, result) = load(&path, Quant::Q4_0);
    let files = std::fs::metadata(path.join("model.safetensors")).unwrap().len();
    assert!(files > 80_000_000 && result < files / 3, "{result} bytes of result from {files}");
    // Two threads with half a megabyte of source each, tables, pages of 2 MiB at the edges.
    let hand = (12 << 20) + uncounted();
    assert!(peak < result + hand, "{peak} bytes at the peak for a result of {result}");
}

/// `THERMOCLINE_TEST_MODEL=folder cargo test --release --test peak_memory -- --ignored --nocapture`
#[test]
#[ignore = "needs a model of full size"]
fn a_model_of_full_size() {
    let path = PathBuf::from(std::env::var("THERMOCLINE_TEST_MODEL").expect("THERMOCLINE_TEST_MODEL names a model"));
    let start = Instant::now();
    println!("{}opened in {:.3} s", Checkpoint::open(&path).unwrap().summary(), start.elapsed().as_secs_f64());
    for quant in [Quant::None, Quant::Q4_0] {
        let start = Instant::now();
        let (peak, result) = load(&path, quant);
        println!(
            "{quant}: {:.1} s, {:.1} MB of result, {:.1} MB beyond it at the peak",
            start.elapsed().as_secs_f64(),
            result as f64 / 1e6,
            (peak as f64 - result as f64) / 1e6
        );
    }
}
