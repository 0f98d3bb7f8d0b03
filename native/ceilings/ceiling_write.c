/* ceiling_write.c - writing bandwidth: fill y, `hidden` times.
 *
 *     y[b, j] = x[b, 0] * w_out[hidden - 1, 0]     pass p writes x[b, 0] * w_out[p, 0]
 *
 * Bytes:  4 * hidden * batch * d_out, written in order with ordinary stores. A store that misses
 *         makes the processor read the line first; that traffic is not counted, since the layers'
 *         own stores pay for it too.
 * Needs:  nothing.
 */
#include "ffk.h"

static size_t workspace_bytes(const ffk_shape *s) {
    (void)s;
    return 0;
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    for (int64_t pass = 0; pass < s->hidden; ++pass)
        for (int64_t b = 0; b < s->batch; ++b)
            c->isa->fill(s->d_out, o->x[b * s->d_in] * o->w_out[pass * s->d_out],
                         o->y + b * s->d_out);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ceiling_write;
const ffk_kernel ffk_kernel_ceiling_write = {.id = "ceiling_write",
                                             .layer = "ceiling",
                                             .level = 0,
                                             .routines = 0,
                                             .workspace_bytes = workspace_bytes,
                                             .run = run};
