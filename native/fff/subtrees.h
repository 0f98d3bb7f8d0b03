/* subtrees.h - a large batch through one tree, in two steps of independent units:
 *   1. tiles of tokens descend the upper `split` levels;
 *   2. tokens are sorted by the subtree that they came to, and descend it, a piece of one subtree's
 *      at a time: x of a piece and the weights of a subtree stay in L2. Then the piece's outputs,
 *      leaf after leaf: a leaf's tokens share all 12 rows, and neighbouring leaves most of them.
 */
#ifndef FFK_SUBTREES_H
#define FFK_SUBTREES_H

#include "fff/outputs.h"
#include "fff/tiling.h"
#include "threads/parallel_for.h"
#include "vector/prefetch.h"

typedef struct {
    const ffk_descent *tree;
    int64_t batch, tile, split, run; /* run: pieces that a thread takes at once */
    int far;                         /* x comes from memory */
    int64_t threads;                 /* which run a thread takes next: for fetching alone */
    int32_t *order, *piece;          /* tokens by subtree; the pieces' bounds in it */
    int64_t pieces;
} ffk_subtrees;

static inline void ffk_upper_levels(void *state, int64_t i) {
    const ffk_subtrees *s = state;
    int32_t token[FFK_GROUP_TOKENS + FFK_LATER_TOKENS];
    const int64_t first = i * s->tile, count = ffk_min(s->tile, s->batch - first);
    const int64_t coming = ffk_min(FFK_LATER_TOKENS, s->batch - first - count);
    for (int64_t k = 0; k < count + coming; ++k)
        token[k] = (int32_t)(first + k);
    ffk_descend(s->tree, token, count, 0, 0, s->split - 1, s->far ? coming : 0);
}

/* Sort the tokens by subtree: those of subtree k stand in `order` up to end[k], behind those of the
 * one before. */
static inline void ffk_sort_by_subtree(const ffk_subtrees *s, int32_t *end) {
    const int64_t subtrees = (int64_t)1 << s->split, first_node = subtrees - 1;
    memset(end, 0, (size_t)subtrees * sizeof *end);
    for (int64_t b = 0; b < s->batch; ++b)
        ++end[s->tree->node[b] - first_node];
    for (int32_t k = 0, first = 0; k < subtrees; ++k) {
        const int32_t count = end[k];
        end[k] = first;
        first += count;
    }
    for (int64_t b = 0; b < s->batch; ++b)
        s->order[end[s->tree->node[b] - first_node]++] = (int32_t)b;
}

/* Cut each subtree's tokens into pieces. */
static inline void ffk_cut_pieces(ffk_subtrees *s) {
    int32_t end[1 << FFK_MOST_SPLIT];
    ffk_sort_by_subtree(s, end);
    s->pieces = 0;
    int64_t at = 0;
    for (int64_t k = 0; k < (int64_t)1 << s->split; ++k)
        for (; at < end[k]; at = ffk_min(at + s->tile, end[k]))
            s->piece[s->pieces++] = (int32_t)at;
    s->piece[s->pieces] = (int32_t)s->batch;
}

/* A piece's outputs are written while x of piece `next` is fetched. */
static inline void ffk_piece(const ffk_subtrees *s, int64_t i, int64_t next) {
    const int64_t count = s->piece[i + 1] - s->piece[i];
    int32_t *token = s->order + s->piece[i];
    ffk_feed feed = {.x = s->tree->x, .row_bytes = s->tree->d_in * (int64_t)s->tree->element};
    if (s->far && next < s->pieces) {
        feed.token = s->order + s->piece[next];
        feed.left = s->piece[next + 1] - s->piece[next];
    }
    ffk_descend(s->tree, token, count, s->tree->node[*token], s->split, s->tree->depth, 0);
    ffk_emit(s->tree, token, count, &feed);
}

/* A run of pieces for one thread: most subtrees' weights then go to one thread's L2 alone. */
static inline void ffk_run_of_pieces(void *state, int64_t i) {
    const ffk_subtrees *s = state;
    const int64_t end = ffk_min((i + 1) * s->run, s->pieces);
    for (int64_t piece = i * s->run; piece < end; ++piece)
        ffk_piece(s, piece, piece + 1 < end ? piece + 1 : (i + s->threads) * s->run);
}

static inline void ffk_through_subtrees(ffk_subtrees *s, const ffk_team *team) {
    s->threads = team != NULL ? team->threads : 1;
    ffk_parallel_for(team, ffk_ceil_div(s->batch, s->tile), ffk_upper_levels, s);
    ffk_cut_pieces(s);
    ffk_parallel_for(team, ffk_ceil_div(s->pieces, s->run), ffk_run_of_pieces, s);
}

#endif
