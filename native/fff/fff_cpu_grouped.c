/* fff_cpu_grouped.c - FFF forward pass with tokens grouped by node: each row of weights that is
 * loaded serves all tokens of its group ("level 3" of the conditional layer).
 *
 *     z = <x[b], w_in[node]>,  y[b] = sum over the path of gelu(z) * w_out[node]
 *
 * A few tokens descend as one group, more in two steps: subtrees.h. There y is written
 * past the caches where it is larger than a core can hope to keep. Several trees: tiles of tokens
 * descend and add up one tree after the other. Trees of depth 0 are the neurons of a plain layer:
 * dense.h.
 *
 * flops:  2 * batch * trees * (depth + 1) * (d_in + d_out); the pairs of levels (descent.h) compute
 *         half as many again of the first product.
 * Bytes:  x twice (once for a small batch), y once, each touched weight row about once.
 * Needs:  nothing. Workspace: z and three indices for each token; float32 sums of y, where it is
 *         narrower and trees add to it.
 * Tile:   tokens whose x is a third of L2 (128 of width 768): the upper levels' weights take a
 * fifth.
 */
#include "dense/dense.h"
#include "fff/subtrees.h"

typedef struct {
    ffk_descent tree; /* the first */
    const ffk_shape *shape;
    const ffk_operands *operands;
    int64_t tile;
    float *sums; /* (batch, d_out), where y is narrower than float32 and added up */
} job;

static int is_dense(const ffk_shape *s) { return s->depth == 0 && s->trees > 1; }

static size_t workspace_bytes(const ffk_shape *s) {
    if (is_dense(s))
        return ffk_dense_workspace(s, s->trees);
    const size_t batch = (size_t)s->batch, indices = ffk_round_up(batch * sizeof(int32_t));
    size_t bytes = ffk_round_up(batch * (size_t)ffk_z_stride(s->depth) * sizeof(float)) + indices;
    if (s->trees == 1)
        bytes += indices + ffk_round_up((size_t)ffk_most_pieces(s) * sizeof(int32_t));
    else if (s->dtype != FFK_FLOAT32)
        bytes += batch * (size_t)s->d_out * sizeof(float);
    return bytes;
}

static void all_of_tile(void *state, int64_t i) {
    const job *j = state;
    const ffk_shape *s = j->shape;
    ffk_descent t = j->tree;
    int32_t token[FFK_GROUP_TOKENS];
    const int64_t first = i * j->tile, count = ffk_min(j->tile, s->batch - first);
    const int64_t rows = ((int64_t)2 << s->depth) - 1;
    const int adds = s->trees > 1;
    for (int64_t k = 0; k < s->trees; ++k) {
        for (int64_t b = 0; b < count; ++b)
            token[b] = (int32_t)(first + b);
        ffk_descend(&t, token, count, 0, 0, s->depth, 0);
        if (adds && k == 0)
            memset((float *)t.y + first * s->d_out, 0, (size_t)(count * s->d_out) * sizeof(float));
        ffk_emit(&t, token, count, NULL);
        t.w_in += (size_t)(rows * s->d_in) * t.element;
        t.w_out += (size_t)(rows * s->d_out) * t.element;
    }
    if (j->sums != NULL)
        t.products->narrow(count * s->d_out, j->sums + first * s->d_out,
                           (char *)j->operands->y + (size_t)(first * s->d_out) * t.element);
}

/* Describe the first tree, with z and node from the workspace. */
static ffk_descent first_tree(const ffk_shape *s, const ffk_operands *o, const ffk_context *c,
                              char **workspace) {
    ffk_descent t = {.products = &c->isa->products[s->dtype],
                     .isa = c->isa,
                     .d_in = s->d_in,
                     .d_out = s->d_out,
                     .depth = s->depth,
                     .element = ffk_element_bytes(s),
                     .x = (const char *)o->x,
                     .w_in = (const char *)o->w_in,
                     .w_out = (const char *)o->w_out,
                     .y = o->y,
                     .how = s->trees > 1 ? FFK_ADD : FFK_STORE,
                     .stride = ffk_z_stride(s->depth),
                     .far = ffk_weights_are_far(s, c)};
    t.z = ffk_take(workspace, (size_t)(s->batch * t.stride) * sizeof(float));
    t.node = ffk_take(workspace, (size_t)s->batch * sizeof(int32_t));
    return t;
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (is_dense(s)) {
        ffk_dense_run(s, s->trees, o, c);
        return FFK_OK;
    }
    const int64_t l2 = ffk_l2_bytes(c), l3 = ffk_l3_bytes(c);
    char *cursor = o->workspace;
    job j = {.tree = first_tree(s, o, c, &cursor), .shape = s, .operands = o};
    const int one_group = s->trees == 1 && s->batch <= FFK_ALONE;
    j.tile = one_group ? s->batch : ffk_tile_tokens(s, l2);
    if (s->trees == 1 && !one_group && s->depth >= FFK_SPLIT_DEPTH) {
        const int64_t x = s->batch * s->d_in * (int64_t)j.tree.element;
        const int64_t y = s->batch * s->d_out * (int64_t)j.tree.element;
        j.tree.how = y >= l3 / 16 ? FFK_PAST : FFK_STORE;
        ffk_subtrees subtrees = {.tree = &j.tree,
                                 .batch = s->batch,
                                 .tile = j.tile,
                                 .split = ffk_split_levels(s, l2),
                                 .run = ffk_run_pieces(s, j.tile),
                                 .far = x > l3 / 2};
        subtrees.order = ffk_take(&cursor, (size_t)s->batch * sizeof(int32_t));
        subtrees.piece = ffk_take(&cursor, (size_t)ffk_most_pieces(s) * sizeof(int32_t));
        ffk_through_subtrees(&subtrees, c->team);
        c->isa->settle();
        return FFK_OK;
    }
    if (s->trees > 1 && s->dtype != FFK_FLOAT32)
        j.tree.y = j.sums = (float *)(void *)cursor;
    ffk_parallel_for(c->team, ffk_ceil_div(s->batch, j.tile), all_of_tile, &j);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_fff_cpu_grouped;
const ffk_kernel ffk_kernel_fff_cpu_grouped = {.id = "fff_cpu_grouped",
                                               .layer = "fff",
                                               .dtypes = FFK_TAKES_FLOAT32 | FFK_TAKES_BFLOAT16,
                                               .workspace_bytes = workspace_bytes,
                                               .run = run};
