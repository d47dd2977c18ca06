//! What a store has done so far.

use std::time::Instant;

/// Counts since the store was opened. Two snapshots are subtracted with [`StoreStats::since`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreStats {
    /// Experts that can be held, and those held now.
    pub slots: usize,
    pub resident: usize,
    /// Experts that were at hand when they were chosen, and those that had to be read first. Each counts once for a step,
    /// however many tokens of the step chose it.
    pub hits: u64,
    pub misses: u64,
    /// Experts read before a router asked for them, and how many of these it then did (they count as misses).
    pub guesses: u64,
    pub right: u64,
    /// Experts let go.
    pub evictions: u64,
    /// Bytes that came from the disk, in so many reads, of which so many had to be repeated.
    pub bytes_read: u64,
    pub reads: u64,
    pub retries: u64,
    /// Seconds in which the computation waited for the disk, in which the disk was busy, and in which it was busy while
    /// nobody waited for it.
    pub waited: f64,
    pub busy: f64,
    pub hidden: f64,
    pub layers: Vec<LayerStats>,
}

/// The same for the experts of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerStats {
    pub hits: u64,
    pub misses: u64,
    /// Bytes of the experts that had to be read first.
    pub missing: u64,
    /// Seconds in which computations waited for them, added up where several waited at once.
    pub waited: f64,
}

impl LayerStats {
    fn since(&self, earlier: &LayerStats) -> LayerStats {
        LayerStats {
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            missing: self.missing - earlier.missing,
            waited: self.waited - earlier.waited,
        }
    }
}

impl StoreStats {
    /// Share of chosen experts that were at hand, from 0 to 1; 1 where none was chosen.
    pub fn hit_rate(&self) -> f64 {
        match self.hits + self.misses {
            0 => 1.0,
            all => self.hits as f64 / all as f64,
        }
    }

    /// Bytes for each second in which the disk was busy; 0 where it never was.
    pub fn bytes_per_second(&self) -> f64 {
        if self.busy > 0.0 { self.bytes_read as f64 / self.busy } else { 0.0 }
    }

    /// What was done between `earlier` and this snapshot of the same store; `slots` and `resident` are those of now.
    pub fn since(&self, earlier: &StoreStats) -> StoreStats {
        let before = |layer: usize| earlier.layers.get(layer).copied().unwrap_or_default();
        StoreStats {
            slots: self.slots,
            resident: self.resident,
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            guesses: self.guesses - earlier.guesses,
            right: self.right - earlier.right,
            evictions: self.evictions - earlier.evictions,
            bytes_read: self.bytes_read - earlier.bytes_read,
            reads: self.reads - earlier.reads,
            retries: self.retries - earlier.retries,
            waited: self.waited - earlier.waited,
            busy: self.busy - earlier.busy,
            hidden: self.hidden - earlier.hidden,
            layers: self.layers.iter().enumerate().map(|(l, stats)| stats.since(&before(l))).collect(),
        }
    }
}

/// Counts while the store works.
pub struct Meter {
    stats: StoreStats,
    /// Up to when the clocks are right.
    at: Instant,
    reading: usize,
    waiting: usize,
}

impl Meter {
    pub fn new(layers: usize) -> Meter {
        let stats = StoreStats { layers: vec![LayerStats::default(); layers], ..StoreStats::default() };
        Meter { stats, at: Instant::now(), reading: 0, waiting: 0 }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let passed = (now - self.at).as_secs_f64();
        self.at = now;
        if self.reading > 0 {
            self.stats.busy += passed;
        }
        if self.waiting > 0 {
            self.stats.waited += passed;
        }
        if self.reading > 0 && self.waiting == 0 {
            self.stats.hidden += passed;
        }
    }

    /// A read begins, or ends.
    pub fn begin(&mut self) {
        self.tick();
        self.reading += 1;
    }

    pub fn end(&mut self) {
        self.tick();
        self.reading -= 1;
    }

    /// The computation begins to wait, or goes on.
    pub fn wait(&mut self) {
        self.tick();
        self.waiting += 1;
    }

    /// `waited`: seconds this took, for experts of `layer`.
    pub fn go_on(&mut self, layer: u16, waited: f64) {
        self.tick();
        self.waiting -= 1;
        self.stats.layers[layer as usize].waited += waited;
    }

    pub fn is_waited_for(&self) -> bool {
        self.waiting > 0
    }

    /// So many bytes came in one read.
    pub fn read(&mut self, bytes: usize) {
        self.stats.reads += 1;
        self.stats.bytes_read += bytes as u64;
    }

    /// A read is repeated.
    pub fn again(&mut self) {
        self.stats.retries += 1;
    }

    pub fn evicted(&mut self) {
        self.stats.evictions += 1;
    }

    /// An expert begins to be read that nobody has asked for yet.
    pub fn guessed(&mut self) {
        self.stats.guesses += 1;
    }

    /// An expert was given to a step that did not have to be read for it.
    pub fn hit(&mut self, layer: u16) {
        self.stats.hits += 1;
        self.stats.layers[layer as usize].hits += 1;
    }

    /// An expert of so many bytes was given to a step that had to be read; `guessed`: that began before it was asked for.
    pub fn miss(&mut self, layer: u16, bytes: usize, guessed: bool) {
        self.stats.misses += 1;
        let stats = &mut self.stats.layers[layer as usize];
        stats.misses += 1;
        stats.missing += bytes as u64;
        self.stats.right += u64::from(guessed);
    }

    pub fn stats(&mut self, slots: usize, resident: usize) -> StoreStats {
        self.tick();
        StoreStats { slots, resident, ..self.stats.clone() }
    }
}
