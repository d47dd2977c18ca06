//! How keys and values are kept: one kv head is two byte slices, one of keys and one of values, with a slot for each of
//! `capacity` positions; position p lies in slot p mod capacity.
//!
//! Values lie by slot, each a row. Keys lie in tiles of sixteen slots, turned on their side: element i of all sixteen
//! keys, then element i + 1, so that attention holds one key per lane and never adds across lanes. A tile begins where
//! sixteen rows would, so slots n.. of a tile boundary begin at n rows, whatever the capacity: a cache that has not yet
//! wrapped grows by copying its bytes to the front of a larger one.

use std::ops::{Deref, DerefMut};

use crate::arch::lanes::{self, Lanes, Loop};
use crate::isa::Isa;

/// Positions of which attention makes one partial result, and the unit of a ring's capacity.
pub const BLOCK: usize = 256;

/// Slots in a tile of keys: one per lane.
pub(crate) const TILE: usize = 16;

/// Buffers begin on a cache line: a load across two of them is two loads.
const LINE: usize = 64;

/// Weights per q8_0 scale.
const SCALED: usize = 32;

/// How the numbers of a key or value are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum KvFormat {
    F32,
    F16,
    /// Runs of 32 share an f16 scale d = largest / 127; each number is d times a whole number of -127..=127.
    Q8_0,
}

impl KvFormat {
    /// All of them, largest first.
    pub const ALL: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::Q8_0];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<KvFormat> {
        KvFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Heads must be whole runs of so many numbers.
    pub fn multiple(self) -> usize {
        match self {
            KvFormat::F32 | KvFormat::F16 => TILE,
            KvFormat::Q8_0 => SCALED,
        }
    }

    /// Bytes of one key, or of one value.
    ///
    /// Panics unless `head_width` is a multiple of [`KvFormat::multiple`].
    pub fn bytes(self, head_width: usize) -> usize {
        assert!(
            head_width > 0 && head_width.is_multiple_of(self.multiple()),
            "a {} cache of heads of width {head_width}, which is no multiple of {}",
            self.name(),
            self.multiple()
        );
        match self {
            KvFormat::F32 => head_width * 4,
            KvFormat::F16 => head_width * 2,
            KvFormat::Q8_0 => head_width / SCALED * (2 + SCALED),
        }
    }
}

/// The shape of one kv head's keys, or of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    format: KvFormat,
    head_width: usize,
    capacity: usize,
}

impl Ring {
    /// Room for at least `positions` positions: the capacity is rounded up to whole blocks of [`BLOCK`].
    ///
    /// Panics unless `head_width` is a multiple of [`KvFormat::multiple`].
    pub fn new(format: KvFormat, head_width: usize, positions: usize) -> Ring {
        let ring = Ring { format, head_width, capacity: positions.max(1).next_multiple_of(BLOCK) };
        assert!(ring.row_bytes().checked_mul(ring.capacity).is_some(), "a cache of {positions} positions");
        ring
    }

    pub fn format(self) -> KvFormat {
        self.format
    }

    pub fn head_width(self) -> usize {
        self.head_width
    }

    /// How many positions there is room for.
    pub fn capacity(self) -> usize {
        self.capacity
    }

    /// Bytes of all keys, or of all values, of one kv head. Where they lie does not matter to the result; a
    /// [`Ring::buffer`] reads fastest.
    pub fn bytes(self) -> usize {
        self.row_bytes() * self.capacity
    }

    /// Room for all keys, or all values, of one kv head. The system gives its pages as they are first written.
    pub fn buffer(self) -> Buffer {
        let room = vec![0; self.bytes() + LINE];
        let skip = room.as_ptr().align_offset(LINE).min(LINE);
        Buffer { room, skip, len: self.bytes() }
    }

    pub(crate) fn row_bytes(self) -> usize {
        self.format.bytes(self.head_width)
    }

    /// Keeps the keys of consecutive positions from `first` on. Row t of `rows` begins at t · `stride`; there are as many
    /// as fit, `(rows.len() - head_width) / stride + 1`.
    ///
    /// Panics unless `keys` has [`Ring::bytes`] bytes and rows do not overlap.
    pub fn store_keys(self, isa: Isa, first: usize, rows: &[f32], stride: usize, keys: &mut [u8]) {
        self.check(rows, stride, keys.len());
        lanes::run(isa, Store { ring: self, first, rows, stride, bytes: keys, on_its_side: true });
    }

    /// The same for values.
    pub fn store_values(self, isa: Isa, first: usize, rows: &[f32], stride: usize, values: &mut [u8]) {
        self.check(rows, stride, values.len());
        lanes::run(isa, Store { ring: self, first, rows, stride, bytes: values, on_its_side: false });
    }

