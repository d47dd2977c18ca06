//! What the verbs do with this machine's memory: GB/s of weights per verb, format, layout and instruction set, beside what
//! plain reading reaches on the same pages, and GFLOP/s where many vectors meet the same rows. Every answer is checked
//! against scalar before it is timed.
//!
//!     cargo bench -p thermocline-kernels [-- WORD...]     only lines that contain every word
//!     BENCH_MB=256                                        weights to pass over, in MB (default 256: past the caches)
//!     BENCH_SECONDS=0.5                                   time per line
//!
//! Without `--bench` (as `cargo test` runs it) it checks the answers on small shapes and times nothing.

use std::alloc::{Layout as Memory, alloc, dealloc};
use std::hint::black_box;
use std::time::Instant;

use kernels::{
    Activations, Columns, Format, Isa, Layout, Order, Pick, Rows, Tiles, add_rows, add_rows_many, add_tiles, dot_rows,
};
use thermocline_kernels as kernels;

/// The 21B model: width, and neurons of an expert.
const WIDTH: usize = 2560;
const NEURONS: usize = 768;
const HUGE: usize = 2 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let timed = arguments.iter().any(|a| a == "--bench");
    let words: Vec<String> = arguments.into_iter().filter(|a| !a.starts_with('-')).collect();
    let number = |name: &str, default: f64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let megabytes = if timed { number("BENCH_MB", 256.0) } else { 1.0 };
    let bench = Bench { timed, words, bytes: (megabytes * 1e6) as usize, seconds: number("BENCH_SECONDS", 0.5) };
    for name in Isa::missing() {
        println!("not run: this processor has no {name}");
    }
    for pages in [Pages::Huge, Pages::Small] {
        let arena = Arena::new(bench.bytes, pages);
        bench.read_speed(&arena);
        for isa in Isa::available().collect::<Vec<_>>().into_iter().rev() {
            if isa == Isa::SCALAR && timed && bench.words.is_empty() {
                continue; // minutes of it, and nobody waits for scalar
            }
            bench.decode(isa, &arena);
            bench.tiles(isa, &arena);
            if pages == Pages::Huge {
                bench.together(isa);
                bench.rounding(isa);
                bench.sums(isa, &arena);
                bench.prefill(isa);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Pages {
    Huge,
    Small,
}

/// Random bytes on pages of one kind.
struct Arena {
    bytes: &'static mut [u8],
    memory: Memory,
    pages: Pages,
}

impl Arena {
    fn new(bytes: usize, pages: Pages) -> Arena {
        let memory = Memory::from_size_align(bytes.next_multiple_of(HUGE), HUGE).expect("a small power of two");
        let advice = if pages == Pages::Huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the size is not zero; advice changes no contents; every byte is written before it is read.
        let bytes = unsafe {
            let first = alloc(memory);
            assert!(!first.is_null(), "{bytes} bytes");
            libc::madvise(first.cast(), memory.size(), advice);
            first.write_bytes(0, memory.size());
            std::slice::from_raw_parts_mut(first, memory.size())
        };
        let mut state = 88172645463325252u64;
        for word in bytes.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        Arena { bytes, memory, pages }
    }

    /// Rows of a format filling the arena, with every f16 number in a block made small and finite.
    fn rows(&mut self, format: Format, layout: Layout, width: usize, limit: usize) -> (usize, usize) {
        let row = format.row_bytes(width).expect("whole blocks");
        let count = (self.bytes.len() / row).min(limit);
        let size = format.block_bytes();
        let (halves, at): (&[usize], usize) = match format {
            Format::F32 | Format::F16 | Format::BF16 => (&[], 0),
            Format::Q4_0 | Format::Q8_0 => (&[0], 0),
            Format::Q4_1 | Format::Q4_K | Format::Q5_K => (&[0, 2], 0),
            Format::Q3_K => (&[108], 0),
            Format::Q6_K => (&[208], 0),
        };
        let bytes = &mut self.bytes[at..count * row];
        match format {
            Format::F32 => bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|b| b[3] = b[3] & 0x80 | 0x3c),
            Format::F16 | Format::BF16 => {
                bytes.as_chunks_mut::<2>().0.iter_mut().for_each(|b| b[1] = b[1] & 0x83 | 0x2c)
            }
            _ => {}
        }
        for block in bytes.chunks_exact_mut(size) {
            for &at in halves {
                block[at + 1] = block[at + 1] & 0x83 | 0x20;
            }
        }
        if layout == Layout::Lanes {
            let mut lanes = vec![0; row];
            for row in bytes.chunks_exact_mut(row) {
                kernels::lanes_from_file(format, width, row, &mut lanes).expect("whole rows");
                row.copy_from_slice(&lanes);
            }
        }
        (count, row)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; nothing borrowed from it outlives it.
        unsafe { dealloc(self.bytes.as_mut_ptr(), self.memory) }
    }
}

/// Activations like those of a real layer in size only.
fn vectors(t: usize, width: usize, firing: f64) -> Vec<f32> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..t * width).map(|_| if next() < firing { (next() - 0.3) as f32 } else { 0.0 }).collect()
}

