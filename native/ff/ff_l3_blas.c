/* ff_l3_blas.c - FF forward pass at BLAS level 3: one matrix product in, one out.
 *
 *     z = x w_in^T  (batch, hidden),   y = gelu(z) w_out  (batch, d_out)
 *
 * flops:  2 * batch * hidden * (d_in + d_out), activation not counted.
 * Bytes:  weights once; the intermediate is written, activated and read back: 4 * batch * hidden
 *         elements of traffic, through memory where it exceeds the caches.
 * Needs:  sgemm. Workspace: z (batch, hidden).
 * Threads: the provider's for the products, the caller's for the activation (activation.h).
 */
#include "blas/blas.h"
#include "ff/activation.h"
#include "memory/workspace.h"

static size_t workspace_bytes(const ffk_shape *s) {
    return (size_t)s->batch * (size_t)s->hidden * sizeof(float);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    float *z = o->workspace; /* (batch, hidden) */
    ffk_sgemm(c->blas, 'T', s->hidden, s->batch, s->d_in, o->w_in, s->d_in, o->x, s->d_in, 0.0f, z,
              s->hidden);
    ffk_gelu(c, s->batch * s->hidden, z);
    ffk_sgemm(c->blas, 'N', s->d_out, s->batch, s->hidden, o->w_out, s->d_out, z, s->hidden, 0.0f,
              o->y, s->d_out);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ff_l3_blas;
const ffk_kernel ffk_kernel_ff_l3_blas = {.id = "ff_l3_blas",
                                          .layer = "ff",
                                          .level = 3,
                                          .routines = FFK_NEEDS_SGEMM,
                                          .workspace_bytes = workspace_bytes,
                                          .run = run};
