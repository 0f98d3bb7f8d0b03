/* fff_cpu_fused.c - FFF forward pass token by token: for batches too small for tokens to share
 * rows.
 *
 *     z = <x[b], w_in[node]>,  y[b] = sum over the path of gelu(z) * w_out[node]
 *
 * A path is a chain of dots each of which decides where the next row of weights lies, so that the
 * time of a token is that of fetching rows, one after the other. While a dot is computed, both
 * children's rows of w_in and the node's row of w_out are fetched: half of the former in vain, but
 * a row that is waited for costs more. The outputs of all trees are then added up in registers, y
 * is written once.
 *
 * A path is a chain, which no second thread could shorten; several tokens are shared out among the
 * caller's threads, in at most MOST_UNITS ranges with a piece of the workspace each.
 *
 * flops:  2 * batch * trees * (depth + 1) * (d_in + d_out), activation not counted.
 * Bytes:  trees * (depth + 1) rows of each weight a token, and lines fetched in vain: two a level,
 *         of weights that come from memory sixteen.
 * Needs:  nothing. Workspace: activations and rows of one token, for each range.
 */
#include "fff/node_rows.h"
#include "memory/workspace.h"
#include "threads/parallel_for.h"

#include <string.h>

enum {
    MOST_UNITS = 16,
    /* Of each child's row, where it comes from memory: a third of 3 KB. Fewer leave the dot waiting
     * when the row is taken; more hold up the rows that are. */
    FAR_CHILD_LINES = 16
};

typedef struct {
    const ffk_shape *shape;
    const ffk_operands *operands;
    const ffk_isa *isa;
    int64_t units, child_lines; /* of a row that may not be taken, fetched */
} job;

static size_t token_bytes(const ffk_shape *s) {
    const size_t used = (size_t)(s->trees * (s->depth + 1));
    return ffk_round_up(used * sizeof(float)) + ffk_round_up(used * sizeof(void *));
}

static size_t workspace_bytes(const ffk_shape *s) {
    return token_bytes(s) * (size_t)ffk_min(s->batch, MOST_UNITS);
}

/* Walk the paths of one token: fill the pre-activations a and the rows of w_out, (used,) each. */
static void descend(const job *j, const char *x, float *a, const void **rows) {
    const ffk_shape *s = j->shape;
    const ffk_products *products = &j->isa->products[s->dtype];
    const size_t element = ffk_element_bytes(s);
    const size_t in_bytes = (size_t)s->d_in * element, out_bytes = (size_t)s->d_out * element;
    const int64_t n_nodes = ((int64_t)2 << s->depth) - 1;
    int64_t i = 0;
    for (int64_t k = 0; k < s->trees; ++k) {
        const char *w_in = (const char *)j->operands->w_in + (size_t)(k * n_nodes) * in_bytes;
        const char *w_out = (const char *)j->operands->w_out + (size_t)(k * n_nodes) * out_bytes;
        int64_t node = 0;
        for (int64_t d = 0; d <= s->depth; ++d, ++i) {
            const void *row = w_in + (size_t)node * in_bytes;
            const char *left = w_in + (size_t)(2 * node + 1) * in_bytes;
            rows[i] = w_out + (size_t)node * out_bytes;
            ffk_fetch_head(rows[i], FFK_HEAD_LINES);
            if (d < s->depth) {
                ffk_fetch_head(left, j->child_lines);
                ffk_fetch_head(left + in_bytes, j->child_lines);
            }
            a[i] = products->dot(s->d_in, x, row);
            node = 2 * node + 1 + (a[i] >= 0.0f);
        }
    }
}

static void tokens(void *state, int64_t unit) {
    const job *j = state;
    const ffk_shape *s = j->shape;
    const ffk_products *products = &j->isa->products[s->dtype];
    const size_t element = ffk_element_bytes(s);
    const int64_t used = s->trees * (s->depth + 1);
    char *cursor = (char *)j->operands->workspace + (size_t)unit * token_bytes(s);
    float *a = ffk_take(&cursor, (size_t)used * sizeof *a);             /* (used,) */
    const void **rows = ffk_take(&cursor, (size_t)used * sizeof *rows); /* (used,) */
    /* Whole lines of activations: the vector loop alone, no code for a rest. */
    const int64_t padded = (int64_t)(ffk_round_up((size_t)used * sizeof *a) / sizeof *a);
    memset(a, 0, (size_t)padded * sizeof *a);
    const int64_t end = (unit + 1) * s->batch / j->units;
    for (int64_t b = unit * s->batch / j->units; b < end; ++b) {
        const char *x = (const char *)j->operands->x + (size_t)(b * s->d_in) * element;
        char *y = (char *)j->operands->y + (size_t)(b * s->d_out) * element;
        descend(j, x, a, rows);
        j->isa->gelu(padded, a);
        products->combine_one(used, s->d_out, a, rows, y);
    }
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const int64_t row_lines = ffk_head_lines(c, (size_t)s->d_in * ffk_element_bytes(s));
    job j = {.shape = s,
             .operands = o,
             .isa = c->isa,
             .units = ffk_min(s->batch, MOST_UNITS),
             .child_lines = ffk_min(row_lines, FAR_CHILD_LINES)};
    ffk_parallel_for(c->team, j.units, tokens, &j);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_fff_cpu_fused;
const ffk_kernel ffk_kernel_fff_cpu_fused = {.id = "fff_cpu_fused",
                                             .layer = "fff",
                                             .dtypes = FFK_TAKES_FLOAT32 | FFK_TAKES_BFLOAT16,
                                             .token_block = 1,
                                             .workspace_bytes = workspace_bytes,
                                             .run = run};
