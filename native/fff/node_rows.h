/* node_rows.h - rows of weights, as the FFF kernels of our own see them. */
#ifndef FFK_NODE_ROWS_H
#define FFK_NODE_ROWS_H

#include "ffk.h"
#include "vector/prefetch.h"

enum { FFK_HEAD_LINES = 2 };

/* Ask for the first lines of a row, from which the processor's own prefetcher goes on; lines behind
 * those that it needs for that, into L2 alone. Reading beyond a row is harmless: nothing is loaded
 * but a cache line. */
static inline void ffk_fetch_head(const void *row, int64_t lines) {
    for (int64_t i = 0; i < FFK_HEAD_LINES; ++i)
        __builtin_prefetch((const char *)row + i * FFK_LINE);
    for (int64_t i = FFK_HEAD_LINES; i < lines; ++i)
        ffk_prefetch_line((const char *)row + i * FFK_LINE);
}

static inline int64_t ffk_row_lines(size_t row_bytes) {
    return (int64_t)(row_bytes + FFK_LINE - 1) / FFK_LINE;
}

/* Lines to ask for of a row that is sure to be needed: all of them where it comes from memory. */
static inline int64_t ffk_head_lines(const ffk_context *c, size_t row_bytes) {
    return c->far_weights ? ffk_row_lines(row_bytes) : FFK_HEAD_LINES;
}

#endif
