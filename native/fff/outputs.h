/* outputs.h - the outputs of tokens that have descended one tree (descent.h). */
#ifndef FFK_OUTPUTS_H
#define FFK_OUTPUTS_H

#include "fff/descent.h"

/* The rows of w_out on the path to a leaf, the root's first. */
static inline void ffk_path(const ffk_descent *t, int64_t leaf, const void **rows) {
    for (int64_t level = t->depth; level >= 0; --level, leaf = (leaf - 1) / 2)
        rows[level] = ffk_out_row(t, leaf);
}

/* Write the outputs of tokens that are sorted by their leaves: those of one leaf are a product
 * (tokens, levels) by (levels, d_out). The rows that the next leaf does not share are fetched
 * meanwhile (for a lone token whole ones where they come from memory, else their first lines), and
 * the feed: while outputs are written past the caches a core can wait for more of
 * memory, which it can't in the dots of many tokens. */
static inline void ffk_emit(const ffk_descent *t, const int32_t *token, int64_t count,
                            ffk_feed *feed) {
    const int64_t levels = t->depth + 1;
    const void *rows[FFK_MAX_LEVELS], *ahead[FFK_MAX_LEVELS];
    float a[FFK_CHUNK * FFK_MAX_LEVELS];
    for (int64_t first = 0, end; first < count; first = end) {
        const int64_t leaf = t->node[token[first]];
        for (end = first + 1; end < count && end - first < FFK_CHUNK;)
            if (t->node[token[end]] != leaf)
                break;
            else
                ++end;
        int64_t n_ahead = 0;
        if (end < count)
            for (int64_t p = t->node[token[end]], q = leaf; p != q;
                 p = (p - 1) / 2, q = (q - 1) / 2)
                ahead[n_ahead++] = ffk_out_row(t, p);
        ffk_path(t, leaf, rows);
        for (int64_t i = first; i < end; ++i)
            memcpy(a + (i - first) * levels, t->z + token[i] * t->stride,
                   (size_t)levels * sizeof *a);
        t->isa->gelu((end - first) * levels, a);
        if (end - first == 1 && t->how == FFK_STORE && !t->far) {
            for (int64_t i = 0; i < n_ahead; ++i)
                ffk_fetch_head(ahead[i], FFK_HEAD_LINES);
            t->products->combine_one(levels, t->d_out, a, rows,
                                     (char *)t->y + (size_t)(token[first] * t->d_out) * t->element);
            continue;
        }
        t->products->combine(end - first, levels, t->d_out, a, rows, t->y, token + first, t->how,
                             ahead, n_ahead, feed);
    }
}

#endif
