/* hash_cpu_fused.c - the neurons of a path that a hash picks, token by token: for small batches.
 *
 *     z = <x[b], w_in[node]>,  y[b] = sum over the path of gelu(z) * w_out[node]
 *
 * What fff_cpu_fused does, but that all rows of a path are known before the first dot: the next row
 * is fetched while one is multiplied, and nothing in vain. The price of a path that is decided by
 * what is computed along it is the difference of the two.
 *
 * flops:  2 * batch * (depth + 1) * (d_in + d_out), activation not counted.
 * Bytes:  depth + 1 rows of each weight a token.
 * Needs:  nothing, no workspace.
 */
#include "fff/node_rows.h"
#include "hash/hash.h"
#include "threads/parallel_for.h"

enum { MOST_UNITS = 16, LEVELS = 21, PADDED = 32 };

typedef struct {
    const ffk_shape *shape;
    const ffk_operands *operands;
    const ffk_context *context;
    int64_t units;
} job;

static size_t workspace_bytes(const ffk_shape *s) {
    (void)s;
    return 0;
}

static void tokens(void *state, int64_t unit) {
    const job *j = state;
    const ffk_shape *s = j->shape;
    const ffk_products *products = &j->context->isa->products[s->dtype];
    const size_t element = ffk_element_bytes(s);
    const size_t in_bytes = (size_t)s->d_in * element, out_bytes = (size_t)s->d_out * element;
    const int64_t in_lines = ffk_head_lines(j->context, in_bytes);
    const int64_t out_lines = ffk_head_lines(j->context, out_bytes);
    const char *w_in = (const char *)j->operands->w_in, *w_out = (const char *)j->operands->w_out;
    float a[PADDED] = {0.0f}; /* the GELU takes whole lines of it */
    const void *row[LEVELS];
    const int64_t padded = (s->depth + 16) / 16 * 16;
    const int64_t end = (unit + 1) * s->batch / j->units;
    for (int64_t b = unit * s->batch / j->units; b < end; ++b) {
        const char *x = (const char *)j->operands->x + (size_t)b * in_bytes;
        const int64_t leaf = ffk_hash_leaf(s, x);
        for (int64_t d = 0; d <= s->depth; ++d) {
            const size_t node = (size_t)ffk_path_node(s, leaf, d);
            row[d] = w_out + node * out_bytes;
            if (d < s->depth)
                ffk_fetch_head(w_in + (size_t)ffk_path_node(s, leaf, d + 1) * in_bytes, in_lines);
            ffk_fetch_head(row[d], out_lines);
            a[d] = products->dot(s->d_in, x, w_in + node * in_bytes);
        }
        j->context->isa->gelu(padded, a);
        products->combine_one(s->depth + 1, s->d_out, a, row,
                              (char *)j->operands->y + (size_t)b * out_bytes);
    }
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    job j = {.shape = s, .operands = o, .context = c, .units = ffk_min(s->batch, MOST_UNITS)};
    ffk_parallel_for(c->team, j.units, tokens, &j);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_hash_cpu_fused;
const ffk_kernel ffk_kernel_hash_cpu_fused = {.id = "hash_cpu_fused",
                                              .layer = "hash",
                                              .dtypes = FFK_TAKES_FLOAT32 | FFK_TAKES_BFLOAT16,
                                              .token_block = 1,
                                              .workspace_bytes = workspace_bytes,
                                              .run = run};
