/* fff_cpu_backward.c - FFF backward pass along each token's path, tokens grouped by node.
 *
 *     z = <x[b], w_in[node]>, a = gelu(z), da = <dy[b], w_out[node]>, dz = gelu'(z) * da
 *     dx[b]        = sum over the path of dz * w_in[node]
 *     dw_in[node]  = sum over the node's tokens of dz * x[b],   dw_out[node] of a * dy[b]
 *
 * The turns have no gradient. The path and z are computed anew, by the descent of the forward pass:
 * a fifth of the arithmetic, and no forward pass has to leave them behind.
 *
 * One tree after the other, as subtrees.h: tiles of tokens descend the upper levels and are sorted
 * by subtree; a subtree is a unit of work, whose tokens descend it piece by piece and end sorted by
 * leaf. Then each run of tokens that share a path of three levels is three products of level 3: da
 * (tokens x d_out x 3), and what it adds to three rows of dw_in and of dw_out. The rows of a
 * subtree are written by its unit alone. The nodes above get a sum from each subtree, in rows of
 * the workspace, which are added up in the subtrees' order: the same bytes for any number of
 * threads. Where all tokens go through one subtree, one thread has all of the work.
 *
 * flops:  10 * batch * trees * (depth + 1) * (d_in + d_out) / 2; the pairs of levels of the descent
 *         compute half as many again of z.
 * Bytes:  x and dy about twice, dx once a tree, each touched row of the weights about once, every
 *         row of their gradients once: where tokens are fewer than nodes most of those are zeros.
 * Needs:  nothing. Workspace: z, dz and two indices for each token, and the subtrees' sums.
 * Tile:   tokens whose x and dy are a third of L2.
 */
#include "fff/node_gradients.h"
#include "fff/subtrees.h"

enum {
    MOST_UPPER = 6, /* levels above the subtrees: 64 units, and rows of sums fewer than nodes */
    MOST_SUBTREES = 1 << MOST_UPPER
};

typedef struct {
    ffk_descent tree;
    ffk_subtrees subtrees;
    ffk_node_gradients to;
    int32_t *end; /* (subtrees,): of their tokens in subtrees.order */
} job;

static int64_t upper_levels(const ffk_shape *s) { return ffk_min((s->depth + 1) / 2, MOST_UPPER); }

static int64_t tile_tokens(const ffk_shape *s, int64_t l2) {
    const int64_t fit = l2 / 3 / ((s->d_in + s->d_out) * (int64_t)sizeof(float)) / 8 * 8;
    return fit < FFK_TILE_LEAST ? FFK_TILE_LEAST : ffk_min(fit, FFK_GROUP_TOKENS);
}

static size_t workspace_bytes(const ffk_shape *s) {
    const size_t batch = (size_t)s->batch, upper = (size_t)upper_levels(s) << upper_levels(s);
    return 2 * ffk_round_up(batch * (size_t)ffk_z_stride(s->depth) * sizeof(float)) +
           2 * ffk_round_up(batch * sizeof(int32_t)) +
           ffk_round_up(MOST_SUBTREES * sizeof(int32_t)) +
           ffk_round_up(upper * (size_t)s->d_in * sizeof(float)) +
           ffk_round_up(upper * (size_t)s->d_out * sizeof(float));
}

static void clear(float *rows, int64_t first, int64_t count, int64_t d) {
    if (rows != NULL)
        memset(rows + first * d, 0, (size_t)(count * d) * sizeof *rows);
}

static void subtree(void *state, int64_t k) {
    const job *j = state;
    const ffk_descent *t = &j->tree;
    const int64_t split = j->to.split, tile = j->subtrees.tile;
    for (int64_t level = split; level <= t->depth; ++level) {
        const int64_t across = (int64_t)1 << (level - split);
        const int64_t first = ((int64_t)1 << level) - 1 + k * across;
        clear(j->to.dw_in, first, across, t->d_in);
        clear(j->to.dw_out, first, across, t->d_out);
    }
    const int64_t begin = k > 0 ? j->end[k - 1] : 0, end = j->end[k];
    if (begin < end) {
        clear(j->to.sums_in, k * split, split, t->d_in);
        clear(j->to.sums_out, k * split, split, t->d_out);
    }
    for (int64_t at = begin; at < end; at += tile)
        ffk_add_piece(&j->to, k, j->subtrees.order + at, ffk_min(tile, end - at));
}

