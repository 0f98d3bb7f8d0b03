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
#include "ceilings/ceiling.h"

static void walk(const ffk_ceiling *c, int64_t first, int64_t end) {
    const ffk_shape *s = c->shape;
    const ffk_operands *o = c->operands;
    const float w = o->w_in[0], m = 1.0f - (w < 0.0f ? -w : w) / (float)s->hidden;
    for (int64_t b = first; b < end; ++b)
        c->isa->fma(s->d_out, s->hidden, m, o->w_out[0], o->x + b * s->d_in, o->y + b * s->d_out);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (s->d_in != s->d_out)
        return FFK_BAD_SHAPE;
    ffk_walk_all(s, o, c, walk);
    return FFK_OK;
}

FFK_CEILING(fma, 0, 0);
