//! One token through a whole model whose every part lies on the device: a list of launches that nobody has to wait for in
//! between, the same for every position and every sequence, so that a driver may keep it as a graph. Experts are chosen there.
//!
//! What changes from token to token travels in one *ticket*; what comes of it is in one *answer*.

use super::attend::{EXTRA, THREADS, WIDEST, fold_blocks, panels, scale};
use super::{
    Asked, Cache, ExpertShape, File, Inner, Launch, Matrix, Rounded, Vectors, arguments, gather, layout_word, products,
    rms_norm, side, supported, word,
};
use crate::attend::{BLOCK, KvFormat};
use crate::{Layout, ShapeError};

/// A model. Addresses are those of f32 numbers where nothing else is said.
#[derive(Clone, Debug)]
pub struct Step {
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
    pub experts: usize,
    pub active: usize,
    /// Gating by softmax over the chosen logits; by sigmoid otherwise.
    pub softmax: bool,
    pub epsilon: f32,
    /// How keys and values are kept: f32 or f16.
    pub kept: KvFormat,
    pub layers: Vec<Layer>,
    /// `[width]`
    pub norm: u64,
    /// `[vocabulary, width]`
    pub head: Matrix,
}

#[derive(Clone, Debug)]
pub struct Layer {
    /// `[experts, width]`, plain numbers.
    pub router: Matrix,
    /// `[width]`
    pub norm_in: u64,
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub out: Matrix,
    /// Queries and keys are turned by position.
    pub rotary: bool,
    /// Positions a token sees, itself included.
    pub window: Option<usize>,
    /// `[width]`
    pub norm_ffn: u64,
    pub shape: ExpertShape,
    pub slab: u64,
    /// `[experts]`: each one's slot, 32 bits.
    pub table: u64,
}

/// Three buffers: of [`Step::ticket_bytes`], [`Step::work_bytes`] and [`Step::answer_bytes`].
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub ticket: u64,
    pub work: u64,
    pub answer: u64,
}

/// Bytes handed out one after the other, in whole alignments.
struct Pieces(u64);

impl Pieces {
    fn take(&mut self, bytes: usize) -> u64 {
        let at = self.0;
        self.0 += bytes.next_multiple_of(256) as u64;
        at
    }
}

/// What a ticket holds.
struct Ticket {
    position: u64,
    rings: u64,
    cos: u64,
    sin: u64,
    /// The residual stream: a row of the embedding first, and every layer adds to it.
    x: u64,
    /// For the experts' kernels, which take any number of tokens: pairs 0, 1, .. are one each; all are of token 0.
    starts: u64,
    tokens: u64,
    whole: u64,
    end: u64,
}

/// What an answer holds.
struct Answer {
    logits: u64,
    ids: u64,
    shares: u64,
    end: u64,
}

/// A cache as a ticket has it: four numbers of eight bytes.
const RING_BYTES: usize = 32;
/// Most experts of a layer, and most that are chosen: what `choose` has room for.
const EXPERTS: usize = 1024;
const ACTIVE: usize = 64;

impl Step {
    /// The same model with everything it needs to be in: kernels for all of its formats, and shapes they have room for.
    pub fn check(&self) -> Result<(), ShapeError> {
        let refused = |what: String| Err(ShapeError::new(format!("a step of one token: {what}")));
        let (group, rest) = (self.heads / self.kv_heads.max(1), self.heads % self.kv_heads.max(1));
        if !matches!(self.kept, KvFormat::F32 | KvFormat::F16) {
            return refused(format!("a cache of {}", self.kept.name()));
        }
        if rest != 0 || group == 0 || !self.head_width.is_multiple_of(32) || self.head_width > WIDEST {
            return refused(format!("{} heads over {} of width {}", self.heads, self.kv_heads, self.head_width));
        }
        if !self.width.is_multiple_of(32)
            || self.experts > EXPERTS
            || self.active > ACTIVE
            || self.active > self.experts
        {
            return refused(format!("{} of {} experts of width {}", self.active, self.experts, self.width));
        }
        for (number, layer) in self.layers.iter().enumerate() {
            let Layer { query, key, value, .. } = layer;
            supported("a matrix", query.format)?;
            if [key, value].iter().any(|m| (m.format, m.layout) != (query.format, query.layout)) {
                return refused(format!("q, k and v of layer {number} are not of one kind"));
            }
            if !layer.router.format.is_float() || layer.router.layout != Layout::File {
                return refused(format!("the router of layer {number} is {}", layer.router.format));
            }
            layer.shape.check()?;
        }
        Ok(())
    }

    pub fn ticket_bytes(&self) -> usize {
        self.ticket_at(0).end as usize
    }

    /// `blocks` as in [`Step::launches`].
    pub fn work_bytes(&self, blocks: usize) -> usize {
        self.work_at(0, blocks).1.0 as usize
    }

    pub fn answer_bytes(&self) -> usize {
        self.answer_at(0).end as usize
    }

