/* fff_cpu_grouped.c - FFF forward pass with tokens grouped by node: each row of weights that is
 * loaded serves all tokens of its group ("level 3" of the conditional layer).
 *
 *     z = <x[b], w_in[node]>,  y[b] = sum over the path of gelu(z) * w_out[node]
 *
 * A small batch descends as one group. A larger one takes two steps, each of independent units:
 *   1. tiles of tokens descend the upper `split` levels;
 *   2. tokens are sorted by the subtree that they came to, and descend it, a piece of one subtree's
 *      at a time: x of a piece and the weights of a subtree stay in L2. Then the piece's outputs,
 *      leaf after leaf: a leaf's tokens share all 12 rows, and neighbouring leaves most of them. y
 *      is written past the caches where it is larger than a core can hope to keep.
 * Several trees: tiles of tokens descend and add up one tree after the other. Trees of depth 0 are
 * the neurons of a plain layer: dense.h.
 *
 * flops:  2 * batch * trees * (depth + 1) * (d_in + d_out); the pairs of levels (descent.h) compute
 *         half as many again of the first product.
 * Bytes:  x twice (once for a small batch), y once, each touched weight row about once.
 * Needs:  nothing. Workspace: z and three indices for each token.
 * Tile:   tokens whose x is a third of L2 (128 of width 768): the upper levels' weights take a
 * fifth.
 */
#include "cut.h"
#include "dense.h"
#include "outputs.h"
#include "team.h"

typedef struct {
    ffk_descent tree;
    const ffk_shape *shape;
    const ffk_operands *operands;
    int64_t tile, split;
    int64_t threads;        /* which piece a thread takes next: for fetching alone */
    int far;                /* x comes from memory */
    int32_t *order, *piece; /* tokens by subtree; the pieces' bounds in it */
    int64_t pieces;
    float *sums; /* (batch, d_out), where y is narrower than float32 and added up */
} job;

static int is_dense(const ffk_shape *s) { return s->depth == 0 && s->trees > 1; }

static size_t workspace_bytes(const ffk_shape *s) {
    if (is_dense(s))
        return ffk_dense_workspace(s, s->trees);
    const size_t batch = (size_t)s->batch;
    const size_t sums = s->trees > 1 && s->dtype != FFK_FLOAT32 ? batch * (size_t)s->d_out : 0;
    return ffk_round_up(batch * (size_t)ffk_z_stride(s->depth) * sizeof(float)) +
           2 * ffk_round_up(batch * sizeof(int32_t)) +
           ffk_round_up((size_t)ffk_most_pieces(s) * sizeof(int32_t)) +
           ffk_round_up(sums * sizeof(float));
}

/* ---- one tree, a large batch ---- */

static void descend_tile(void *state, int64_t i) {
    const job *j = state;
    int32_t token[FFK_GROUP_TOKENS + 8];
    const int64_t first = i * j->tile, count = ffk_min(j->tile, j->shape->batch - first);
    const int64_t coming = ffk_min(8, j->shape->batch - first - count);
    for (int64_t k = 0; k < count + coming; ++k)
        token[k] = (int32_t)(first + k);
    ffk_descend(&j->tree, token, count, 0, 0, j->split - 1, j->far ? coming : 0);
}

/* Sort the tokens by subtree and cut each subtree's into pieces; return how many. */
static int64_t sort_by_subtree(const job *j) {
    const int64_t subtrees = (int64_t)1 << j->split, first_node = subtrees - 1;
    int32_t start[(1 << 12) + 1];
    memset(start, 0, (size_t)(subtrees + 1) * sizeof *start);
    for (int64_t b = 0; b < j->shape->batch; ++b)
        ++start[j->tree.node[b] - first_node + 1];
    for (int64_t k = 0; k < subtrees; ++k)
        start[k + 1] += start[k];
    int64_t pieces = 0;
    for (int64_t k = 0; k < subtrees; ++k)
        for (int64_t at = start[k]; at < start[k + 1]; at += j->tile)
            j->piece[pieces++] = (int32_t)at;
    j->piece[pieces] = (int32_t)j->shape->batch;
    for (int64_t b = 0; b < j->shape->batch; ++b)
        j->order[start[j->tree.node[b] - first_node]++] = (int32_t)b;
    return pieces;
}

