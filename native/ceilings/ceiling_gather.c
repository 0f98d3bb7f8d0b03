/* ceiling_gather.c - bandwidth of whole rows in a scattered order, `hidden` times over the table x:
 * how an FFF reads its weights.
 *
 *     y[b, j] = <x[row(b)], w_in[hidden - 1]>     pass p takes the dot with w_in[p]
 *
 * row is a permutation of 0..batch - 1 without a fixed stride. The next row does not hang on this
 * one's dot, as it does on an FFF's path: so this is a bound that no descent of a tree can pass.
 * Bytes:  4 * hidden * batch * d_in, each row once a pass.
 * Needs:  batch a power of two.
 */
#include "ceilings/ceiling.h"
#include "fff/node_rows.h"

/* Rows fetched ahead where the table is larger than L3: whole ones, into L2. The rate from
 * memory is half as high again; in a cache the processor's own prefetcher is enough, and fetching
 * would cost. */
enum { ROWS_AHEAD = 4 };

/* Half of the bits of n, a power of two; at least 1. */
static int half_bits(int64_t n) {
    int half = 1;
    while (((int64_t)1 << (2 * half)) < n)
        ++half;
    return half;
}

/* The row that visit b of n reads. Each step is a bijection on 0..n - 1, n a power of two: an odd
 * factor modulo n, and the upper bits folded into the lower. Constants of Knuth and of Murmur3. */
static int64_t scattered(int64_t b, int64_t n, int half) {
    const uint64_t mask = (uint64_t)n - 1;
    uint64_t row = ((uint64_t)b * 0x9E3779B1u) & mask;
    row ^= row >> half;
    return (int64_t)((row * 0x85EBCA6Bu) & mask);
}

static void walk(const ffk_ceiling *c, int64_t first, int64_t end) {
    const ffk_shape *s = c->shape;
    const ffk_operands *o = c->operands;
    const int half = half_bits(s->batch);
    const int64_t row_lines = ffk_row_lines((size_t)s->d_in * sizeof *o->x);
    const int far = s->batch * s->d_in * (int64_t)sizeof *o->x > c->l3_bytes;
    for (int64_t pass = 0; pass < s->hidden; ++pass)
        for (int64_t b = first; b < end; ++b) {
            if (far)
                ffk_fetch_head(o->x + scattered(b + ROWS_AHEAD, s->batch, half) * s->d_in,
                               row_lines);
            const float *x = o->x + scattered(b, s->batch, half) * s->d_in; /* (d_in,) */
            const float z = c->isa->dot(s->d_in, x, o->w_in + pass * s->d_in);
            float *y = o->y + b * s->d_out; /* (d_out,) */
            for (int64_t j = 0; j < s->d_out; ++j)
                y[j] = z;
        }
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if ((s->batch & (s->batch - 1)) != 0)
        return FFK_BAD_SHAPE;
    ffk_walk_all(s, o, c, walk);
    return FFK_OK;
}

FFK_CEILING(gather, 0, 0);
