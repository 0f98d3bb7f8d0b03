/* tiling.h - how a batch is cut, by its shape and the caches: never by the threads. */
#ifndef FFK_FFF_TILING_H
#define FFK_FFF_TILING_H

#include "fff/descent.h"

enum {
    FFK_TILE_LEAST = 8,
    FFK_BUCKET_LEAST = 64, /* tokens of a subtree, on average */
    FFK_MOST_SPLIT = 10,
    FFK_RUNS = 16,
    FFK_MOST_RUN = 8,
    FFK_SPLIT_DEPTH = 3, /* levels above and below the split, in pairs */
    /* Tokens that one thread takes through the whole tree as one group: sorting so few by subtree
     * costs more than it gains. */
    FFK_ALONE = 8
};

/* Tokens whose x takes a third of L2. */
static inline int64_t ffk_tile_tokens(const ffk_shape *s, int64_t l2) {
    const int64_t fit = l2 / 3 / (int64_t)((size_t)s->d_in * ffk_element_bytes(s)) / 8 * 8;
    return fit < FFK_TILE_LEAST ? FFK_TILE_LEAST : ffk_min(fit, FFK_GROUP_TOKENS);
}

/* Say whether the weights come from memory: as the caller told, or where the rows that so many
 * tokens can touch, 2^level of a level and no more than there are tokens, are more than L3 keeps
 * beside x and y. */
static inline int ffk_weights_are_far(const ffk_shape *s, const ffk_context *c) {
    int64_t nodes = 0;
    for (int64_t level = 0; level <= s->depth; ++level)
        nodes += ffk_min((int64_t)1 << level, s->batch);
    const int64_t bytes = s->trees * nodes * (s->d_in + s->d_out) * (int64_t)ffk_element_bytes(s);
    return c->far_weights || bytes > ffk_l3_bytes(c) / 2;
}

/* Levels of the first step: as many as leave subtrees tokens to share, weights that fit, pairs. */
static inline int64_t ffk_split_levels(const ffk_shape *s, int64_t l2) {
    const int64_t row = s->d_in * (int64_t)ffk_element_bytes(s);
    int64_t split = 2;
    while (split < FFK_MOST_SPLIT && split + 2 < s->depth &&
           (((int64_t)4 << split) - 1) * row <= l2 / 4 &&
           s->batch >> (split + 2) >= FFK_BUCKET_LEAST)
        split += 2;
    return split;
}

/* Pieces that a thread takes at once: neighbours share a subtree's weights, of which each thread
 * would read its own. Some 16 runs are left, so that threads can share out the work. */
static inline int64_t ffk_run_pieces(const ffk_shape *s, int64_t tile) {
    const int64_t run = s->batch / tile / FFK_RUNS;
    return run < 1 ? 1 : ffk_min(run, FFK_MOST_RUN);
}

/* Bound of the pieces that a sorted batch is cut into, and their end. */
static inline int64_t ffk_most_pieces(const ffk_shape *s) {
    return s->batch / FFK_TILE_LEAST + 1 + ffk_min(s->batch, (int64_t)1 << ffk_min(s->depth, 20));
}

#endif
