/* descent.h - groups of tokens descending one tree.
 *
 * Tokens that stand at the same node are a group and share each load of its weights. A group takes
 * one level at a time (one dot a token) or two at once: the node's dot and both of its children's,
 * 3 dots for 2 levels. That is half the multiply-adds more and half the loads of x, which come from
 * L2 while the multiply-adds would wait for them.
 */
#ifndef FFK_DESCENT_H
#define FFK_DESCENT_H

#include "fff/node_rows.h"
#include "memory/workspace.h"

#include <string.h>

enum {
    FFK_MAX_LEVELS = 21,    /* depth 20 */
    FFK_GROUP_TOKENS = 256, /* at most, in one descent */
    FFK_CHUNK = 64,         /* tokens whose dots or activations stand on the stack at a time */
    /* Tokens from which a group takes two levels at once. One token alone needs 2 rows of weights
     * for 2 levels, not 3, and those rows are what it waits for. */
    FFK_PAIR_TOKENS = 2
};

/* One tree and the tokens that descend it; arrays by token begin at the token that counts as 0. */
typedef struct {
    const ffk_products *products;
    const ffk_isa *isa;
    int64_t d_in, d_out, depth;
    size_t element;           /* bytes */
    const char *x;            /* (tokens, d_in)   */
    const char *w_in, *w_out; /* (n_nodes, d_in), (n_nodes, d_out) */
    void *y;                  /* (tokens, d_out)  */
    ffk_how how;              /* what becomes of y */
    float *z;                 /* (tokens, stride): pre-activations of the path, by level */
    int64_t stride;
    int32_t *node; /* (tokens,): where each has come to */
    int far;       /* the weights come from memory: tiling.h */
} ffk_descent;

static inline int64_t ffk_z_stride(int64_t depth) { return (depth + 1 + 15) / 16 * 16; }

static inline const void *ffk_in_row(const ffk_descent *t, int64_t node) {
    return t->w_in + (size_t)(node * t->d_in) * t->element;
}

static inline const void *ffk_out_row(const ffk_descent *t, int64_t node) {
    return t->w_out + (size_t)(node * t->d_out) * t->element;
}

typedef struct {
    int32_t node, level, first, count; /* tokens [first, first + count) of the list */
} ffk_group;

/* Order `count` tokens by their class of four, those of one class as they stood. */
static inline void ffk_partition(int32_t *token, const uint8_t *class, const int32_t *sizes,
                                 int64_t count) {
    int32_t sorted[FFK_GROUP_TOKENS];
    int32_t at[4] = {0, sizes[0], sizes[0] + sizes[1], sizes[0] + sizes[1] + sizes[2]};
    for (int64_t i = 0; i < count; ++i)
        sorted[at[class[i]]++] = token[i];
    memcpy(token, sorted, (size_t)count * sizeof *token);
}

/* Return the node that a lone token comes to. No branch hangs on the dot, so that the next token's
 * begins before this one ends. */
static inline int32_t ffk_step_alone(const ffk_descent *t, const ffk_group *g, const int32_t *token,
                                     const void *const *ahead, int64_t n_ahead) {
    float *z = t->z + *token * t->stride + g->level;
    const void *const w = ffk_in_row(t, g->node);
    if (t->far)
        t->products->dots(1, 1, t->d_in, t->x, token, 0, &w, z, ahead, n_ahead);
    else {
        for (int64_t i = 0; i < n_ahead; ++i)
            ffk_fetch_head(ahead[i], FFK_HEAD_LINES);
        *z = t->products->dot(t->d_in, t->x + (size_t)(*token * t->d_in) * t->element, w);
    }
    return 2 * g->node + 1 + (*z >= 0.0f);
}

/* Take a group one level down, or two (`levels`): write z, and sort its tokens by the node that
 * they come to, of sizes[0..3]. A NaN turns left. coming: as for the products' dots. */