    fn ticket_at(&self, first: u64) -> Ticket {
        let mut pieces = Pieces(first);
        Ticket {
            position: pieces.take(8),
            rings: pieces.take(RING_BYTES * self.layers.len()),
            cos: pieces.take(2 * self.head_width),
            sin: pieces.take(2 * self.head_width),
            x: pieces.take(4 * self.width),
            starts: pieces.take(4 * (self.active + 1)),
            tokens: pieces.take(4 * self.active),
            whole: pieces.take(8),
            end: pieces.0,
        }
    }

    fn answer_at(&self, first: u64) -> Answer {
        let (mut pieces, chosen) = (Pieces(first), 4 * self.active * self.layers.len());
        let (logits, ids, shares) = (pieces.take(4 * self.head.rows), pieces.take(chosen), pieces.take(chosen));
        Answer { logits, ids, shares, end: pieces.0 }
    }

    /// The ticket of a token: its position, each layer's cache (of the step's kind), the cosines and sines of the position (each half a head), and
    /// its row of the embedding.
    pub fn ticket(&self, position: usize, caches: &[Cache], (cos, sin): (&[f32], &[f32]), x: &[f32]) -> Vec<u8> {
        let at = self.ticket_at(0);
        let mut ticket = vec![0u8; at.end as usize];
        let mut put = |at: u64, words: &mut dyn Iterator<Item = [u8; 4]>| {
            words.zip(ticket[at as usize..].as_chunks_mut::<4>().0).for_each(|(word, place)| *place = word);
        };
        let long = |n: u64| [(n as u32).to_le_bytes(), ((n >> 32) as u32).to_le_bytes()];
        put(at.position, &mut long(position as u64).into_iter());
        let ring = |c: &Cache| [c.keys, c.values, c.capacity as u64, c.head_bytes as u64];
        put(at.rings, &mut caches.iter().flat_map(ring).flat_map(long));
        for (at, numbers) in [(at.cos, cos), (at.sin, sin), (at.x, x)] {
            put(at, &mut numbers.iter().map(|n| n.to_le_bytes()));
        }
        put(at.starts, &mut (0..=self.active as u32).map(u32::to_le_bytes));
        put(at.whole, &mut [0, self.active as u32].map(u32::to_le_bytes).into_iter());
        ticket
    }

    /// Of an answer: the logits, and by layer the experts and how much each counts, ascending; `None` where a router's logit
    /// was no finite number.
    #[allow(clippy::type_complexity)]
    pub fn read(&self, answer: &[u8]) -> (Vec<f32>, Vec<Option<(Vec<u32>, Vec<f32>)>>) {
        let at = self.answer_at(0);
        let words = |at: u64, count: usize| answer[at as usize..].as_chunks::<4>().0[..count].iter();
        let floats = |at: u64, count: usize| words(at, count).map(|w| f32::from_le_bytes(*w)).collect::<Vec<_>>();
        let chosen = (0..self.layers.len()).map(|layer| {
            let offset = (4 * layer * self.active) as u64;
            let ids: Vec<u32> = words(at.ids + offset, self.active).map(|w| u32::from_le_bytes(*w)).collect();
            ids.iter().all(|id| *id != u32::MAX).then(|| (ids, floats(at.shares + offset, self.active)))
        });
        (floats(at.logits, self.head.rows), chosen.collect())
    }

    /// Rooms within `work`: what is computed on the way.
    fn work_at(&self, first: u64, blocks: usize) -> (Work, Pieces) {
        let mut pieces = Pieces(first);
        let wide = self.width.max(self.heads * self.head_width);
        let neurons = self.layers.iter().map(|layer| layer.shape.neurons).max().unwrap_or(0);
        let work = Work {
            h: pieces.take(4 * wide),
            rounded: pieces.take(Rounded::bytes(1, wide)),
            q: pieces.take(4 * self.heads * self.head_width),
            k: pieces.take(4 * self.kv_heads * self.head_width),
            v: pieces.take(4 * self.kv_heads * self.head_width),
            logits: pieces.take(4 * self.experts),
            slots: pieces.take(4 * self.active),
            inner: pieces.take(4 * self.active * neurons),
            inner_rounded: pieces.take(Rounded::bytes(self.active, neurons)),
            y: pieces.take(4 * self.active * self.width),
            partial: pieces.take(4 * self.heads * blocks * (self.head_width + EXTRA)),
        };
        (work, pieces)
    }

