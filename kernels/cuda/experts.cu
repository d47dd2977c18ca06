// The chosen experts of a layer: y = down(relu(gate x) * (up x)), for those that lie in one slab of equal slots.
//
// Three launches, whatever the number of experts and tokens. A *pair* is one expert and one token that chose it; pairs
// are numbered expert by expert, ascending. Nothing is added by atomics: a sum has one order.
//
//   fire     h[pair][neuron]    a block of threads takes 32 neurons of one expert: gates, then `up` of those that fire
//   down     y[pair][output]    reads nothing of neurons that are silent
//   gather   out[token][output] the pairs of a token in their order, times their weights
#include "blocks.h"

// Where the matrices of an expert lie in a slot, and who asks for which expert.
struct Slab {
    const u8 *bytes;
    u64 slot_bytes;
    const u32 *slots;  // [groups] the slot of each expert asked for
    const u32 *starts; // [groups + 1] its pairs
    const u32 *tokens; // [pairs] the token of each pair
};

// A block of 512 threads for one token, 256 for eight.
// Neurons blockIdx.x * 32 .. + 32 of expert blockIdx.y, for its pairs in tiles of T. Writes h as it is, and rounded where
// `down` wants it so.
template <class F, bool IN_LANES, bool ALIGNED, int T>
DEVICE void fire(Slab slab, u64 gate_at, u64 up_at, u32 neurons, u32 width, Vectors x, float *h, Rounded rounded) {
    constexpr u32 ROWS = T == 1 ? 1 : 2, THREADS = 32 / ROWS * LANES;
    constexpr int AHEAD = T == 1 ? 5 : 1; // rows of 2560: all of one at once
    SHARED(float, gates, T * 32);
    SHARED(float, ups, T * 32);
    SHARED(u32, firing, 32);
    SHARED(u32, count, 1);
    const u32 sixteen = threadIdx.x / LANES, lane = threadIdx.x % LANES, warp = threadIdx.x / 32;
    const u32 first = blockIdx.x * 32, here = neurons - first < 32 ? neurons - first : 32;
    const u8 *slot = slab.bytes + slab.slots[blockIdx.y] * slab.slot_bytes;
    const Matrix gate = {slot + gate_at, row_bytes<F>(width), width}, up = {slot + up_at, row_bytes<F>(width), width};
    const u32 pair = slab.starts[blockIdx.y] + blockIdx.z * T, end = slab.starts[blockIdx.y + 1];
    if (pair >= end) return; // this expert has fewer tiles of tokens than another
    u32 vectors[T];
    for (int t = 0; t < T; t++) vectors[t] = slab.tokens[pair + t < end ? pair + t : end - 1];
    // The one vector comes near; eight are too many.
    constexpr bool NEAR = T == 1 && !F::FLOAT;
    SHARED(u8, room, NEAR ? NEAR_BYTES : 1);
    const u32 own = vectors[0];
    const Vectors all = x;
    if (NEAR) x = nearby(all, own, width, room), vectors[0] = 0;

    {
        u32 rows[ROWS];
        for (u32 r = 0; r < ROWS; r++) rows[r] = first + (ROWS * sixteen + r < here ? ROWS * sixteen + r : here - 1);
        float sums[ROWS][T];
        dot<F, IN_LANES, ALIGNED, ROWS, T, AHEAD>(gate, rows, x, vectors, sums, [&] {
            if (NEAR) bring(all, own, width, room);
        });
        if (lane == 0)
            for (u32 r = 0; r < ROWS; r++)
                for (int t = 0; t < T; t++) {
                    gates[t * 32 + ROWS * sixteen + r] = sums[r][t];
                    ups[t * 32 + ROWS * sixteen + r] = 0.0f;
                }
    }
    __syncthreads();
    if (warp == 0) {
        // The neurons that fire for any of the tokens, in order.
        bool fires = false;
        for (int t = 0; t < T; t++) fires |= threadIdx.x < here && gates[t * 32 + threadIdx.x] > 0.0f;
        const u32 votes = __ballot_sync(WARP, fires);
        if (fires) firing[__popc(votes & ((1u << threadIdx.x) - 1))] = threadIdx.x;
        if (threadIdx.x == 0) count[0] = __popc(votes);
    }
    __syncthreads();
    const u32 fired = count[0];
    for (u32 both = warp * 2; both < fired; both += THREADS / LANES) {
        const u32 mine = both + sixteen % 2;
        const u32 neuron = firing[mine < fired ? mine : fired - 1];
        const u32 rows[1] = {first + neuron};
        float sums[1][T];
        dot<F, IN_LANES, ALIGNED, 1, T, AHEAD>(up, rows, x, vectors, sums, [] {});
        if (lane == 0 && mine < fired)
            for (int t = 0; t < T; t++) ups[t * 32 + neuron] = sums[0][t];
    }
    __syncthreads();
    // A warp for each token: a neuron for each lane.
    for (u32 t = warp; t < T && pair + t < end; t += THREADS / 32) {
        const u32 neuron = threadIdx.x % 32;
        const float g = neuron < here ? gates[t * 32 + neuron] : 0.0f;
        const float y = g > 0.0f ? g * ups[t * 32 + neuron] : 0.0f;
        if (neuron < here) h[u64(pair + t) * neurons + first + neuron] = y;
        if (neurons % RUN == 0) round_run(y, u64(pair + t) * (neurons / RUN) + blockIdx.x, rounded);
    }
}

