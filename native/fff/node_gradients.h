/* node_gradients.h - what tokens that have descended one tree (descent.h) add to the gradients of
 * its nodes, and their own gradients. */
#ifndef FFK_NODE_GRADIENTS_H
#define FFK_NODE_GRADIENTS_H

#include "fff/descent.h"

enum {
    FFK_SHARED_LEVELS = 3
}; /* whose rows share each load of x and dy: the most that dots take */

/* Where the gradients of one tree go: those of the levels above `split` to the rows of the subtree
 * in sums_*, the others to those of their nodes. */
typedef struct {
    const ffk_descent *tree;   /* z: the activations of the path */
    const float *dy;           /* (tokens, d_out) */
    float *dx;                 /* (tokens, d_in), or NULL; tree.how says what becomes of it */
    float *dw_in, *dw_out;     /* (n_nodes, d_in), (n_nodes, d_out), or NULL */
    float *dz;                 /* (tokens, stride): gelu'(z) and then dz, by level */
    float *sums_in, *sums_out; /* (subtrees, split, d_in), (subtrees, split, d_out) */
    int64_t split;
} ffk_node_gradients;

/* The node at `level` on the path to a leaf. */
static inline int64_t ffk_ancestor(const ffk_descent *t, int64_t leaf, int64_t level) {
    return ((leaf + 1) >> (t->depth - level)) - 1;
}

/* Return how many of `most` tokens, from the first on, stand at one node at `level`. */
static inline int64_t ffk_run_length(const ffk_descent *t, const int32_t *token, int64_t most,
                                     int64_t level) {
    const int64_t node = ffk_ancestor(t, t->node[token[0]], level);
    int64_t n = 1;
    while (n < ffk_min(most, FFK_CHUNK) && ffk_ancestor(t, t->node[token[n]], level) == node)
        ++n;
    return n;
}

/* Take n tokens that share the rows of `levels` levels (at most FFK_SHARED_LEVELS): multiply their
 * slopes in dz by da, and add to the rows' gradients. */
static inline void ffk_add_run(const ffk_node_gradients *g, int64_t subtree, const int32_t *token,
                               int64_t n, int64_t level, int64_t levels) {
    const ffk_descent *t = g->tree;
    const int upper = level < g->split;
    const void *w[FFK_SHARED_LEVELS], *x[FFK_CHUNK], *dy[FFK_CHUNK];
    float da[FFK_SHARED_LEVELS * FFK_CHUNK], a[FFK_SHARED_LEVELS * FFK_CHUNK];
    float dz[FFK_SHARED_LEVELS * FFK_CHUNK];
    int32_t row[FFK_SHARED_LEVELS];
    for (int64_t r = 0; r < FFK_SHARED_LEVELS; ++r) { /* fewer levels: the last row again */
        const int64_t at = level + ffk_min(r, levels - 1);
        const int64_t node = ffk_ancestor(t, t->node[*token], at);
        w[r] = ffk_out_row(t, node);
        row[r] = (int32_t)(upper ? subtree * g->split + at : node);
    }
    t->products->dots(n, FFK_SHARED_LEVELS, t->d_out, g->dy, token, 0, w, da, NULL, 0);
    for (int64_t i = 0; i < n; ++i) {
        float *own = g->dz + token[i] * t->stride + level;
        x[i] = t->x + (size_t)(token[i] * t->d_in) * t->element;
        dy[i] = g->dy + token[i] * t->d_out;
        for (int64_t r = 0; r < levels; ++r) {
            own[r] *= da[i * FFK_SHARED_LEVELS + r];
            dz[r * n + i] = own[r];
            a[r * n + i] = t->z[token[i] * t->stride + level + r];
        }
    }
    if (g->dw_in != NULL)
        t->products->combine(levels, n, t->d_in, dz, x, upper ? g->sums_in : g->dw_in, row, FFK_ADD,
                             NULL, 0, NULL);
    if (g->dw_out != NULL)
        t->products->combine(levels, n, t->d_out, a, dy, upper ? g->sums_out : g->dw_out, row,
                             FFK_ADD, NULL, 0, NULL);
}

/* Fill dx of tokens that are sorted by their leaves, or add to it. */
static inline void ffk_fill_dx(const ffk_node_gradients *g, const int32_t *token, int64_t count) {
    const ffk_descent *t = g->tree;
    const int64_t levels = t->depth + 1;
    const void *w[FFK_MAX_LEVELS];
    float dz[FFK_CHUNK * FFK_MAX_LEVELS];
    for (int64_t first = 0, n; first < count; first += n) {
        n = ffk_run_length(t, token + first, count - first, t->depth);
        for (int64_t level = 0; level < levels; ++level)
            w[level] = ffk_in_row(t, ffk_ancestor(t, t->node[token[first]], level));
        for (int64_t i = 0; i < n; ++i)
            memcpy(dz + i * levels, g->dz + token[first + i] * t->stride,
                   (size_t)levels * sizeof *dz);
        t->products->combine(n, levels, t->d_in, dz, w, g->dx, token + first, t->how, NULL, 0,
                             NULL);
    }
}

/* Add what a piece of a subtree's tokens makes of the gradients. */
static inline void ffk_add_piece(const ffk_node_gradients *g, int64_t subtree, int32_t *token,
                                 int64_t count) {
    const ffk_descent *t = g->tree;
    ffk_descend(t, token, count, ((int64_t)1 << g->split) - 1 + subtree, g->split, t->depth, 0);
    for (int64_t i = 0; i < count; ++i) {
        float *z = t->z + token[i] * t->stride, *dz = g->dz + token[i] * t->stride;
        memcpy(dz, z, (size_t)t->stride * sizeof *dz);
        t->isa->gelu_slope(t->stride, dz);
        t->isa->gelu(t->stride, z);
    }
    for (int64_t level = 0, levels; level <= t->depth; level += levels) {
        levels = ffk_min((level < g->split ? g->split : t->depth + 1) - level, FFK_SHARED_LEVELS);
        for (int64_t first = 0, n; first < count; first += n) {
            n = ffk_run_length(t, token + first, count - first, level + levels - 1);
            ffk_add_run(g, subtree, token + first, n, level, levels);
        }
    }
    if (g->dx != NULL)
        ffk_fill_dx(g, token, count);
}

#endif
