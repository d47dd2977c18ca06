// The words of CUDA that our kernels use, for a C++ compiler of the host: so that the same sources run, slowly, where no
// accelerator is at hand. Each thread of a block is a fiber; blocks run one after the other. Between two meetings
// (__syncthreads, a shuffle, a vote) fibers run in an order drawn anew each time, so that a missing meeting shows, and
// shared memory begins as NaN.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct Triple {
    unsigned x, y, z;
};

namespace emulated {
// Where the running fiber is.
extern thread_local Triple thread, block, threads, blocks;
// All fibers of the block, or of the warp, meet.
void meet_block();
void meet_warp();
// A word of one lane of the running fiber's warp.
uint32_t &slot(unsigned lane);
// The next piece of the block's shared memory: the same for all its threads, since all ask in one order.
void *shared(size_t bytes);
[[noreturn]] void fail(const char *sentence);
} // namespace emulated

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define threadIdx emulated::thread
#define blockIdx emulated::block
#define blockDim emulated::threads
#define gridDim emulated::blocks

// An array in shared memory.
#define SHARED(type, name, count) type *name = static_cast<type *>(emulated::shared(sizeof(type) * (count)))

inline void __syncthreads() { emulated::meet_block(); }

template <class V> V emulated_exchange(V value, unsigned from) {
    static_assert(sizeof(V) == 4, "a shuffle moves words");
    unsigned lane = (emulated::thread.x + emulated::threads.x * emulated::thread.y) % 32;
    std::memcpy(&emulated::slot(lane), &value, 4);
    emulated::meet_warp();
    V other;
    std::memcpy(&other, &emulated::slot(from % 32), 4);
    emulated::meet_warp();
    return other;
}
inline void emulated_all(unsigned mask) {
    if (mask != 0xffffffffu) emulated::fail("warps meet as a whole");
}
template <class V> V __shfl_xor_sync(unsigned mask, V value, int bits) {
    emulated_all(mask);
    return emulated_exchange(value, emulated::thread.x % 32 ^ bits);
}
template <class V> V __shfl_sync(unsigned mask, V value, int lane, int width = 32) {
    emulated_all(mask);
    return emulated_exchange(value, emulated::thread.x % 32 / width * width + lane % width);
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
    emulated_all(mask);
    unsigned lane = emulated::thread.x % 32, votes = 0;
    emulated::slot(lane) = vote != 0;
    emulated::meet_warp();
    for (unsigned l = 0; l < 32; l++) votes |= emulated::slot(l) << l;
    emulated::meet_warp();
    return votes;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; i++) sum += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
    return sum;
}

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned pick) {
    uint64_t both = uint64_t(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= unsigned(both >> 8 * (pick >> 4 * i & 7) & 255) << 8 * i;
    return result;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

struct int4 {
    int x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};

// f16 to f32 and back (nearest, ties to even), from the definition of the format.
inline float half_to_float(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 1023;
    float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? std::ldexp(float(1024 + fraction), exponent - 25)
                                     : std::ldexp(float(fraction), -24);
    return half >> 15 ? -magnitude : magnitude;
}
inline uint16_t float_to_half(float x) {
    uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    double m = std::fabs(double(x));
    if (std::isnan(x)) return sign | 0x7e00;
    if (m >= 65520.0) return sign | 0x7c00;
    if (m < std::ldexp(1.0, -14)) return sign | uint16_t(std::nearbyint(std::ldexp(m, 24)));
    int exponent;
    std::frexp(m, &exponent); // m = f * 2^exponent, f in [1/2, 1)
    uint32_t fraction = uint32_t(std::nearbyint(std::ldexp(m, 11 - exponent))); // 1024..=2048
    return sign | uint16_t((uint32_t(exponent + 14) << 10) + fraction - 1024);
}
