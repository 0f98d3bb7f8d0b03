/* ceiling_read.c - reading bandwidth: stream over x, `hidden` times.
 *
 *     y[b, j] = sum over i of x[b, i]
 *
 * Bytes:  4 * hidden * batch * d_in, read in order.
 * Needs:  nothing. The repetitions stand out here, not in the instruction set's loop, where a
 *         compiler could see that they change nothing; rows should be long (4096 and more) where
 *         the set is small, so that the call and the last additions of a row don't count.
 */
#include "ffk.h"

static size_t workspace_bytes(const ffk_shape *s) {
    (void)s;
    return 0;
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    for (int64_t pass = 0; pass < s->hidden; ++pass)
        for (int64_t b = 0; b < s->batch; ++b) {
            const float total = c->isa->sum(s->d_in, o->x + b * s->d_in);
            float *y = o->y + b * s->d_out; /* (d_out,) */
            for (int64_t j = 0; j < s->d_out; ++j)
                y[j] = total;
        }
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ceiling_read;
const ffk_kernel ffk_kernel_ceiling_read = {.id = "ceiling_read",
                                            .layer = "ceiling",
                                            .level = 0,
                                            .routines = 0,
                                            .workspace_bytes = workspace_bytes,
                                            .run = run};