#define FIRE(name, F, IN_LANES, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(T == 1 ? 512 : 256, 2)                                                   \
        name(const u8 *bytes, u64 slot_bytes, const u32 *slots, const u32 *starts, const u32 *tokens, u64 gate_at,     \
             u64 up_at, u32 neurons, u32 width, const float *x, signed char *codes, float *scales, int *wholes,        \
             float *h, signed char *h_codes, float *h_scales, int *h_wholes) {                                         \
        const Slab slab = {bytes, slot_bytes, slots, starts, tokens};                                                  \
        const Vectors vectors = {x, {codes, scales, wholes}};                                                          \
        const Rounded rounded = {h_codes, h_scales, h_wholes};                                                         \
        if (row_bytes<F>(width) % 4 == 0)                                                                              \
            fire<F, IN_LANES, true, T>(slab, gate_at, up_at, neurons, width, vectors, h, rounded);                     \
        else fire<F, IN_LANES, false, T>(slab, gate_at, up_at, neurons, width, vectors, h, rounded);                   \
    }
#define FIRE_BOTH(name, F, IN_LANES) FIRE(name##_1, F, IN_LANES, 1) FIRE(name##_8, F, IN_LANES, 8)
FIRE_BOTH(fire_q4_0_rows, Q4_0, false)
FIRE_BOTH(fire_q4_0_lanes, Q4_0, true)
FIRE_BOTH(fire_q4_1_rows, Q4_1, false)
FIRE_BOTH(fire_q4_1_lanes, Q4_1, true)
FIRE_BOTH(fire_q8_0_rows, Q8_0, false)
FIRE_BOTH(fire_q8_0_lanes, Q8_0, true)
FIRE_BOTH(fire_f32_rows, F32, false)
FIRE_BOTH(fire_f16_rows, F16, false)
FIRE_BOTH(fire_bf16_rows, BF16, false)

// The same word of four neurons, turned: byte n of a word is then neuron n, and the word one output (or two, a nibble each).
DEVICE void turn(const u32 (&word)[4], u32 (&turned)[4]) {
    const u32 a = __byte_perm(word[0], word[1], 0x5140), b = __byte_perm(word[2], word[3], 0x5140);
    const u32 c = __byte_perm(word[0], word[1], 0x7362), d = __byte_perm(word[2], word[3], 0x7362);
    turned[0] = __byte_perm(a, b, 0x5410), turned[1] = __byte_perm(a, b, 0x7632);
    turned[2] = __byte_perm(c, d, 0x5410), turned[3] = __byte_perm(c, d, 0x7632);
}
// Adds four neurons, whose rounded h is in `codes`, to the integer sums of their outputs.
template <class F> DEVICE void add_quad(const u32 (&turned)[4], int codes, int (&dots)[4 * F::PER_BYTE]) {
#pragma unroll
    for (int o = 0; o < 4; o++) {
        if (F::PER_BYTE == 2) {
            dots[o] = __dp4a(int(turned[o] & 0x0f0f0f0fu), codes, dots[o]);
            int &high = dots[4 * (F::PER_BYTE - 1) + o];
            high = __dp4a(int(turned[o] >> 4 & 0x0f0f0f0fu), codes, high);
        } else {
            dots[o] = __dp4a(int(turned[o]), codes, dots[o]);
        }
    }
}

