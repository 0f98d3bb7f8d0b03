/* tiling.h - how a plain layer by our own products (dense.h) is cut, by its shape and L2: never
 * by the threads. The workspace depends on the shape alone.
 */
#ifndef FFK_DENSE_TILING_H
#define FFK_DENSE_TILING_H

#include "memory/workspace.h"

enum {
    FFK_DENSE_TILE = 256,        /* tokens, at most */
    FFK_DENSE_UNITS = 8,         /* of work, at least, unless ranges become too small */
    FFK_DENSE_RANGE_LEAST = 192, /* neurons, for which sums of their own cost about a hundredth */
    FFK_DENSE_BLOCK_LEAST = 6,   /* neurons; blocks are whole threes, as `multiply` takes them */
    FFK_DENSE_BLOCK_MOST = 96,   /* 3 KiB of activations of a group */
    FFK_DENSE_SLICED_MOST = 48,  /* 48 KiB of a tile's */
    FFK_DENSE_COLUMNS = 1024,    /* at a time, about, where rows are wider than that */
    FFK_DENSE_WHOLE = 2,         /* tokens, at most, that take rows whole however wide */
    FFK_DENSE_NEAR = 6           /* rows of w_in fetched ahead for a lone group: 18 KiB of 768 */
};

typedef struct {
    const ffk_products *products;
    const ffk_isa *isa;
    int64_t batch, d_in, d_out, neurons, tile, tiles, range, ranges, block;
    int64_t in_columns, out_columns;     /* of a slice */
    int sliced;                          /* a row is more than one */
    size_t in_bytes, out_bytes, element; /* of a row of w_in, of w_out */
    const char *narrow_x, *w_in, *w_out;
    const float *x; /* as float32 */
    float *wide_x;  /* which is that in the workspace, where narrow_x is narrower */
    char *y;
    float *sums; /* (ranges, batch, d_out); y itself where it can be */
} ffk_dense;

/* Columns of a slice: about equal slices of whole lines. One or two tokens use a weight as soon as
 * it is there, and their x and y are small beside a block of rows: slices would only break the
 * stream of rows. */
static inline int64_t ffk_dense_columns(int64_t d, int64_t tokens) {
    if (tokens <= FFK_DENSE_WHOLE)
        return d;
    const int64_t slices = ffk_ceil_div(d, FFK_DENSE_COLUMNS);
    return ffk_ceil_div(ffk_ceil_div(d, slices), 32) * 32;
}

/* How a layer of `neurons` is cut: by its shape, since the workspace depends on it. */
static inline ffk_dense ffk_dense_tiling(const ffk_shape *s, int64_t neurons) {
    ffk_dense d = {.batch = s->batch, .d_in = s->d_in, .d_out = s->d_out, .neurons = neurons};
    d.tiles = ffk_ceil_div(s->batch, FFK_DENSE_TILE);
    d.tile = ffk_ceil_div(s->batch, d.tiles);
    const int64_t most = ffk_ceil_div(neurons, FFK_DENSE_RANGE_LEAST);
    const int64_t wanted = ffk_ceil_div(FFK_DENSE_UNITS, d.tiles);
    d.range = ffk_ceil_div(ffk_ceil_div(neurons, ffk_min(most, wanted)), 3) * 3;
    d.ranges = ffk_ceil_div(neurons, d.range);
    d.element = ffk_element_bytes(s);
    d.in_columns = ffk_dense_columns(s->d_in, d.tile);
    d.out_columns = ffk_dense_columns(s->d_out, d.tile);
    d.sliced = d.in_columns < s->d_in || d.out_columns < s->d_out;
    d.in_bytes = (size_t)s->d_in * d.element;
    d.out_bytes = (size_t)s->d_out * d.element;
    return d;
}

/* Say whether y is narrower than float32, and x with it. */
static inline int ffk_dense_narrow(const ffk_dense *d) { return d->element < sizeof(float); }

/* Bytes of the sums in the workspace; 0 where they stand in y. */
static inline size_t ffk_dense_sums_bytes(const ffk_dense *d) {
    const int apart = d->ranges > 1 || ffk_dense_narrow(d);
    return apart ? (size_t)(d->ranges * d->batch * d->d_out) * sizeof(float) : 0;
}

static inline size_t ffk_dense_workspace(const ffk_shape *s, int64_t neurons) {
    const ffk_dense d = ffk_dense_tiling(s, neurons);
    const size_t x = ffk_dense_narrow(&d) ? (size_t)(d.batch * d.d_in) * sizeof(float) : 0;
    return ffk_round_up(ffk_dense_sums_bytes(&d)) + ffk_round_up(x);
}

/* Neurons whose slices, and those that come next, take about half of L2, w_in's and w_out's. */
static inline int64_t ffk_dense_block(const ffk_dense *d, int64_t l2) {
    const int64_t in = ffk_min(d->in_columns, d->d_in), out = ffk_min(d->out_columns, d->d_out);
    const int64_t fit = l2 / 7 / (int64_t)d->element / (in > out ? in : out) / 3 * 3;
    const int64_t most = d->sliced ? FFK_DENSE_SLICED_MOST : FFK_DENSE_BLOCK_MOST;
    return fit < FFK_DENSE_BLOCK_LEAST ? FFK_DENSE_BLOCK_LEAST : ffk_min(fit, most);
}

#endif
