//! The cache of keys and values: whole for layers that see everything, a ring for layers with a window.
//!
//! A ring holds its window, what one step writes, and some positions more (`rewind`), so that the last turn of a
//! conversation can be taken back without computing the rest again; rounded up to whole blocks of attention (256
//! positions), so rewind costs its share of the bytes give or take one block. Everything is allocated once; the system
//! gives pages as they are first written.

use crate::config::Config;
use crate::device::{self, Accelerator};
use crate::error::Result;
use kernels::attend::{BLOCK, Buffer, KvFormat, Ring};
use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

/// The sizes of one session's cache.
#[derive(Clone, Debug)]
pub struct KvShape {
    /// Positions a session can hold, most tokens of one step, and positions a ring keeps beyond its window.
    pub context: usize,
    pub chunk: usize,
    pub rewind: usize,
    kv_heads: usize,
    keys: KvFormat,
    values: KvFormat,
    head_width: usize,
    windows: Vec<Option<usize>>,
    /// The accelerator, and by layer whether it lies there.
    there: Option<(Arc<Accelerator>, Vec<bool>)>,
}

impl KvShape {
    pub fn new(
        config: &Config,
        context: usize,
        chunk: usize,
        rewind: usize,
        keys: KvFormat,
        values: KvFormat,
    ) -> KvShape {
        let windows = config.layers.iter().map(|l| l.window).collect();
        let (kv_heads, head_width) = (config.kv_heads, config.head_width);
        KvShape { context, chunk, rewind, kv_heads, keys, values, head_width, windows, there: None }
    }

    /// The same with the layers that `dense` names on an accelerator. Numbers are f16 there unless they are f32: 8 bits are
    /// not computed with.
    pub fn on_device(self, accelerator: &Arc<Accelerator>, dense: &[bool]) -> KvShape {
        let there = (0..self.windows.len()).map(|layer| dense.get(layer).copied().unwrap_or(false)).collect();
        KvShape { there: Some((accelerator.clone(), there)), ..self }
    }

    /// Bytes of one layer's cache, here and on `accelerator`; without one it is taken to need as many there.
    pub fn bytes_of(&self, layer: usize, accelerator: Option<&Arc<Accelerator>>) -> (u64, u64) {
        let window = self.windows[layer];
        let (keys, values) = self.rings(self.positions(window, self.rewind));
        let here = (self.kv_heads * (keys.bytes() + values.bytes())) as u64;
        (here, accelerator.map_or(here, |accelerator| self.ring_there(accelerator, window).bytes()))
    }

    /// The accelerator a layer's cache lies on.
    fn there(&self, layer: usize) -> Option<&Arc<Accelerator>> {
        self.there.as_ref().filter(|(_, dense)| dense[layer]).map(|(accelerator, _)| accelerator)
    }

    fn ring_there(&self, accelerator: &Arc<Accelerator>, window: Option<usize>) -> device::Ring {
        let (keys, _) = self.rings(self.positions(window, self.rewind));
        let exact = [self.keys, self.values].map(|format| format == KvFormat::F32);
        device::Ring::new(accelerator, window, keys.capacity(), (self.kv_heads, self.head_width), exact)
    }

    /// Bytes of the part of the cache that lies on an accelerator.
    pub fn bytes_there(&self) -> u64 {
        let there = |(layer, &window): (usize, &Option<usize>)| {
            self.there(layer).map_or(0, |accelerator| self.ring_there(accelerator, window).bytes())
        };
        self.windows.iter().enumerate().map(there).fold(0, u64::saturating_add)
    }

    /// Positions a layer must hold: a step of n tokens needs window + n - 1 (specification, sharp edge 10).
    fn positions(&self, window: Option<usize>, rewind: usize) -> usize {
        window.map_or(self.context, |w| w.saturating_add(self.chunk - 1).saturating_add(rewind).min(self.context))
    }

    fn rings(&self, positions: usize) -> (Ring, Ring) {
        let ring = |format| Ring::new(format, self.head_width, positions);
        (ring(self.keys), ring(self.values))
    }

