//! Where the runs of a panel lie: one per lane, each in some block.

use std::marker::PhantomData;

use super::unpack::Unpack;
use super::vector::Vector;
use crate::layout::LANES;

/// One run per lane.
pub(super) trait Place<V: Vector> {
    /// The block that holds lane `lane`'s run.
    fn block(&self, lane: usize) -> *const u8;
    /// The index of the run within its block.
    fn run(&self, lane: usize) -> usize;
    /// The f16 number `index` of each block.
    unsafe fn half(&self, index: usize) -> V::F;
    /// Of each block's [`Unpack::scales`], byte `run` of number `index`.
    unsafe fn scale_byte(&self, index: usize) -> V::I;
    /// Of each block's [`Unpack::scales`], word `run` of the eight.
    unsafe fn scale_word(&self) -> V::I;
    /// A number per lane, made from its run.
    unsafe fn by_run(&self, number: impl Fn(usize) -> usize) -> V::I;
}

/// One number per lane.
#[inline(always)]
unsafe fn per_lane<V: Vector>(number: impl Fn(usize) -> usize) -> V::I {
    let mut all = [0i32; LANES];
    for (lane, all) in all.iter_mut().enumerate().take(V::LANES) {
        *all = number(lane) as i32;
    }
    // SAFETY: sixteen numbers are enough for any vector.
    unsafe { V::load(all.as_ptr().cast()) }
}

/// Successive runs of one row. `first` is the block of lane 0, `run` its run; 8 lanes and more begin with a block's
/// first run.
pub(super) struct Successive<B: Unpack> {
    first: *const u8,
    run: usize,
    format: PhantomData<B>,
}

impl<B: Unpack> Successive<B> {
    /// From run `run` of a row on.
    #[inline(always)]
    pub(super) unsafe fn new(row: *const u8, run: usize) -> Self {
        // SAFETY: the caller asks for runs that the row has.
        let first = unsafe { row.add(run / B::RUNS * B::BYTES) };
        Successive { first, run: run % B::RUNS, format: PhantomData }
    }
}

impl<V: Vector, B: Unpack> Place<V> for Successive<B> {
    #[inline(always)]
    fn block(&self, lane: usize) -> *const u8 {
        // Lanes 4..8 of a block may come as lanes 0..4 of a register, never across the end of a block.
        self.first.wrapping_add(lane / B::RUNS * B::BYTES)
    }

    #[inline(always)]
    fn run(&self, lane: usize) -> usize {
        if V::LANES < B::RUNS { self.run + lane } else { lane % B::RUNS }
    }

    #[inline(always)]
    unsafe fn half(&self, index: usize) -> V::F {
        let offset = B::HALVES[index];
        // SAFETY: the blocks of all lanes are readable, and the number lies within.
        unsafe {
            if B::RUNS == 1 {
                return V::gather_halves(|lane| Place::<V>::block(self, lane).wrapping_add(offset));
            }
            // All lanes of a block have the same number: four copies of it at a time.
            let copies = |block: *const u8| u64::from(read_u16(block.add(offset))) * 0x0001_0001_0001_0001;
            let low = copies(self.first);
            let high = if V::LANES > 8 { copies(Place::<V>::block(self, 8)) } else { 0 };
            V::low_halves(V::widen_words([low, low, high, high]))
        }
    }

    #[inline(always)]
    unsafe fn scale_byte(&self, index: usize) -> V::I {
        // SAFETY: as for `half`.
        unsafe {
            let low = B::scales(self.first)[index] >> (8 * if V::LANES < 8 { self.run } else { 0 });
            let high = if V::LANES > 8 { B::scales(Place::<V>::block(self, 8))[index] } else { 0 };
            V::widen_bytes(low, high)
        }
    }

    #[inline(always)]
    unsafe fn scale_word(&self) -> V::I {
        // SAFETY: as for `half`.
        unsafe {
            let low = B::scales(self.first);
            let low = if V::LANES < 8 && self.run >= 4 { [low[1], 0] } else { low };
            let high = if V::LANES > 8 { B::scales(Place::<V>::block(self, 8)) } else { [0; 2] };
            V::widen_words([low[0], low[1], high[0], high[1]])
        }
    }

    #[inline(always)]
    unsafe fn by_run(&self, number: impl Fn(usize) -> usize) -> V::I {
        // SAFETY: arithmetic only.
        unsafe { per_lane::<V>(|lane| number(Place::<V>::run(self, lane))) }
    }
}

