/* ceiling_read.c - reading bandwidth: stream over x, `hidden` times.
 *
 *     y[b, j] = sum over i of x[b, i]
 *
 * Bytes:  4 * hidden * batch * d_in, read in order.
 * Needs:  nothing. The repetitions stand out here, not in the instruction set's loop, where a
 *         compiler could see that they change nothing; rows should be long (4096 and more) where
 *         the set is small, so that the call and the last additions of a row don't count.
 */
#include "ceilings/ceiling.h"

static void walk(const ffk_ceiling *c, int64_t first, int64_t end) {
    const ffk_shape *s = c->shape;
    for (int64_t pass = 0; pass < s->hidden; ++pass)
        for (int64_t b = first; b < end; ++b) {
            const float total = c->isa->sum(s->d_in, c->operands->x + b * s->d_in);
            /* The last walk alone writes: rows of y share lines, and so would the threads. */
            if (pass + 1 < s->hidden)
                continue;
            float *y = c->operands->y + b * s->d_out; /* (d_out,) */
            for (int64_t j = 0; j < s->d_out; ++j)
                y[j] = total;
        }
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    ffk_walk_all(s, o, c, walk);
    return FFK_OK;
}

FFK_CEILING(read, 0, 0);