// `down` as tiles: a neuron's codes in chunks of 64 bytes, scales by 32 neurons and output. A block takes one chunk of one
// expert for T pairs; sixteen threads, a word each, take 32 neurons; then a thread for each output adds up in order.
// SIXTEENS: how many 32s of neurons at once.
template <class F, int T, int SIXTEENS>
DEVICE void down_tiles(Slab slab, u64 down_at, u32 neurons, u32 width, Rounded h, float *y) {
    constexpr u32 OUTPUTS = 64 * F::PER_BYTE, THREADS = SIXTEENS * LANES;
    constexpr u32 SUMS = (T * OUTPUTS + THREADS - 1) / THREADS;
    SHARED(int, integers, SIXTEENS * T * OUTPUTS);
    const u32 sixteen = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u32 blocks = neurons / RUN, bytes = width / F::PER_BYTE;
    const u8 *tiles = slab.bytes + slab.slots[blockIdx.y] * slab.slot_bytes + down_at;
    const u32 pair = slab.starts[blockIdx.y] + blockIdx.z * T, end = slab.starts[blockIdx.y + 1];
    if (pair >= end) return;
    const u32 first = blockIdx.x * OUTPUTS, here = width - first < OUTPUTS ? width - first : OUTPUTS;
    // Word `lane` of a chunk is piece lane % 4 of 16-byte part lane / 4; a shorter chunk has fewer parts.
    const u32 parts = here / F::PER_BYTE / 16;
    const u32 output = 4 * (lane % 4 * parts + lane / 4);
    float sums[SUMS];
    for (u32 s = 0; s < SUMS; s++) sums[s] = 0.0f;

    for (u32 round = 0; round < blocks; round += SIXTEENS) {
        const u32 block = round + sixteen;
        if (block < blocks && lane < 4 * parts) {
            int dots[T][4 * F::PER_BYTE];
            for (int t = 0; t < T; t++)
                for (int o = 0; o < 4 * F::PER_BYTE; o++) dots[t][o] = 0;
            u32 rounded[T][8];
            for (int t = 0; t < T; t++) {
                const u64 at = (u64(pair + t < end ? pair + t : end - 1) * blocks + block) * RUN;
                for (int quad = 0; quad < 8; quad++)
                    rounded[t][quad] = reinterpret_cast<const u32 *>(h.codes + at)[quad];
            }
            const u8 *codes = tiles + u64(block) * RUN * bytes + blockIdx.x * 64 + 4 * lane;
#pragma unroll
            for (int quad = 0; quad < 8; quad++) {
                // Four neurons: a word of each that fires for any of the pairs.
                u32 any = 0, word[4];
                for (int t = 0; t < T; t++) any |= rounded[t][quad];
#pragma unroll
                for (int n = 0; n < 4; n++)
                    word[n] = any >> 8 * n & 255 ? *reinterpret_cast<const u32 *>(codes + u64(4 * quad + n) * bytes) : 0;
                if (any == 0) continue;
                u32 turned[4];
                turn(word, turned);
                for (int t = 0; t < T; t++) add_quad<F>(turned, int(rounded[t][quad]), dots[t]);
            }
            for (int t = 0; t < T; t++)
                for (int o = 0; o < 4 * F::PER_BYTE; o++)
                    integers[(sixteen * T + t) * OUTPUTS + output + o % 4 + o / 4 * 16 * parts] = dots[t][o];
        }
        __syncthreads();
        for (u32 s = 0; s < SUMS; s++) {
            const u32 at = s * THREADS + threadIdx.x, t = at / OUTPUTS, o = at % OUTPUTS;
            if (t >= T || pair + t >= end || o >= here) continue;
            for (u32 i = 0; i < SIXTEENS && round + i < blocks; i++) {
                const u64 of_h = u64(pair + t) * blocks + round + i;
                const float scale = h.scales[of_h];
                if (scale == 0.0f) continue; // all silent: their scales are not read
                const int whole = h.wholes[of_h];
                const u8 *halves = tiles + u64(neurons) * bytes + (u64(round + i) * width + first + o) * 2;
                const int sum = integers[(i * T + t) * OUTPUTS + o] - F::OFFSET * whole;
                sums[s] = fmaf(half_at(halves) * scale, float(sum), sums[s]);
                if (F::MINIMUM) sums[s] = fmaf(half_at(halves + u64(blocks) * width * 2) * scale, float(whole), sums[s]);
            }
        }
        __syncthreads();
    }
    for (u32 s = 0; s < SUMS; s++) {
        const u32 at = s * THREADS + threadIdx.x, t = at / OUTPUTS, o = at % OUTPUTS;
        if (t < T && pair + t < end && o < here) y[u64(pair + t) * width + first + o] = sums[s];
    }
}

