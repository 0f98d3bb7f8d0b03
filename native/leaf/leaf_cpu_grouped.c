/* leaf_cpu_grouped.c - leaf FFF forward pass with tokens grouped by leaf: each leaf network is a
 * small dense layer of its own tokens, so that each of its rows that is loaded serves all of them.
 *
 *     y[b] = act(w_in[j] x[b] + b_in[j]) w_out[j] + b_out[j],  j the leaf that token b comes to
 *
 * Tiles of tokens descend the router together, those at one node as a group; the walk turns right
 * iff <x, router[n]> + router_bias[n] >= 0 (a NaN turns left). Then the batch is sorted by leaf,
 * and each leaf's tokens are cut into pieces: pieces.h.
 *
 * flops:  2 * batch * (depth * d_in + hidden * (d_in + d_out)), biases and activation not counted.
 * Bytes:  x twice, y once, each touched leaf about once, each router row once a tile.
 * Needs:  nothing. Workspace: the leaf, the node and the place of each token; float32 sums of y,
 *         where it is narrower and takes more than one block of a leaf's neurons.
 * Tile:   tokens whose x is a third of L2 descend together; a piece: pieces.h.
 */
#include "experts/pieces.h"

enum {
    TILE_MOST = 256, /* tokens that descend together */
    TILE_LEAST = 16,
    LEVELS = 20 /* of the router, at most */
};

typedef struct {
    const ffk_shape *shape;
    const ffk_operands *operands;
    const ffk_products *products;
    size_t element;
    int64_t tile;
    int32_t *leaf; /* (batch,) */
} job;

static int64_t leaves(const ffk_shape *s) { return (int64_t)1 << s->depth; }

static size_t workspace_bytes(const ffk_shape *s) {
    return ffk_round_up((size_t)s->batch * sizeof(int32_t)) + ffk_pieces_bytes(s, leaves(s));
}

static const void *row_of(const job *j, const float *rows, int64_t row, int64_t d) {
    return (const char *)rows + (size_t)(row * d) * j->element;
}

static float bias_of(const job *j, const float *biases, int64_t i) {
    float bias;
    j->products->widen(1, row_of(j, biases, i, 1), &bias);
    return bias;
}

/* Take the tokens of one node one level down: those that turn left to the front, each side as it
 * stood. Return how many they are. */
static int64_t turn(const job *j, int64_t node, int32_t *token, int64_t count) {
    const ffk_shape *s = j->shape;
    const void *row = row_of(j, j->operands->router, node, s->d_in);
    const float bias = bias_of(j, j->operands->router_bias, node);
    int32_t right[TILE_MOST];
    float z[TILE_MOST];
    int64_t n_left = 0, n_right = 0;
    j->products->dots(count, 1, s->d_in, j->operands->x, token, 0, &row, z, NULL, 0);
    for (int64_t i = 0; i < count; ++i)
        if (z[i] + bias >= 0.0f)
            right[n_right++] = token[i];
        else
            token[n_left++] = token[i];
    memcpy(token + n_left, right, (size_t)n_right * sizeof *right);
    return n_left;
}

/* Find the leaf of each token of a tile: groups that are left for later wait on a stack, one a
 * level. */
static void descend_tile(void *state, int64_t i) {
    const job *j = state;
    const ffk_shape *s = j->shape;
    struct {
        int64_t node, level, first, count;
    } waiting[LEVELS + 1];
    int32_t token[TILE_MOST];
    const int64_t begin = i * j->tile, tokens = ffk_min(j->tile, s->batch - begin);
    int n_waiting = 1;
    for (int64_t t = 0; t < tokens; ++t)
        token[t] = (int32_t)(begin + t);
    waiting[0].node = waiting[0].level = waiting[0].first = 0;
    waiting[0].count = tokens;
    while (n_waiting > 0) {
        --n_waiting;
        int64_t node = waiting[n_waiting].node, level = waiting[n_waiting].level;
        int64_t first = waiting[n_waiting].first, count = waiting[n_waiting].count;
        for (; level < s->depth; ++level) {
            const int64_t left = turn(j, node, token + first, count);
            const int64_t right = count - left;
            node = 2 * node + 1;
            if (left > 0 && right > 0) {
                waiting[n_waiting].node = node + 1;
                waiting[n_waiting].level = level + 1;
                waiting[n_waiting].first = first + left;
                waiting[n_waiting++].count = right;
                count = left;
            } else if (left == 0) {
                ++node;
            }
        }
        for (int64_t t = first; t < first + count; ++t)
            j->leaf[token[t]] = (int32_t)(node - (leaves(s) - 1));
    }
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const size_t element = ffk_element_bytes(s);
    const int64_t fit = ffk_l2_bytes(c) / 3 / (s->d_in * (int64_t)element);
    job j = {.shape = s, .operands = o, .products = &c->isa->products[s->dtype]};
    char *cursor = o->workspace;
    j.element = element;
    j.tile = fit < TILE_LEAST ? TILE_LEAST : ffk_min(fit, TILE_MOST);
    j.leaf = ffk_take(&cursor, (size_t)s->batch * sizeof *j.leaf);
    ffk_parallel_for(c->team, ffk_ceil_div(s->batch, j.tile), descend_tile, &j);
    ffk_pieces pieces = ffk_begin_pieces(s, o, c->isa, leaves(s), &cursor);
    pieces.network = j.leaf;
    ffk_through_networks(&pieces, c->team);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_leaf_cpu_grouped;
const ffk_kernel ffk_kernel_leaf_cpu_grouped = {.id = "leaf_cpu_grouped",
                                                .layer = "leaf",
                                                .dtypes = FFK_TAKES_FLOAT32 | FFK_TAKES_BFLOAT16,
                                                .workspace_bytes = workspace_bytes,
                                                .run = run};
