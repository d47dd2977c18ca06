// The formats of weights, as they lie in rows: in file order or in lanes (docs/KERNELS.md, "Layouts").
#pragma once
#include "numbers.h"

// 32 rounded activations.
struct Run {
    int codes[8]; // four in each
    float scale;
    int whole;
};

DEVICE Run run_at(Rounded x, u64 block) {
    Run run;
    const int4 *codes = reinterpret_cast<const int4 *>(x.codes + block * RUN);
    int4 a = codes[0], b = codes[1];
    run.codes[0] = a.x, run.codes[1] = a.y, run.codes[2] = a.z, run.codes[3] = a.w;
    run.codes[4] = b.x, run.codes[5] = b.y, run.codes[6] = b.z, run.codes[7] = b.w;
    run.scale = x.scales[block];
    run.whole = x.wholes[block];
    return run;
}

// A block of 32 weights: words of codes, a factor and perhaps a minimum.
template <int PIECES> struct Block {
    u32 words[PIECES];
    float factor, minimum;
};

// Formats of integers, 32 weights to a block. HALVES f16 numbers stand before PIECES words of codes.
struct Q4_0 {
    static constexpr bool FLOAT = false, MINIMUM = false;
    static constexpr int HALVES = 1, PIECES = 4, BYTES = 18, PER_BYTE = 2;
    // sum of code * activation, exact
    static DEVICE int product(const u32 *words, const Run &x) {
        int sum = 0;
        for (int k = 0; k < 4; k++) {
            sum = __dp4a(int(words[k] & 0x0f0f0f0fu), x.codes[k], sum);
            sum = __dp4a(int(words[k] >> 4 & 0x0f0f0f0fu), x.codes[k + 4], sum);
        }
        return sum - 8 * x.whole;
    }
    static DEVICE float weight(const u8 *words, int i, float factor, float) {
        return factor * float(int(words[i % 16] >> i / 16 * 4 & 15) - 8);
    }
    static constexpr int OFFSET = 8; // what a stored code is larger by
};
struct Q4_1 {
    static constexpr bool FLOAT = false, MINIMUM = true;
    static constexpr int HALVES = 2, PIECES = 4, BYTES = 20, PER_BYTE = 2;
    static DEVICE int product(const u32 *words, const Run &x) {
        int sum = 0;
        for (int k = 0; k < 4; k++) {
            sum = __dp4a(int(words[k] & 0x0f0f0f0fu), x.codes[k], sum);
            sum = __dp4a(int(words[k] >> 4 & 0x0f0f0f0fu), x.codes[k + 4], sum);
        }
        return sum;
    }
    static DEVICE float weight(const u8 *words, int i, float factor, float minimum) {
        return factor * float(words[i % 16] >> i / 16 * 4 & 15) - minimum;
    }
    static constexpr int OFFSET = 0;
};
struct Q8_0 {
    static constexpr bool FLOAT = false, MINIMUM = false;
    static constexpr int HALVES = 1, PIECES = 8, BYTES = 34, PER_BYTE = 1;
    static DEVICE int product(const u32 *words, const Run &x) {
        int sum = 0;
        for (int k = 0; k < 8; k++) sum = __dp4a(int(words[k]), x.codes[k], sum);
        return sum;
    }
    static DEVICE float weight(const u8 *words, int i, float factor, float) {
        return factor * float((signed char)words[i]);
    }
    static constexpr int OFFSET = 0;
};

// Plain numbers.
struct F32 {
    static constexpr bool FLOAT = true;
    static constexpr int BYTES = 4;
    static DEVICE float weight(const u8 *at) { return *reinterpret_cast<const float *>(at); }
};
struct F16 {
    static constexpr bool FLOAT = true;
    static constexpr int BYTES = 2;
    static DEVICE float weight(const u8 *at) { return half_at(at); }
};
struct BF16 {
    static constexpr bool FLOAT = true;
    static constexpr int BYTES = 2;
    static DEVICE float weight(const u8 *at) { return __uint_as_float(u32(half_bits(at)) << 16); }
};

// Bytes of a row of `width` weights.
template <class F> DEVICE u64 row_bytes(u32 width) { return F::FLOAT ? u64(width) * F::BYTES : u64(width / RUN) * F::BYTES; }

