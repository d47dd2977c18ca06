//! Matrices without bias: one product, or several of the same input as one parallel region.

use crate::checkpoint::Matrix;
use crate::host::{Host, Share};
use kernels::{Activations, Order, Pick, dot_rows};
use std::time::Instant;

/// A chunk of rows below this many bytes costs more to hand out than to read.
const CHUNK_BYTES: usize = 16 << 10;
/// Products that a pace is taken from; the median counts.
const PASSES: usize = 9;

/// Matrices that share their input, stacked: row `i` of the stack is row `i` of the first, then of the second, ...
pub struct Linear {
    parts: Vec<Matrix>,
    rows: usize,
    bytes: usize,
    share: Share,
}

impl Linear {
    /// All `parts` must have the same width. Time and bytes go on the account of `share`.
    pub fn new(parts: Vec<Matrix>, share: Share) -> Linear {
        let width = parts[0].width();
        assert!(parts.iter().all(|m| m.width() == width), "stacked matrices share their input");
        let rows = parts.iter().map(|m| m.len()).sum();
        let bytes = parts.iter().map(|m| m.bytes().len()).sum();
        Linear { parts, rows, bytes, share }
    }

    /// Rows of the whole stack, which is the width of its output.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `x` `[t, width]` -> `[t, rows]`.
    pub fn forward(&self, host: &Host, x: &Activations) -> Vec<f32> {
        self.forward_in(host, x, Vec::new())
    }

    /// As `forward`, in memory that is there already if it suffices: whatever it holds is written over.
    pub fn forward_in(&self, host: &Host, x: &Activations, memory: Vec<f32>) -> Vec<f32> {
        host.timed(self.share, || {
            host.touch(self.share, self.bytes);
            self.columns(host, x, memory)
        })
    }

    /// Bytes it reads a second, over a few products that are on nobody's account.
    pub fn pace(&self, host: &Host) -> f64 {
        let x = vec![1f32; self.parts[0].width()];
        let x = Activations::new(host.isa, &x, 1, x.len());
        let one = |_| {
            let start = Instant::now();
            std::hint::black_box(self.columns(host, &x, Vec::new()));
            start.elapsed().as_secs_f64()
        };
        let mut times: Vec<f64> = (0..PASSES).map(one).collect();
        times.sort_by(f64::total_cmp);
        self.bytes as f64 / times[PASSES / 2].max(f64::MIN_POSITIVE)
    }

    fn columns(&self, host: &Host, x: &Activations, memory: Vec<f32>) -> Vec<f32> {
        let count = x.t() * self.rows;
        let mut out = if memory.capacity() < count { vec![0f32; count] } else { memory };
        out.resize(count, 0.0);
        let least = (CHUNK_BYTES * self.rows).div_ceil(self.bytes).max(1);
        host.pool.columns(&mut out, self.rows, (least, 16), |range, out| {
            let mut start = 0; // first stacked row of the part
            for part in &self.parts {
                let (from, to) = (range.start.max(start), range.end.min(start + part.len()));
                if from < to {
                    let rows = part.rows().slice(from - start..to - start);
                    let mut columns = out.slice(from - range.start..to - range.start);
                    dot_rows(host.isa, rows, Pick::All, x, Order::Lanes, &mut columns);
                }
                start += part.len();
            }
        });
        out
    }
}