// The same for one pair and up to 768 neurons at a time, everything asked for before anything is used.
template <class F> DEVICE void down_tiles_one(Slab slab, u64 down_at, u32 neurons, u32 width, Rounded h, float *y) {
    constexpr u32 OUTPUTS = 64 * F::PER_BYTE, SIXTEENS = 24, EACH = OUTPUTS / LANES;
    SHARED(float, numbers, SIXTEENS * OUTPUTS);                     // sums of codes times codes, as they count
    SHARED(float, factors, SIXTEENS * OUTPUTS);                     // of them
    SHARED(float, minima, F::MINIMUM ? SIXTEENS * OUTPUTS : 1);     // and of the sum of h
    SHARED(float, scales, SIXTEENS);
    SHARED(float, wholes, SIXTEENS);
    const u32 sixteen = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u32 blocks = neurons / RUN, bytes = width / F::PER_BYTE;
    const u8 *tiles = slab.bytes + slab.slots[blockIdx.y] * slab.slot_bytes + down_at;
    const u32 pair = slab.starts[blockIdx.y];
    if (pair >= slab.starts[blockIdx.y + 1]) return;
    const u32 first = blockIdx.x * OUTPUTS, here = width - first < OUTPUTS ? width - first : OUTPUTS;
    const u32 parts = here / F::PER_BYTE / 16; // as in down_tiles
    const u32 output = 4 * (lane % 4 * parts + lane / 4);
    float sum = 0.0f;
    for (u32 round = 0; round < blocks; round += SIXTEENS) {
        const u32 block = round + sixteen;
        const float scale = block < blocks ? h.scales[u64(pair) * blocks + block] : 0.0f;
        const int whole = block < blocks ? h.wholes[u64(pair) * blocks + block] : 0;
        if (lane == 0) scales[sixteen] = scale, wholes[sixteen] = float(whole);
        if (scale != 0.0f) { // otherwise all are silent, and nothing of them is read
            u32 rounded[8], word[8][4], factor[EACH / 2], minimum[EACH / 2];
            const u64 at = (u64(pair) * blocks + block) * RUN;
            const int4 *codes_of_h = reinterpret_cast<const int4 *>(h.codes + at);
            const int4 a = codes_of_h[0], b = codes_of_h[1];
            rounded[0] = a.x, rounded[1] = a.y, rounded[2] = a.z, rounded[3] = a.w;
            rounded[4] = b.x, rounded[5] = b.y, rounded[6] = b.z, rounded[7] = b.w;
            const u8 *codes = tiles + u64(block) * RUN * bytes + blockIdx.x * 64 + 4 * lane;
            const bool mine = lane < 4 * parts;
#pragma unroll
            for (int n = 0; n < 32; n++)
                word[n / 4][n % 4] = mine && (rounded[n / 4] >> 8 * (n % 4) & 255)
                                         ? *reinterpret_cast<const u32 *>(codes + u64(n) * bytes) : 0;
            const u8 *halves = tiles + u64(neurons) * bytes + (u64(block) * width + first + lane * EACH) * 2;
            const bool within = lane * EACH < here;
#pragma unroll
            for (u32 e = 0; e < EACH / 2; e++) {
                factor[e] = within ? *reinterpret_cast<const u32 *>(halves + 4 * e) : 0;
                minimum[e] = F::MINIMUM && within
                                 ? *reinterpret_cast<const u32 *>(halves + u64(blocks) * width * 2 + 4 * e) : 0;
            }
            int dots[4 * F::PER_BYTE];
            for (int o = 0; o < 4 * F::PER_BYTE; o++) dots[o] = 0;
#pragma unroll
            for (int quad = 0; quad < 8; quad++) {
                u32 turned[4];
                turn(word[quad], turned);
                add_quad<F>(turned, int(rounded[quad]), dots);
            }
            if (mine)
                for (int o = 0; o < 4 * F::PER_BYTE; o++)
                    numbers[sixteen * OUTPUTS + output + o % 4 + o / 4 * 16 * parts] = float(dots[o] - F::OFFSET * whole);
            if (within)
                for (u32 e = 0; e < EACH; e++) {
                    const u32 at = sixteen * OUTPUTS + lane * EACH + e;
                    factors[at] = half_to_float(uint16_t(factor[e / 2] >> 16 * (e % 2))) * scale;
                    if (F::MINIMUM) minima[at] = half_to_float(uint16_t(minimum[e / 2] >> 16 * (e % 2))) * scale;
                }
        }
        __syncthreads();
        if (threadIdx.x < here) {
#pragma unroll 8
            for (u32 i = 0; i < SIXTEENS; i++) {
                const u32 at = i * OUTPUTS + threadIdx.x;
                if (scales[i] == 0.0f) continue;
                sum = fmaf(factors[at], numbers[at], sum);
                if (F::MINIMUM) sum = fmaf(minima[at], wholes[i], sum);
            }
        }
        __syncthreads();
    }
    if (threadIdx.x < here) y[u64(pair) * width + first + threadIdx.x] = sum;
}

