/* ff_l2_blas.c - FF forward pass at BLAS level 2: two batched matrix-vector products.
 *
 *     z[b] = w_in x[b],  y[b] = w_out^T gelu(z[b])     for the tokens b of a block
 *
 * flops:  2 * batch * hidden * (d_in + d_out), activation not counted.
 * Reads:  all weights once per token, as level 1: each member of a batched gemv reads its matrix.
 * Needs:  sgemv; uses sgemv_batch where the provider has one. Workspace: z (block, hidden).
 * Threads: the provider's for the products, the caller's for the activation (activation.h).
 * Block:  at most 64 tokens: 64 x 4095 intermediates are 1 MiB, so that they stay in L2 or near it
 *         between the two products; the batch at once would move 2 x 268 MB through memory.
 */
#include "blas/blas_batch.h"
#include "ff/activation.h"
#include "memory/workspace.h"

enum { BLOCK = FFK_BATCH_MAX };

static size_t workspace_bytes(const ffk_shape *s) {
    return (size_t)ffk_min(s->batch, BLOCK) * (size_t)s->hidden * sizeof(float);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const float *w_in[BLOCK], *w_out[BLOCK], *x[BLOCK], *a[BLOCK];
    float *z[BLOCK], *y[BLOCK];
    for (int64_t i = 0; i < BLOCK; ++i) {
        w_in[i] = o->w_in;
        w_out[i] = o->w_out;
    }
    for (int64_t first = 0; first < s->batch; first += BLOCK) {
        const int64_t count = ffk_min(BLOCK, s->batch - first);
        for (int64_t i = 0; i < count; ++i) {
            x[i] = o->x + (first + i) * s->d_in;          /* (d_in,)   */
            z[i] = (float *)o->workspace + i * s->hidden; /* (hidden,) */
            a[i] = z[i];                                  /* (hidden,) */
            y[i] = o->y + (first + i) * s->d_out;         /* (d_out,)  */
        }
        ffk_sgemv_batch(c->blas, 'T', s->d_in, s->hidden, w_in, x, z, count);
        ffk_gelu(c, count * s->hidden, o->workspace);
        ffk_sgemv_batch(c->blas, 'N', s->d_out, s->hidden, w_out, a, y, count);
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ff_l2_blas;
const ffk_kernel ffk_kernel_ff_l2_blas = {.id = "ff_l2_blas",
                                          .layer = "ff",
                                          .level = 2,
                                          .routines = FFK_NEEDS_SGEMV | FFK_BATCHES_SGEMV,
                                          .token_block = BLOCK,
                                          .workspace_bytes = workspace_bytes,
                                          .run = run};
