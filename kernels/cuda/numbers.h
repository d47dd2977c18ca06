// What every kernel here uses: the numbers, and sixteen threads that are the sixteen sums of a row.
//
// The rule of this folder is the rule of the whole program: a sum has one order, fixed by format and verb
// (docs/KERNELS.md), and every multiply-add that the host fuses is fused here, and no other (nvcc gets --fmad=false). So
// an accelerator gives the bits the processor gives, and where a weight lies changes nothing but the time.
#pragma once
#ifdef __CUDACC__
#include <cstdint>
#define SHARED(type, name, count) __shared__ type name[count]
__device__ __forceinline__ float half_to_float(uint16_t half) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
}
__device__ __forceinline__ uint16_t float_to_half(float x) {
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
}
#else
#include "emulate/emulate.h"
#endif

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

#define DEVICE __device__ __forceinline__
constexpr u32 WARP = 0xffffffffu;
// Weights and activations that share a scale.
constexpr int RUN = 32;
// Sums of a row, each in a thread of its own.
constexpr int LANES = 16;

DEVICE uint16_t half_bits(const u8 *at) { return *reinterpret_cast<const uint16_t *>(at); }
DEVICE float half_at(const u8 *at) { return half_to_float(half_bits(at)); }

// Four bytes that may begin at any even address.
template <bool ALIGNED> DEVICE u32 word_at(const u8 *at) {
    if (ALIGNED) return *reinterpret_cast<const u32 *>(at);
    return half_bits(at) | u32(half_bits(at + 2)) << 16;
}

// The tree over sixteen lanes: l + 8, l + 4, l + 2, l + 1. All sixteen get the result.
DEVICE float lanes_sum(float x) {
    for (int half = LANES / 2; half > 0; half /= 2) x = x + __shfl_xor_sync(WARP, x, half);
    return x;
}

// 2^x for x of at most 0, by the polynomial of the host (kernels/src/arch/exp.rs); 0 below -126.
DEVICE float exp2_host(float x) {
    const float round = 12582912.0f;
    float t = x + round;
    float f = x - (t - round);
    float p = __uint_as_float(0x39243db3);
    p = fmaf(p, f, __uint_as_float(0x3aafc326));
    p = fmaf(p, f, __uint_as_float(0x3c1d90e4));
    p = fmaf(p, f, __uint_as_float(0x3d6356d4));
    p = fmaf(p, f, __uint_as_float(0x3e75fdf3));
    p = fmaf(p, f, __uint_as_float(0x3f317219));
    p = fmaf(p, f, 1.0f);
    return x < -126.0f ? 0.0f : __uint_as_float(__float_as_uint(p) + (__float_as_uint(t) << 23));
}

// e^x, by the polynomial of the host: 0 below -87.3365, infinite above 88.72284.
DEVICE float exp_host(float x) {
    const float round = 12582912.0f;
    const float t = fmaf(x, __uint_as_float(0x3fb8aa3b), round); // log2 e
    const float n = t - round;
    const float r = fmaf(n, -__uint_as_float(0xb102e308), fmaf(n, -__uint_as_float(0x3f317218), x)); // ln 2 in two parts
    float p = __uint_as_float(0x3ab563a7);
    p = fmaf(p, r, __uint_as_float(0x3c091ef0));
    p = fmaf(p, r, __uint_as_float(0x3d2aac2c));
    p = fmaf(p, r, __uint_as_float(0x3e2aaa46));
    p = fmaf(p, r, __uint_as_float(0x3efffffe));
    p = fmaf(fmaf(p, r, 1.0f), r, 1.0f);
    if (x < -87.3365f) return 0.0f;
    if (x < 88.72284f) return __uint_as_float(__float_as_uint(p) + (__float_as_uint(t) << 23));
    return x + __uint_as_float(0x7f800000u);
}

// Rounded vectors: codes [t][width], and per 32 numbers a scale and the sum of the codes, [t][width / 32].
struct Rounded {
    signed char *codes;
    float *scales;
    int *wholes;
};

// Rounds 32 numbers, one in each lane of a warp, as block `block` of all rounded blocks: kernels/src/activations.rs.
DEVICE void round_run(float x, u64 block, Rounded to) {
    const float silent = __uint_as_float((127 - 100) << 23);
    const u32 lane = threadIdx.x % 32;
    u32 most = __float_as_uint(x) & 0x7fffffffu; // magnitudes compare as their bits do, NaN above all
    for (int bit = 16; bit > 0; bit /= 2) {
        u32 other = __shfl_xor_sync(WARP, most, bit);
        most = most > other ? most : other;
    }
    float largest = __uint_as_float(most), scale = 0.0f;
    int code = 0;
    if (most >= 0x7f800000u) {
        scale = __uint_as_float(0x7fc00000u);
    } else if (largest >= silent) {
        scale = largest / 127.0f;
        if (scale >= 1.0f / 16384.0f && scale <= 65504.0f) scale = half_to_float(float_to_half(scale));
        code = int(rintf(x * (127.0f / largest)));
    }
    int whole = code;
    for (int bit = 16; bit > 0; bit /= 2) whole += __shfl_xor_sync(WARP, whole, bit);
    to.codes[block * RUN + lane] = (signed char)code;
    if (lane == 0) {
        to.scales[block] = scale;
        to.wholes[block] = whole;
    }
}