    /// What two caches have in common whose parts fit each other, in words.
    pub fn words(&self) -> String {
        let positions: Vec<String> =
            self.windows.iter().map(|w| self.rings(self.positions(*w, self.rewind)).0.capacity().to_string()).collect();
        let (keys, values) = (self.keys.name(), self.values.name());
        let layers = positions.chunk_by(|a, b| a == b).map(|run| format!("{} x {}", run.len(), run[0]));
        let layers: Vec<String> = layers.collect();
        let mut words =
            format!("{keys}/{values}, {} heads of {}, positions {}", self.kv_heads, self.head_width, layers.join(" "));
        for (layer, &window) in self.windows.iter().enumerate() {
            let Some(accelerator) = self.there(layer) else { continue };
            let kept = self.ring_there(accelerator, window).lies().map(|lies| lies.format());
            if kept != [self.keys, self.values] {
                words.push_str(&format!(", layer {layer} {}/{}", kept[0].name(), kept[1].name()));
            }
        }
        words
    }

    fn bytes_with(&self, rewind: usize) -> u64 {
        let layer = |(layer, &window): (usize, &Option<usize>)| {
            if self.there(layer).is_some() {
                return 0;
            }
            let (keys, values) = self.rings(self.positions(window, rewind));
            (self.kv_heads * (keys.bytes() + values.bytes())) as u64
        };
        self.windows.iter().enumerate().map(layer).fold(0, u64::saturating_add)
    }

    /// Bytes of the whole cache in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes_with(self.rewind)
    }

    /// The part of them that `rewind` costs.
    pub fn rewind_bytes(&self) -> u64 {
        self.bytes() - self.bytes_with(0)
    }
}

/// One session's keys and values.
pub struct KvCache {
    layers: Vec<LayerKv>,
    len: usize,
    /// One more than the largest position ever written: rings hold what lies less than their capacity behind it.
    high: usize,
}

/// One layer's part.
pub enum LayerKv {
    Here(Heads),
    There(device::Ring),
}

/// On the host all heads lie apart, so that a head is read in one run.
pub struct Heads {
    pub window: Option<usize>,
    pub key_ring: Ring,
    pub value_ring: Ring,
    pub keys: Vec<Buffer>,
    pub values: Vec<Buffer>,
}

impl KvCache {
    pub fn new(shape: &KvShape) -> KvCache {
        let layer = |(layer, &window): (usize, &Option<usize>)| {
            if let Some(accelerator) = shape.there(layer) {
                return LayerKv::There(shape.ring_there(accelerator, window));
            }
            let (key_ring, value_ring) = shape.rings(shape.positions(window, shape.rewind));
            let buffers = |ring: Ring| (0..shape.kv_heads).map(|_| ring.buffer()).collect();
            let (keys, values) = (buffers(key_ring), buffers(value_ring));
            LayerKv::Here(Heads { window, key_ring, value_ring, keys, values })
        };
        KvCache { layers: shape.windows.iter().enumerate().map(layer).collect(), len: 0, high: 0 }
    }

