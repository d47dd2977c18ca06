//! Rotation and attention over a ring of keys and values on the device, which lies as the host's does.

use super::{File, Launch, Rounded, Vectors, arguments, side};
use crate::ShapeError;
use crate::attend::{BLOCK, KvFormat, Span};

/// Floats beside the weighted values in a partial result.
pub(super) const EXTRA: usize = 2;
/// Query heads that go through the cache together, and the widest head: what the kernels have room for.
const GROUP: usize = 8;
pub(super) const WIDEST: usize = 256;

/// The keys and values of one layer, for all kv heads: `kv_heads` rings of keys `head_bytes` apart, and as many of values.
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    pub format: KvFormat,
    pub kv_heads: usize,
    pub head_width: usize,
    /// Positions: whole blocks of [`BLOCK`].
    pub capacity: usize,
    pub keys: u64,
    pub values: u64,
    pub head_bytes: usize,
}

impl Cache {
    fn word(&self) -> Result<&'static str, ShapeError> {
        let fits = self.capacity.is_multiple_of(BLOCK)
            && self.head_width.is_multiple_of(16)
            && self.head_width <= WIDEST
            && self.head_bytes >= self.format.bytes(self.head_width) * self.capacity;
        match (self.format, fits) {
            (_, false) => Err(ShapeError::new(format!(
                "a cache of {} positions of heads of width {} in {} bytes on an accelerator: expected whole blocks of \
                 {BLOCK} positions and a multiple of 16 up to {WIDEST}",
                self.capacity, self.head_width, self.head_bytes
            ))),
            (KvFormat::F32, _) => Ok("f32"),
            (KvFormat::F16, _) => Ok("f16"),
            (other, _) => Err(ShapeError::new(format!(
                "a cache of {} on an accelerator: there are kernels for f32 and f16",
                other.name()
            ))),
        }
    }

    /// Keeps keys and values `[t][kv_heads][head_width]` of `t` positions from `first` on.
    pub fn keep(&self, k: u64, v: u64, first: usize, t: usize) -> Result<Launch, ShapeError> {
        let numbers = t * self.kv_heads * self.head_width;
        Ok(Launch {
            kernel: format!("keep_{}", self.word()?),
            file: File::Attend,
            grid: [side(numbers.div_ceil(256)), 1, 1],
            threads: 256,
            arguments: arguments![
                Address k, Address v, Long first as u64, Word side(t), Word side(self.kv_heads),
                Word side(self.head_width), Word side(self.capacity), Address self.keys, Address self.values,
                Long self.head_bytes as u64,
            ],
        })
    }
}

/// Some tokens' query heads, `[tokens][heads][head_width]`, over a cache.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    pub cache: Cache,
    pub span: Span,
    pub heads: usize,
}

impl Attend {
    /// Floats of the partial results, `[tokens][heads][blocks][head_width + 2]`.
    pub fn partial_len(&self) -> usize {
        self.span.tokens * self.heads * self.span.blocks().len() * (self.cache.head_width + EXTRA)
    }

    /// The partial results of every block that any of the tokens sees.
    pub fn blocks(&self, queries: u64, partial: u64) -> Result<Launch, ShapeError> {
        let (cache, span, blocks) = (&self.cache, self.span, self.span.blocks());
        let seen = span.visible(0).start..span.first + span.tokens;
        if self.heads == 0
            || !self.heads.is_multiple_of(cache.kv_heads)
            || span.tokens == 0
            || seen.len() > cache.capacity
        {
            return Err(ShapeError::new(format!(
                "{} heads of {} tokens over {} kv heads see positions {seen:?} of a cache of {}",
                self.heads, span.tokens, cache.kv_heads, cache.capacity
            )));
        }
        Ok(Launch {
            kernel: format!("attend_{}", cache.word()?),
            file: File::Attend,
            grid: [side(blocks.len()), panels(self.heads, cache.kv_heads), side(span.tokens)],
            threads: THREADS,
            arguments: arguments![
                Address queries, Long span.first as u64, Word side(span.window.unwrap_or(0)), Word side(blocks.start),
                Word side(self.heads), Word side(cache.kv_heads), Word side(cache.head_width),
                Word side(cache.capacity), Float scale(cache.head_width), Address cache.keys, Address cache.values,
                Long cache.head_bytes as u64, Address partial,
            ],
        })
    }
}

/// Folds partial results in ascending order into `out`, `[tokens][heads * head_width]`, plain and rounded (the width of a
/// head being a multiple of 32).
pub fn fold(attend: Attend, partial: u64, out: Vectors) -> Launch {
    let Attend { cache, span, heads } = attend;
    fold_blocks(partial, span.blocks().len(), (heads, cache.head_width), out)
}

/// The same of so many blocks for each of the `out.t` tokens.
pub(super) fn fold_blocks(partial: u64, blocks: usize, (heads, head_width): (usize, usize), out: Vectors) -> Launch {
    let Rounded { codes, scales, wholes } = out.rounded;
    Launch {
        kernel: "fold".into(),
        file: File::Attend,
        grid: [side(heads), side(out.t), 1],
        threads: 128,
        arguments: arguments![
            Address partial, Word side(blocks), Word side(heads), Word side(head_width), Address out.plain,
            Address codes, Address scales, Address wholes,
        ],
    }
}

/// Threads of a block of `attend`.
pub(super) const THREADS: u32 = 512;

/// What queries are multiplied by, so that 2^x of a score is e^x of what it stands for.
pub(super) fn scale(head_width: usize) -> f32 {
    (std::f64::consts::LOG2_E / (head_width as f64).sqrt()) as f32
}

/// Blocks of threads for all query heads, [`GROUP`] together at most.
pub(super) fn panels(heads: usize, kv_heads: usize) -> u32 {
    side(kv_heads * (heads / kv_heads).div_ceil(GROUP))
}

/// [`rotate`](crate::rope::rotate) of `count` heads of `t` tokens in place; `cos` and `sin` are `[t][half]`.
pub fn rotate(heads: u64, cos: u64, sin: u64, (t, count, half): (usize, usize, usize)) -> Launch {
    Launch {
        kernel: "rotate".into(),
        file: File::Attend,
        grid: [side((t * count * half).div_ceil(256)), 1, 1],
        threads: 256,
        arguments: arguments![Address heads, Address cos, Address sin, Word side(t), Word side(count), Word side(half)],
    }
}
