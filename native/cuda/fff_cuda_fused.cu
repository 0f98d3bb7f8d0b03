/* fff_cuda_fused.cu - FFF forward pass on the GPU in one launch: all levels, y written once.
 *
 * A token belongs to a team of 1, 2, 4 or 8 warps of one block, which walk its paths together:
 *     z = <x[b], w_in[node]>,   y[b] += gelu(z) * w_out[node],   right iff z >= 0
 * (a NaN turns left). x and the sums of y stay in registers; so does the path, as its present node.
 *
 * flops:     2 * batch * trees * (depth + 1) * (d_in + d_out), activation not counted.
 * Bytes:     trees * (depth + 1) * (d_in + d_out) weight elements a token, 16 bytes a lane, lanes
 *            side by side; x and y once. At d = 768, depth 11 and float32 that is 72 KiB a token at
 *            half a flop a byte: bandwidth is the bound, the L2 cache's where it holds the 24 MiB.
 * Occupancy: at most 128 registers a thread, so 16 warps a multiprocessor. Each asks for its w_in
 *            and its w_out row at once, 6 KiB: 96 KiB a multiprocessor are on their way, where
 *            bandwidth times latency is about 64 bytes * 300 clocks = 19 KiB.
 * Tile:      24 elements of a row a lane: one warp holds a row of 768, a team of 8 one of 6144.
 *            What x has beyond is read again at every level; what y has beyond is cut into tiles
 *            along blockIdx.y, each of which walks the paths anew. More warps than the row needs
 *            are for batches too small to fill the GPU. A team's partial sums cross one barrier a
 *            level, in two buffers in turn, so that no second barrier has to guard their reuse.
 * Tails:     in *_aligned, rows begin at multiples of 16 bytes and are whole pieces of 16, of which
 *            the last lanes may have none. *_any takes every other width by loads of one element,
 *            lanes side by side; each needs an address and a bound of its own in registers, so
 *            that a lane holds 8 elements there, not 24.
 */
#include "gelu.cuh"
#include "rows.cuh"

enum { THREADS = 256, WARPS = THREADS / LANES, HELD_ALIGNED = 24, HELD_ANY = 8 };

struct Shape {
    int batch, d_in, d_out, depth, trees, team;
};

/* Add a lane's products of x and a row: the first PIECES of x are held, wider x is read again. */
template <bool ALIGNED, class T, int PIECES, int WIDTH>
__device__ static void add_products(const T *x, const T *row, int first, int stride, int size,
                                    int lane, const float (&held)[PIECES][WIDTH],
                                    float (&part)[WIDTH]) {
    float v[WIDTH], again[WIDTH];
    for (int p = 0; p < PIECES; ++p) {
        load<ALIGNED>(row, first + p * stride, size, lane, v);
        for (int i = 0; i < WIDTH; ++i)
            part[i] += held[p][i] * v[i];
    }
#pragma unroll 1
    for (int at = first + PIECES * stride; at < size; at += stride) {
        load<ALIGNED>(x, at, size, lane, again);
        load<ALIGNED>(row, at, size, lane, v);
        for (int i = 0; i < WIDTH; ++i)
            part[i] += again[i] * v[i];
    }
}

/* Return the sum over the warp: the same bits in every lane, since a pair adds the same numbers. */
template <int WIDTH> __device__ static float sum_over_warp(const float (&part)[WIDTH]) {
    float sum = 0.0f;
    for (int i = 0; i < WIDTH; ++i)
        sum += part[i];
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(0xffffffff, sum, distance);
    return sum;
}

/* Return the sum of z over a team's warps. `slot` is not written again before a further barrier. */
__device__ static float sum_over_team(float z, float (&slot)[WARPS], int warp, int team) {
    if (threadIdx.x % LANES == 0)
        slot[warp] = z;
    __syncthreads();
    const int first = warp - warp % team;
    float sum = 0.0f;
    for (int i = 0; i < WARPS; ++i)
        if (i < team)
            sum += slot[first + i];
    return sum;
}

template <bool ALIGNED, class T>
__device__ static void fff(const T *__restrict__ x, const T *__restrict__ w_in,
                           const T *__restrict__ w_out, T *__restrict__ y, Shape s,
                           float (&slots)[2][WARPS]) {
    constexpr int WIDTH = 16 / sizeof(T), PIECE = LANES * WIDTH,
                  PIECES = (ALIGNED ? HELD_ALIGNED : HELD_ANY) / WIDTH;
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int token = blockIdx.x * (WARPS / s.team) + warp / s.team;
    const bool is_real = token < s.batch; /* else on the last token's path, to meet the barriers */
    const int stride = s.team * PIECE;    /* from one piece of a warp to its next */
    const int first = warp % s.team * PIECE;
    const int tile = blockIdx.y * PIECES * stride; /* the first output of this block */
    const int n_nodes = (2 << s.depth) - 1;

    x += (long long)(is_real ? token : s.batch - 1) * s.d_in; /* (d_in,) */
    float held[PIECES][WIDTH], sums[PIECES][WIDTH] = {};
    for (int p = 0; p < PIECES; ++p)
        load<ALIGNED>(x, first + p * stride, s.d_in, lane, held[p]);

    int step = 0;
    for (int k = 0; k < s.trees; ++k) {
        int node = k * n_nodes; /* counted over all trees */
        for (int d = 0; d <= s.depth; ++d, ++step) {
            float part[WIDTH] = {}, out[PIECES][WIDTH];
            /* Asked for before z is known: one wait a level, not two. */
            for (int p = 0; p < PIECES; ++p)
                load<ALIGNED>(w_out + (long long)node * s.d_out, tile + first + p * stride, s.d_out,
                              lane, out[p]);
            add_products<ALIGNED>(x, w_in + (long long)node * s.d_in, first, stride, s.d_in, lane,
                                  held, part);
            float z = sum_over_warp(part);
            if (s.team > 1)
                z = sum_over_team(z, slots[step % 2], warp, s.team);
            const float a = gelu(z);
            for (int p = 0; p < PIECES; ++p)
                for (int i = 0; i < WIDTH; ++i)
                    sums[p][i] += a * out[p][i];
            node += node - k * n_nodes + 1 + (z >= 0.0f);
        }
    }
    if (is_real)
        for (int p = 0; p < PIECES; ++p)
            store<ALIGNED>(y + (long long)token * s.d_out, tile + first + p * stride, s.d_out, lane,
                           sums[p]);
}

#define ENTRY(name, T, ALIGNED)                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                       \
        name(const T *x, const T *w_in, const T *w_out, T *y, int batch, int d_in, int d_out,      \
             int depth, int trees, int team) {                                                     \
        __shared__ float slots[2][WARPS];                                                          \
        const Shape s = {batch, d_in, d_out, depth, trees, team};                                  \
        fff<ALIGNED>(x, w_in, w_out, y, s, slots);                                                 \
    }
ENTRY(fff_cuda_fused_float32_aligned, float, true)
ENTRY(fff_cuda_fused_float32_any, float, false)
ENTRY(fff_cuda_fused_bfloat16_aligned, bfloat16, true)
ENTRY(fff_cuda_fused_bfloat16_any, bfloat16, false)
