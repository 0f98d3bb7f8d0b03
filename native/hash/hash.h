/* hash.h - which leaf a hash of a token picks: of the bits of the first FFK_HASHED elements of x as
 * they are stored, mixed by multiplying with 2^32 over the golden ratio. No product decides.
 */
#ifndef FFK_HASH_H
#define FFK_HASH_H

#include "memory/sizes.h"

#include <string.h>

enum { FFK_HASHED = 4 };

static inline int64_t ffk_hash_leaf(const ffk_shape *s, const char *x) {
    uint32_t h = 0;
    for (int64_t i = 0; i < ffk_min(FFK_HASHED, s->d_in); ++i) {
        uint32_t bits;
        uint16_t narrow;
        if (s->dtype == FFK_BFLOAT16) {
            memcpy(&narrow, x + (size_t)i * sizeof narrow, sizeof narrow);
            bits = narrow;
        } else {
            memcpy(&bits, x + (size_t)i * sizeof bits, sizeof bits);
        }
        h = (h ^ bits) * 0x9E3779B1u;
        h ^= h >> 15;
    }
    return s->depth > 0 ? (int64_t)(h >> (32 - s->depth)) : 0;
}

/* The node at a level of the path to a leaf. */
static inline int64_t ffk_path_node(const ffk_shape *s, int64_t leaf, int64_t level) {
    return ((leaf + ((int64_t)1 << s->depth)) >> (s->depth - level)) - 1;
}

#endif
