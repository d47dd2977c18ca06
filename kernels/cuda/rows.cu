// Dense products: a matrix of rows times some vectors, and what surrounds them.
#include "blocks.h"

// Rounds `runs` times 32 numbers. A warp for each.
extern "C" __global__ void round_vectors(const float *x, u32 runs, signed char *codes, float *scales, int *wholes) {
    const u32 run = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (run < runs) round_run(x[u64(run) * RUN + threadIdx.x % 32], run, {codes, scales, wholes});
}

// out[t][row] (+)= w[row] . x[t]. Sixteen threads take R rows, block `block` of 256 threads 16 R; gridDim.y counts tiles of T
// vectors.
template <class F, bool IN_LANES, bool ALIGNED, int R, int T, int AHEAD>
DEVICE void products(Matrix w, u32 rows, u32 block, Vectors x, u32 t, float *out, u32 add) {
    const u32 first = (block * (blockDim.x / LANES) + threadIdx.x / LANES) * R, vector = blockIdx.y * T;
    u32 row[R], vectors[T];
    for (int r = 0; r < R; r++) row[r] = first + r < rows ? first + r : rows - 1;
    for (int i = 0; i < T; i++) vectors[i] = vector + i < t ? vector + i : t - 1;
    float sums[R][T];
    SHARED(u8, room, T == 1 && !F::FLOAT ? NEAR_BYTES : 1);
    if constexpr (T == 1 && !F::FLOAT) {
        const u32 own = vectors[0], first_of[1] = {0};
        dot<F, IN_LANES, ALIGNED, R, T, AHEAD>(w, row, nearby(x, own, w.width, room), first_of, sums,
                                             [&] { bring(x, own, w.width, room); });
    } else {
        dot<F, IN_LANES, ALIGNED, R, T, AHEAD>(w, row, x, vectors, sums, [] {});
    }
    if (threadIdx.x % LANES != 0) return;
    for (int r = 0; r < R; r++)
        for (int i = 0; i < T; i++)
            if (first + r < rows && vector + i < t) {
                float *to = out + u64(vector + i) * rows + first + r;
                *to = add ? *to + sums[r][i] : sums[r][i];
            }
}

#define PRODUCTS(name, F, IN_LANES, R, T, AHEAD)                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        name(const u8 *w, u32 rows, u32 width, const float *x, signed char *codes, float *scales, int *wholes, u32 t,  \
             float *out, u32 add) {                                                                                    \
        const Matrix matrix = {w, row_bytes<F>(width), width};                                                         \
        const Vectors vectors = {x, {codes, scales, wholes}};                                                          \
        if (matrix.row_bytes % 4 == 0)                                                                                 \
            products<F, IN_LANES, true, R, T, AHEAD>(matrix, rows, blockIdx.x, vectors, t, out, add);                  \
        else products<F, IN_LANES, false, R, T, AHEAD>(matrix, rows, blockIdx.x, vectors, t, out, add);                \
    }
// Three matrices of one width and one vector: q, k and v. blocks: those of the first, and those of the first two.
#define THREE(name, F, IN_LANES)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        name(const u8 *q, const u8 *k, const u8 *v, u32 q_rows, u32 kv_rows, u32 width, const float *x,                \
             signed char *codes, float *scales, int *wholes, float *q_out, float *k_out, float *v_out) {               \
        const u32 of_q = (q_rows + 15) / 16, of_k = (kv_rows + 15) / 16, b = blockIdx.x;                               \
        const bool is_q = b < of_q, is_k = !is_q && b < of_q + of_k;                                                   \
        const Matrix matrix = {is_q ? q : is_k ? k : v, row_bytes<F>(width), width};                                   \
        float *out = is_q ? q_out : is_k ? k_out : v_out;                                                              \
        const u32 rows = is_q ? q_rows : kv_rows, block = is_q ? b : is_k ? b - of_q : b - of_q - of_k;                \
        const Vectors vectors = {x, {codes, scales, wholes}};                                                          \
        if (matrix.row_bytes % 4 == 0)                                                                                 \
            products<F, IN_LANES, true, 1, 1, 5>(matrix, rows, block, vectors, 1, out, 0);                             \
        else products<F, IN_LANES, false, 1, 1, 5>(matrix, rows, block, vectors, 1, out, 0);                           \
    }