static inline void ffk_step(const ffk_descent *t, const ffk_group *g, int levels, int32_t *token,
                            int64_t coming, const void *const *ahead, int64_t n_ahead,
                            int32_t *sizes) {
    uint8_t class[FFK_GROUP_TOKENS];
    float z[3 * FFK_CHUNK];
    const int64_t node = g->node, rows = levels == 2 ? 3 : 1;
    const void *const w[3] = {ffk_in_row(t, node), ffk_in_row(t, levels == 2 ? 2 * node + 1 : node),
                              ffk_in_row(t, levels == 2 ? 2 * node + 2 : node)};
    memset(sizes, 0, 4 * sizeof *sizes);
    for (int64_t first = 0; first < g->count; first += FFK_CHUNK) {
        const int64_t n = ffk_min(FFK_CHUNK, g->count - first);
        const int64_t behind = coming > 0 ? coming + g->count - first - n : 0;
        t->products->dots(n, rows, t->d_in, t->x, token + first, behind, w, z, ahead,
                          first == 0 ? n_ahead : 0);
        for (int64_t i = 0; i < n; ++i) {
            float *own = t->z + token[first + i] * t->stride + g->level;
            int turns = z[i * rows] >= 0.0f;
            own[0] = z[i * rows];
            if (levels == 2) {
                own[1] = z[i * rows + 1 + turns];
                turns = 2 * turns + (own[1] >= 0.0f);
            }
            class[first + i] = (uint8_t)turns;
            ++sizes[turns];
        }
    }
    ffk_partition(token, class, sizes, g->count);
}

/* Descend with at most FFK_GROUP_TOKENS tokens from `node` at `level` to level `last`, the groups
 * of one level after the other, so that the rows which the next group needs are known and fetched
 * while one is at work. Leaves the list sorted by the nodes that are reached, from left to right,
 * and t->node: the leaf where `last` is the tree's depth, else the child below `last`. */
static inline void ffk_descend(const ffk_descent *t, int32_t *token, int64_t count, int64_t node,
                               int64_t level, int64_t last, int64_t coming) {
    ffk_group queue[2 * FFK_GROUP_TOKENS]; /* a ring: every group in it has tokens of its own */
    uint32_t head = 0, tail = 0;
    queue[tail++] = (ffk_group){(int32_t)node, (int32_t)level, 0, (int32_t)count};
    while (head != tail) {
        const ffk_group g = queue[head++ % (2 * FFK_GROUP_TOKENS)];
        const ffk_group *next = &queue[head % (2 * FFK_GROUP_TOKENS)];
        const int levels = g.count >= FFK_PAIR_TOKENS && g.level < last ? 2 : 1;
        const void *ahead[3];
        int64_t n_ahead = 0;
        if (head != tail) {
            ahead[n_ahead++] = ffk_in_row(t, next->node);
            if (next->count >= FFK_PAIR_TOKENS && next->level < last) {
                ahead[n_ahead++] = ffk_in_row(t, 2 * (int64_t)next->node + 1);
                ahead[n_ahead++] = ffk_in_row(t, 2 * (int64_t)next->node + 2);
            }
        }
        if (g.count == 1 && levels == 1) {
            const int32_t reached = ffk_step_alone(t, &g, token + g.first, ahead, n_ahead);
            if (g.level < last)
                queue[tail++ % (2 * FFK_GROUP_TOKENS)] =
                    (ffk_group){reached, g.level + 1, g.first, 1};
            else
                t->node[token[g.first]] = last == t->depth ? g.node : reached;
            continue;
        }
        int32_t sizes[4];
        ffk_step(t, &g, levels, token + g.first, g.level == level ? coming : 0, ahead, n_ahead,
                 sizes);
        ffk_group child = {(levels == 2 ? 4 * g.node + 3 : 2 * g.node + 1), g.level + levels,
                           g.first, 0};
        for (int i = 0; i < 2 * levels; ++i, ++child.node) {
            child.count = sizes[i];
            if (child.count > 0 && child.level <= last)
                queue[tail++ % (2 * FFK_GROUP_TOKENS)] = child;
            /* Below the leaves there is nothing: a token stays at the leaf that it came through. */
            const int32_t reached = last == t->depth ? (child.node - 1) / 2 : child.node;
            for (int32_t k = child.first; child.level > last && k < child.first + child.count; ++k)
                t->node[token[k]] = reached;
            child.first += child.count;
        }
    }
}

#endif
