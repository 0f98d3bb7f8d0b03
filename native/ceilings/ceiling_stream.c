/* ceiling_stream.c - copying bandwidth past the caches: read x and write y, `hidden` times.
 *
 *     y[b, j] = w_out[hidden - 1, 0] * x[b, j]     pass p scales by w_out[p, 0]
 *
 * Bytes:  8 * hidden * batch * d_in, as ceiling_copy; but the lines of y are written by
 * non-temporal stores, so that no line is read in order to be overwritten. A kernel whose output
 * does not stay in a cache may do the same: what can be moved at most is then this. Needs:  d_in =
 * d_out.
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
            c->isa->stream(s->d_in, o->w_out[pass * s->d_out], o->x + b * s->d_in,
                           o->y + b * s->d_out);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ceiling_stream;
const ffk_kernel ffk_kernel_ceiling_stream = {.id = "ceiling_stream",
                                              .layer = "ceiling",
                                              .level = 0,
                                              .routines = 0,
                                              .workspace_bytes = workspace_bytes,
                                              .run = run};
