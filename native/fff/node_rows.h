/* node_rows.h - rows of weights, as the FFF kernels of our own see them. */
#ifndef FFK_NODE_ROWS_H
#define FFK_NODE_ROWS_H

#include "ffk.h"

/* Ask for the first lines of a row; the processor's own prefetcher goes on from there. Reading
 * beyond a row is harmless: nothing is loaded but a cache line. */
static inline void ffk_fetch_head(const void *row) {
    __builtin_prefetch(row);
    __builtin_prefetch((const char *)row + 64);
}

#endif
