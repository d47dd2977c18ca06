//! One layer's keys and values on an accelerator, and attention over them.

use super::own;
use super::{Accelerator, Hold, What};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use kernels::Isa;
use kernels::attend::{KvFormat, Ring as Lies};
use std::ops::Range;
use std::sync::Arc;

/// Keys and values of one layer for one sequence: position p lies in slot p mod capacity, each head `[capacity,
/// head_width]`. Memory is taken when the first is written.
pub struct Ring {
    accelerator: Arc<Accelerator>,
    /// `None`: a query sees all positions up to its own.
    pub window: Option<usize>,
    capacity: usize,
    heads: usize,
    head_width: usize,
    /// Formats of keys and of values.
    types: [DType; 2],
    /// `[heads, capacity, head_width]`: keys, values.
    store: Option<([Tensor; 2], Hold)>,
    /// The same as kernels of our own keep it: in whole blocks of positions.
    pub(super) own: Option<(own::Kept, Hold)>,
}

impl Ring {
    /// `heads` of keys and values. Numbers are kept as f32 where `exact` says so of keys and of values, else as f16.
    pub fn new(
        accelerator: &Arc<Accelerator>,
        window: Option<usize>,
        capacity: usize,
        (heads, head_width): (usize, usize),
        exact: [bool; 2],
    ) -> Ring {
        let types = exact.map(|exact| if exact { DType::F32 } else { DType::F16 });
        Ring { accelerator: accelerator.clone(), window, capacity, heads, head_width, types, store: None, own: None }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Heads of keys, and of values.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Bytes of it, once it is written to.
    pub fn bytes(&self) -> u64 {
        let capacity = match self.accelerator.own {
            Some(_) => self.capacity.next_multiple_of(kernels::attend::BLOCK), // how kernels of our own keep it
            None => self.capacity,
        };
        (capacity * self.position_bytes()) as u64
    }

    /// Bytes of one position.
    fn position_bytes(&self) -> usize {
        self.types.iter().map(|dtype| self.heads * self.head_width * dtype.size_in_bytes()).sum()
    }

    /// Keeps `keys` and `values` `[n, heads * head_width]` of the positions from `first` on. Fails where memory is short.
    pub fn store(&mut self, first: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let count = keys.dim(0)?;
        assert!(count <= self.capacity, "a step fits in the ring");
        if self.keeps()?
            && let (Some(own), Some((kept, _))) = (&self.accelerator.own, &mut self.own)
        {
            return own.keep(kept, first, keys, values);
        }
        let (heads, head_width, types, capacity) = (self.heads, self.head_width, self.types, self.capacity);
        let kept = self.kept()?;
        for ((kept, new), dtype) in kept.iter().zip([keys, values]).zip(types) {
            let new = new.reshape((count, heads, head_width))?.transpose(0, 1)?.to_dtype(dtype)?.contiguous()?;
            let slot = first % capacity;
            let before = count.min(capacity - slot); // those that come before the wrap
            kept.slice_set(&new.narrow(1, 0, before)?.contiguous()?, 1, slot)?;
            if before < count {
                kept.slice_set(&new.narrow(1, before, count - before)?.contiguous()?, 1, 0)?;
            }
        }
        Ok(())
    }

    /// Takes memory for kernels of our own, where there are any for such a cache; whether there are.
    pub(super) fn keeps(&mut self) -> Result<bool> {
        let Some(own) = self.accelerator.own.as_ref().filter(|_| self.types[0] == self.types[1]) else {
            return Ok(false);
        };
        if self.own.is_none() && self.store.is_none() {
            let capacity = self.capacity.next_multiple_of(kernels::attend::BLOCK);
            let hold = self.accelerator.hold(self.bytes())?;
            let cache = own.cache(self.types[0] == DType::F32, capacity, (self.heads, self.head_width))?;
            self.own = cache.map(|cache| (cache, hold));
        }
        Ok(self.own.is_some())
    }

    fn kept(&mut self) -> Result<&[Tensor; 2]> {
        if self.store.is_none() {
            let hold = self.accelerator.hold(self.bytes())?;
            let shape = (self.heads, self.capacity, self.head_width);
            let new = |dtype| Tensor::zeros(shape, dtype, self.accelerator.device());
            self.store = Some(([new(self.types[0])?, new(self.types[1])?], hold));
        }
        Ok(&self.store.as_ref().expect("made above").0)
    }

    /// Each query of `q` `[n, query_heads * head_width]`, at the positions from `first` on, over what it sees: as wide as
    /// `q`. Their keys and values are kept already.
    pub fn attend(&self, q: &Tensor, first: usize) -> Result<Tensor> {
        if let (Some(own), Some((kept, _))) = (&self.accelerator.own, &self.own) {
            return own.attend(kept, q, first, self.window);
        }
        let n = q.dim(0)?;
        if !self.accelerator.plodding {
            return self.attend_together(q, first);
        }
        let each = |i: usize| self.attend_together(&q.narrow(0, i, 1)?, first + i);
        Ok(Tensor::cat(&(0..n).map(each).collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// Positions a query sees.
    fn sees(&self, position: usize) -> Range<usize> {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
    }

    fn attend_together(&self, q: &Tensor, first: usize) -> Result<Tensor> {
        let (n, width) = q.dims2()?;
        let seen = self.sees(first).start..first + n;
        let [keys, values] = [0, 1].map(|which| self.span(which, seen.clone()));
        let group = width / self.head_width / self.heads; // query heads that share a kv head
        let q = q.reshape((n, self.heads, group, self.head_width))?.permute((1, 2, 0, 3))?;
        let q = q.contiguous()?.reshape((self.heads, group * n, self.head_width))?;
        let scale = 1.0 / (self.head_width as f64).sqrt();
        let mut scores = q.affine(scale, 0.0)?.matmul(&keys?.t()?)?;
        if n > 1 {
            let mask = self.mask(first, n, &seen)?;
            let shape = (self.heads, group, n, seen.len());
            scores = scores.reshape(shape)?.broadcast_add(&mask)?.reshape((self.heads, group * n, seen.len()))?;
        }
        let out = candle_nn::ops::softmax_last_dim(&scores.contiguous()?)?.matmul(&values?)?;
        let out = out.reshape((self.heads, group, n, self.head_width))?.permute((2, 0, 1, 3))?;
        Ok(out.reshape((n, width))?)
    }

    /// Keys (0) or values (1) of some positions in their order, `[heads, n, head_width]`, f32.
    fn span(&self, which: usize, positions: Range<usize>) -> Result<Tensor> {
        let kept = &self.store.as_ref().expect("positions were stored before they are seen").0[which];
        let (slot, count) = (positions.start % self.capacity, positions.len());
        let before = count.min(self.capacity - slot);
        let span = match before < count {
            true => Tensor::cat(&[kept.narrow(1, slot, before)?, kept.narrow(1, 0, count - before)?], 1)?,
            false => kept.narrow(1, slot, count)?,
        };
        Ok(span.to_dtype(DType::F32)?.contiguous()?)
    }

    /// 0 where a query sees a position, minus infinity elsewhere: `[n, seen]`.
    fn mask(&self, first: usize, n: usize, seen: &Range<usize>) -> Result<Tensor> {
        let one = |query: usize| {
            let sees = self.sees(first + query);
            seen.clone().map(move |position| if sees.contains(&position) { 0.0 } else { f32::NEG_INFINITY })
        };
        let mask: Vec<f32> = (0..n).flat_map(one).collect();
        self.accelerator.brought(What::Mask, 4 * mask.len() as u64);
        Ok(Tensor::from_vec(mask, (n, seen.len()), self.accelerator.device())?)
    }

    /// How the host would keep a head's keys, and its values.
    pub fn lies(&self) -> [Lies; 2] {
        let format = |dtype| if dtype == DType::F32 { KvFormat::F32 } else { KvFormat::F16 };
        self.types.map(|dtype| Lies::new(format(dtype), self.head_width, self.capacity))
    }

    /// The first `slots`, whole blocks of them, as the host would keep them: each head's keys, then each head's values.
    pub fn fetch(&self, slots: usize) -> Result<Vec<Vec<u8>>> {
        if let (Some(own), Some((kept, _))) = (&self.accelerator.own, &self.own) {
            let parts = own.fetch_cache(kept, slots)?;
            self.accelerator.took(What::Cache, parts.iter().map(|part| part.len() as u64).sum());
            return Ok(parts);
        }
        let mut parts = Vec::with_capacity(2 * self.heads);
        for (which, lies) in self.lies().into_iter().enumerate() {
            let bytes = lies.bytes() / lies.capacity() * slots;
            let Some((kept, _)) = self.store.as_ref().filter(|_| slots > 0) else {
                parts.extend(std::iter::repeat_n(vec![0; bytes], self.heads)); // never written
                continue;
            };
            let numbers = kept[which].narrow(1, 0, slots)?.to_dtype(DType::F32)?.contiguous()?;
            let numbers: Vec<f32> = self.accelerator.fetch(What::Cache, &numbers)?.flatten_all()?.to_vec1()?;
            for rows in numbers.chunks_exact(slots * self.head_width) {
                let mut part = lies.buffer();
                match which {
                    0 => lies.store_keys(Isa::best(), 0, rows, self.head_width, &mut part),
                    _ => lies.store_values(Isa::best(), 0, rows, self.head_width, &mut part),
                }
                parts.push(part[..bytes].to_vec());
            }
        }
        Ok(parts)
    }

    /// Puts into the first `slots` what was fetched from those of a ring that lies alike.
    pub fn fill(&mut self, slots: usize, parts: &[Vec<u8>]) -> Result<()> {
        if slots == 0 {
            return Ok(());
        }
        if self.keeps()?
            && let (Some(own), Some((kept, _))) = (&self.accelerator.own, &mut self.own)
        {
            self.accelerator.brought(What::Cache, parts.iter().map(|part| part.len() as u64).sum());
            return own.fill_cache(kept, parts);
        }
        let (accelerator, lies) = (self.accelerator.clone(), self.lies());
        let (heads, width, types) = (self.heads, self.head_width, self.types);
        let kept = self.kept()?;
        for which in [0, 1] {
            let mut numbers = vec![0f32; heads * slots * width];
            for (rows, part) in numbers.chunks_exact_mut(slots * width).zip(&parts[which * heads..]) {
                let mut whole = lies[which].buffer();
                whole[..part.len()].copy_from_slice(part);
                for (slot, row) in rows.chunks_exact_mut(width).enumerate() {
                    match which {
                        0 => lies[which].load_key(slot, &whole, row),
                        _ => lies[which].load_value(slot, &whole, row),
                    }
                }
            }
            let numbers = Tensor::from_vec(numbers, (heads, slots, width), &Device::Cpu)?;
            let numbers = accelerator.bring(What::Cache, &numbers)?.to_dtype(types[which])?;
            kept[which].slice_set(&numbers, 1, 0)?;
        }
        Ok(())
    }

    /// Becomes a copy of `from`, a ring of the same shape, of which only the first `slots` were ever written.
    pub fn copy(&mut self, from: &Ring, slots: usize) -> Result<()> {
        if let Some((other, _)) = &from.own {
            // Theirs is longer and wraps later, so a full one is copied whole.
            let slots = if slots < self.capacity { slots } else { usize::MAX };
            if slots > 0
                && self.keeps()?
                && let (Some(own), Some((kept, _))) = (&self.accelerator.own, &mut self.own)
            {
                own.copy(kept, other, slots)?;
            }
            return Ok(());
        }
        let slots = slots.min(self.capacity);
        let Some((others, _)) = from.store.as_ref().filter(|_| slots > 0) else { return Ok(()) };
        for (kept, other) in self.kept()?.iter().zip(others) {
            // A copy even of all slots: what is set must not share its memory with what it is set from.
            kept.slice_set(&other.narrow(1, 0, slots)?.copy()?.contiguous()?, 1, 0)?;
        }
        Ok(())
    }
}