struct Bench {
    timed: bool,
    words: Vec<String>,
    bytes: usize,
    seconds: f64,
}

impl Bench {
    fn wants(&self, line: &str) -> bool {
        self.words.iter().all(|word| line.split_whitespace().any(|w| w == word))
    }

    /// Shortest time of one call, by one or two threads that each do `work(thread, threads)`.
    fn best(&self, threads: usize, work: impl Fn(usize, usize) + Sync) -> f64 {
        let begin = Instant::now();
        let mut best = f64::MAX;
        while best == f64::MAX || begin.elapsed().as_secs_f64() < self.seconds {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for other in 1..threads {
                    let work = &work;
                    scope.spawn(move || work(other, threads));
                }
                work(0, threads);
            });
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    }

    fn say(&self, line: &str, amount: f64, unit: &str, threads: usize, work: impl Fn(usize, usize) + Sync) {
        if self.timed {
            let each = self.best(threads, work);
            println!("{line:<64} {:>8.1} {unit}", amount / each / 1e9);
        }
    }

    /// What plain reading reaches, left to the hardware and with lines asked for ahead: the larger is the ceiling.
    fn read_speed(&self, arena: &Arena) {
        for (name, ahead) in [("read", None), ("read_ahead", Some(4096)), ("read_ahead", Some(8192))] {
            for threads in [1, 2] {
                let line = format!("{name} {} {:?} threads {threads}", ahead.unwrap_or(0), arena.pages);
                if !self.wants(&line) {
                    continue;
                }
                let lines = arena.bytes.as_chunks::<64>().0;
                self.say(&line, arena.bytes.len() as f64, "GB/s", threads, |thread, threads| {
                    let each = lines.len() / threads;
                    let lines = &lines[thread * each..(thread + 1) * each];
                    black_box(match ahead {
                        None => sum::<false>(lines, 0),
                        Some(ahead) => sum::<true>(lines, ahead),
                    });
                });
            }
        }
    }

    /// Rounding of activations, in bytes of f32 read.
    fn rounding(&self, isa: Isa) {
        let line = format!("round {isa} width {WIDTH}");
        if self.wants(&line) {
            let values = vectors(1, WIDTH, 1.0);
            let x = Activations::new(isa, &values, 1, WIDTH);
            let scalar = Activations::new(Isa::SCALAR, &values, 1, WIDTH);
            assert!((0..WIDTH).all(|i| x.code(0, i) == scalar.code(0, i)), "{line}");
            self.say(&line, 4000.0 * WIDTH as f64, "GB/s", 1, |_, _| {
                let mut x = x.clone();
                (0..1000).for_each(|_| x.set(isa, black_box(&values), 1, WIDTH));
            });
        }
    }

    /// One vector, all rows or a random 40 % of them.
    fn decode(&self, isa: Isa, arena: &Arena) {
        // The arena's bytes are rewritten per format; nothing else holds them.
        let pages = arena.pages;
        for format in Format::ALL {
            for (layout, order) in
                [(Layout::Lanes, Order::Lanes), (Layout::File, Order::Lanes), (Layout::File, Order::Sequence)]
            {
                let width = if order == Order::Sequence { NEURONS } else { WIDTH };
                for share in [100, 40] {
                    let line = |threads| {
                        format!(
                            "dot_rows {format} {layout:?} {order:?} {isa} rows {share}% {pages:?} threads {threads}"
                        )
                    };
                    let wanted = [1, 2].into_iter().filter(|t| self.wants(&line(*t))).collect::<Vec<_>>();
                    if !layout.holds(format) || wanted.is_empty() || order == Order::Sequence && share < 100 {
                        continue;
                    }
                    let mut arena = Arena::new(self.bytes, pages);
                    let (count, row) = arena.rows(format, layout, width, usize::MAX);
                    let w = Rows::new(format, layout, width, &arena.bytes[..count * row]).expect("whole rows");
                    let values = vectors(1, width, 1.0);
                    let x = Activations::new(isa, &values, 1, width);
                    let some: Vec<u32> =
                        (0..count as u32).filter(|i| i.wrapping_mul(2654435761) >> 16 < 26214).collect();
                    check(isa, w, &x, order, &some[..some.len().min(50)]);
                    for threads in wanted {
                        let picked = if share == 100 { count } else { some.len() };
                        self.say(&line(threads), (picked * row) as f64, "GB/s", threads, |thread, threads| {
                            let each = picked / threads;
                            let range = thread * each..(thread + 1) * each;
                            let mut out = vec![0.0; each];
                            // In calls as an engine makes them: some hundred rows each.
                            for (from, out) in range.step_by(NEURONS).zip(out.chunks_mut(NEURONS)) {
                                let (n, columns) = (out.len(), &mut Columns::new(out, 1, out.len().max(1)));
                                match share {
                                    100 => dot_rows(isa, w.slice(from..from + n), Pick::All, &x, order, columns),
                                    _ => dot_rows(isa, w, Pick::These(&some[from..from + n]), &x, order, columns),
                                }
                            }
                            black_box(&out);
                        });
                    }
                }
            }
        }
    }

    /// Eight vectors, as of so many sequences: a matrix that does not fit the caches, so that arithmetic and memory meet.
    fn together(&self, isa: Isa) {
        for format in Format::ALL {
            for width in [WIDTH, 1536] {
                let line =
                    |threads| format!("dot_rows {format} {isa} vectors 8 memory width {width} threads {threads}");
                let wanted = [1, 2].into_iter().filter(|t| self.wants(&line(*t))).collect::<Vec<_>>();
                let layout = if Layout::Lanes.holds(format) { Layout::Lanes } else { Layout::File };
                if wanted.is_empty() {
                    continue;
                }
                let mut arena = Arena::new(self.bytes, Pages::Huge);
                let (count, row) = arena.rows(format, layout, width, usize::MAX);
                let w = Rows::new(format, layout, width, &arena.bytes[..count * row]).expect("whole rows");
                let x = Activations::new(isa, &vectors(8, width, 1.0), 8, width);
                check(isa, w.slice(0..7), &x.gather(&[0, 1, 3]), Order::Lanes, &[5, 1]);
                for threads in wanted {
                    self.say(&line(threads), (count * row) as f64, "GB/s", threads, |thread, threads| {
                        let each = count / threads;
                        for from in (thread * each..(thread + 1) * each).step_by(NEURONS) {
                            let n = NEURONS.min(count - from);
                            let mut out = vec![0.0; 8 * n];
                            let columns = &mut Columns::new(&mut out, 8, n);
                            dot_rows(isa, w.slice(from..from + n), Pick::All, &x, Order::Lanes, columns);
                            black_box(&out);
                        }
                    });
                }
            }
        }
    }

    /// `down` by neuron, one vector, in bytes touched.
    fn tiles(&self, isa: Isa, arena: &Arena) {
        for format in [Format::Q4_0, Format::Q4_1, Format::Q8_0] {
            let row = format.row_bytes(NEURONS).expect("whole blocks");
            let each = row * WIDTH;
            for share in [40, 100] {
                let line =
                    |threads| format!("add_tiles {format} {isa} firing {share}% {:?} threads {threads}", arena.pages);
                let wanted = [1, 2].into_iter().filter(|t| self.wants(&line(*t))).collect::<Vec<_>>();
                if wanted.is_empty() {
                    continue;
                }
                let mut arena = Arena::new(self.bytes.max(2 * each), arena.pages);
                let (rows, _) = arena.rows(format, Layout::File, NEURONS, usize::MAX);
                let experts = rows / WIDTH;
                let mut tiles = vec![0; each];
                for expert in arena.bytes.chunks_exact_mut(each).take(experts) {
                    kernels::tiles_from_file(format, NEURONS, WIDTH, expert, &mut tiles).expect("the same shape");
                    expert.copy_from_slice(&tiles);
                }
                let experts: Vec<Tiles> = arena.bytes[..experts * each]
                    .chunks_exact(each)
                    .map(|bytes| Tiles::new(format, NEURONS, WIDTH, bytes).expect("the same shape"))
                    .collect();
                let h = Activations::new(isa, &vectors(1, NEURONS, f64::from(share) / 100.0), 1, NEURONS);
                let firing = (0..NEURONS).filter(|i| h.code(0, *i) != 0).count();
                let run = |isa, tiles, columns: std::ops::Range<usize>| {
                    let mut out = vec![0.0; columns.len()];
                    add_tiles(isa, tiles, &h, columns.clone(), &mut Columns::new(&mut out, 1, columns.len()));
                    out
                };
                assert_eq!(run(isa, experts[0], 0..WIDTH), run(Isa::SCALAR, experts[0], 0..WIDTH), "{}", line(1));
                let codes = if format == Format::Q8_0 { WIDTH } else { WIDTH / 2 };
                let touched = (firing * codes + (each - NEURONS * codes)) * experts.len();
                for threads in wanted {
                    // Each thread takes whole experts, as they come.
                    self.say(&line(threads), touched as f64, "GB/s", threads, |thread, threads| {
                        for tiles in experts.iter().skip(thread).step_by(threads) {
                            black_box(run(isa, *tiles, 0..WIDTH));
                        }
                    });
                }
            }
        }
    }

    /// `down` by neuron as PowerInfer has it: blocks along the width, in bytes touched.
    fn sums(&self, isa: Isa, arena: &Arena) {
        for format in Format::ALL {
            let line = format!("add_rows {format} {isa} firing 40% {:?} threads 1", arena.pages);
            if !self.wants(&line) {
                continue;
            }
            let mut arena = Arena::new(self.bytes, arena.pages);
            let (count, row) = arena.rows(format, Layout::File, WIDTH, usize::MAX);
            let count = count / NEURONS * NEURONS;
            let count = if count == 0 { (self.bytes / row).max(1) } else { count };
            let each = NEURONS.min(count);
            let w = Rows::new(format, Layout::File, WIDTH, &arena.bytes[..count * row]).expect("whole rows");
            let h = vectors(1, each, 0.4);
            let firing = h.iter().filter(|h| **h != 0.0).count();
            let run = |isa, from: usize| {
                let mut out = vec![0.0; WIDTH];
                add_rows(isa, w.slice(from..from + each), &h, 0..WIDTH, &mut out);
                out
            };
            assert_eq!(run(isa, 0), run(Isa::SCALAR, 0), "{line}");
            self.say(&line, (count / each * firing * row) as f64, "GB/s", 1, |_, _| {
                for from in (0..count).step_by(each) {
                    black_box(run(isa, from));
                }
            });
        }
    }

    /// Many vectors: an expert's matrices, cached.
    fn prefill(&self, isa: Isa) {
        for format in Format::ALL {
            for t in [4, 6, 8, 48, 256] {
                for (layout, order) in
                    [(Layout::Lanes, Order::Lanes), (Layout::File, Order::Lanes), (Layout::File, Order::Sequence)]
                {
                    let (rows, width) = if order == Order::Lanes { (NEURONS, WIDTH) } else { (WIDTH, NEURONS) };
                    let line = format!("dot_rows {format} {layout:?} {order:?} {isa} vectors {t}");
                    if !layout.holds(format) || !self.wants(&line) {
                        continue;
                    }
                    let bytes = rows * format.row_bytes(width).expect("whole blocks");
                    let mut arena = Arena::new(bytes, Pages::Huge);
                    let (count, row) = arena.rows(format, layout, width, rows);
                    let w = Rows::new(format, layout, width, &arena.bytes[..count * row]).expect("whole rows");
                    let x = Activations::new(isa, &vectors(t, width, 1.0), t, width);
                    check(isa, w.slice(0..7), &x.gather(&[0, 1, 3]), order, &[5, 1]);
                    let flops = 2.0 * (rows * width * t) as f64;
                    self.say(&line, flops, "GFLOP/s", 1, |_, _| {
                        let mut out = vec![0.0; rows * t];
                        dot_rows(isa, w, Pick::All, &x, order, &mut Columns::new(&mut out, t, rows));
                        black_box(&out);
                    });
                }
                self.tiles_prefill(isa, format, t);
                self.sums_prefill(isa, format, t);
            }
        }
    }

    fn sums_prefill(&self, isa: Isa, format: Format, t: usize) {
        let line = format!("add_rows_many {format} {isa} vectors {t}");
        if !self.wants(&line) {
            return;
        }
        let mut arena = Arena::new(NEURONS * format.row_bytes(WIDTH).expect("whole blocks"), Pages::Huge);
        let (count, row) = arena.rows(format, Layout::File, WIDTH, NEURONS);
        let w = Rows::new(format, Layout::File, WIDTH, &arena.bytes[..count * row]).expect("whole rows");
        let h = Activations::new(isa, &vectors(t, NEURONS, 0.4), t, NEURONS);
        let run = |isa, columns: std::ops::Range<usize>| {
            let mut out = vec![0.0; t * columns.len()];
            add_rows_many(isa, w, &h, columns.clone(), &mut Columns::new(&mut out, t, columns.len()));
            out
        };
        assert_eq!(run(isa, 0..128), run(Isa::SCALAR, 0..128), "{line}");
        let flops = 2.0 * (WIDTH * NEURONS * t) as f64;
        self.say(&line, flops, "GFLOP/s", 1, |_, _| {
            black_box(run(isa, 0..WIDTH));
        });
    }

    fn tiles_prefill(&self, isa: Isa, format: Format, t: usize) {
        let line = format!("add_tiles {format} {isa} vectors {t}");
        if !matches!(format, Format::Q4_0 | Format::Q4_1 | Format::Q8_0) || !self.wants(&line) {
            return;
        }
        let mut arena = Arena::new(WIDTH * format.row_bytes(NEURONS).expect("whole blocks"), Pages::Huge);
        let (count, row) = arena.rows(format, Layout::File, NEURONS, WIDTH);
        let mut tiles = vec![0; count * row];
        kernels::tiles_from_file(format, NEURONS, WIDTH, &arena.bytes[..count * row], &mut tiles)
            .expect("the same shape");
        let tiles = Tiles::new(format, NEURONS, WIDTH, &tiles).expect("the same shape");
        let h = Activations::new(isa, &vectors(t, NEURONS, 0.4), t, NEURONS);
        let run = |isa, columns: std::ops::Range<usize>| {
            let mut out = vec![0.0; t * columns.len()];
            add_tiles(isa, tiles, &h, columns.clone(), &mut Columns::new(&mut out, t, columns.len()));
            out
        };
        assert_eq!(run(isa, 0..128), run(Isa::SCALAR, 0..128), "{line}");
        let flops = 2.0 * (WIDTH * NEURONS * t) as f64;
        self.say(&line, flops, "GFLOP/s", 1, |_, _| {
            black_box(run(isa, 0..WIDTH));
        });
    }
}

fn sum<const AHEAD: bool>(lines: &[[u8; 64]], ahead: usize) -> [u64; 8] {
    let mut sum = [0u64; 8];
    for line in lines {
        #[cfg(target_arch = "x86_64")]
        if AHEAD {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: any address will do.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(ahead).cast()) };
        }
        for (sum, word) in sum.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    sum
}

/// The same bits as scalar, or no figure.
fn check(isa: Isa, w: Rows, x: &Activations, order: Order, pick: &[u32]) {
    let run = |isa| {
        let mut out = vec![0.0; x.t() * pick.len()];
        dot_rows(isa, w, Pick::These(pick), x, order, &mut Columns::new(&mut out, x.t(), pick.len()));
        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(run(isa), run(Isa::SCALAR), "{isa} {w:?} {order:?}");
}