    /// What the slot of `position` holds, as numbers.
    pub fn load_key(self, position: usize, keys: &[u8], out: &mut [f32]) {
        self.check(out, self.head_width, keys.len());
        let slot = position % self.capacity;
        let (tile, lane) = (&keys[slot / TILE * TILE * self.row_bytes()..], slot % TILE);
        match self.format {
            KvFormat::F32 => {
                for (x, k) in out.iter_mut().zip(tile.as_chunks::<{ 4 * TILE }>().0) {
                    *x = f32::from_le_bytes(k.as_chunks::<4>().0[lane]);
                }
            }
            KvFormat::F16 => {
                for (x, k) in out.iter_mut().zip(tile.as_chunks::<{ 2 * TILE }>().0) {
                    *x = half(k.as_chunks::<2>().0[lane]);
                }
            }
            KvFormat::Q8_0 => {
                let runs = tile.as_chunks::<{ TILE * (2 + SCALED) }>().0;
                for (out, run) in out.as_chunks_mut::<SCALED>().0.iter_mut().zip(runs) {
                    let (scales, numbers) = run.split_at(2 * TILE);
                    let scale = half(scales.as_chunks::<2>().0[lane]);
                    for (x, k) in out.iter_mut().zip(numbers.as_chunks::<TILE>().0) {
                        *x = f32::from(k[lane].cast_signed()) * scale;
                    }
                }
            }
        }
    }

    /// What the slot of `position` holds, as numbers.
    pub fn load_value(self, position: usize, values: &[u8], out: &mut [f32]) {
        self.check(out, self.head_width, values.len());
        let row = &values[position % self.capacity * self.row_bytes()..][..self.row_bytes()];
        match self.format {
            KvFormat::F32 => {
                for (x, v) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                    *x = f32::from_le_bytes(*v);
                }
            }
            KvFormat::F16 => {
                for (x, v) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                    *x = half(*v);
                }
            }
            KvFormat::Q8_0 => {
                for (out, run) in out.as_chunks_mut::<SCALED>().0.iter_mut().zip(row.as_chunks::<{ 2 + SCALED }>().0) {
                    let scale = half([run[0], run[1]]);
                    for (x, v) in out.iter_mut().zip(&run[2..]) {
                        *x = f32::from(v.cast_signed()) * scale;
                    }
                }
            }
        }
    }

    fn check(self, rows: &[f32], stride: usize, bytes: usize) {
        assert!(bytes == self.bytes(), "a cache of {bytes} bytes where {self:?} has {}", self.bytes());
        assert!(
            rows.len() >= self.head_width && stride >= self.head_width,
            "{} numbers, {stride} apart, for heads of width {}",
            rows.len(),
            self.head_width
        );
    }
}

/// [`Ring::bytes`] bytes, zero at first, that begin on a cache line.
pub struct Buffer {
    room: Vec<u8>,
    skip: usize,
    len: usize,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.room[self.skip..][..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.skip..][..self.len]
    }
}

fn half(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

struct Store<'a> {
    ring: Ring,
    first: usize,
    rows: &'a [f32],
    stride: usize,
    bytes: &'a mut [u8],
    on_its_side: bool,
}

impl Loop for Store<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let ring = self.ring;
        let tile_bytes = TILE * ring.row_bytes();
        let tokens = (self.rows.len() - ring.head_width) / self.stride + 1;
        for t in 0..tokens {
            let row = &self.rows[t * self.stride..][..ring.head_width];
            let slot = (self.first + t) % ring.capacity;
            // Where element i of this slot goes, in units of one stored number: `start` + i · `step`.
            let (place, step) = match self.on_its_side {
                true => (&mut self.bytes[slot / TILE * tile_bytes..][..tile_bytes], TILE),
                false => (&mut self.bytes[slot * ring.row_bytes()..][..ring.row_bytes()], 1),
            };
            let start = if self.on_its_side { slot % TILE } else { 0 };
            match ring.format {
                KvFormat::F32 => {
                    let place = place.as_chunks_mut::<4>().0;
                    for (i, x) in row.iter().enumerate() {
                        place[start + i * step] = x.to_le_bytes();
                    }
                }
                KvFormat::F16 => {
                    let place = place.as_chunks_mut::<2>().0;
                    for (run, x) in row.as_chunks::<16>().0.iter().enumerate() {
                        let mut halves = [0; 32];
                        lanes.store_f16(lanes.load(x), &mut halves);
                        for (i, x) in halves.as_chunks::<2>().0.iter().enumerate() {
                            place[start + (run * 16 + i) * step] = *x;
                        }
                    }
                }
                KvFormat::Q8_0 => {
                    for (run, x) in row.as_chunks::<SCALED>().0.iter().enumerate() {
                        let place = &mut place[run * step * (2 + SCALED)..][..step * (2 + SCALED)];
                        let (scales, numbers) = place.split_at_mut(2 * step);
                        let (scale, quants) = round(x);
                        scales.as_chunks_mut::<2>().0[start] = scale.to_le_bytes();
                        for (i, q) in quants.iter().enumerate() {
                            numbers[start + i * step] = q.cast_unsigned();
                        }
                    }
                }
            }
        }
    }
}

/// Scale and whole numbers of a run: nearest, ties to even. A run too small for an f16 scale becomes zeros; one too
/// large for it is cut off.
#[inline(always)]
fn round(x: &[f32; SCALED]) -> (half::f16, [i8; SCALED]) {
    /// 1.5 · 2^23: adding and subtracting it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let largest = x.iter().fold(0.0, |m, x| if x.abs() > m { x.abs() } else { m });
    let scale = half::f16::from_f32((largest / 127.0).min(half::f16::MAX.to_f32()));
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    (scale, x.map(|x| (((x * inverse).clamp(-127.0, 127.0) + ROUND) - ROUND) as i8))
}