/* A piece's outputs are written while x of the piece that this thread will take next is fetched. */
static void all_of_piece(void *state, int64_t i) {
    const job *j = state;
    const int64_t count = j->piece[i + 1] - j->piece[i], next = i + j->threads;
    int32_t *token = j->order + j->piece[i];
    ffk_feed feed = {.x = j->tree.x, .row_bytes = j->tree.d_in * (int64_t)j->tree.element};
    if (j->far && next < j->pieces) {
        feed.token = j->order + j->piece[next];
        feed.left = j->piece[next + 1] - j->piece[next];
    }
    ffk_descend(&j->tree, token, count, j->tree.node[*token], j->split, j->tree.depth, 0);
    ffk_emit(&j->tree, token, count, &feed);
}

/* ---- a small batch, or several trees ---- */

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

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (is_dense(s)) {
        ffk_dense_run(s, s->trees, o, c);
        return FFK_OK;
    }
    const int64_t l2 = c->l2_bytes > 0 ? c->l2_bytes : FFK_ASSUMED_L2;
    const int64_t l3 = c->l3_bytes > 0 ? c->l3_bytes : FFK_ASSUMED_L3;
    const size_t batch = (size_t)s->batch;
    char *cursor = o->workspace;
    job j = {.shape = s,
             .operands = o,
             .tile = ffk_tile_tokens(s, l2),
             .split = ffk_split_levels(s, l2)};
    ffk_descent *t = &j.tree;
    t->products = &c->isa->products[s->dtype];
    t->isa = c->isa;
    t->d_in = s->d_in;
    t->d_out = s->d_out;
    t->depth = s->depth;
    t->element = ffk_element_bytes(s);
    t->x = (const char *)o->x;
    t->w_in = (const char *)o->w_in;
    t->w_out = (const char *)o->w_out;
    t->stride = ffk_z_stride(s->depth);
    t->z = ffk_take(&cursor, batch * (size_t)t->stride * sizeof(float));
    t->node = ffk_take(&cursor, batch * sizeof(int32_t));
    j.order = ffk_take(&cursor, batch * sizeof(int32_t));
    j.piece = ffk_take(&cursor, (size_t)ffk_most_pieces(s) * sizeof(int32_t));
    if (s->trees > 1 && s->dtype != FFK_FLOAT32)
        j.sums = (float *)(void *)cursor;
    t->y = j.sums != NULL ? (void *)j.sums : (void *)o->y;
    t->how = s->trees > 1 ? FFK_ADD : FFK_STORE;
    if (s->trees == 1 && s->batch <= FFK_GROUP_TOKENS)
        j.tile = s->batch;
    if (s->trees > 1 || s->batch <= FFK_GROUP_TOKENS || s->depth < 3) {
        ffk_share(c->team, (s->batch + j.tile - 1) / j.tile, all_of_tile, &j);
        return FFK_OK;
    }
    if ((int64_t)(batch * (size_t)s->d_out * t->element) >= l3 / 16)
        t->how = FFK_PAST;
    j.far = (int64_t)batch * s->d_in * (int64_t)t->element > l3 / 2;
    j.threads = c->team != NULL ? c->team->threads : 1;
    ffk_share(c->team, (s->batch + j.tile - 1) / j.tile, descend_tile, &j);
    j.pieces = sort_by_subtree(&j);
    ffk_share(c->team, j.pieces, all_of_piece, &j);
    c->isa->settle();
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_fff_cpu_grouped;
const ffk_kernel ffk_kernel_fff_cpu_grouped = {.id = "fff_cpu_grouped",
                                               .layer = "fff",
                                               .dtypes = FFK_TAKES_FLOAT32 | FFK_TAKES_BFLOAT16,
                                               .workspace_bytes = workspace_bytes,
                                               .run = run};
