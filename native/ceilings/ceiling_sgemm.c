/* ceiling_sgemm.c - the provider's own sgemm on one product: what level 3 is measured against.
 *
 *     y = x w_out     x (batch, hidden), w_out (hidden, d_out)
 *
 * Square extents (batch = d_in = d_out = hidden) make the large square product of the BLAS reports.
 * flops:  2 * batch * hidden * d_out.
 * Needs:  sgemm. No workspace, no activation; w_in is not read; hidden must equal d_in.
 */
#include "blas/blas.h"
#include "ceilings/ceiling.h"

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (s->hidden != s->d_in)
        return FFK_BAD_SHAPE;
    ffk_sgemm(c->blas, 'N', s->d_out, s->batch, s->hidden, o->w_out, s->d_out, o->x, s->hidden,
              0.0f, o->y, s->d_out);
    return FFK_OK;
}

FFK_CEILING(sgemm, 3, FFK_NEEDS_SGEMM);
