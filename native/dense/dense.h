/* dense.h - a plain layer by our own products: y = gelu(x w_in^T) w_out, rows of weights one behind
 * the other. The FF, and an FFF of depth 0, whose trees are the neurons.
 *
 * A tile of tokens meets the neurons a block at a time, and each block 8 tokens at a time: their
 * pre-activations, the activation, and what the block adds to y; wide rows a slice of columns at a
 * time, but for one or two tokens. The intermediate never leaves L2, the slice's weights stay there
 * while the tile's tokens pass, the next block's are fetched meanwhile. Where there are few tiles,
 * units of work are ranges of the neurons too, each with sums of its own, which are added up in
 * their order.
 */
#ifndef FFK_DENSE_H
#define FFK_DENSE_H

#include "dense/tiling.h"
#include "threads/parallel_for.h"

#include <string.h>

/* A block of neurons and the tokens of a tile that meet it, in groups of about the same size: one
 * after the other, or all together where rows are cut into slices. */
typedef struct {
    int64_t n, rows;          /* neurons */
    int64_t t, count;         /* tokens */
    int64_t groups, from, to; /* groups, and those of them that are at work */
    float *y, *a;             /* a (to - from, rows, FFK_ADD_TOKENS) */
} ffk_dense_block_of;

static inline int64_t ffk_dense_first(const ffk_dense_block_of *b, int64_t group) {
    return b->count * group / b->groups;
}

/* Pre-activations of a block, a slice of columns after the other: a slice of a group's x stays in
 * L1, that of the rows in L2. Each group fetches its share of the slice that comes next. */
static inline void ffk_dense_in(const ffk_dense *d, const ffk_dense_block_of *b) {
    const char *w = d->w_in + (size_t)b->n * d->in_bytes;
    for (int64_t c = 0, end; c < d->d_in; c = end) {
        end = ffk_min(c + d->in_columns, d->d_in);
        const char *slice = w + (size_t)c * d->element, *ahead = w + (size_t)end * d->element;
        int64_t n_ahead = b->rows;
        if (end == d->d_in) { /* the first slice of the next block, or of rows nearer than that */
            const int64_t near = b->groups == 1 && c == 0 ? FFK_DENSE_NEAR : d->block;
            ahead = w + (size_t)near * d->in_bytes;
            n_ahead = d->neurons - b->n - near;
        }
        for (int64_t g = b->from; g < b->to; ++g) {
            const int64_t t = ffk_dense_first(b, g), count = ffk_dense_first(b, g + 1) - t;
            d->products->multiply(count, b->rows, end - c, d->d_in, d->x + (b->t + t) * d->d_in + c,
                                  slice, b->a + (g - b->from) * b->rows * FFK_ADD_TOKENS, ahead,
                                  n_ahead, b->groups, g);
        }
    }
}

/* What the block adds to y, in the same way. */
static inline void ffk_dense_out(const ffk_dense *d, const ffk_dense_block_of *b) {
    const char *w = d->w_out + (size_t)b->n * d->out_bytes;
    for (int64_t c = 0, end; c < d->d_out; c = end) {
        end = ffk_min(c + d->out_columns, d->d_out);
        const char *slice = w + (size_t)c * d->element, *ahead = w + (size_t)end * d->element;
        int fetches = 1;
        if (end == d->d_out) {
            ahead = w + (size_t)b->rows * d->out_bytes;
            fetches = d->neurons - b->n >= 2 * b->rows; /* the block ahead is there */
        }
        for (int64_t g = b->from; g < b->to; ++g) {
            const int64_t t = ffk_dense_first(b, g), count = ffk_dense_first(b, g + 1) - t;
            d->products->add(count, b->rows, end - c, d->d_out,
                             b->a + (g - b->from) * b->rows * FFK_ADD_TOKENS, slice,
                             b->y + (b->t + t) * d->d_out + c, ahead, b->groups, fetches ? g : -1);
        }
    }
}

static inline void ffk_dense_unit(void *state, int64_t i) {
    const ffk_dense *d = state;
    float a[FFK_DENSE_TILE * FFK_DENSE_SLICED_MOST]; /* more than a group's whole block */
    const int64_t range = i % d->ranges, end = ffk_min((range + 1) * d->range, d->neurons);
    ffk_dense_block_of b = {.n = range * d->range, .t = i / d->ranges * d->tile, .a = a};
    b.count = ffk_min(d->tile, d->batch - b.t);
    b.groups = ffk_ceil_div(b.count, FFK_ADD_TOKENS);
    b.y = d->sums + range * d->batch * d->d_out;
    memset(b.y + b.t * d->d_out, 0, (size_t)(b.count * d->d_out) * sizeof *b.y);
    for (; b.n < end; b.n += d->block) {
        b.rows = ffk_min(d->block, end - b.n);
        for (b.from = 0; b.from < b.groups; b.from = b.to) {
            b.to = d->sliced ? b.groups : b.from + 1;
            const int64_t n = (b.to - b.from) * b.rows * FFK_ADD_TOKENS;
            memset(a, 0, (size_t)n * sizeof *a);
            ffk_dense_in(d, &b);
            d->isa->gelu(n, a);
            ffk_dense_out(d, &b);
        }
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
    ffk_dense d = ffk_dense_tiling(s, neurons);
    char *cursor = o->workspace;
    const size_t sums_bytes = ffk_dense_sums_bytes(&d);
    d.products = &c->isa->products[s->dtype];
    d.isa = c->isa;
    d.block = ffk_dense_block(&d, ffk_l2_bytes(c));
    d.w_in = (const char *)o->w_in;
    d.w_out = (const char *)o->w_out;
    d.y = (char *)o->y;
    d.sums = sums_bytes > 0 ? ffk_take(&cursor, sums_bytes) : o->y;
    d.x = o->x;
    if (ffk_dense_narrow(&d)) {
        d.narrow_x = (const char *)o->x;
        d.x = d.wide_x = (float *)(void *)cursor;
        ffk_parallel_for(c->team, s->batch, ffk_dense_widen, &d);
    }
    ffk_parallel_for(c->team, d.tiles * d.ranges, ffk_dense_unit, &d);
    if (sums_bytes > 0)
        ffk_parallel_for(c->team, s->batch, ffk_dense_finish, &d);
}

#endif