// Block `b` of a row of `blocks`, as files have it or in lanes. ALIGNED: the row begins at a multiple of four bytes.
template <class F, bool IN_LANES, bool ALIGNED> DEVICE Block<F::PIECES> block_at(const u8 *row, u32 b, u32 blocks) {
    Block<F::PIECES> block;
    if (IN_LANES) {
        const u32 first = b / LANES * LANES, lane = b - first;
        const u32 n = blocks - first < LANES ? blocks - first : LANES;
        const u8 *group = row + u64(first) * F::BYTES;
        for (int k = 0; k < F::PIECES; k++) block.words[k] = word_at<ALIGNED>(group + (k * n + lane) * 4);
        const u8 *halves = group + F::PIECES * n * 4;
        block.factor = half_at(halves + lane * 2);
        block.minimum = F::MINIMUM ? -half_at(halves + (n + lane) * 2) : 0.0f;
    } else {
        const u8 *at = row + u64(b) * F::BYTES;
        block.factor = half_at(at);
        block.minimum = F::MINIMUM ? -half_at(at + 2) : 0.0f;
        for (int k = 0; k < F::PIECES; k++) block.words[k] = word_at<false>(at + 2 * F::HALVES + 4 * k);
    }
    return block;
}

// Adds the product of a block and a run to a sum: one exact integer, one multiply-add, a second where there are minima.
template <class F> DEVICE float add_run(const Block<F::PIECES> &block, const Run &x, float sum) {
    sum = fmaf(block.factor * x.scale, float(F::product(block.words, x)), sum);
    if (F::MINIMUM) sum = fmaf(-(block.minimum * x.scale), float(x.whole), sum);
    return sum;
}

// Rows and vectors of one product.
struct Matrix {
    const u8 *first; // row 0
    u64 row_bytes;
    u32 width;
};
struct Vectors {
    const float *plain; // [t][width]
    Rounded rounded;
};

// A rounded vector in shared memory, for a block whose rows all read it.
constexpr u32 NEAR_WIDTH = 4096, NEAR_BYTES = NEAR_WIDTH + 2 * NEAR_WIDTH / RUN * 4;
// Where it will lie: vector 0 of what is returned. Wider ones stay where they are, and so does `plain`.
DEVICE Vectors nearby(Vectors x, u32 vector, u32 width, u8 *room) {
    const u64 from = u64(vector) * width, runs = from / RUN;
    if (width > NEAR_WIDTH || width % RUN != 0)
        return {x.plain + from, {x.rounded.codes + from, x.rounded.scales + runs, x.rounded.wholes + runs}};
    float *scales = reinterpret_cast<float *>(room + NEAR_WIDTH);
    int *wholes = reinterpret_cast<int *>(scales + NEAR_WIDTH / RUN);
    return {x.plain + from, {reinterpret_cast<signed char *>(room), scales, wholes}};
}
// Brings it there. For all threads of the block.
DEVICE void bring(Vectors x, u32 vector, u32 width, u8 *room) {
    if (width > NEAR_WIDTH || width % RUN != 0) return;
    const u64 from = u64(vector) * width, runs = from / RUN;
    const Rounded to = nearby(x, vector, width, room).rounded;
    const int4 *codes = reinterpret_cast<const int4 *>(x.rounded.codes + from);
    for (u32 i = threadIdx.x; i < width / 16; i += blockDim.x) reinterpret_cast<int4 *>(to.codes)[i] = codes[i];
    for (u32 i = threadIdx.x; i < width / RUN; i += blockDim.x) {
        to.scales[i] = x.rounded.scales[runs + i];
        to.wholes[i] = x.rounded.wholes[runs + i];
    }
    __syncthreads();
}