    /// Positions held, which is the position of the next token.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn layer(&mut self, layer: usize) -> &mut LayerKv {
        &mut self.layers[layer]
    }

    /// All layers' rings, where every one of them lies on an accelerator.
    pub fn there(&mut self) -> Option<Vec<&mut device::Ring>> {
        let rings = self.layers.iter_mut().map(|layer| match layer {
            LayerKv::There(ring) => Some(ring),
            _ => None,
        });
        rings.collect()
    }

    /// Says that layers begin to write `count` positions more. Should the step fail midway, what they overwrote counts as
    /// gone.
    pub fn begin(&mut self, count: usize) {
        self.high = self.high.max(self.len + count);
    }

    /// Says that all layers have written `count` positions more.
    pub fn grow(&mut self, count: usize) {
        self.begin(count);
        self.len += count;
    }

    /// Whether everything a token at position `len` would see is still here.
    pub fn holds(&self, len: usize) -> bool {
        self.layers.iter().all(|layer| {
            let (window, capacity) = layer.room();
            let oldest = window.map_or(0, |w| (len + 1).saturating_sub(w));
            oldest + capacity >= self.high || oldest >= len
        })
    }

    /// Becomes a copy of `other`, a cache of the same shape. Positions never written are not touched. Fails where an
    /// accelerator's memory is short: this cache is then empty.
    pub fn copy(&mut self, other: &KvCache) -> Result<()> {
        (self.len, self.high) = (0, 0);
        for (layer, from) in self.layers.iter_mut().zip(&other.layers) {
            match (layer, from) {
                (LayerKv::There(layer), LayerKv::There(from)) => layer.copy(from, other.high)?,
                (LayerKv::Here(layer), LayerKv::Here(from)) => {
                    let parts = layer.parts_mut(other.high).zip(from.parts(other.high));
                    parts.for_each(|(to, from)| to.copy_from_slice(from));
                }
                _ => unreachable!("caches of one shape have their layers in the same places"),
            }
        }
        (self.len, self.high) = (other.len, other.high);
        Ok(())
    }

    /// One more than the largest position ever written.
    pub fn written(&self) -> usize {
        self.high
    }

    /// What was ever written in a layer: each head's keys, then each head's values, as the host keeps them. Fails where an
    /// accelerator does.
    pub fn fetch(&self, layer: usize) -> Result<Vec<Cow<'_, [u8]>>> {
        Ok(match &self.layers[layer] {
            LayerKv::Here(heads) => heads.parts(self.high).map(Cow::Borrowed).collect(),
            LayerKv::There(ring) => {
                ring.fetch(slots(ring.capacity(), self.high))?.into_iter().map(Cow::Owned).collect()
            }
        })
    }

    /// Fills a layer with what was fetched from one with so many written positions: `get` is called for each part in turn.
    pub fn fill(&mut self, layer: usize, written: usize, mut get: impl FnMut(&mut [u8]) -> Result<()>) -> Result<()> {
        match &mut self.layers[layer] {
            LayerKv::Here(heads) => heads.parts_mut(written).try_for_each(get),
            LayerKv::There(ring) => {
                let heads = ring.heads();
                let lies = ring.lies().into_iter().flat_map(|lies| std::iter::repeat_n(lies, heads));
                let mut parts: Vec<Vec<u8>> = lies.map(|lies| vec![0; used(lies, written)]).collect();
                parts.iter_mut().try_for_each(|part| get(part))?;
                ring.fill(slots(ring.capacity(), written), &parts)
            }
        }
    }

    /// Bytes of all layers' parts.
    pub fn bytes_of(&self, written: usize) -> u64 {
        let layer = |layer: &LayerKv| {
            let (heads, lies) = match layer {
                LayerKv::Here(heads) => (heads.keys.len(), [heads.key_ring, heads.value_ring]),
                LayerKv::There(ring) => (ring.heads(), ring.lies()),
            };
            lies.into_iter().map(|lies| (heads * used(lies, written)) as u64).sum::<u64>()
        };
        self.layers.iter().map(layer).sum()
    }

    /// Says that all parts were filled with those of a cache of `len` positions and so many written ones.
    pub fn filled(&mut self, len: usize, written: usize) {
        (self.len, self.high) = (len, written);
    }

    /// Forgets everything after `len`. False if a window has already overwritten what the next token would see: the
    /// cache is then empty.
    pub fn truncate(&mut self, len: usize) -> bool {
        let kept = self.holds(len);
        if !kept || len == 0 {
            self.high = 0; // of what was written before nothing counts any more
        }
        self.len = if kept { len.min(self.len) } else { 0 };
        kept
    }
}

/// Slots that hold something once so many positions were written: they are filled from the first on, in whole tiles of keys.
fn slots(capacity: usize, written: usize) -> usize {
    written.next_multiple_of(BLOCK).min(capacity)
}

/// Bytes of a buffer's slots that hold something.
fn used(ring: Ring, written: usize) -> usize {
    ring.bytes() / ring.capacity() * slots(ring.capacity(), written)
}

impl Heads {
    /// What was ever written: a head's keys, the next one's, and then values.
    fn parts(&self, written: usize) -> impl Iterator<Item = &[u8]> {
        let part = move |ring, buffer| &Buffer::deref(buffer)[..used(ring, written)];
        let keys = self.keys.iter().map(move |buffer| part(self.key_ring, buffer));
        keys.chain(self.values.iter().map(move |buffer| part(self.value_ring, buffer)))
    }

    fn parts_mut(&mut self, written: usize) -> impl Iterator<Item = &mut [u8]> {
        let (keys, values) = (used(self.key_ring, written), used(self.value_ring, written));
        let keys = self.keys.iter_mut().map(move |buffer| &mut buffer[..keys]);
        keys.chain(self.values.iter_mut().map(move |buffer| &mut buffer[..values]))
    }
}

