// Dense products: a matrix of rows times some vectors, and what surrounds them.
#include "blocks.h"

// Rounds `runs` times 32 numbers. A warp for each.
extern "C" __global__ void round_vectors(const float *x, u32 runs, signed char *codes, float *scales, int *wholes) {
    const u32 run = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (run < runs) round_run(x[u64(run) * RUN + threadIdx.x % 32], run, {codes, scales, wholes});
}

// Rows that sixteen threads take at once.
constexpr int ROWS = 2;

// out[t][row] (+)= w[row] . x[t]. Blocks of 256 threads take 32 rows; gridDim.y counts tiles of T vectors.
template <class F, bool IN_LANES, bool ALIGNED, int T>
DEVICE void products(Matrix w, u32 rows, Vectors x, u32 t, float *out, u32 add) {
    const u32 first = (blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES) * ROWS, vector = blockIdx.y * T;
    u32 row[ROWS], vectors[T];
    for (int r = 0; r < ROWS; r++) row[r] = first + r < rows ? first + r : rows - 1;
    for (int i = 0; i < T; i++) vectors[i] = vector + i < t ? vector + i : t - 1;
    float sums[ROWS][T];
    dot<F, IN_LANES, ALIGNED, ROWS, T>(w, row, x, vectors, sums);
    if (threadIdx.x % LANES != 0) return;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < T; i++)
            if (first + r < rows && vector + i < t) {
                float *to = out + u64(vector + i) * rows + first + r;
                *to = add ? *to + sums[r][i] : sums[r][i];
            }
}

#define PRODUCTS(name, F, IN_LANES, T)                                                                                 \
    extern "C" __global__ void name(const u8 *w, u32 rows, u32 width, const float *x, signed char *codes,              \
                                    float *scales, int *wholes, u32 t, float *out, u32 add) {                          \
        const Matrix matrix = {w, row_bytes<F>(width), width};                                                         \
        const Vectors vectors = {x, {codes, scales, wholes}};                                                          \
        if (matrix.row_bytes % 4 == 0) products<F, IN_LANES, true, T>(matrix, rows, vectors, t, out, add);             \
        else products<F, IN_LANES, false, T>(matrix, rows, vectors, t, out, add);                                      \
    }
#define PRODUCTS_BOTH(name, F, IN_LANES) PRODUCTS(name##_1, F, IN_LANES, 1) PRODUCTS(name##_8, F, IN_LANES, 8)
PRODUCTS_BOTH(products_q4_0_rows, Q4_0, false)
PRODUCTS_BOTH(products_q4_0_lanes, Q4_0, true)
PRODUCTS_BOTH(products_q4_1_rows, Q4_1, false)
PRODUCTS_BOTH(products_q4_1_lanes, Q4_1, true)
PRODUCTS_BOTH(products_q8_0_rows, Q8_0, false)
PRODUCTS_BOTH(products_q8_0_lanes, Q8_0, true)
PRODUCTS_BOTH(products_f32_rows, F32, false)
PRODUCTS_BOTH(products_f16_rows, F16, false)
PRODUCTS_BOTH(products_bf16_rows, BF16, false)

// out[t][i] = (x[t][i] / sqrt(mean(x[t]²) + epsilon)) * weight[i]. A block of 256 threads for each vector; and, where the
// width is a multiple of 32, the same rounded.
extern "C" __global__ void rms_norm(const float *x, const float *weight, u32 width, float epsilon, float *out,
                                    signed char *codes, float *scales, int *wholes) {
    SHARED(float, inverse, 1);
    x += u64(blockIdx.x) * width;
    out += u64(blockIdx.x) * width;
    if (threadIdx.x < 32) {
        // Sixteen sums; the other half of the warp does the same again, since a warp meets as a whole.
        float squares = 0.0f;
#pragma unroll 8
        for (u32 i = threadIdx.x % LANES; i < width; i += LANES) squares = fmaf(x[i], x[i], squares);
        const float mean = lanes_sum(squares) / float(width);
        if (threadIdx.x == 0) inverse[0] = 1.0f / sqrtf(mean + epsilon);
    }
    __syncthreads();
    const bool rounds = width % RUN == 0;
    for (u32 first = 0; first < width; first += blockDim.x) {
        const u32 i = first + threadIdx.x;
        if (!rounds) {
            if (i < width) out[i] = (x[i] * inverse[0]) * weight[i];
        } else if (i / RUN * RUN < width) { // whole warps
            const float y = (x[i] * inverse[0]) * weight[i];
            out[i] = y;
            round_run(y, u64(blockIdx.x) * (width / RUN) + i / RUN, {codes, scales, wholes});
        }
    }
}