// One vector: rows apart where they are few, four together where they fill the device anyway and share what is read of x.
#define PRODUCTS_BOTH(name, F, IN_LANES)                                                                               \
    PRODUCTS(name##_1, F, IN_LANES, 1, 1, 5)                                                                           \
    PRODUCTS(name##_tall, F, IN_LANES, 4, 1, 1)                                                                        \
    PRODUCTS(name##_8, F, IN_LANES, 2, 8, 1)                                                                           \
    THREE(name##_three, F, IN_LANES)
PRODUCTS_BOTH(products_q4_0_rows, Q4_0, false)
PRODUCTS_BOTH(products_q4_0_lanes, Q4_0, true)
PRODUCTS_BOTH(products_q4_1_rows, Q4_1, false)
PRODUCTS_BOTH(products_q4_1_lanes, Q4_1, true)
PRODUCTS_BOTH(products_q8_0_rows, Q8_0, false)
PRODUCTS_BOTH(products_q8_0_lanes, Q8_0, true)
PRODUCTS_BOTH(products_f32_rows, F32, false)
PRODUCTS_BOTH(products_f16_rows, F16, false)
PRODUCTS_BOTH(products_bf16_rows, BF16, false)

// Numbers of a vector that a block of 512 threads holds at once.
constexpr u32 PIECE = 4096, NORM_THREADS = 512, EACH = PIECE / NORM_THREADS;

// sum of a[i] b[i], or of a[i]², in sixteen lanes: pieces come to shared memory, and the first warp adds up. For all threads
// of the block; the first warp gets the sum.
template <class A, class B> DEVICE float sum_of_products(u32 width, float *pieces, A a, B b) {
    float *second = pieces + PIECE, sum = 0.0f;
    for (u32 first = 0; first < width; first += PIECE) {
        const u32 here = width - first < PIECE ? width - first : PIECE;
        float mine[EACH], other[EACH];
#pragma unroll
        for (u32 e = 0; e < EACH; e++) {
            const u32 i = e * NORM_THREADS + threadIdx.x;
            mine[e] = i < here ? a(first + i) : 0.0f;
            other[e] = i < here ? b(first + i) : 0.0f;
        }
#pragma unroll
        for (u32 e = 0; e < EACH; e++)
            pieces[e * NORM_THREADS + threadIdx.x] = mine[e], second[e * NORM_THREADS + threadIdx.x] = other[e];
        __syncthreads();
        if (threadIdx.x < 32) {
            // Sixteen sums; the other half of the warp does the same again, since a warp meets as a whole.
#pragma unroll 8
            for (u32 i = threadIdx.x % LANES; i < (here + LANES - 1) / LANES * LANES; i += LANES)
                sum = fmaf(pieces[i], second[i], sum); // filled up with zeros to whole lanes
        }
        __syncthreads();
    }
    return threadIdx.x < 32 ? lanes_sum(sum) : 0.0f;
}

// out[i] = (x[i] / sqrt(mean(x²) + epsilon)) * weight[i] of one vector, and, where the width is a multiple of 32, the same
// rounded as blocks from `block` on.
DEVICE void norm(const float *x, const float *weight, u32 width, float epsilon, float *pieces, float *out, Rounded rounded,
                 u64 block) {
    SHARED(float, inverse, 1);
    // Asked for now, needed at the end.
    float weights[EACH];
#pragma unroll
    for (u32 e = 0; e < EACH; e++) {
        const u32 i = e * NORM_THREADS + threadIdx.x;
        weights[e] = i < width ? weight[i] : 0.0f;
    }
    const auto number = [&](u32 i) { return x[i]; };
    const float sum = sum_of_products(width, pieces, number, number);
    if (threadIdx.x == 0) inverse[0] = 1.0f / sqrtf(sum / float(width) + epsilon);
    __syncthreads();
    const bool rounds = width % RUN == 0;
    for (u32 first = 0; first < width; first += PIECE) {
#pragma unroll
        for (u32 e = 0; e < EACH; e++) {
            const u32 i = first + e * NORM_THREADS + threadIdx.x;
            const bool inside = i < width;
            const float number = width <= PIECE ? pieces[i - first] : inside ? x[i] : 0.0f;
            const float y = inside ? (number * inverse[0]) * (first == 0 ? weights[e] : weight[i]) : 0.0f;
            if (inside) out[i] = y;
            if (rounds && i / RUN * RUN < width) round_run(y, block + i / RUN, rounded); // whole warps
        }
    }
}

// A block of 512 threads for each vector.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    rms_norm(const float *x, const float *weight, u32 width, float epsilon, float *out, signed char *codes, float *scales,
             int *wholes) {
    SHARED(float, pieces, 2 * PIECE);
    const u64 at = blockIdx.x;
    norm(x + at * width, weight, width, epsilon, pieces, out + at * width, {codes, scales, wholes}, at * (width / RUN));
}

// The beginning of a layer for one token: block 0 norms x, and every other gives one router's logit of x as it is.
template <class F>
DEVICE void begin(const u8 *router, const float *x, const float *weight, u32 width, float epsilon, float *logits,
                  float *out, Rounded rounded) {
    SHARED(float, pieces, 2 * PIECE);
    if (blockIdx.x == 0) {
        norm(x, weight, width, epsilon, pieces, out, rounded, 0);
        return;
    }
    const u8 *row = router + (blockIdx.x - 1) * row_bytes<F>(width);
    const float sum = sum_of_products(
        width, pieces, [&](u32 i) { return F::weight(row + u64(i) * F::BYTES); }, [&](u32 i) { return x[i]; });
    if (threadIdx.x == 0) logits[blockIdx.x - 1] = sum;
}
#define BEGIN(name, F)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS)                                                         \
        name(const u8 *router, const float *x, const float *weight, u32 width, float epsilon, float *logits,           \
             float *out, signed char *codes, float *scales, int *wholes) {                                             \
        begin<F>(router, x, weight, width, epsilon, logits, out, {codes, scales, wholes});                             \
    }
BEGIN(begin_f32, F32)
BEGIN(begin_f16, F16)
BEGIN(begin_bf16, BF16)