    /// What to launch, one after the other. `blocks`: the [`BLOCK`]s of positions that a token may see at most; more than there
    /// are cost little.
    pub fn launches(&self, room: Room, blocks: usize) -> Result<Vec<Launch>, ShapeError> {
        self.check()?;
        let (ticket, answer, work) =
            (self.ticket_at(room.ticket), self.answer_at(room.answer), self.work_at(room.work, blocks).0);
        let x = |width| Vectors { plain: work.h, rounded: Rounded::at(work.rounded, 1, width), t: 1, width };
        let (normed, attended) = (x(self.width), x(self.heads * self.head_width));
        let mut launches = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let chosen = (4 * number * self.active) as u64;
            let (ids, shares) = (answer.ids + chosen, answer.shares + chosen);
            let ring = ticket.rings + (RING_BYTES * number) as u64;
            let seen = layer.window.map_or(blocks, |window| blocks.min(window.div_ceil(BLOCK) + 1));
            launches.push(self.begin(layer, ticket.x, work.logits, normed));
            launches.push(self.three(layer, normed, &work));
            launches.push(self.turn(layer, (&ticket, ring), &work, (ids, shares)));
            launches.push(self.attend(layer, (&ticket, ring), &work, seen));
            launches.push(fold_blocks(work.partial, seen, (self.heads, self.head_width), attended));
            launches.push(products(layer.out, attended, ticket.x, true)?);
            launches.push(rms_norm(ticket.x, layer.norm_ffn, self.epsilon, normed));
            let asked =
                Asked { groups: self.active, most: 1, slots: work.slots, starts: ticket.starts, tokens: ticket.tokens };
            let rounded = Rounded::at(work.inner_rounded, self.active, layer.shape.neurons);
            let inner = Inner { plain: work.inner, rounded };
            launches.push(layer.shape.fire(layer.slab, asked, normed, inner));
            launches.push(layer.shape.down(layer.slab, asked, inner, work.y));
            let of = (ticket.whole, ticket.starts, shares);
            launches.push(gather(work.y, of, ticket.x, (1, self.width), true));
        }
        launches.push(rms_norm(ticket.x, self.norm, self.epsilon, normed));
        launches.push(products(self.head, normed, answer.logits, false)?);
        Ok(launches)
    }

    /// The first norm, and the router's logits.
    fn begin(&self, layer: &Layer, x: u64, logits: u64, normed: Vectors) -> Launch {
        let Rounded { codes, scales, wholes } = normed.rounded;
        Launch {
            kernel: format!("begin_{}", word(layer.router.format)),
            file: File::Rows,
            grid: [side(self.experts + 1), 1, 1],
            threads: 512,
            arguments: arguments![
                Address layer.router.at, Address x, Address layer.norm_in, Word side(self.width), Float self.epsilon,
                Address logits, Address normed.plain, Address codes, Address scales, Address wholes,
            ],
        }
    }

    fn three(&self, layer: &Layer, normed: Vectors, work: &Work) -> Launch {
        let Rounded { codes, scales, wholes } = normed.rounded;
        let (of_q, of_kv) = (layer.query.rows.div_ceil(16), layer.key.rows.div_ceil(16));
        Launch {
            kernel: format!("products_{}_{}_three", word(layer.query.format), layout_word(layer.query.layout)),
            file: File::Rows,
            grid: [side(of_q + 2 * of_kv), 1, 1],
            threads: 256,
            arguments: arguments![
                Address layer.query.at, Address layer.key.at, Address layer.value.at, Word side(layer.query.rows),
                Word side(layer.key.rows), Word side(self.width), Address normed.plain, Address codes, Address scales,
                Address wholes, Address work.q, Address work.k, Address work.v,
            ],
        }
    }

    /// Queries and keys by position, keys and values into the cache, and the choice of experts.
    fn turn(&self, layer: &Layer, (ticket, ring): (&Ticket, u64), work: &Work, (ids, shares): (u64, u64)) -> Launch {
        let pairs = (self.heads + self.kv_heads) * self.head_width / 2;
        Launch {
            kernel: format!("turn_{}", self.kept.name()),
            file: File::Attend,
            grid: [side(1 + pairs.div_ceil(256)), 1, 1],
            threads: 256,
            arguments: arguments![
                Address work.q, Address work.k, Address work.v, Address ticket.position, Address ticket.cos,
                Address ticket.sin, Word layer.rotary as u32, Word side(self.heads), Word side(self.kv_heads),
                Word side(self.head_width), Address ring, Address work.logits, Word side(self.experts),
                Word side(self.active), Word self.softmax as u32, Address layer.table, Address ids, Address work.slots,
                Address shares,
            ],
        }
    }

    fn attend(&self, layer: &Layer, (ticket, ring): (&Ticket, u64), work: &Work, blocks: usize) -> Launch {
        Launch {
            kernel: format!("attend_at_{}", self.kept.name()),
            file: File::Attend,
            grid: [side(blocks), panels(self.heads, self.kv_heads), 1],
            threads: THREADS,
            arguments: arguments![
                Address work.q, Address ticket.position, Word side(layer.window.unwrap_or(0)), Word side(self.heads),
                Word side(self.kv_heads), Word side(self.head_width), Float scale(self.head_width), Address ring, Address work.partial,
            ],
        }
    }
}

/// What is computed on the way from layer to layer.
struct Work {
    /// Normed, or attended: as it is, and rounded.
    h: u64,
    rounded: u64,
    q: u64,
    k: u64,
    v: u64,
    logits: u64,
    slots: u64,
    inner: u64,
    inner_rounded: u64,
    y: u64,
    partial: u64,
}
