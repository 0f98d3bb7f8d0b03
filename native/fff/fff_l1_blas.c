/* fff_l1_blas.c - FFF forward pass at BLAS level 1: a dot and an axpy per token and used neuron.
 *
 * Each token walks one root-to-leaf path per tree; the node at depth d contributes
 *     y[b] += gelu(z) * w_out[node],   z = <x[b], w_in[node]>
 * and the walk turns right iff z >= 0 (a NaN turns left).
 *
 * flops:  2 * batch * trees * (depth + 1) * (d_in + d_out), activation not counted.
 * Reads:  trees * (depth + 1) * (d_in + d_out) weight elements per token, gathered; no reuse across
 *         tokens but what the caches happen to keep.
 * Needs:  sdot, saxpy. Workspace: z (trees * (depth + 1),) and the nodes that they belong to.
 */
#include "blas/blas.h"
#include "memory/workspace.h"

#include <string.h>

static size_t workspace_bytes(const ffk_shape *s) {
    const size_t used = (size_t)(s->trees * (s->depth + 1));
    return ffk_round_up(used * sizeof(float)) + ffk_round_up(used * sizeof(int64_t));
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const int64_t n_nodes = ((int64_t)2 << s->depth) - 1;
    const int64_t used = s->trees * (s->depth + 1);
    char *cursor = o->workspace;
    float *z = ffk_take(&cursor, (size_t)used * sizeof *z);       /* (used,) */
    int64_t *row = ffk_take(&cursor, (size_t)used * sizeof *row); /* (used,) */
    for (int64_t b = 0; b < s->batch; ++b) {
        const float *x = o->x + b * s->d_in; /* (d_in,)  */
        float *y = o->y + b * s->d_out;      /* (d_out,) */
        int64_t i = 0;
        for (int64_t k = 0; k < s->trees; ++k) {
            int64_t node = 0;
            for (int64_t d = 0; d <= s->depth; ++d, ++i) {
                row[i] = k * n_nodes + node;
                z[i] = ffk_sdot(c->blas, s->d_in, x, o->w_in + row[i] * s->d_in);
                node = 2 * node + 1 + (z[i] >= 0.0f);
            }
        }
        c->isa->gelu(used, z);
        memset(y, 0, (size_t)s->d_out * sizeof *y);
        for (i = 0; i < used; ++i)
            ffk_saxpy(c->blas, s->d_out, z[i], o->w_out + row[i] * s->d_out, y);
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_fff_l1_blas;
const ffk_kernel ffk_kernel_fff_l1_blas = {.id = "fff_l1_blas",
                                           .layer = "fff",
                                           .level = 1,
                                           .routines = FFK_NEEDS_SDOT | FFK_NEEDS_SAXPY,
                                           .token_block = 1,
                                           .workspace_bytes = workspace_bytes,
                                           .run = run};
