/* dense.h - a plain layer by our own products: y = gelu(x w_in^T) w_out, rows of weights one behind
 * the other. The FF, and an FFF of depth 0, whose trees are the neurons.
 *
 * A tile of tokens meets the neurons a block at a time, and each block 8 tokens at a time: their
 * pre-activations, the activation, and what the block adds to y. The intermediate never leaves L1,
 * the block's weights stay in L2 while the tile's tokens pass, the next block's are fetched
 * meanwhile. Where there are few tiles, units of work are ranges of the neurons too, each with sums
 * of its own, which are added up in the order of the ranges. All cuts but that into blocks depend
 * on the shape alone, that one on L2; none on the threads.
 */
#ifndef FFK_DENSE_H
#define FFK_DENSE_H

#include "team.h"
#include "workspace.h"

#include <string.h>

enum {
    FFK_DENSE_TILE = 256,        /* tokens, at most */
    FFK_DENSE_UNITS = 8,         /* of work, at least, where the ranges do not become too small */
    FFK_DENSE_RANGE_LEAST = 192, /* neurons, for which sums of their own cost about a hundredth */
    FFK_DENSE_BLOCK_LEAST = 6,   /* neurons; blocks are whole threes, as `dots` takes them */
    FFK_DENSE_BLOCK_MOST = 96,   /* 3 KiB of activations */
    FFK_DENSE_NEAR = 6,          /* rows of w_in fetched ahead for a lone group: 18 KiB of 768 */
    FFK_DENSE_ASSUMED_L2 = 1 << 20
};

typedef struct {
    const ffk_products *products;
    const ffk_isa *isa;
    int64_t batch, d_in, d_out, neurons, tile, tiles, range, ranges, block;
    size_t in_bytes, out_bytes, element; /* of a row of w_in, of w_out */
    const char *x, *w_in, *w_out;
    char *y;
    float *sums; /* (ranges, batch, d_out); y itself where it can be */
} ffk_dense;

static inline int64_t ffk_ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

/* How a layer of `neurons` is cut: by its shape, since the workspace depends on it. */
static inline ffk_dense ffk_dense_cut(const ffk_shape *s, int64_t neurons) {
    ffk_dense d = {.batch = s->batch, .d_in = s->d_in, .d_out = s->d_out, .neurons = neurons};
    d.tiles = ffk_ceil_div(s->batch, FFK_DENSE_TILE);
    d.tile = ffk_ceil_div(s->batch, d.tiles);
    const int64_t most = ffk_ceil_div(neurons, FFK_DENSE_RANGE_LEAST);
    const int64_t wanted = ffk_ceil_div(FFK_DENSE_UNITS, d.tiles);
    d.range = ffk_ceil_div(ffk_ceil_div(neurons, ffk_min(most, wanted)), 3) * 3;
    d.ranges = ffk_ceil_div(neurons, d.range);
    d.element = s->dtype == FFK_BFLOAT16 ? 2 : 4;
    d.in_bytes = (size_t)s->d_in * d.element;
    d.out_bytes = (size_t)s->d_out * d.element;
    return d;
}

/* Say whether the sums stand in the workspace and not in y. */
static inline int ffk_dense_apart(const ffk_dense *d) { return d->ranges > 1 || d->element < 4; }

static inline size_t ffk_dense_workspace(const ffk_shape *s, int64_t neurons) {
    const ffk_dense d = ffk_dense_cut(s, neurons);
    const int64_t sums = ffk_dense_apart(&d) ? d.ranges * d.batch * d.d_out : 0;
    return ffk_round_up((size_t)sums * sizeof(float));
}

/* Neurons whose rows, and the next block's, take about half of L2, w_in's and w_out's. */
static inline int64_t ffk_dense_block(const ffk_dense *d, int64_t l2) {
    const int64_t row = (int64_t)(d->in_bytes > d->out_bytes ? d->in_bytes : d->out_bytes);
    const int64_t fit = l2 / 7 / row / 3 * 3;
    return fit < FFK_DENSE_BLOCK_LEAST ? FFK_DENSE_BLOCK_LEAST : ffk_min(fit, FFK_DENSE_BLOCK_MOST);
}

/* Add up what `rows` neurons from n on give to `count` tokens from t on. The tile has `groups` such
 * groups, of which each fetches its share of the rows that come next. */
static inline void ffk_dense_group(const ffk_dense *d, int64_t n, int64_t rows, int64_t t,
                                   int64_t count, int64_t group, int64_t groups, float *y) {
    static const int32_t token[FFK_ADD_TOKENS] = {0, 1, 2, 3, 4, 5, 6, 7};
    float a[FFK_ADD_TOKENS * FFK_DENSE_BLOCK_MOST], z[3 * FFK_ADD_TOKENS];
    const char *x = d->x + (size_t)t * d->in_bytes, *w = d->w_in + (size_t)n * d->in_bytes;
    const int64_t near = groups == 1 ? FFK_DENSE_NEAR : d->block;
    const int64_t left = d->neurons - n - rows; /* rows that may be fetched */
    memset(a, 0, (size_t)(rows * FFK_ADD_TOKENS) * sizeof *a);
    for (int64_t r = 0, k = 0, three; r < rows; r += three, ++k) {
        three = rows - r >= 3 ? 3 : 1;
        const void *at[3], *ahead[3];
        for (int64_t i = 0; i < three; ++i) {
            at[i] = w + (size_t)(r + i) * d->in_bytes;
            ahead[i] = w + (size_t)ffk_min(r + i + near, rows + left - 1) * d->in_bytes;
        }
        d->products->dots(count, three, d->d_in, x, token, 0, at, z, ahead,
                          k % groups == group ? three : 0);
        for (int64_t i = 0; i < three; ++i)
            for (int64_t b = 0; b < count; ++b)
                a[(r + i) * FFK_ADD_TOKENS + b] = z[b * three + i];
    }
    d->isa->gelu(rows * FFK_ADD_TOKENS, a);
    w = d->w_out + (size_t)n * d->out_bytes;
    const int64_t turn = left >= rows ? group : -1; /* the block ahead is there */
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
    float *y = d->element == sizeof(float) ? (float *)(void *)d->y + token * d->d_out : sum;
    for (int64_t c = 0; c < d->d_out; ++c) {
        float total = sum[c];
        for (int64_t k = 1; k < d->ranges; ++k)
            total += sum[k * d->batch * d->d_out + c];
        y[c] = total;
    }
    if (y == sum)
        d->products->narrow(d->d_out, sum, d->y + (size_t)token * d->out_bytes);
}

static inline void ffk_dense_run(const ffk_shape *s, int64_t neurons, const ffk_operands *o,
                                 const ffk_context *c) {
    ffk_dense d = ffk_dense_cut(s, neurons);
    const int apart = ffk_dense_apart(&d);
    d.products = &c->isa->products[s->dtype];
    d.isa = c->isa;
    d.block = ffk_dense_block(&d, c->l2_bytes > 0 ? c->l2_bytes : FFK_DENSE_ASSUMED_L2);
    d.x = (const char *)o->x;
    d.w_in = (const char *)o->w_in;
    d.w_out = (const char *)o->w_out;
    d.y = (char *)o->y;
    d.sums = apart ? o->workspace : o->y;
    ffk_share(c->team, d.tiles * d.ranges, ffk_dense_unit, &d);
    if (apart)
        ffk_share(c->team, s->batch, ffk_dense_finish, &d);
}

#endif
