/* leaf_cpu_grouped.c - leaf FFF forward pass with tokens grouped by leaf: each leaf network is a
 * small dense layer of its own tokens, so that each of its rows that is loaded serves all of them.
 *
 *     y[b] = act(w_in[j] x[b] + b_in[j]) w_out[j] + b_out[j],  j the leaf that token b comes to
 *
 * Tiles of tokens descend the router together, those at one node as a group; the walk turns right
 * iff <x, router[n]> + router_bias[n] >= 0 (a NaN turns left). Then the batch is sorted by leaf,
 * and each leaf's tokens are cut into pieces. Rows of x and y stay where they are: products gather
 * them. The output's bias is one row more of w_out, whose activation is 1.
 *
 * flops:  2 * batch * (depth * d_in + hidden * (d_in + d_out)), biases and activation not counted.
 * Bytes:  x twice, y once, each touched leaf about once, each router row once a tile.
 * Needs:  nothing. Workspace: the leaf, the node and the place of each token; float32 sums of y,
 *         where it is narrower and takes more than one block of a leaf's neurons.
 * Tile:   tokens whose x is a third of L2 descend together; a piece is 64 tokens, whose x of width
 *         768 (192 KiB) stays in L2 while a block of 63 neurons passes.
 */
#include "leaf/activation.h"
#include "memory/workspace.h"
#include "threads/parallel_for.h"

#include <string.h>

enum {
    TILE_MOST = 256, /* tokens that descend together */
    TILE_LEAST = 16,
    PIECE = 64,   /* tokens of a leaf */
    NEURONS = 63, /* of a leaf at a time; with the bias 16 KiB of activations */
    LEVELS = 20   /* of the router, at most */
};

typedef struct {
    int32_t leaf, first, count; /* tokens [first, first + count) of the sorted batch */
} piece;

typedef struct {
    const ffk_shape *shape;
    const ffk_operands *operands;
    const ffk_products *products;
    const ffk_isa *isa;
    size_t element;
    int64_t tile;
    int32_t *leaf;   /* (batch,) */
    int32_t *sorted; /* (batch,): tokens by leaf */
    piece *pieces;
    float *sums; /* (batch, d_out), where y is narrower than float32 and added up; else NULL */
} job;

static int64_t leaves(const ffk_shape *s) { return (int64_t)1 << s->depth; }

static int64_t most_pieces(const ffk_shape *s) {
    return s->batch / PIECE + ffk_min(s->batch, leaves(s));
}

static size_t sums_bytes(const ffk_shape *s) {
    const int apart = s->dtype != FFK_FLOAT32 && s->hidden > NEURONS;
    return apart ? ffk_round_up((size_t)(s->batch * s->d_out) * sizeof(float)) : 0;
}

