/* activation.h - the GELU of a plain layer's pre-activations, in place, shared among the caller's
 * threads: between two products that the provider shares among its own, a single one would take a
 * part of the pass that grows with their number.
 *
 * Units: 64 Ki elements, by the size of z alone: 13 to 26 us, about what waking a thread takes, so
 *        that what is no larger stays with the caller. Whole vectors of every instruction set, so
 *        that the bytes are those of one call.
 */
#ifndef FFK_FF_ACTIVATION_H
#define FFK_FF_ACTIVATION_H

#include "memory/sizes.h"
#include "threads/parallel_for.h"

enum { FFK_GELU_UNIT = 64 * 1024 };

typedef struct {
    const ffk_isa *isa;
    int64_t n;
    float *z;
} ffk_gelu_job;

static void ffk_gelu_unit(void *state, int64_t i) {
    const ffk_gelu_job *j = state;
    const int64_t first = i * FFK_GELU_UNIT;
    j->isa->gelu(ffk_min(FFK_GELU_UNIT, j->n - first), j->z + first);
}

/* z[i] = gelu(z[i]) for all i below n. */
static inline void ffk_gelu(const ffk_context *c, int64_t n, float *z) {
    ffk_gelu_job job = {.isa = c->isa, .n = n, .z = z};
    ffk_parallel_for(c->team, ffk_ceil_div(n, FFK_GELU_UNIT), ffk_gelu_unit, &job);
}

#endif
