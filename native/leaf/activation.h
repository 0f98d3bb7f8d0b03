/* activation.h - the activation of a leaf network, in place: the GELU, or the ReLU of the paper. */
#ifndef FFK_LEAF_ACTIVATION_H
#define FFK_LEAF_ACTIVATION_H

#include "ffk.h"

/* A NaN stays one. */
static inline void ffk_activate(const ffk_shape *s, const ffk_isa *isa, int64_t n, float *z) {
    if (s->activation == FFK_GELU) {
        isa->gelu(n, z);
        return;
    }
    for (int64_t i = 0; i < n; ++i)
        z[i] = z[i] < 0.0f ? 0.0f : z[i];
}

#endif
