//! What one step of the forward pass holds besides weights and cache, at most: an account of the vectors that live at the
//! same time in `attention`, in the experts and before the head.

use crate::config::Config;
use crate::experts::WAVE_TOKENS;

/// Bytes of rounded and unrounded activations of one vector.
fn rounded(width: usize) -> u64 {
    // Sixteen blocks of 32 make a group: codes, and three numbers a block.
    const GROUP: u64 = 512 + 3 * 64;
    4 * width as u64 + width.div_ceil(512) as u64 * GROUP
}

/// Lists of tokens and experts, and what each thread has in hand.
const SMALL: u64 = 512 << 10;

/// Bytes at the peak of a step of `tokens` tokens that asks for the logits of `wanted` of them.
pub fn step_bytes(config: &Config, tokens: usize, wanted: usize) -> u64 {
    let (width, vocab) = (config.width as u64, config.vocab as u64);
    let queries = (config.heads * config.head_width) as u64;
    let qkv = queries + 2 * (config.kv_heads * config.head_width) as u64;
    let each = |width: u64| rounded(width as usize);
    // The residual stream, its normed copy, and a position's angles.
    let always = 2 * 4 * width + 4 * config.head_width as u64;
    // Rounded input; or what heads give, twice while it is put together; or that and the projection out of it.
    let attention = 4 * qkv + each(width).max(8 * queries).max(4 * queries + each(queries) + 2 * 4 * width);
    // Rounded input, the sum of the experts, and the new residual.
    let mixture = each(width) + 3 * 4 * width + 32 * config.active as u64;
    let per_token = always + attention.max(mixture);
    // Tokens summed over the experts of a wave; one expert alone may have all of them.
    let wave = (tokens * config.active.min(config.experts)).min(WAVE_TOKENS.max(tokens)) as u64;
    // Gathered inputs, h as it is and rounded, outputs; and a part of `up x` in the hands of each thread.
    let neurons = config.neurons as u64;
    let per_wave = each(width) + 4 * neurons + each(neurons) + 4 * width + neurons;
    let in_wave = wave * per_wave;
    // Logits as the head gives them and as they are handed on, and the sampler's lists.
    let head = 4 * vocab * wanted as u64 + 32 * vocab + wanted as u64 * (each(width) + 8 * width);
    let tokens = tokens as u64;
    SMALL + (tokens * per_token + in_wave).max(tokens * 4 * width + head)
}
