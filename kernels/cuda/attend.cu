// Rotation, and attention over a ring of keys and values as the host keeps it (docs/KERNELS.md, "How a cache lies"): one
// block of threads for each kv head and 256 positions, and a second launch that folds the partial results in order.
#include "numbers.h"

// Positions of one partial result, and slots in a tile of keys.
constexpr u32 BLOCK = 256, TILE = 16;
// Floats beside the weighted values in a partial result: the largest score and the sum of weights.
constexpr u32 EXTRA = 2;
// Query heads that share a kv head and go through the cache together.
constexpr int GROUP = 8;
// The widest head there is room for.
constexpr u32 HEAD = 256;

// Turns the heads of `t` tokens in place: half-split pairs. cos and sin: [t][half]. A thread for each pair.
extern "C" __global__ void rotate(float *heads, const float *cos, const float *sin, u32 t, u32 count, u32 half) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= t * count * half) return;
    const u32 token = i / (count * half), head = i / half % count, j = i % half;
    float *a = heads + (u64(token) * count + head) * 2 * half + j, *b = a + half;
    const float x = *a, y = *b, c = cos[token * half + j], s = sin[token * half + j];
    *a = fmaf(x, c, 0.0f - y * s);
    *b = fmaf(y, c, x * s);
}

// How one number of a key or value is kept.
struct KeptF32 {
    static constexpr u32 BYTES = 4;
    static DEVICE float load(const u8 *at) { return *reinterpret_cast<const float *>(at); }
    static DEVICE void store(u8 *at, float x) { *reinterpret_cast<float *>(at) = x; }
};
struct KeptF16 {
    static constexpr u32 BYTES = 2;
    static DEVICE float load(const u8 *at) { return half_at(at); }
    static DEVICE void store(u8 *at, float x) { *reinterpret_cast<uint16_t *>(at) = float_to_half(x); }
};

// Byte of element `i` of the key, or of the value, in a slot.
template <class K> DEVICE u64 key_byte(u32 slot, u32 i, u32 width) {
    return (u64(slot / TILE) * TILE * width + u64(i) * TILE + slot % TILE) * K::BYTES;
}
template <class K> DEVICE u64 value_byte(u32 slot, u32 i, u32 width) { return (u64(slot) * width + i) * K::BYTES; }

// Keeps the keys and values of positions first.. of all kv heads: [t][kv_heads][width] each. `head_bytes` lie between
// the caches of two kv heads. A thread for each number.
template <class K>
DEVICE void keep(const float *k, const float *v, u64 first, u32 t, u32 kv_heads, u32 width, u32 capacity, u8 *keys,
                 u8 *values, u64 head_bytes) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= t * kv_heads * width) return;
    const u32 token = i / (kv_heads * width), head = i / width % kv_heads, element = i % width;
    const u32 slot = u32((first + token) % capacity);
    K::store(keys + head * head_bytes + key_byte<K>(slot, element, width), k[i]);
    K::store(values + head * head_bytes + value_byte<K>(slot, element, width), v[i]);
}
extern "C" __global__ void keep_f32(const float *k, const float *v, u64 first, u32 t, u32 kv_heads, u32 width,
                                    u32 capacity, u8 *keys, u8 *values, u64 head_bytes) {
    keep<KeptF32>(k, v, first, t, kv_heads, width, capacity, keys, values, head_bytes);
}
extern "C" __global__ void keep_f16(const float *k, const float *v, u64 first, u32 t, u32 kv_heads, u32 width,
                                    u32 capacity, u8 *keys, u8 *values, u64 head_bytes) {
    keep<KeptF16>(k, v, first, t, kv_heads, width, capacity, keys, values, head_bytes);
}

// Positions of a block that a token sees, counted from the block's first. window 0: all before it.
DEVICE u32 within(u64 position, u64 start) {
    return position <= start ? 0 : position - start < BLOCK ? u32(position - start) : BLOCK;
}