// `down` with one row of outputs for each neuron: a thread for each output, neurons ascending, h as it is.
template <class F, bool IN_LANES> DEVICE float weight_at(const u8 *row, u32 column, u32 width) {
    if constexpr (F::FLOAT) {
        return F::weight(row + u64(column) * F::BYTES);
    } else {
        const u32 b = column / RUN, i = column % RUN, blocks = width / RUN;
        const Block<F::PIECES> block = block_at<F, IN_LANES, false>(row, b, blocks);
        const u8 *codes = reinterpret_cast<const u8 *>(block.words);
        return F::weight(codes, i, block.factor, block.minimum);
    }
}
template <class F, bool IN_LANES>
DEVICE void down_neurons(Slab slab, u64 down_at, u32 neurons, u32 width, const float *h, float *y) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    const u32 pair = slab.starts[blockIdx.y] + blockIdx.z;
    if (pair >= slab.starts[blockIdx.y + 1] || column >= width) return;
    const u8 *rows = slab.bytes + slab.slots[blockIdx.y] * slab.slot_bytes + down_at;
    const u64 bytes = row_bytes<F>(width);
    h += u64(pair) * neurons;
    float sum = 0.0f;
#pragma unroll 4
    for (u32 i = 0; i < neurons; i++) {
        const float weight = h[i] != 0.0f ? weight_at<F, IN_LANES>(rows + i * bytes, column, width) : 0.0f;
        if (h[i] != 0.0f) sum = fmaf(h[i], weight, sum);
    }
    y[u64(pair) * width + column] = sum;
}

// `down` as files have it: an output is a row over all neurons, and nothing can be left out.
template <class F, int T>
DEVICE void down_outputs(Slab slab, u64 down_at, u32 neurons, u32 width, Vectors h, float *y) {
    const u32 row = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    const u32 pair = slab.starts[blockIdx.y] + blockIdx.z * T, end = slab.starts[blockIdx.y + 1];
    if (pair >= end) return;
    const u8 *rows = slab.bytes + slab.slots[blockIdx.y] * slab.slot_bytes + down_at;
    u32 vectors[T];
    for (int t = 0; t < T; t++) vectors[t] = pair + t < end ? pair + t : end - 1;
    float sums[T];
    dot_in_sequence<F, T>({rows, row_bytes<F>(neurons), neurons}, row < width ? row : width - 1, h, vectors, sums);
    if (threadIdx.x % LANES == 0 && row < width)
        for (int t = 0; t < T; t++)
            if (pair + t < end) y[u64(pair + t) * width + row] = sums[t];
}