impl LayerKv {
    /// Its window, and the positions it holds.
    fn room(&self) -> (Option<usize>, usize) {
        match self {
            LayerKv::Here(heads) => (heads.window, heads.key_ring.capacity()),
            LayerKv::There(ring) => (ring.window, ring.capacity()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Gating, Layer};

    fn shape(window: usize, context: usize, chunk: usize, rewind: usize) -> KvShape {
        let layers = vec![Layer { rotary: false, window: None }, Layer { rotary: true, window: Some(window) }];
        KvShape::new(&config(layers), context, chunk, rewind, KvFormat::F16, KvFormat::F16)
    }

    fn config(layers: Vec<Layer>) -> Config {
        Config {
            family: "smallthinker",
            name: None,
            layers,
            width: 64,
            heads: 2,
            kv_heads: 1,
            head_width: 32,
            vocab: 10,
            context: 8192,
            norm_epsilon: 1e-6,
            rope_theta: 1e4,
            experts: 2,
            active: 1,
            neurons: 32,
            gating: Gating::Softmax,
            tied: false,
            bos: None,
            eos: vec![],
            notes: vec![],
        }
    }

    #[test]
    fn rings_are_as_small_as_they_may_be() {
        let shape = shape(1024, 8192, 256, 512);
        let per_position = 2 * 32 * 2; // keys and values of one head, f16
        let ring = (1024 + 255 + 512usize).next_multiple_of(kernels::attend::BLOCK);
        assert_eq!(shape.bytes(), ((8192 + ring) * per_position) as u64);
        assert_eq!(
            shape.rewind_bytes(),
            ((ring - 1279usize.next_multiple_of(kernels::attend::BLOCK)) * per_position) as u64
        );
    }

    #[test]
    fn going_back_works_within_the_slack_and_not_beyond() {
        let shape = shape(1024, 16384, 256, 512);
        let mut kv = KvCache::new(&shape);
        for _ in 0..32 {
            kv.grow(256);
        }
        assert_eq!(kv.len(), 8192);
        assert!(kv.truncate(8192 - 512), "the slack promised");
        kv.grow(512);
        assert!(!kv.truncate(4000), "long overwritten");
        assert_eq!(kv.len(), 0);
        kv.grow(700);
        assert!(kv.truncate(1), "nothing has been overwritten yet");
        kv.grow(8000);
        assert!(kv.truncate(0));
        kv.grow(700);
        assert!(kv.truncate(600), "what an earlier conversation wrote does not matter");
    }

    #[test]
    fn a_step_that_failed_has_overwritten_what_it_might_have() {
        let mut kv = KvCache::new(&shape(16, 4096, 224, 17)); // a ring of 256
        kv.grow(600);
        kv.begin(224); // and no `grow`
        assert_eq!(kv.len(), 600);
        assert!(kv.truncate(600 - 17), "the slack promised holds even then");
        assert!(!kv.truncate(600 - 18));
    }

    /// The 21B: 39 layers of 52 have a window, 2,048 bytes of keys and values a position.
    #[test]
    fn rewind_costs_what_the_handbook_says() {
        let windowed = |i: usize| !i.is_multiple_of(4);
        let layer = |i: usize| Layer { rotary: windowed(i), window: windowed(i).then_some(4096) };
        let config = Config {
            layers: (0..52).map(layer).collect(),
            width: 2560,
            heads: 28,
            kv_heads: 4,
            head_width: 128,
            context: 16384,
            ..config(vec![])
        };
        let cache = |chunk, rewind| KvShape::new(&config, 16384, chunk, rewind, KvFormat::F16, KvFormat::F16);
        assert_eq!(cache(512, 1024).rewind_bytes(), 78 << 20);
        let block = 39 * 2048 * kernels::attend::BLOCK as u64; // rings are whole blocks: at most one more or less
        for chunk in [1, 64, 128, 256, 300, 1024, 2048] {
            assert!(cache(chunk, 1024).rewind_bytes().abs_diff(78 << 20) <= block, "{chunk}");
        }
        assert_eq!(cache(512, usize::MAX).bytes(), 52 * 2048 * 16384, "no ring is larger than the context");
    }
}
