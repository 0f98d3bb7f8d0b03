/* ceiling_copy.c - copying bandwidth: x to y, `hidden` times.
 *
 *     y[b, j] = w_out[hidden - 1, 0] * x[b, j]     pass p scales by w_out[p, 0]
 *
 * Bytes:  8 * hidden * batch * d_in: each element read once and written once. The set is x and y
 *         together.
 * Needs:  d_in = d_out. The factor shows that the last pass was made.
 */
#include "ffk.h"

static size_t workspace_bytes(const ffk_shape *s) {
    (void)s;
    return 0;
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (s->d_in != s->d_out)
        return FFK_BAD_SHAPE;
    for (int64_t pass = 0; pass < s->hidden; ++pass)
        for (int64_t b = 0; b < s->batch; ++b)
            c->isa->scale(s->d_out, o->w_out[pass * s->d_out], o->x + b * s->d_in,
                          o->y + b * s->d_out);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ceiling_copy;
const ffk_kernel ffk_kernel_ceiling_copy = {.id = "ceiling_copy",
                                            .layer = "ceiling",
                                            .level = 0,
                                            .routines = 0,
                                            .workspace_bytes = workspace_bytes,
                                            .run = run};
