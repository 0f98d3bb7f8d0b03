/* dense.h - a plain layer by our own products: y = gelu(x w_in^T) w_out, rows of weights one behind
 * the other. The FF, and an FFF of depth 0, whose trees are the neurons.
 *
 * A tile of tokens meets the neurons a block at a time, and each block 8 tokens at a time: their
 * pre-activations, the activation, and what the block adds to y. The intermediate never leaves L1,
 * the block's weights stay in L2 while the tile's tokens pass, the next block's are fetched
 * meanwhile. Where there are few tiles, units of work are ranges of the neurons too, each with sums
 * of its own, which are added up in their order.
 */
#ifndef FFK_DENSE_H
#define FFK_DENSE_H

#include "dense_cut.h"
#include "team.h"

#include <string.h>

/* Add up what `rows` neurons from n on give to `count` tokens from t on. The tile has `groups` such
 * groups, of which each fetches its share of the rows that come next. */
static inline void ffk_dense_group(const ffk_dense *d, int64_t n, int64_t rows, int64_t t,
                                   int64_t count, int64_t group, int64_t groups, float *y) {
    float a[FFK_ADD_TOKENS * FFK_DENSE_BLOCK_MOST];
    const char *w = d->w_in + (size_t)n * d->in_bytes;
    const int64_t near = groups == 1 ? FFK_DENSE_NEAR : d->block;
    const int64_t left = d->neurons - n; /* whose rows are there to be fetched */
    memset(a, 0, (size_t)(rows * FFK_ADD_TOKENS) * sizeof *a);
    d->products->multiply(count, rows, d->d_in, d->x + t * d->d_in, w, a,
                          w + (size_t)near * d->in_bytes, left - near, groups, group);
    d->isa->gelu(rows * FFK_ADD_TOKENS, a);
    w = d->w_out + (size_t)n * d->out_bytes;
    const int64_t turn = left >= 2 * rows ? group : -1; /* the block ahead is there */
    d->products->add(count, rows, d->d_out, a, w, y + t * d->d_out, w + (size_t)rows * d->out_bytes,
                     groups, turn);
}

static inline void ffk_dense_unit(void *state, int64_t i) {
    const ffk_dense *d = state;
    const int64_t range = i % d->ranges, first = i / d->ranges * d->tile;
    const int64_t count = ffk_min(d->tile, d->batch - first);
    const int64_t end = ffk_min((range + 1) * d->range, d->neurons);
    const int64_t groups = ffk_ceil_div(count, FFK_ADD_TOKENS);
    float *y = d->sums + range * d->batch * d->d_out;
    memset(y + first * d->d_out, 0, (size_t)(count * d->d_out) * sizeof *y);
    for (int64_t n = range * d->range; n < end; n += d->block)
        for (int64_t g = 0, t = 0, next; g < groups; ++g, t = next) {
            next = count * (g + 1) / groups; /* groups of about the same size */
            ffk_dense_group(d, n, ffk_min(d->block, end - n), first + t, next - t, g, groups, y);
        }
}

/* Add up the ranges' sums of one token, in their order, and round them where y is narrower. */
static inline void ffk_dense_finish(void *state, int64_t token) {
    const ffk_dense *d = state;
    float *sum = d->sums + token * d->d_out;
    float *y = ffk_dense_narrow(d) ? sum : (float *)(void *)d->y + token * d->d_out;
    for (int64_t c = 0; c < d->d_out; ++c) {
        float total = sum[c];
        for (int64_t k = 1; k < d->ranges; ++k)
            total += sum[k * d->batch * d->d_out + c];
        y[c] = total;
    }
    if (y == sum)
        d->products->narrow(d->d_out, sum, d->y + (size_t)token * d->out_bytes);
}

static inline void ffk_dense_widen(void *state, int64_t token) {
    const ffk_dense *d = state;
    d->products->widen(d->d_in, d->narrow_x + (size_t)token * d->in_bytes,
                       d->wide_x + token * d->d_in);
}

static inline void ffk_dense_run(const ffk_shape *s, int64_t neurons, const ffk_operands *o,
                                 const ffk_context *c) {
    ffk_dense d = ffk_dense_cut(s, neurons);
    char *cursor = o->workspace;
    const size_t sums_bytes = ffk_dense_sums_bytes(&d);
    d.products = &c->isa->products[s->dtype];
    d.isa = c->isa;
    d.block = ffk_dense_block(&d, c->l2_bytes > 0 ? c->l2_bytes : FFK_DENSE_ASSUMED_L2);
    d.w_in = (const char *)o->w_in;
    d.w_out = (const char *)o->w_out;
    d.y = (char *)o->y;
    d.sums = sums_bytes > 0 ? ffk_take(&cursor, sums_bytes) : o->y;
    d.x = o->x;
    if (ffk_dense_narrow(&d)) {
        d.narrow_x = (const char *)o->x;
        d.x = d.wide_x = (float *)(void *)cursor;
        ffk_share(c->team, s->batch, ffk_dense_widen, &d);
    }
    ffk_share(c->team, d.tiles * d.ranges, ffk_dense_unit, &d);
    if (sums_bytes > 0)
        ffk_share(c->team, s->batch, ffk_dense_finish, &d);
}

#endif
