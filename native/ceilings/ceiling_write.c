/* ceiling_write.c - writing bandwidth: fill y, `hidden` times.
 *
 *     y[b, j] = x[b, 0] * w_out[hidden - 1, 0]     pass p writes x[b, 0] * w_out[p, 0]
 *
 * Bytes:  4 * hidden * batch * d_out, written in order with ordinary stores. A store that misses
 *         makes the processor read the line first; that traffic is not counted, since the layers'
 *         own stores pay for it too.
 * Needs:  nothing.
 */
#include "ceilings/ceiling.h"

static void walk(const ffk_ceiling *c, int64_t first, int64_t end) {
    const ffk_shape *s = c->shape;
    const ffk_operands *o = c->operands;
    for (int64_t pass = 0; pass < s->hidden; ++pass)
        for (int64_t b = first; b < end; ++b)
            c->isa->fill(s->d_out, o->x[b * s->d_in] * o->w_out[pass * s->d_out],
                         o->y + b * s->d_out);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    ffk_walk_all(s, o, c, walk);
    return FFK_OK;
}

FFK_CEILING(write, 0, 0);
