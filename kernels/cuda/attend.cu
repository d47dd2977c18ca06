// Rotation, and attention over a ring of keys and values as the host keeps it (docs/KERNELS.md, "How a cache lies"): one
// block of threads for each kv head and 256 positions, and a second launch that folds the partial results in order.
#include "numbers.h"

// Positions of one partial result, slots in a tile of keys, and threads for a block.
constexpr u32 BLOCK = 256, TILE = 16, THREADS = 512;
// Floats beside the weighted values in a partial result: the largest score and the sum of weights.
constexpr u32 EXTRA = 2;
// Query heads that share a kv head and go through the cache together.
constexpr int GROUP = 8;
// The widest head there is room for.
constexpr u32 HEAD = 256;
// Numbers of keys, and of values, that a thread asks for before it uses the first.
constexpr u32 AHEAD = 48, VALUES_AHEAD = 64;

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
// oldest + blockIdx.x, for token blockIdx.z: partial[token][head][block][width + 2]. 512 threads: a position and half of
// the heads each, then a column and some of the heads each. What is computed, and in which order: docs/KERNELS.md, "Attention and norms".
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
    // This thread's position, and its heads.
    const u32 place = thread % BLOCK, half = (count + 1) / 2, own = thread / BLOCK * half;
    const u32 mine = own < count ? count - own < half ? count - own : half : 0;
    partial += ((u64(blockIdx.z) * heads + head) * gridDim.x + blockIdx.x) * (width + EXTRA);
    const u64 stride = u64(gridDim.x) * (width + EXTRA); // from a head to the next
    if (from >= to) {
        // Nothing seen: a sum of weights of zero says so.
        for (u32 i = thread; i < count; i += THREADS) partial[i * stride + width + 1] = 0.0f;
        return;
    }
    queries += (u64(blockIdx.z) * heads + head) * width;
    for (u32 i = thread; i < count * width; i += THREADS) q[i] = queries[i] * scale;
    keys += kv * head_bytes;
    values += kv * head_bytes;
    const u32 slot = u32(start % capacity);
    __syncthreads();

    constexpr u32 HALF = GROUP / 2;
    float scores[HALF];
    for (u32 n = 0; n < HALF; n++) scores[n] = 0.0f;
    const bool seen = place >= from && place < to;
    if (seen) {
        for (u32 first = 0; first < width; first += AHEAD) {
            float k[AHEAD];
            const u8 *from_here = keys + key_byte<K>(slot + place, first, width);
#pragma unroll
            for (u32 a = 0; a < AHEAD; a++) // widths are whole sixteens
                k[a] = first + a / 16 * 16 < width ? K::load(from_here + a * TILE * K::BYTES) : 0.0f;
#pragma unroll
            for (u32 a = 0; a < AHEAD; a += 4) {
                if (first + a / 16 * 16 >= width) break;
#pragma unroll
                for (u32 n = 0; n < HALF; n++) {
                    if (n >= mine) break;
                    const float4 asked = *reinterpret_cast<const float4 *>(q + (own + n) * width + first + a);
                    scores[n] = fmaf(asked.x, k[a], scores[n]);
                    scores[n] = fmaf(asked.y, k[a + 1], scores[n]);
                    scores[n] = fmaf(asked.z, k[a + 2], scores[n]);
                    scores[n] = fmaf(asked.w, k[a + 3], scores[n]);
                }
            }
        }
    }
    const float nothing = __uint_as_float(0xff800000u); // -infinity
#pragma unroll
    for (u32 n = 0; n < HALF; n++) {
        if (n >= mine) break;
        float most = seen ? scores[n] : nothing;
        for (int bit = 16; bit > 0; bit /= 2) {
            const float other = __shfl_xor_sync(WARP, most, bit);
            most = other > most ? other : most;
        }
        if (place % 32 == 0) largest[(own + n) * (BLOCK / 32) + place / 32] = most;
    }
    __syncthreads();
