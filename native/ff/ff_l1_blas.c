/* ff_l1_blas.c - FF forward pass at BLAS level 1: a dot and an axpy per token and neuron.
 *
 *     z[h] = <x[b], w_in[h]>,  y[b] = sum over h of gelu(z[h]) * w_out[h]
 *
 * flops:  2 * batch * hidden * (d_in + d_out), activation not counted.
 * Reads:  all weights once per token, hidden * (d_in + d_out) elements: level 1 has no reuse of
 *         weights across tokens, so the rate is that of the cache that holds them.
 * Needs:  sdot, saxpy. Workspace: z (hidden,).
 */
#include "blas/blas.h"
#include "memory/workspace.h"

#include <string.h>

static size_t workspace_bytes(const ffk_shape *s) { return (size_t)s->hidden * sizeof(float); }

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    float *z = o->workspace; /* (hidden,) */
    for (int64_t b = 0; b < s->batch; ++b) {
        const float *x = o->x + b * s->d_in; /* (d_in,)  */
        float *y = o->y + b * s->d_out;      /* (d_out,) */
        for (int64_t h = 0; h < s->hidden; ++h)
            z[h] = ffk_sdot(c->blas, s->d_in, x, o->w_in + h * s->d_in);
        c->isa->gelu(s->hidden, z);
        memset(y, 0, (size_t)s->d_out * sizeof *y);
        for (int64_t h = 0; h < s->hidden; ++h)
            ffk_saxpy(c->blas, s->d_out, z[h], o->w_out + h * s->d_out, y);
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ff_l1_blas;
const ffk_kernel ffk_kernel_ff_l1_blas = {.id = "ff_l1_blas",
                                          .layer = "ff",
                                          .level = 1,
                                          .routines = FFK_NEEDS_SDOT | FFK_NEEDS_SAXPY,
                                          .token_block = 1,
                                          .workspace_bytes = workspace_bytes,
                                          .run = run};