/* Add up what the subtrees below an upper node came to. */
static void upper_node(void *state, int64_t node) {
    const job *j = state;
    const ffk_descent *t = &j->tree;
    const int32_t row = (int32_t)node;
    const void *in[MOST_SUBTREES], *out[MOST_SUBTREES];
    float ones[MOST_SUBTREES];
    int64_t level = 0, n = 0;
    while (((int64_t)2 << level) - 1 <= node)
        ++level;
    const int64_t below = (int64_t)1 << (j->to.split - level);
    const int64_t first = (node + 1 - ((int64_t)1 << level)) * below;
    for (int64_t k = first; k < first + below; ++k)
        if (j->end[k] > (k > 0 ? j->end[k - 1] : 0)) {
            in[n] = j->to.sums_in + (k * j->to.split + level) * t->d_in;
            out[n] = j->to.sums_out + (k * j->to.split + level) * t->d_out;
            ones[n++] = 1.0f;
        }
    if (j->to.dw_in != NULL)
        t->products->combine(1, n, t->d_in, ones, in, j->to.dw_in, &row, FFK_STORE, NULL, 0, NULL);
    if (j->to.dw_out != NULL)
        t->products->combine(1, n, t->d_out, ones, out, j->to.dw_out, &row, FFK_STORE, NULL, 0,
                             NULL);
}

static void one_tree(job *j, const ffk_team *team) {
    const int64_t split = j->to.split, batch = j->subtrees.batch;
    if (split > 0)
        ffk_parallel_for(team, ffk_ceil_div(batch, j->subtrees.tile), ffk_upper_levels,
                         &j->subtrees);
    else
        memset(j->tree.node, 0, (size_t)batch * sizeof *j->tree.node);
    ffk_sort_by_subtree(&j->subtrees, j->end);
    ffk_parallel_for(team, (int64_t)1 << split, subtree, j);
    ffk_parallel_for(team, ((int64_t)1 << split) - 1, upper_node, j);
}

/* Describe the first tree and where its gradients go, with room from the workspace. */
static void set_up(job *j, const ffk_shape *s, const ffk_gradients *g, const ffk_context *c) {
    const int64_t split = upper_levels(s), stride = ffk_z_stride(s->depth);
    const size_t upper = (size_t)split << split, by_level = (size_t)(s->batch * stride);
    char *cursor = g->workspace;
    j->tree = (ffk_descent){.products = &c->isa->products[s->dtype],
                            .isa = c->isa,
                            .d_in = s->d_in,
                            .d_out = s->d_out,
                            .depth = s->depth,
                            .element = sizeof(float),
                            .x = (const char *)g->x,
                            .w_in = (const char *)g->w_in,
                            .w_out = (const char *)g->w_out,
                            .stride = stride};
    j->tree.z = ffk_take(&cursor, by_level * sizeof(float));
    /* Behind the levels of a path stand zeros: whole lines of them are activations. */
    memset(j->tree.z, 0, by_level * sizeof(float));
    j->tree.node = ffk_take(&cursor, (size_t)s->batch * sizeof(int32_t));
    j->subtrees = (ffk_subtrees){.tree = &j->tree,
                                 .batch = s->batch,
                                 .tile = tile_tokens(s, ffk_l2_bytes(c)),
                                 .split = split};
    j->subtrees.order = ffk_take(&cursor, (size_t)s->batch * sizeof(int32_t));
    j->end = ffk_take(&cursor, MOST_SUBTREES * sizeof(int32_t));
    j->to = (ffk_node_gradients){.tree = &j->tree,
                                 .dy = g->dy,
                                 .dx = g->dx,
                                 .dw_in = g->dw_in,
                                 .dw_out = g->dw_out,
                                 .split = split};
    j->to.dz = ffk_take(&cursor, by_level * sizeof(float));
    j->to.sums_in = ffk_take(&cursor, upper * (size_t)s->d_in * sizeof(float));
    j->to.sums_out = ffk_take(&cursor, upper * (size_t)s->d_out * sizeof(float));
}

static ffk_status run(const ffk_shape *s, const ffk_gradients *g, const ffk_context *c) {
    const int64_t n_nodes = ((int64_t)2 << s->depth) - 1;
    job j;
    set_up(&j, s, g, c);
    for (int64_t k = 0; k < s->trees; ++k) {
        j.tree.how = k == 0 ? FFK_STORE : FFK_ADD; /* dx */
        one_tree(&j, c->team);
        j.tree.w_in += (size_t)(n_nodes * s->d_in) * sizeof(float);
        j.tree.w_out += (size_t)(n_nodes * s->d_out) * sizeof(float);
        if (j.to.dw_in != NULL)
            j.to.dw_in += n_nodes * s->d_in;
        if (j.to.dw_out != NULL)
            j.to.dw_out += n_nodes * s->d_out;
    }
    return FFK_OK;
}

extern const ffk_backward ffk_backward_fff_cpu_backward;
const ffk_backward ffk_backward_fff_cpu_backward = {.id = "fff_cpu_backward",
                                                    .layer = "fff",
                                                    .dtypes = FFK_TAKES_FLOAT32,
                                                    .workspace_bytes = workspace_bytes,
                                                    .run = run};