// The dot products of R rows and T vectors by sixteen threads, summed in sixteen lanes. All lanes of the warp take part;
// rows and vectors are given by number, so that those beyond the end may repeat one. Every lane gets every result.
// AHEAD blocks of each row are asked for before the first is used: one token alone waits for memory, not for arithmetic.
// `ready` is called once, by all, after the first of the matrix is asked for and before any of the vectors is.
template <class F, bool IN_LANES, bool ALIGNED, int R, int T, int AHEAD, class Ready>
DEVICE void dot(Matrix w, const u32 (&rows)[R], Vectors x, const u32 (&vectors)[T], float (&sums)[R][T], Ready ready) {
    const u32 lane = threadIdx.x % LANES;
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) sums[r][t] = 0.0f;
    if constexpr (F::FLOAT) {
        // A row counts as filled up with zeros to whole lanes.
        constexpr int NUMBERS = R * T > 4 ? 1 : 16;
        ready();
        for (u32 first = 0; first < w.width; first += NUMBERS * LANES) {
            float values[NUMBERS][T], weights[NUMBERS][R];
#pragma unroll
            for (int n = 0; n < NUMBERS; n++) {
                const u32 i = first + n * LANES + lane;
                for (int t = 0; t < T; t++) values[n][t] = i < w.width ? x.plain[u64(vectors[t]) * w.width + i] : 0.0f;
                for (int r = 0; r < R; r++)
                    weights[n][r] = i < w.width ? F::weight(w.first + rows[r] * w.row_bytes + u64(i) * F::BYTES) : 0.0f;
            }
#pragma unroll
            for (int n = 0; n < NUMBERS; n++) {
                if (first + n * LANES >= w.width) break;
                for (int r = 0; r < R; r++)
                    for (int t = 0; t < T; t++) sums[r][t] = fmaf(weights[n][r], values[n][t], sums[r][t]);
            }
        }
    } else {
        const u32 blocks = w.width / RUN;
        for (u32 first = 0; first < blocks; first += AHEAD * LANES) {
            Block<F::PIECES> block[AHEAD][R];
#pragma unroll
            for (int a = 0; a < AHEAD; a++)
#pragma unroll
                for (int r = 0; r < R; r++)
                    if (first + a * LANES + lane < blocks)
                        block[a][r] =
                            block_at<F, IN_LANES, ALIGNED>(w.first + rows[r] * w.row_bytes, first + a * LANES + lane, blocks);
            if (first == 0) ready();
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                const u32 b = first + a * LANES + lane;
                if (b >= blocks) break;
#pragma unroll
                for (int t = 0; t < T; t++) {
                    const Run run = run_at(x.rounded, u64(vectors[t]) * blocks + b);
#pragma unroll
                    for (int r = 0; r < R; r++) sums[r][t] = add_run<F>(block[a][r], run, sums[r][t]);
                }
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) sums[r][t] = lanes_sum(sums[r][t]);
}

// The same as one sequence of sums, from the first run (or number) to the last: a `down` that lies by output.
template <class F, int T>
DEVICE void dot_in_sequence(Matrix w, u32 row, Vectors x, const u32 (&vectors)[T], float (&sums)[T]) {
    const u32 lane = threadIdx.x % LANES;
    const u8 *at = w.first + row * w.row_bytes;
    const u32 terms = F::FLOAT ? w.width : w.width / RUN;
    for (int t = 0; t < T; t++) sums[t] = 0.0f;
    for (u32 first = 0; first < terms; first += LANES) {
        const u32 i = first + lane;
        const u32 here = terms - first < LANES ? terms - first : LANES;
        for (int t = 0; t < T; t++) {
            // Each lane one term: factor times number, and that of the minimum.
            float factor = 0.0f, number = 0.0f, minimum = 0.0f, whole = 0.0f;
            if (i < terms) {
                if constexpr (F::FLOAT) {
                    factor = F::weight(at + u64(i) * F::BYTES);
                    number = x.plain[u64(vectors[t]) * w.width + i];
                } else {
                    const Block<F::PIECES> block = block_at<F, false, false>(at, i, terms);
                    const Run run = run_at(x.rounded, u64(vectors[t]) * terms + i);
                    factor = block.factor * run.scale;
                    number = float(F::product(block.words, run));
                    minimum = -(block.minimum * run.scale);
                    whole = float(run.whole);
                }
            }
            for (u32 l = 0; l < here; l++) {
                sums[t] = fmaf(__shfl_sync(WARP, factor, l, LANES), __shfl_sync(WARP, number, l, LANES), sums[t]);
                if constexpr (!F::FLOAT) {
                    if (F::MINIMUM)
                        sums[t] = fmaf(__shfl_sync(WARP, minimum, l, LANES), __shfl_sync(WARP, whole, l, LANES), sums[t]);
                }
            }
        }
    }
}
