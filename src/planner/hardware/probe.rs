//! How fast this machine does what a model asks for: products of matrices as they lie, chosen experts with part of their
//! neurons firing, attention over a cache. Measured on numbers made up for the purpose, far more of them than caches hold,
//! by the same kernels and the same regions a model runs.

use super::machine::{Machine, Measured, Timing};
use crate::checkpoint::{DownOrder, Form, Kind};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::experts::{Down, Expert, ExpertId, Group, Room, Tally, compute};
use crate::host::Host;
use kernels::attend::{self, BLOCK, Buffer, KvFormat, KvHead, Queries, Ring, Scratch, Span, TOKENS};
use kernels::norm::{axpy, rms_norm};
use kernels::{Activations, Format, Isa, Layout, Order, Pick, dot_rows, lanes_from_file, tiles_from_file};
use memmap2::MmapMut;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Weights that are gone through before one is read again: far beyond the last-level cache of a personal machine.
const COLD: usize = 256 << 20;
/// Rows of one matrix are measured up to so many bytes; longer ones take so much longer.
const LONGEST: usize = 48 << 20;
/// Each thing is repeated for so long, and so often at least and at most.
const TIME: Duration = Duration::from_millis(60);
const TIMES: (usize, usize) = (7, 2000);
/// Reads of the yardstick; the median counts.
const PASSES: usize = 9;
/// A chunk of rows below this many bytes costs more to hand out than to read (as products of a model are cut).
const CHUNK_BYTES: usize = 16 << 10;

/// The experts of one layer, as far as their speed goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertKind {
    pub gate: Kind,
    pub up: Kind,
    pub down: Kind,
    pub order: DownOrder,
}

/// A cache, as far as its speed goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheKind {
    pub keys: KvFormat,
    pub values: KvFormat,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
}

/// Measures what is asked for and not known yet; says what all of it takes at the pace memory has now.
pub struct Prober<'m> {
    pub machine: &'m mut Machine,
    host: Host,
    /// Whether something was measured; or was not known, where nothing may be measured.
    pub measured: bool,
    pub missing: bool,
    /// Nothing may be measured but the pace: what is not known takes no time.
    pub sealed: bool,
    told: &'m mut dyn FnMut(&str),
    /// The matrix by which memory's pace is told, and the memory it is read from.
    yardstick: Kind,
    copies: Option<Copies>,
    /// Whether weights lie in huge pages, where there are such: memory of our own does, a mapped file seldom.
    pub huge: bool,
    /// Bytes a second by threads, where that is told already.
    paces: BTreeMap<usize, f64>,
}