/// The last few runs of a row, one by one.
pub(super) struct Listed<B: Unpack> {
    pub blocks: [*const u8; LANES],
    pub runs: [usize; LANES],
    pub format: PhantomData<B>,
}

impl<V: Vector, B: Unpack> Place<V> for Listed<B> {
    #[inline(always)]
    fn block(&self, lane: usize) -> *const u8 {
        self.blocks[lane]
    }

    #[inline(always)]
    fn run(&self, lane: usize) -> usize {
        self.runs[lane]
    }

    #[inline(always)]
    unsafe fn half(&self, index: usize) -> V::F {
        // SAFETY: the blocks of all lanes are readable.
        unsafe { V::gather_halves(|lane| self.blocks[lane].wrapping_add(B::HALVES[index])) }
    }

    #[inline(always)]
    unsafe fn scale_byte(&self, index: usize) -> V::I {
        // SAFETY: the blocks of all lanes are readable.
        unsafe { per_lane::<V>(|lane| (B::scales(self.blocks[lane])[index] >> (8 * self.runs[lane]) & 0xff) as usize) }
    }

    #[inline(always)]
    unsafe fn scale_word(&self) -> V::I {
        // SAFETY: the blocks of all lanes are readable.
        unsafe {
            per_lane::<V>(|lane| {
                let run = self.runs[lane];
                (B::scales(self.blocks[lane])[run / 4] >> (16 * (run % 4)) & 0xffff) as usize
            })
        }
    }

    #[inline(always)]
    unsafe fn by_run(&self, number: impl Fn(usize) -> usize) -> V::I {
        // SAFETY: arithmetic only.
        unsafe { per_lane::<V>(|lane| number(self.runs[lane])) }
    }
}

/// The same run of many rows. What is the same for all runs of a block is read once per block.
pub(super) struct Stacked<'a, V: Vector, B: Unpack> {
    blocks: &'a [*const u8; LANES],
    pub run: usize,
    halves: [V::F; 2],
    /// The sixteen bytes of [`Unpack::scales`] of all lanes, transposed.
    scales: [V::I; 4],
    format: PhantomData<B>,
}

impl<'a, V: Vector, B: Unpack> Stacked<'a, V, B> {
    /// Run 0 of these blocks.
    #[inline(always)]
    pub(super) unsafe fn new(blocks: &'a [*const u8; LANES]) -> Self {
        // SAFETY: the caller's: the blocks are readable.
        unsafe {
            let mut halves = [V::splat_f(0.0); 2];
            for (half, offset) in halves.iter_mut().zip(B::HALVES) {
                *half = V::gather_halves(|lane| blocks[lane].wrapping_add(*offset));
            }
            let mut scales = [V::splat(0); 4];
            if B::RUNS > 1 {
                let mut all = [[0u64; 2]; LANES];
                for (all, block) in all.iter_mut().zip(blocks).take(V::LANES) {
                    *all = B::scales(*block);
                }
                scales = V::transpose(|lane| all[lane].as_ptr().cast());
            }
            Stacked { blocks, run: 0, halves, scales, format: PhantomData }
        }
    }
}

impl<V: Vector, B: Unpack> Place<V> for Stacked<'_, V, B> {
    #[inline(always)]
    fn block(&self, lane: usize) -> *const u8 {
        self.blocks[lane]
    }

    #[inline(always)]
    fn run(&self, _: usize) -> usize {
        self.run
    }

    #[inline(always)]
    unsafe fn half(&self, index: usize) -> V::F {
        self.halves[index]
    }

    #[inline(always)]
    unsafe fn scale_byte(&self, index: usize) -> V::I {
        let four = self.scales[2 * index + self.run / 4 % 2];
        // SAFETY: arithmetic only.
        unsafe { V::and(V::shr(four, 8 * (self.run % 4) as i32), V::splat(0xff)) }
    }

    #[inline(always)]
    unsafe fn scale_word(&self) -> V::I {
        let two = self.scales[self.run / 2 % 4];
        // SAFETY: arithmetic only.
        unsafe { V::and(V::shr(two, 16 * (self.run % 2) as i32), V::splat(0xffff)) }
    }

    #[inline(always)]
    unsafe fn by_run(&self, number: impl Fn(usize) -> usize) -> V::I {
        // SAFETY: arithmetic only.
        unsafe { V::splat(number(self.run) as i32) }
    }
}

#[inline(always)]
unsafe fn read_u16(at: *const u8) -> u16 {
    // SAFETY: the caller's: two bytes within a block.
    u16::from_le_bytes(unsafe { at.cast::<[u8; 2]>().read_unaligned() })
}