#define DOWN(name, BOUND, body)                                                                                        \
    extern "C" __global__ void BOUND name(const u8 *bytes, u64 slot_bytes, const u32 *slots, const u32 *starts,        \
                                          const u32 *tokens, u64 down_at, u32 neurons, u32 width, const float *h,      \
                                          signed char *h_codes, float *h_scales, int *h_wholes, float *y) {            \
        const Slab slab = {bytes, slot_bytes, slots, starts, tokens};                                                  \
        const Vectors vectors = {h, {h_codes, h_scales, h_wholes}};                                                    \
        (void)vectors;                                                                                                 \
        body;                                                                                                          \
    }
// 24: all 768 neurons of the models at hand in one round. Four pairs at a time fit into 48 KiB with half of that.
#define DOWN_TILES(name, F)                                                                                            \
    DOWN(name##_1, __launch_bounds__(24 * LANES),                                                                      \
         (down_tiles_one<F>(slab, down_at, neurons, width, vectors.rounded, y)))                                       \
    DOWN(name##_4, __launch_bounds__(12 * LANES),                                                                      \
         (down_tiles<F, 4, 12>(slab, down_at, neurons, width, vectors.rounded, y)))
DOWN_TILES(down_q4_0_tiles, Q4_0)
DOWN_TILES(down_q4_1_tiles, Q4_1)
DOWN_TILES(down_q8_0_tiles, Q8_0)
#define DOWN_NEURONS(name, F, IN_LANES)                                                                                \
    DOWN(name, , (down_neurons<F, IN_LANES>(slab, down_at, neurons, width, vectors.plain, y)))
DOWN_NEURONS(down_q4_0_neurons, Q4_0, false)
DOWN_NEURONS(down_q4_1_neurons, Q4_1, false)
DOWN_NEURONS(down_q8_0_neurons, Q8_0, false)
DOWN_NEURONS(down_f32_neurons, F32, false)
DOWN_NEURONS(down_f16_neurons, F16, false)
DOWN_NEURONS(down_bf16_neurons, BF16, false)
#define DOWN_OUTPUTS(name, F) DOWN(name, , (down_outputs<F, 4>(slab, down_at, neurons, width, vectors, y)))
DOWN_OUTPUTS(down_q4_0_outputs, Q4_0)
DOWN_OUTPUTS(down_q4_1_outputs, Q4_1)
DOWN_OUTPUTS(down_q8_0_outputs, Q8_0)
DOWN_OUTPUTS(down_f32_outputs, F32)
DOWN_OUTPUTS(down_f16_outputs, F16)
DOWN_OUTPUTS(down_bf16_outputs, BF16)

// out[token][c] = sum of weight * y over the token's pairs, in their order, beginning at +0; with `add`, that is added to
// what is there. `of_token` [tokens + 1] says where in `pairs` a token's begin.
extern "C" __global__ void gather(const float *y, const u32 *of_token, const u32 *pairs, const float *weights, u32 width,
                                  float *out, u32 add) {
    constexpr int AHEAD = 8;
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x, token = blockIdx.y;
    if (column >= width) return;
    const u32 end = of_token[token + 1];
    float *to = out + u64(token) * width + column;
    const float there = add ? *to : 0.0f;
    float sum = 0.0f;
    for (u32 first = of_token[token]; first < end; first += AHEAD) {
        float weight[AHEAD], value[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const u32 pair = first + a < end ? pairs[first + a] : 0;
            weight[a] = first + a < end ? weights[pair] : 0.0f;
            value[a] = first + a < end ? y[u64(pair) * width + column] : 0.0f;
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
            if (first + a < end) sum = fmaf(weight[a], value[a], sum);
    }
    *to = add ? there + sum : sum;
}