// Partial results of GROUP query heads (from `blockIdx.y` % panels * GROUP on) of kv head blockIdx.y / panels over block
// oldest + blockIdx.x, for token blockIdx.z: partial[token][head][block][width + 2]. 256 threads, a position each, then a
// column each. What is computed, and in which order: docs/KERNELS.md, "Attention and norms".
template <class K>
DEVICE void attend(const float *queries, u64 first, u32 window, u32 oldest, u32 heads, u32 kv_heads, u32 width,
                   u32 capacity, float scale, const u8 *keys, const u8 *values, u64 head_bytes, float *partial) {
    SHARED(float, q, GROUP * HEAD);
    SHARED(float, weights, GROUP * BLOCK);
    SHARED(float, largest, GROUP * (BLOCK / 32));
    const u32 group = heads / kv_heads, panels = (group + GROUP - 1) / GROUP;
    const u32 kv = blockIdx.y / panels, query = blockIdx.y % panels * GROUP;
    const u32 count = group - query < GROUP ? group - query : GROUP;
    const u64 start = u64(oldest + blockIdx.x) * BLOCK, end = first + blockIdx.z + 1;
    const u32 from = within(window && end > window ? end - window : 0, start), to = within(end, start);
    const u32 head = kv * group + query, thread = threadIdx.x;
    partial += ((u64(blockIdx.z) * heads + head) * gridDim.x + blockIdx.x) * (width + EXTRA);
    const u64 stride = u64(gridDim.x) * (width + EXTRA); // from a head to the next
    if (from >= to) {
        // Nothing seen: a sum of weights of zero says so.
        for (u32 i = thread; i < count; i += BLOCK) partial[i * stride + width + 1] = 0.0f;
        return;
    }
    queries += (u64(blockIdx.z) * heads + head) * width;
    for (u32 i = thread; i < count * width; i += BLOCK) q[i] = queries[i] * scale;
    keys += kv * head_bytes;
    values += kv * head_bytes;
    const u32 slot = u32(start % capacity);
    __syncthreads();

    float scores[GROUP];
    for (int n = 0; n < GROUP; n++) scores[n] = 0.0f;
    const bool seen = thread >= from && thread < to;
    if (seen) {
#pragma unroll 8
        for (u32 i = 0; i < width; i++) {
            const float k = K::load(keys + key_byte<K>(slot + thread, i, width));
#pragma unroll
            for (u32 n = 0; n < GROUP; n++)
                if (n < count) scores[n] = fmaf(q[n * width + i], k, scores[n]);
        }
    }
    const float nothing = __uint_as_float(0xff800000u); // -infinity
#pragma unroll
    for (u32 n = 0; n < GROUP; n++) {
        if (n >= count) break;
        float most = seen ? scores[n] : nothing;
        for (int bit = 16; bit > 0; bit /= 2) {
            const float other = __shfl_xor_sync(WARP, most, bit);
            most = other > most ? other : most;
        }
        if (thread % 32 == 0) largest[n * (BLOCK / 32) + thread / 32] = most;
    }
    __syncthreads();
#pragma unroll
    for (u32 n = 0; n < GROUP; n++) {
        if (n >= count) break;
        float most = largest[n * (BLOCK / 32)];
        for (u32 w = 1; w < BLOCK / 32; w++)
            most = largest[n * (BLOCK / 32) + w] > most ? largest[n * (BLOCK / 32) + w] : most;
        weights[n * BLOCK + thread] = seen ? exp2_host(scores[n] - most) : 0.0f;
        if (thread == 0) partial[n * stride + width] = most;
    }
    __syncthreads();
    // Sums of weights: sixteen lanes for each query, one query after the other for each sixteen threads.
    for (u32 both = thread / 32 * 2; both < count; both += BLOCK / LANES) {
        const u32 n = both + thread / LANES % 2;
        float sum = 0.0f;
        for (u32 p = thread % LANES; p < BLOCK; p += LANES) sum = sum + weights[(n < count ? n : both) * BLOCK + p];
        sum = lanes_sum(sum);
        if (thread % LANES == 0 && n < count) partial[n * stride + width + 1] = sum;
    }
    // Weighted values: a thread for each column and each half of the queries, or as the width has it.
    const u32 parts = BLOCK / width ? BLOCK / width : 1, each = (count + parts - 1) / parts;
    for (u32 item = thread; item < parts * width; item += BLOCK) {
        const u32 column = item % width, begin = item / width * each;
        float sums[GROUP];
        for (int n = 0; n < GROUP; n++) sums[n] = 0.0f;
#pragma unroll 4
        for (u32 p = from; p < to; p++) {
            const float v = K::load(values + value_byte<K>(slot + p, column, width));
#pragma unroll
            for (u32 n = 0; n < GROUP; n++)
                if (n < each && begin + n < count) sums[n] = fmaf(weights[(begin + n) * BLOCK + p], v, sums[n]);
        }
#pragma unroll
        for (u32 n = 0; n < GROUP; n++)
            if (n < each && begin + n < count) partial[(begin + n) * stride + column] = sums[n];
    }
}
extern "C" __global__ void __launch_bounds__(BLOCK)
    attend_f32(const float *queries, u64 first, u32 window, u32 oldest, u32 heads, u32 kv_heads, u32 width, u32 capacity,
               float scale, const u8 *keys, const u8 *values, u64 head_bytes, float *partial) {
    attend<KeptF32>(queries, first, window, oldest, heads, kv_heads, width, capacity, scale, keys, values, head_bytes,
                    partial);
}
extern "C" __global__ void __launch_bounds__(BLOCK)
    attend_f16(const float *queries, u64 first, u32 window, u32 oldest, u32 heads, u32 kv_heads, u32 width, u32 capacity,
               float scale, const u8 *keys, const u8 *values, u64 head_bytes, float *partial) {
    attend<KeptF16>(queries, first, window, oldest, heads, kv_heads, width, capacity, scale, keys, values, head_bytes,
                    partial);
}

// Folds the partial results of head blockIdx.x of token blockIdx.y: out[token][head][width], and the same rounded where
// the width is a multiple of 32. A thread for each column, in whole warps.
extern "C" __global__ void fold(const float *partial, u32 blocks, u32 heads, u32 width, float *out, signed char *codes,
                                float *scales, int *wholes) {
    const u64 row = u64(blockIdx.y) * heads + blockIdx.x;
    const float *results = partial + row * blocks * (width + EXTRA);
    for (u32 at = 0; at < width; at += blockDim.x) {
        const u32 column = at + threadIdx.x;
        float most = 0.0f, sum = 0.0f, a = 0.0f;
        for (u32 b = 0; b < blocks; b++) {
            const float *from = results + u64(b) * (width + EXTRA);
            const float theirs = from[width + 1];
            if (theirs == 0.0f) continue;
            const float value = column < width ? from[column] : 0.0f;
            if (sum == 0.0f) {
                most = from[width], sum = theirs, a = value;
                continue;
            }
            const float next = most > from[width] ? most : from[width];
            const float kept = exp2_host(most - next), taken = exp2_host(from[width] - next);
            sum = fmaf(theirs, taken, sum * kept);
            a = fmaf(value, taken, a * kept);
            most = next;
        }
        const float y = a * (sum == 0.0f ? 0.0f : 1.0f / sum);
        if (column < width) out[row * width + column] = y;
        if (width % RUN == 0 && column / RUN * RUN < width) round_run(y, row * (width / RUN) + column / RUN, {codes, scales, wholes});
    }
}
