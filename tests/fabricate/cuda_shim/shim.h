/* shim.h - CUDA C++ on the CPU: one fiber per thread of a block, one block after the other.
 *
 * A kernel's source is included unchanged behind this header. A fiber runs until it meets a barrier
 * or a warp operation, and goes on when all that must meet there are there. Who does not come is a
 * fault: stricter than the hardware, a thread that has returned is missing at a barrier too. Warps
 * run as far ahead of each other as the barriers let them, in an order that each launch chooses, so
 * that a missing barrier shows. Shared memory holds NaN when a block begins.
 */
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sanitizer/common_interface_defs.h>
#include <utility>

#define __global__ inline /* compiled where the table of entries names it */
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shim_shared")))

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <class T> T __ldg(const T *p) { return *p; }
inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline int __popc(unsigned u) { return __builtin_popcount(u); }
template <class To, class From> To shim_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline float __uint_as_float(unsigned u) { return shim_bits<float>(u); }
inline unsigned __float_as_uint(float v) { return shim_bits<unsigned>(v); }

/* Where a thread waits: the barrier of the block or of some lanes, and what those exchange. */
enum class Wait { NONE, BLOCK, SHUFFLE, BALLOT, RETURNED };

struct Fiber {
    void *stack_pointer;
    char *stack;
    size_t stack_bytes;
    void *asan; /* what AddressSanitizer keeps of a stack that is left */
    Wait wait;
    int line;
    unsigned mask, source, value, result;
};

enum { SHIM_STACK = 1 << 16, SHIM_THREADS = 1024, SHIM_LANES = 32 };

struct Shim {
    Fiber fibers[SHIM_THREADS], scheduler;
    Fiber *current;
    int threads;
    uint32_t order; /* 0 forwards, 1 backwards, else from anywhere on, drawn anew each round */
    uint32_t random;
    void (*kernel)(void **);
    void **arguments;
};
inline Shim shim;

[[noreturn]] void shim_fault(const char *format, ...);
void shim_run_grid(dim3 grid, int block, uint32_t order);
void shim_wait(Wait wait, int line, unsigned mask, unsigned source, unsigned value);

/* Every lane of the mask hands in a value and takes that of its source lane. */
template <class T> T shim_shuffle(unsigned mask, T value, unsigned source, int line) {
    shim_wait(Wait::SHUFFLE, line, mask, source, shim_bits<unsigned>(value));
    return shim_bits<T>(shim.current->result);
}
inline unsigned shim_ballot(unsigned mask, bool predicate, int line) {
    shim_wait(Wait::BALLOT, line, mask, 0, predicate);
    return shim.current->result;
}
inline unsigned shim_lane() { return threadIdx.x % SHIM_LANES; }

#define __syncthreads() shim_wait(Wait::BLOCK, __LINE__, 0, 0, 0)
#define __syncwarp(...) shim_wait(Wait::SHUFFLE, __LINE__, 0xffffffff, shim_lane(), 0)
#define __shfl_sync(mask, v, lane) shim_shuffle(mask, v, lane, __LINE__)
#define __shfl_xor_sync(mask, v, bits) shim_shuffle(mask, v, shim_lane() ^ (bits), __LINE__)
#define __shfl_down_sync(mask, v, by)                                                              \
    shim_shuffle(mask, v, shim_lane() + (by) < SHIM_LANES ? shim_lane() + (by) : shim_lane(),      \
                 __LINE__)
#define __ballot_sync(mask, predicate) shim_ballot(mask, predicate, __LINE__)

/* Call a kernel as the driver does: with the addresses of its arguments. */
template <class... A, size_t... I>
void shim_call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A *>(arguments[I])...);
}
template <class... A> void shim_call(void (*kernel)(A...), void **arguments) {
    shim_call(kernel, arguments, std::index_sequence_for<A...>());
}

struct ShimEntry {
    const char *name;
    void (*call)(void **);
};
#define SHIM_ENTRY(space, name)                                                                    \
    {#name, [](void **arguments) { shim_call(space::name, arguments); }},
