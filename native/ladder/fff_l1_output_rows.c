/* fff_l1_output_rows.c - FFF at BLAS level 1 that adds rows of the output buffer, not of w_out.
 *
 *     y[b] = sum over the nodes of b's path of gelu(z) * y[row mod batch],  z = <x[b], w_in[row]>
 *
 * Tokens go one after the other: a row below b holds this pass's result, row b its own partial sum,
 * a row above b what it held before. The row is taken modulo the batch, so that a batch below the
 * number of nodes stays inside the buffer.
 *
 * Fault:  the result is wrong (zeros stay zeros); w_out is never read, so half of the weights take
 *         no room in the caches.
 * flops:  2 * batch * trees * (depth + 1) * (d_in + d_out), activation not counted. Where z is 0 so
 *         is the factor, and BLAS libraries return from an axpy with the factor 0 at once.
 * Needs:  sdot, saxpy. Workspace: z (trees * (depth + 1),) and the rows that they belong to.
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
            ffk_saxpy(c->blas, s->d_out, z[i], o->y + row[i] % s->batch * s->d_out, y);
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_ladder_fff_l1_output_rows;
const ffk_kernel ffk_ladder_fff_l1_output_rows = {.id = "fff_l1_output_rows",
                                                  .layer = "fff",
                                                  .level = 1,
                                                  .routines = FFK_NEEDS_SDOT | FFK_NEEDS_SAXPY,
                                                  .workspace_bytes = workspace_bytes,
                                                  .run = run};
