/* ff_l3_alloc.c - FF at BLAS level 3 that allocates and frees its intermediates inside the call.
 *
 *     z = x w_in^T,  a = gelu(z)  (both batch, hidden),   y = a w_out
 *
 * Fault:  2 * batch * hidden floats are taken from malloc and given back in every pass. Blocks of
 *         this size are mapped anew by the kernel each time, so each 4 KiB page costs a fault and
 *         is zeroed before it is written. The result is right.
 * This kernel calls malloc, as no kernel outside of this folder may: it is what it models.
 * flops:  2 * batch * hidden * (d_in + d_out), activation not counted.
 * Bytes:  weights once; z and a written and read; 2 * batch * hidden elements zeroed by the system.
 * Needs:  sgemm. No workspace from the caller; FFK_WORKSPACE_TOO_SMALL where malloc fails.
 */
#include "blas/blas.h"
#include "memory/workspace.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096 }; /* elements: 16 KiB, so that a block of `a` is activated while it is in L1 */

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const int64_t n = s->batch * s->hidden;
    float *z = malloc((size_t)n * sizeof *z); /* (batch, hidden) */
    float *a = malloc((size_t)n * sizeof *a); /* (batch, hidden) */
    if (z == NULL || a == NULL) {
        free(z);
        free(a);
        return FFK_WORKSPACE_TOO_SMALL;
    }
    ffk_sgemm(c->blas, 'T', s->hidden, s->batch, s->d_in, o->w_in, s->d_in, o->x, s->d_in, 0.0f, z,
              s->hidden);
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t count = ffk_min(BLOCK, n - i);
        memcpy(a + i, z + i, (size_t)count * sizeof *a);
        c->isa->gelu(count, a + i);
    }
    ffk_sgemm(c->blas, 'N', s->d_out, s->batch, s->hidden, o->w_out, s->d_out, a, s->hidden, 0.0f,
              o->y, s->d_out);
    free(a);
    free(z);
    return FFK_OK;
}

extern const ffk_kernel ffk_ladder_ff_l3_alloc;
const ffk_kernel ffk_ladder_ff_l3_alloc = {.id = "ff_l3_alloc",
                                           .layer = "ff",
                                           .level = 3,
                                           .routines = FFK_NEEDS_SGEMM,
                                           .workspace_bytes = ffk_no_workspace,
                                           .run = run};
