/* ceiling_stream.c - copying bandwidth past the caches: read x and write y, `hidden` times.
 *
 *     y[b, j] = w_out[hidden - 1, 0] * x[b, j]     pass p scales by w_out[p, 0]
 *
 * Bytes:  8 * hidden * batch * d_in, as ceiling_copy; but the lines of y are written by
 * non-temporal stores, so that no line is read in order to be overwritten. A kernel whose output
 * does not stay in a cache may do the same: what can be moved at most is then this. Needs:  d_in =
 * d_out.
 */
#include "ceilings/ceiling.h"

static void walk(const ffk_ceiling *c, int64_t first, int64_t end) {
    ffk_walk_scaling(c, first, end, c->isa->stream);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (s->d_in != s->d_out)
        return FFK_BAD_SHAPE;
    ffk_walk_all(s, o, c, walk);
    return FFK_OK;
}

FFK_CEILING(stream, 0, 0);