#pragma unroll
    for (u32 n = 0; n < HALF; n++) {
        if (n >= mine) break;
        const float *of = largest + (own + n) * (BLOCK / 32);
        float most = of[0];
        for (u32 w = 1; w < BLOCK / 32; w++) most = of[w] > most ? of[w] : most;
        weights[(own + n) * BLOCK + place] = seen ? exp2_host(scores[n] - most) : 0.0f;
        if (place == 0) partial[(own + n) * stride + width] = most;
    }
    __syncthreads();
    // Sums of weights: sixteen lanes for each query, one query after the other for each sixteen threads.
    for (u32 both = thread / 32 * 2; both < count; both += THREADS / LANES) {
        const u32 n = both + thread / LANES % 2;
        float sum = 0.0f;
        for (u32 p = thread % LANES; p < BLOCK; p += LANES) sum = sum + weights[(n < count ? n : both) * BLOCK + p];
        sum = lanes_sum(sum);
        if (thread % LANES == 0 && n < count) partial[n * stride + width + 1] = sum;
    }
    // Weighted values: a thread for each column and each half of the queries, or as the width has it.
    const u32 parts = THREADS / width, each = (count + parts - 1) / parts;
    for (u32 item = thread; item < parts * width; item += THREADS) {
        const u32 column = item % width, begin = item / width * each;
        float sums[HALF]; // heads are at most 256 wide, so each thread has at most half of them
        for (u32 n = 0; n < HALF; n++) sums[n] = 0.0f;
        for (u32 first = from / VALUES_AHEAD * VALUES_AHEAD; first < to; first += VALUES_AHEAD) {
            float v[VALUES_AHEAD];
            const u8 *from_here = values + value_byte<K>(slot + first, column, width);
#pragma unroll
            for (u32 a = 0; a < VALUES_AHEAD; a++) {
                const u32 p = first + a;
                v[a] = p >= from && p < to ? K::load(from_here + a * width * K::BYTES) : 0.0f;
            }
#pragma unroll
            for (u32 a = 0; a < VALUES_AHEAD; a += 4)
#pragma unroll
                for (u32 n = 0; n < HALF; n++) {
                    if (n >= each || begin + n >= count) break;
                    const float4 share = *reinterpret_cast<const float4 *>(weights + (begin + n) * BLOCK + first + a);
                    const float shares[4] = {share.x, share.y, share.z, share.w};
#pragma unroll
                    for (u32 i = 0; i < 4; i++)
                        if (first + a + i >= from && first + a + i < to) sums[n] = fmaf(shares[i], v[a + i], sums[n]);
                }
        }
#pragma unroll
        for (u32 n = 0; n < HALF; n++)
            if (n < each && begin + n < count) partial[(begin + n) * stride + column] = sums[n];
    }
}
extern "C" __global__ void __launch_bounds__(THREADS)
    attend_f32(const float *queries, u64 first, u32 window, u32 oldest, u32 heads, u32 kv_heads, u32 width, u32 capacity,
               float scale, const u8 *keys, const u8 *values, u64 head_bytes, float *partial) {
    attend<KeptF32>(queries, first, window, oldest, heads, kv_heads, width, capacity, scale, keys, values, head_bytes,
                    partial);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    attend_f16(const float *queries, u64 first, u32 window, u32 oldest, u32 heads, u32 kv_heads, u32 width, u32 capacity,
               float scale, const u8 *keys, const u8 *values, u64 head_bytes, float *partial) {
    attend<KeptF16>(queries, first, window, oldest, heads, kv_heads, width, capacity, scale, keys, values, head_bytes,
                    partial);
}

// A layer's cache, as the step of a single token finds it: nothing of it is an argument, so that one list of launches serves
// every position and every sequence.
struct Ring {
    u8 *keys, *values;
    u64 capacity, head_bytes;
};
#define ATTEND_AT(name, K)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                \
        name(const float *queries, const u64 *position, u32 window, u32 heads, u32 kv_heads, u32 width, float scale,   \
             const Ring *ring, float *partial) {                                                                       \
        const u64 first = *position;                                                                                   \
        const u32 oldest = window && first + 1 > window ? u32((first + 1 - window) / BLOCK) : 0;                       \
        attend<K>(queries, first, window, oldest, heads, kv_heads, width, u32(ring->capacity), scale, ring->keys,      \
                  ring->values, ring->head_bytes, partial);                                                            \
    }
ATTEND_AT(attend_at_f32, KeptF32)
ATTEND_AT(attend_at_f16, KeptF16)

// The largest router's logits of one token, in whole: which experts, where they lie and how much each counts, by expert
// ascending. The rule is the host's (model/router.rs): the largest win, ties go to the lower index, gating sees the winners.
struct Choice {
    const float *logits;
    u32 experts, active, softmax;
    const u32 *table;      // [experts]: the slot of each
    u32 *ids, *slots;      // [active]
    float *shares;         // [active]
};
// Most experts of a layer, and most that are chosen.
constexpr u32 EXPERTS = 1024, ACTIVE = 64;

DEVICE int ordered(float x) { // numbers as integers that compare as they do
    const int bits = int(__float_as_uint(x));
    return bits ^ int(u32(bits >> 31) >> 1);
}

DEVICE float unordered(int key) { return __uint_as_float(u32(key ^ int(u32(key >> 31) >> 1))); }

DEVICE void choose(const Choice &c) {
    SHARED(int, keys, EXPERTS);
    SHARED(u32, lies, EXPERTS);
    SHARED(u32, order, ACTIVE);
    SHARED(float, gates, ACTIVE);
    SHARED(u32, broken, 1);
    if (threadIdx.x == 0) broken[0] = 0;
    __syncthreads();
    for (u32 e = threadIdx.x; e < c.experts; e += blockDim.x) {
        const float logit = c.logits[e];
        keys[e] = ordered(logit);
        lies[e] = c.table[e];
        if ((__float_as_uint(logit) & 0x7fffffff) >= 0x7f800000) broken[0] = 1; // all who write it write this
    }
    __syncthreads();
    for (u32 e = threadIdx.x; e < c.experts; e += blockDim.x) {
        u32 rank = 0;
        for (u32 f = 0; f < c.experts; f++) rank += keys[f] > keys[e] || (keys[f] == keys[e] && f < e);
        if (rank < c.active) order[rank] = e;
    }
    __syncthreads();
    if (threadIdx.x < c.active) {
        const float logit = unordered(keys[order[threadIdx.x]]), top = unordered(keys[order[0]]);
        const bool far = top < -60.0f;
        gates[threadIdx.x] = c.softmax || far ? exp_host(logit - top) : 1.0f / (1.0f + exp_host(0.0f - logit));
    }
    __syncthreads();
    if (threadIdx.x < c.active) {
        float sum = gates[0];
        for (u32 i = 1; i < c.active; i++) sum = sum + gates[i];
        u32 place = 0;
        for (u32 i = 0; i < c.active; i++) place += order[i] < order[threadIdx.x];
        c.ids[place] = broken[0] ? 0xffffffffu : order[threadIdx.x];
        c.slots[place] = lies[order[threadIdx.x]];
        c.shares[place] = gates[threadIdx.x] / sum;
    }
}

// Between the projections of one token and its attention: block 0 chooses its experts; the others turn q in place, turn k and
// keep it and v. 256 threads. cos and sin: [width / 2]; `turns` 0: nothing is turned.
template <class K>
DEVICE void turn(float *q, const float *k, const float *v, const u64 *position, const float *cos, const float *sin,
                 u32 turns, u32 heads, u32 kv_heads, u32 width, const Ring *ring, const Choice &choice) {
    if (blockIdx.x == 0) return choose(choice);
    const u32 half = width / 2;
    u32 i = (blockIdx.x - 1) * blockDim.x + threadIdx.x;
    if (i < heads * half) {
        if (!turns) return;
        float *a = q + i / half * width + i % half, *b = a + half;
        const float x = *a, y = *b, c = cos[i % half], s = sin[i % half];
        *a = fmaf(x, c, 0.0f - y * s);
        *b = fmaf(y, c, x * s);
        return;
    }
    i -= heads * half;
    if (i >= kv_heads * half) return;
    const u32 head = i / half, j = i % half, slot = u32(*position % ring->capacity);
    const float x = k[head * width + j], y = k[head * width + j + half];
    const float c = turns ? cos[j] : 1.0f, s = turns ? sin[j] : 0.0f;
    u8 *keys = ring->keys + head * ring->head_bytes, *values = ring->values + head * ring->head_bytes;
    K::store(keys + key_byte<K>(slot, j, width), turns ? fmaf(x, c, 0.0f - y * s) : x);
    K::store(keys + key_byte<K>(slot, j + half, width), turns ? fmaf(y, c, x * s) : y);
    K::store(values + value_byte<K>(slot, j, width), v[head * width + j]);
    K::store(values + value_byte<K>(slot, j + half, width), v[head * width + j + half]);
}
#define TURN(name, K)                                                                                                  \
    extern "C" __global__ void name(float *q, const float *k, const float *v, const u64 *position, const float *cos,   \
                                    const float *sin, u32 turns, u32 heads, u32 kv_heads, u32 width, const Ring *ring, \
                                    const float *logits, u32 experts, u32 active, u32 softmax, const u32 *table,       \
                                    u32 *ids, u32 *slots, float *shares) {                                             \
        turn<K>(q, k, v, position, cos, sin, turns, heads, kv_heads, width, ring,                                      \
                {logits, experts, active, softmax, table, ids, slots, shares});                                        \
    }
TURN(turn_f32, KeptF32)
TURN(turn_f16, KeptF16)

// Partial results that are asked for at once.
constexpr u32 FOLDED = 8;

// Folds the partial results of head blockIdx.x of token blockIdx.y: out[token][head][width], and the same rounded where
// the width is a multiple of 32. A thread for each column, in whole warps.
extern "C" __global__ void fold(const float *partial, u32 blocks, u32 heads, u32 width, float *out, signed char *codes,
                                float *scales, int *wholes) {
    const u64 row = u64(blockIdx.y) * heads + blockIdx.x;
    const float *results = partial + row * blocks * (width + EXTRA);
    for (u32 at = 0; at < width; at += blockDim.x) {
        const u32 column = at + threadIdx.x;
        float most = 0.0f, sum = 0.0f, a = 0.0f;
        for (u32 first = 0; first < blocks; first += FOLDED) {
            float tops[FOLDED], totals[FOLDED], values[FOLDED];
#pragma unroll
            for (u32 b = 0; b < FOLDED; b++) {
                const float *from = results + u64(first + b < blocks ? first + b : blocks - 1) * (width + EXTRA);
                tops[b] = from[width];
                totals[b] = first + b < blocks ? from[width + 1] : 0.0f;
                values[b] = column < width ? from[column] : 0.0f;
            }
#pragma unroll
            for (u32 b = 0; b < FOLDED; b++) {
                if (totals[b] == 0.0f) continue;
                if (sum == 0.0f) {
                    most = tops[b], sum = totals[b], a = values[b];
                    continue;
                }
                const float next = most > tops[b] ? most : tops[b];
                const float kept = exp2_host(most - next), taken = exp2_host(tops[b] - next);
                sum = fmaf(totals[b], taken, sum * kept);
                a = fmaf(values[b], taken, a * kept);
                most = next;
            }
        }
        const float y = a * (sum == 0.0f ? 0.0f : 1.0f / sum);
        if (column < width) out[row * width + column] = y;
        if (width % RUN == 0 && column / RUN * RUN < width) round_run(y, row * (width / RUN) + column / RUN, {codes, scales, wholes});
    }
}
