/* ceiling_fma.c - the peak rate of multiply-adds: a loop that touches registers only.
 *
 *     y[b, j] = x[b, j] after `hidden` steps of v -> v * m + c
 *     m = 1 - |w_in[0, 0]| / hidden,  c = w_out[0, 0]
 *
 * m lies a little below 1, so that the start still shows in the result after all steps, and so does
 * each step: one too few moves y by c.
 * flops:  2 * batch * hidden * d_out, of lanes that are kept; d_out of a multiple of 768 wastes
 * none (24 chains of 16 lanes, 12 of 8, 12 or 24 of 4). Needs:  d_in = d_out. Where the target has
 * no fused multiply-add this is the rate of a multiply and an add.
 */
#include "ffk.h"

static size_t workspace_bytes(const ffk_shape *s) {
    (void)s;
    return 0;
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (s->d_in != s->d_out)
        return FFK_BAD_SHAPE;
    const float w = o->w_in[0], m = 1.0f - (w < 0.0f ? -w : w) / (float)s->hidden;
    for (int64_t b = 0; b < s->batch; ++b)
        c->isa->fma(s->d_out, s->hidden, m, o->w_out[0], o->x + b * s->d_in, o->y + b * s->d_out);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ceiling_fma;
const ffk_kernel ffk_kernel_ceiling_fma = {.id = "ceiling_fma",
                                           .layer = "ceiling",
                                           .level = 0,
                                           .routines = 0,
                                           .workspace_bytes = workspace_bytes,
                                           .run = run};