static size_t workspace_bytes(const ffk_shape *s) {
    const size_t tokens = ffk_round_up((size_t)s->batch * sizeof(int32_t));
    return 2 * tokens + ffk_round_up((size_t)leaves(s) * sizeof(int32_t)) +
           ffk_round_up((size_t)most_pieces(s) * sizeof(piece)) + sums_bytes(s);
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

/* Sort the tokens by leaf, those of one leaf as they stand in the batch, and cut them into pieces.
 * ends (leaves,) is scratch. Return the number of pieces. */
static int64_t cut(const job *j, int32_t *ends) {
    const ffk_shape *s = j->shape;
    int64_t n = 0;
    memset(ends, 0, (size_t)leaves(s) * sizeof *ends);
    for (int64_t b = 0; b < s->batch; ++b)
        ++ends[j->leaf[b]];
    for (int64_t k = 0, first = 0; k < leaves(s); ++k) {
        const int64_t count = ends[k];
        for (int64_t done = 0; done < count; done += PIECE)
            j->pieces[n++] =
                (piece){(int32_t)k, (int32_t)(first + done), (int32_t)ffk_min(PIECE, count - done)};
        ends[k] = (int32_t)first;
        first += count;
    }
    for (int64_t b = 0; b < s->batch; ++b)
        j->sorted[ends[j->leaf[b]]++] = (int32_t)b;
    return n;
}

/* Fill a (count, stride) with the activations of `rows` neurons of a leaf from the one numbered
 * `neuron` of all leaves on, and 1 behind each token's. */
static void activate(const job *j, const int32_t *token, int64_t count, int64_t neuron,
                     int64_t rows, int64_t stride, float *a) {
    const ffk_shape *s = j->shape;
    float z[3 * PIECE], bias[NEURONS];
    j->products->widen(rows, row_of(j, j->operands->b_in, neuron, 1), bias);
    for (int64_t r = 0, step; r < rows; r += step) {
        step = rows - r >= 3 ? 3 : 1;
        const void *w[3];
        for (int64_t k = 0; k < step; ++k)
            w[k] = row_of(j, j->operands->w_in, neuron + r + k, s->d_in);
        j->products->dots(count, step, s->d_in, j->operands->x, token, 0, w, z, NULL, 0);
        for (int64_t t = 0; t < count; ++t)
            for (int64_t k = 0; k < step; ++k)
                a[t * stride + r + k] = z[t * step + k] + bias[r + k];
    }
    for (int64_t t = 0; t < count; ++t)
        for (int64_t k = rows; k < stride; ++k)
            a[t * stride + k] = 0.0f;
    ffk_activate(s, j->isa, count * stride, a);
    for (int64_t t = 0; t < count; ++t)
        for (int64_t k = rows; k < stride; ++k)
            a[t * stride + k] = 1.0f;
}

static void compute_piece(void *state, int64_t i) {
    const job *j = state;
    const ffk_shape *s = j->shape;
    const piece *p = &j->pieces[i];
    const int32_t *token = j->sorted + p->first;
    float a[PIECE * (NEURONS + 1)];
    const void *w[NEURONS + 1];
    void *y = j->sums != NULL ? (void *)j->sums : (void *)j->operands->y;
    for (int64_t t = 0; t < p->count && j->sums != NULL; ++t)
        memset(j->sums + token[t] * s->d_out, 0, (size_t)s->d_out * sizeof(float));
    for (int64_t h = 0; h < s->hidden; h += NEURONS) {
        const int64_t rows = ffk_min(NEURONS, s->hidden - h), neuron = p->leaf * s->hidden + h;
        const int64_t stride = rows + (h == 0); /* the bias stands with the first block */
        const ffk_how how = h == 0 && j->sums == NULL ? FFK_STORE : FFK_ADD;
        activate(j, token, p->count, neuron, rows, stride, a);
        for (int64_t r = 0; r < rows; ++r)
            w[r] = row_of(j, j->operands->w_out, neuron + r, s->d_out);
        w[rows] = row_of(j, j->operands->b_out, p->leaf, s->d_out);
        j->products->combine(p->count, stride, s->d_out, a, w, y, token, how, NULL, 0, NULL);
    }
    for (int64_t t = 0; t < p->count && j->sums != NULL; ++t)
        j->products->narrow(s->d_out, j->sums + token[t] * s->d_out,
                            (char *)j->operands->y + (size_t)(token[t] * s->d_out) * j->element);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const size_t element = ffk_element_bytes(s), tokens = (size_t)s->batch * sizeof(int32_t);
    const int64_t fit = ffk_l2_bytes(c) / 3 / (s->d_in * (int64_t)element);
    job j = {.shape = s, .operands = o, .products = &c->isa->products[s->dtype], .isa = c->isa};
    char *cursor = o->workspace;
    j.element = element;
    j.tile = fit < TILE_LEAST ? TILE_LEAST : ffk_min(fit, TILE_MOST);
    j.leaf = ffk_take(&cursor, tokens);
    j.sorted = ffk_take(&cursor, tokens);
    int32_t *ends = ffk_take(&cursor, (size_t)leaves(s) * sizeof *ends);
    j.pieces = ffk_take(&cursor, (size_t)most_pieces(s) * sizeof *j.pieces);
    j.sums = sums_bytes(s) > 0 ? (float *)(void *)cursor : NULL;
    ffk_parallel_for(c->team, ffk_ceil_div(s->batch, j.tile), descend_tile, &j);
    ffk_parallel_for(c->team, cut(&j, ends), compute_piece, &j);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_leaf_cpu_grouped;
const ffk_kernel ffk_kernel_leaf_cpu_grouped = {.id = "leaf_cpu_grouped",
                                                .layer = "leaf",
                                                .dtypes = FFK_TAKES_FLOAT32 | FFK_TAKES_BFLOAT16,
                                                .workspace_bytes = workspace_bytes,
                                                .run = run};