impl<'m> Prober<'m> {
    /// With up to `threads` threads; `told` hears what is measured. `yardstick` is a long matrix as the model has it, its
    /// head: how fast memory is, is how fast that is read.
    pub fn new(
        machine: &'m mut Machine,
        isa: Isa,
        threads: usize,
        yardstick: Kind,
        told: &'m mut dyn FnMut(&str),
    ) -> Prober<'m> {
        let host = Host::new(isa, threads);
        Prober {
            machine,
            host,
            measured: false,
            missing: false,
            sealed: false,
            told,
            yardstick,
            copies: None,
            huge: true,
            paces: BTreeMap::new(),
        }
    }

    /// Says how many bytes of the yardstick are read a second by so many threads, instead of measuring.
    pub fn at_pace(&mut self, threads: usize, pace: f64) {
        self.paces.insert(threads, pace);
    }

    /// `bytes` are read by what `measure` measures.
    fn known(
        &mut self,
        key: String,
        threads: usize,
        bytes: f64,
        measure: impl FnOnce(&Host, bool) -> Result<Timing>,
    ) -> Result<Timing> {
        let small = if self.huge || bytes == 0.0 { "" } else { ", small pages" };
        let key = format!("{key}, {threads} threads{small}");
        if let Some(measured) = self.machine.measured(&key) {
            return Ok(measured.at(self.pace(threads)?));
        }
        if self.sealed {
            self.missing = true;
            return Ok(Timing::default());
        }
        (self.told)(&key);
        // Just before, whatever it was a while ago.
        let pace = self.paced(threads)?;
        self.host.pool.set_width(threads);
        let measured = Measured { timing: measure(&self.host, self.huge)?, bytes, pace };
        self.machine.keep(key, measured);
        self.measured = true;
        Ok(measured.at(self.pace(threads)?))
    }

    /// How fast memory is now: bytes a second of the yardstick.
    pub fn pace(&mut self, threads: usize) -> Result<f64> {
        if let Some(pace) = self.paces.get(&threads) {
            return Ok(*pace);
        }
        let pace = self.paced(threads)?;
        self.paces.insert(threads, pace);
        Ok(pace)
    }

    /// The same, measured: some milliseconds.
    fn paced(&mut self, threads: usize) -> Result<f64> {
        let each = self.yardstick.row_bytes();
        let part = Kind { rows: self.yardstick.rows.min((LONGEST / each).max(1)), ..self.yardstick };
        if self.copies.is_none() {
            // A small positive number wherever a scale may stand, so that its layout is no matter.
            self.copies = Some(Copies::of(&vec![0x22; part.bytes()], self.huge)?);
        }
        let copies = self.copies.as_ref().expect("made above");
        self.host.pool.set_width(threads);
        let x = vec![1f32; part.width];
        let x = Activations::new(self.host.isa, &x, 1, part.width);
        let mut times: Vec<f64> = (0..PASSES)
            .map(|turn| {
                let start = Instant::now();
                once(&self.host, part, copies.at(turn), &x);
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        Ok(part.bytes() as f64 / times[PASSES / 2])
    }

    /// One product of a matrix with `tokens` vectors.
    pub fn product(&mut self, kind: Kind, tokens: usize, threads: usize) -> Result<Timing> {
        let key = format!("{} for {tokens} tokens", name(&kind));
        self.known(key, threads, kind.bytes() as f64, |host, huge| product(host, kind, tokens, huge))
    }

    /// `count` experts of a layer for `tokens` tokens each, this share of neurons firing: 0.25 or 0.75.
    pub fn experts(
        &mut self,
        kind: ExpertKind,
        (count, tokens): (usize, usize),
        firing: f64,
        threads: usize,
    ) -> Result<Timing> {
        let key = format!(
            "{count} experts of {}, {}, {} for {tokens} tokens, {firing} firing",
            name(&kind.gate),
            name(&kind.up),
            name(&kind.down)
        );
        // Several tokens seldom leave a neuron silent.
        let share = if tokens == 1 { firing } else { 1.0 };
        let bytes = kind.gate.bytes() as f64 + share * (kind.up.bytes() + kind.down.bytes()) as f64;
        self.known(key, threads, count as f64 * bytes, |host, huge| experts(host, kind, (count, tokens), firing, huge))
    }

    /// Attention of one layer: `tokens` tokens that see `seen` positions.
    pub fn attention(&mut self, kind: CacheKind, tokens: usize, seen: usize, threads: usize) -> Result<Timing> {
        let CacheKind { keys, values, heads, kv_heads, head_width } = kind;
        let key = format!(
            "attention of {tokens} tokens, {heads} heads of {head_width}, {kv_heads} of {} and {}, {seen} positions",
            keys.name(),
            values.name()
        );
        let bytes =
            kv_heads * (Ring::new(keys, head_width, seen).bytes() + Ring::new(values, head_width, seen).bytes());
        self.known(key, threads, bytes as f64, |host, _| Ok(attention(host, kind, tokens, seen)))
    }

    /// What a layer does besides, for one token: norms, rounding, sums.
    pub fn rest(&mut self, config: &Config, threads: usize) -> Result<Timing> {
        let (width, inner) = (config.width, config.heads * config.head_width);
        let (active, neurons) = (config.active, config.neurons);
        let key = format!("norms and rounding of {width}, {inner}, {active} x {neurons}");
        self.known(key, threads, 0.0, |host, _| Ok(rest(host, width, inner, active, neurons)))
    }
}

fn name(kind: &Kind) -> String {
    format!("{} {} {}x{}", kind.format.name(), kind.form, kind.rows, kind.width)
}

/// The median of some repetitions, and its quarters.
fn timed(mut work: impl FnMut(usize)) -> Timing {
    (0..3).for_each(&mut work);
    let (start, mut all) = (Instant::now(), vec![]);
    while all.len() < TIMES.0 || (start.elapsed() < TIME && all.len() < TIMES.1) {
        let one = Instant::now();
        work(all.len() + 3);
        all.push(one.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    let at = |quarter: usize| all[(all.len() - 1) * quarter / 4];
    Timing { seconds: at(2), low: at(1), high: at(3) }
}

/// Numbers that look random, from 0.5 to 1.5 (SplitMix64).
fn scattered(n: usize) -> f32 {
    let mut z = (n as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    0.5 + ((z >> 40) as f32) / (1u64 << 24) as f32
}

/// Bytes of a made-up matrix, as files have them. `sign` gives each row its sign, where the format can be written.
fn matrix(kind: &Kind, sign: &dyn Fn(usize) -> f32) -> Result<Vec<u8>> {
    let each = kind.row_bytes();
    let mut file = vec![0u8; kind.bytes()];
    if kind.format.encodes() {
        let mut row = vec![0f32; kind.width];
        for (r, bytes) in file.chunks_exact_mut(each).enumerate() {
            row.iter_mut().enumerate().for_each(|(i, w)| *w = sign(r) * scattered(r * 31 + i));
            kind.format.encode(&row, bytes);
        }
    } else {
        // A small positive number wherever a scale may stand.
        file.fill(0x22);
    }
    Ok(file)
}

/// Bytes of a matrix as a file has them, as they are computed with.
fn laid(kind: &Kind, file: Vec<u8>) -> Result<Vec<u8>> {
    let wrong = |e| Error::Runtime(format!("{}: cannot be laid out: {e}", name(kind)));
    let mut laid = vec![0u8; file.len()];
    match kind.form {
        Form::Rows(Layout::Lanes) => lanes_from_file(kind.format, kind.width, &file, &mut laid).map_err(wrong)?,
        Form::Tiles => tiles_from_file(kind.format, kind.width, kind.rows, &file, &mut laid).map_err(wrong)?,
        Form::Rows(Layout::File) | Form::Neurons => return Ok(file),
    }
    Ok(laid)
}

/// Copies of something, one after the other, on pages of their own.
struct Copies {
    memory: MmapMut,
    each: usize,
    len: usize,
}

impl Copies {
    fn of(bytes: &[u8], huge: bool) -> Result<Copies> {
        Copies::made(bytes.len(), huge, &mut |_, copy| {
            copy.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// Each of `len` bytes as `make` makes it.
    fn made(len: usize, huge: bool, make: &mut dyn FnMut(usize, &mut [u8]) -> Result<()>) -> Result<Copies> {
        let each = len.next_multiple_of(4096);
        let count = (COLD / each).clamp(2, 4096);
        let sad = |e| Error::Memory(format!("{} bytes to measure with could not be had: {e}", each * count));
        let mut memory = MmapMut::map_anon(each * count).map_err(sad)?;
        #[cfg(target_os = "linux")]
        let _ = memory.advise(if huge { memmap2::Advice::HugePage } else { memmap2::Advice::NoHugePage }); // advice only
        #[cfg(not(target_os = "linux"))]
        let _ = huge; // no such advice there
        memory.chunks_exact_mut(each).enumerate().try_for_each(|(i, copy)| make(i, &mut copy[..len]))?;
        Ok(Copies { memory, each, len })
    }

    fn count(&self) -> usize {
        self.memory.len() / self.each
    }

    /// The copy whose turn it is.
    fn at(&self, turn: usize) -> &[u8] {
        &self.memory[turn % self.count() * self.each..][..self.len]
    }
}

fn product(host: &Host, kind: Kind, tokens: usize, huge: bool) -> Result<Timing> {
    let rows = kind.rows.min((LONGEST / kind.row_bytes()).max(1));
    let part = Kind { rows, ..kind };
    let copies = Copies::of(&laid(&part, matrix(&part, &|_| 1.0)?)?, huge)?;
    let x: Vec<f32> = (0..tokens * kind.width).map(scattered).collect();
    let x = Activations::new(host.isa, &x, tokens, kind.width);
    let one = timed(|turn| once(host, part, copies.at(turn), &x));
    Ok(one.times(kind.rows as f64 / rows as f64))
}

/// One product, as products of a model are cut.
fn once(host: &Host, kind: Kind, bytes: &[u8], x: &Activations) {
    let least = (CHUNK_BYTES * kind.rows).div_ceil(kind.bytes()).max(1);
    let mut out = vec![0f32; x.t() * kind.rows];
    host.pool.columns(&mut out, kind.rows, (least, 16), |range, out| {
        let rows = kind.view(bytes).slice(range);
        dot_rows(host.isa, rows, Pick::All, x, Order::Lanes, out);
    });
    std::hint::black_box(out);
}

fn experts(host: &Host, kind: ExpertKind, (count, tokens): (usize, usize), firing: f64, huge: bool) -> Result<Timing> {
    let signs = [matrix(&kind.gate, &|_| 1.0)?, matrix(&kind.gate, &|_| -1.0)?];
    let up_bytes = laid(&kind.up, matrix(&kind.up, &|_| 1.0)?)?;
    let down_bytes = laid(&kind.down, matrix(&kind.down, &|row| if row % 2 == 0 { 1.0 } else { -1.0 })?)?;
    let up = kind.gate.bytes().next_multiple_of(4096);
    let down = up + up_bytes.len().next_multiple_of(4096);
    let (row, rows) = (kind.gate.row_bytes(), kind.gate.rows);
    let copies = Copies::made(down + down_bytes.len(), huge, &mut |copy, bytes| {
        // Other neurons fire in each, or the processor would learn by heart which ones do.
        let mut gate = vec![0u8; kind.gate.bytes()];
        for (r, out) in gate.chunks_exact_mut(row).enumerate() {
            let sign = &signs[usize::from(!fires(copy * rows + r, firing))];
            out.copy_from_slice(&sign[r * row..][..row]);
        }
        bytes[..gate.len()].copy_from_slice(&laid(&kind.gate, gate)?);
        bytes[up..][..up_bytes.len()].copy_from_slice(&up_bytes);
        bytes[down..].copy_from_slice(&down_bytes);
        Ok(())
    })?;
    let width = kind.gate.width;
    let x: Vec<f32> = (0..tokens * width).map(scattered).collect();
    let x = Activations::new(host.isa, &x, tokens, width);
    let groups: Vec<Group> = (0..count)
        .map(|index| Group {
            id: ExpertId { layer: 0, index: index as u16 },
            tokens: (0..tokens).collect(),
            weights: vec![1.0; tokens],
        })
        .collect();
    let groups: Vec<&Group> = groups.iter().collect();
    let (tally, mut room) = (Tally::of(1, count), Room::default());
    Ok(timed(|turn| {
        let view = |i: usize| {
            // Here and there in memory, as routers choose.
            let bytes = copies.at((turn * count + i).wrapping_mul(0x9e37_79b1) >> 3);
            let part = |kind: &Kind, at: usize| &bytes[at..at + kind.bytes()];
            Expert {
                gate: kind.gate.view(part(&kind.gate, 0)),
                up: kind.up.view(part(&kind.up, up)),
                down: view_down(kind.order, &kind.down, part(&kind.down, down)),
            }
        };
        let chosen: Vec<Expert<'_>> = (0..count).map(view).collect();
        compute(host, &chosen, &groups, &x, &tally, &mut room);
    }))
}

/// Whether a row of a gate fires: scattered, as in models; a pattern would be guessed by the processor.
fn fires(row: usize, firing: f64) -> bool {
    f64::from(scattered(row * 7 + 3)) - 0.5 < firing
}

fn view_down<'a>(order: DownOrder, kind: &Kind, bytes: &'a [u8]) -> Down<'a> {
    match (kind.tiles(bytes), kind.neurons(bytes), order) {
        (Some(tiles), _, _) => Down::Tiled(tiles),
        (_, Some(neurons), _) => Down::ByNeuron(neurons),
        (_, _, DownOrder::ByNeuron) => Down::ByNeuron(kind.view(bytes)),
        (_, _, DownOrder::ByOutput) => Down::ByOutput(kind.view(bytes)),
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

fn attention(host: &Host, kind: CacheKind, tokens: usize, seen: usize) -> Timing {
    let ring = |format| Ring::new(format, kind.head_width, seen + tokens);
    let (keys, values) = (ring(kind.keys), ring(kind.values));
    let layers = (COLD / (kind.kv_heads * (keys.bytes() + values.bytes()))).clamp(1, 64);
    let buffers = |ring: Ring| -> Vec<Buffer> {
        let filled = |_| {
            let mut buffer = ring.buffer();
            buffer.fill(0x11);
            buffer
        };
        (0..layers * kind.kv_heads).map(filled).collect()
    };
    let (key_bytes, value_bytes) = (buffers(keys), buffers(values));
    let group = kind.heads / kind.kv_heads * kind.head_width;
    let queries: Vec<f32> = (0..tokens * kind.heads * kind.head_width).map(scattered).collect();
    let stride = kind.heads * kind.head_width;
    let ask = |head: usize, from: usize, count: usize| {
        let mut asked = Queries::new(host.isa);
        let span = Span { first: seen + from - usize::from(tokens == 1), tokens: count, window: None };
        asked.fill(span, group / kind.head_width, kind.head_width, &queries[from * stride + head * group..], stride);
        asked
    };
    timed(|turn| {
        let at = turn % layers * kind.kv_heads;
        let heads: Vec<KvHead> =
            (at..at + kind.kv_heads).map(|h| KvHead::new(keys, &key_bytes[h], values, &value_bytes[h])).collect();
        if tokens == 1 {
            let asked: Vec<Queries> = (0..kind.kv_heads).map(|head| ask(head, 0, 1)).collect();
            let (blocks, len) = (seen.div_ceil(BLOCK), asked[0].partial_len());
            let mut partials: Vec<Vec<f32>> = heads.iter().map(|_| vec![0f32; blocks * len]).collect();
            let size = (blocks * heads.len()).div_ceil(4 * host.pool.width()).max(1) * len;
            host.pool.grid(&mut partials, blocks * len, size, |head, range, out| {
                let run = range.start / len..range.end / len;
                SCRATCH.with_borrow_mut(|scratch| {
                    attend::attend_blocks(&asked[head], &heads[head], run, out.row(0), scratch);
                });
            });
            for (asked, partials) in asked.iter().zip(&partials) {
                let mut running = vec![0f32; len];
                partials.chunks_exact(len).for_each(|partial| attend::merge(asked, &mut running, partial));
                std::hint::black_box(&running);
            }
            return;
        }
        let parts = (0..tokens).step_by(TOKENS);
        let mut outs: Vec<Vec<f32>> = parts.map(|from| vec![0f32; TOKENS.min(tokens - from) * stride]).collect();
        host.pool.grid(&mut outs, stride, group, |part, range, out| {
            let asked = ask(range.start / group, part * TOKENS, out.t());
            SCRATCH.with_borrow_mut(|scratch| {
                let partial = attend::attend(&asked, &heads[range.start / group], scratch);
                (0..out.t()).for_each(|t| asked.finish(partial, t, out.row(t)));
            });
        });
    })
}

fn rest(host: &Host, width: usize, inner: usize, active: usize, neurons: usize) -> Timing {
    let vector = |n: usize| -> Vec<f32> { (0..n).map(scattered).collect() };
    let (x, weight, h, hidden) = (vector(width), vector(width), vector(inner), vector(neurons));
    let mut out = vec![0f32; width];
    timed(|_| {
        for _ in 0..2 {
            rms_norm(host.isa, &x, &weight, 1e-6, &mut out);
        }
        for _ in 0..3 {
            std::hint::black_box(Activations::new(host.isa, &out, 1, width));
        }
        std::hint::black_box(Activations::new(host.isa, &h, 1, inner));
        for _ in 0..active {
            std::hint::black_box(Activations::new(host.isa, &hidden, 1, neurons));
            axpy(host.isa, 0.5, &x, &mut out);
        }
        std::hint::black_box(&out);
    })
}

/// Whether the speed of a format's experts can be measured with some of their neurons silent.
pub fn can_be_silent(format: Format) -> bool {
    format.encodes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_timed_and_what_is_known_is_not_measured_again() {
        let kind = |form, rows, width| Kind { format: Format::Q4_0, form, rows, width };
        let lanes = Form::Rows(Layout::Lanes);
        let expert = ExpertKind {
            gate: kind(lanes, 64, 128),
            up: kind(lanes, 64, 128),
            down: kind(Form::Tiles, 128, 64),
            order: DownOrder::ByOutput,
        };
        let cache = CacheKind { keys: KvFormat::F16, values: KvFormat::F16, heads: 4, kv_heads: 2, head_width: 32 };
        let mut machine = Machine::here(Isa::best());
        for round in 0..2 {
            let mut said = 0;
            let mut told = |_: &str| said += 1;
            let mut prober = Prober::new(&mut machine, Isa::best(), 2, kind(lanes, 4096, 128), &mut told);
            let one = prober.product(kind(lanes, 256, 128), 1, 2).unwrap();
            let few = prober.experts(expert, (2, 1), 0.25, 2).unwrap();
            let near = prober.attention(cache, 1, 256, 1).unwrap();
            let many = prober.attention(cache, 32, 256, 2).unwrap();
            for timing in [one, few, near, many] {
                assert!(0.0 < timing.low && timing.low <= timing.seconds && timing.seconds <= timing.high);
            }
            assert_eq!(prober.measured, round == 0);
            assert_eq!(said, if round == 0 { 4 } else { 0 });
        }
    }

    #[test]
    fn so_many_neurons_fire() {
        let kind = Kind { format: Format::Q8_0, form: Form::FILE, rows: 64, width: 64 };
        let expert = ExpertKind { gate: kind, up: kind, down: kind, order: DownOrder::ByOutput };
        let host = Host::new(Isa::best(), 1);
        for firing in [0.25, 0.75] {
            let all = (0..4096).filter(|row| fires(*row, firing)).count() as f64 / 4096.0;
            assert!((all - firing).abs() < 0.03, "{all} of {firing}");
            experts(&host, expert, (1, 1), firing, true).unwrap();
        }
    }
}
