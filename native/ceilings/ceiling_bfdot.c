/* ceiling_bfdot.c - the peak rate of the dot products of bfloat16 pairs (AVX512_BF16, vdpbf16ps).
 *
 *     y[b, j] = hidden * (x[b, 0] * w_out[0, j] + x[b, 1] * w_out[1, j])
 *
 * flops:  4 * batch * hidden * d_out; a batch of 4s and d_out of 64s waste none.
 * Needs:  d_in = 2, hidden of 2 and more, a processor that has the instruction (else
 *         FFK_UNSUPPORTED_ISA). 16 chains: latency times ports is at most 12.
 */
#include "ceilings/repeated_product.h"

#ifdef FFK_HAVE_BFLOAT16_PRODUCTS
enum { ROWS = 4, VECTORS = 4, LANES = 16, COLUMNS = VECTORS * LANES };

/* sums = steps * (x pairs)(w pairs)^T, 4 + 4 operands and 16 sums in 32 registers. */
__attribute__((target("avx512f,avx512bf16"))) static void
multiply(int64_t steps, const ffk_bfloat16 x[ROWS][2 * LANES], const ffk_bfloat16 w[2 * COLUMNS],
         float sums[ROWS][COLUMNS]) {
    __m512 sum[ROWS][VECTORS];
    __m512bh a[ROWS], b[VECTORS];
    memset(sum, 0, sizeof sum);
    memcpy(a, x, sizeof a);
    memcpy(b, w, sizeof b);
    for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j)
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], a[i], b[j]);
    }
    memcpy(sums, sum, sizeof sum);
}

static void walk(const ffk_ceiling *c, int64_t first, int64_t end) {
    ffk_bfloat16 x[ROWS][2 * LANES], w[2 * COLUMNS];
    float sums[ROWS][COLUMNS];
    for (int64_t b = first; b < end; b += ROWS) {
        for (int64_t i = 0; i < ROWS; ++i) {
            ffk_take_row(c, b + i, end, x[i]);
            for (int64_t lane = 1; lane < LANES; ++lane)
                memcpy(x[i] + 2 * lane, x[i], 2 * sizeof *x[i]);
        }
        for (int64_t j = 0; j < c->shape->d_out; j += COLUMNS) {
            ffk_take_pairs(c, 0, j, COLUMNS, w);
            multiply(c->shape->hidden, (const ffk_bfloat16(*)[2 * LANES]) x, w, sums);
            for (int64_t i = 0; i < ROWS && b + i < end; ++i)
                ffk_put_row(c, b + i, j, COLUMNS, sums[i]);
        }
    }
}
#endif

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (s->d_in != 2 || s->hidden < 2)
        return FFK_BAD_SHAPE;
#ifdef FFK_HAVE_BFLOAT16_PRODUCTS
    if (__builtin_cpu_supports("avx512bf16")) {
        ffk_walk_all(s, o, c, walk);
        return FFK_OK;
    }
#endif
    (void)o, (void)c;
    return FFK_UNSUPPORTED_ISA;
}

FFK_BFLOAT16_CEILING(bfdot);
