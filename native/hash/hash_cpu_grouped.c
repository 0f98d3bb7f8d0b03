/* hash_cpu_grouped.c - the neurons of paths that a hash picks, tokens grouped by node.
 *
 *     z = <x[b], w_in[node]>,  y[b] = sum over the path of gelu(z) * w_out[node]
 *
 * The batch is sorted by leaf before anything is multiplied, and cut into tiles. Neighbours in a
 * tile share the upper nodes of their paths: three levels at once, tokens that share the lowest of
 * the three are a group, and each row of weights that is loaded serves all of it. Outputs as those
 * of an FFF (fff/outputs.h).
 *
 * flops:  2 * batch * (depth + 1) * (d_in + d_out), activation not counted.
 * Bytes:  x once, y once, each touched weight row about once.
 * Needs:  nothing. Workspace: z, and the leaf and the place of each token; counts of each leaf.
 * Tile:   tokens whose x takes a third of L2, as an FFF's.
 */
#include "fff/outputs.h"
#include "fff/tiling.h"
#include "hash/hash.h"
#include "threads/parallel_for.h"

typedef struct {
    ffk_descent tree;
    const ffk_shape *shape;
    int64_t tile;
    int32_t *order; /* (batch,): tokens by leaf */
} job;

static int64_t leaves(const ffk_shape *s) { return (int64_t)1 << s->depth; }

static size_t workspace_bytes(const ffk_shape *s) {
    const size_t batch = (size_t)s->batch;
    return ffk_round_up(batch * (size_t)ffk_z_stride(s->depth) * sizeof(float)) +
           2 * ffk_round_up(batch * sizeof(int32_t)) +
           ffk_round_up((size_t)leaves(s) * sizeof(int32_t));
}

/* Note each token's leaf, as a node, and sort the batch by it; ends (leaves,) is scratch. */
static void sort_by_leaf(const job *j, int32_t *ends) {
    const ffk_shape *s = j->shape;
    const ffk_descent *t = &j->tree;
    const int64_t first_leaf = leaves(s) - 1;
    memset(ends, 0, (size_t)leaves(s) * sizeof *ends);
    for (int64_t b = 0; b < s->batch; ++b) {
        const int64_t leaf = ffk_hash_leaf(s, t->x + (size_t)(b * s->d_in) * t->element);
        t->node[b] = (int32_t)(first_leaf + leaf);
        ++ends[leaf];
    }
    for (int64_t k = 0, first = 0; k < leaves(s); ++k) {
        const int32_t count = ends[k];
        ends[k] = (int32_t)first;
        first += count;
    }
    for (int64_t b = 0; b < s->batch; ++b)
        j->order[ends[t->node[b] - first_leaf]++] = (int32_t)b;
}

/* Fill z of a group that shares the nodes of `rows` levels (3 or 1), of which `node` is the
 * lowest, at `level`. */
static void group(const ffk_descent *t, int64_t node, int64_t level, int64_t rows,
                  const int32_t *token, int64_t count) {
    float z[3 * FFK_CHUNK];
    const void *w[3];
    for (int64_t r = rows - 1; r >= 0; --r, node = (node - 1) / 2)
        w[r] = ffk_in_row(t, node);
    for (int64_t first = 0; first < count; first += FFK_CHUNK) {
        const int64_t n = ffk_min(FFK_CHUNK, count - first);
        t->products->dots(n, rows, t->d_in, t->x, token + first, 0, w, z, NULL, 0);
        for (int64_t i = 0; i < n; ++i)
            memcpy(t->z + token[first + i] * t->stride + level - (rows - 1), z + i * rows,
                   (size_t)rows * sizeof *z);
    }
}

static void compute_tile(void *state, int64_t i) {
    const job *j = state;
    const ffk_shape *s = j->shape;
    const ffk_descent *t = &j->tree;
    const int32_t *token = j->order + i * j->tile;
    const int64_t count = ffk_min(j->tile, s->batch - i * j->tile);
    const int64_t first_leaf = leaves(s) - 1;
    for (int64_t level = 0, rows; level <= s->depth; level += rows) {
        rows = s->depth - level >= 2 ? 3 : 1;
        const int64_t lowest = level + rows - 1;
        for (int64_t first = 0, end; first < count; first = end) {
            const int64_t node = ffk_path_node(s, t->node[token[first]] - first_leaf, lowest);
            for (end = first + 1; end < count; ++end)
                if (ffk_path_node(s, t->node[token[end]] - first_leaf, lowest) != node)
                    break;
            group(t, node, lowest, rows, token + first, end - first);
        }
    }
    ffk_feed none = {0}; /* a tile's x is in L2, there is nothing to fetch in passing */
    ffk_emit(t, token, count, &none);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    char *cursor = o->workspace;
    const size_t element = ffk_element_bytes(s), tokens = (size_t)s->batch * sizeof(int32_t);
    job j = {.shape = s, .tile = ffk_tile_tokens(s, ffk_l2_bytes(c))};
    j.tree = (ffk_descent){.products = &c->isa->products[s->dtype],
                           .isa = c->isa,
                           .d_in = s->d_in,
                           .d_out = s->d_out,
                           .depth = s->depth,
                           .element = element,
                           .x = (const char *)o->x,
                           .w_in = (const char *)o->w_in,
                           .w_out = (const char *)o->w_out,
                           .y = o->y,
                           .how = FFK_STORE,
                           .stride = ffk_z_stride(s->depth),
                           .far = ffk_weights_are_far(s, c)};
    if (s->batch * s->d_out * (int64_t)element >= ffk_l3_bytes(c) / 16)
        j.tree.how = FFK_PAST; /* as an FFF's: y is larger than a core can hope to keep */
    j.tree.z = ffk_take(&cursor, (size_t)(s->batch * j.tree.stride) * sizeof(float));
    j.tree.node = ffk_take(&cursor, tokens);
    j.order = ffk_take(&cursor, tokens);
    sort_by_leaf(&j, ffk_take(&cursor, (size_t)leaves(s) * sizeof(int32_t)));
    ffk_parallel_for(c->team, ffk_ceil_div(s->batch, j.tile), compute_tile, &j);
    c->isa->settle();
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_hash_cpu_grouped;
const ffk_kernel ffk_kernel_hash_cpu_grouped = {.id = "hash_cpu_grouped",
                                                .layer = "hash",
                                                .dtypes = FFK_TAKES_FLOAT32 | FFK_TAKES_BFLOAT16,
                                                .workspace_bytes = workspace_bytes,
                                                .run = run};
