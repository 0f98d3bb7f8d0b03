/* sizes.h - what the kernels cut their work by: extents, bytes of an element and of the caches. */
#ifndef FFK_SIZES_H
#define FFK_SIZES_H

#include "ffk.h"

static inline int64_t ffk_min(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t ffk_ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

static inline size_t ffk_element_bytes(const ffk_shape *s) {
    return s->dtype == FFK_BFLOAT16 ? 2 : 4;
}

/* Bytes of the caches that one core sees, or what a core has had since about 2015. */
static inline int64_t ffk_l2_bytes(const ffk_context *c) {
    return c->l2_bytes > 0 ? c->l2_bytes : 1 << 20;
}

static inline int64_t ffk_l3_bytes(const ffk_context *c) {
    return c->l3_bytes > 0 ? c->l3_bytes : 32 << 20;
}

#endif
