/* prefetch.h - how far ahead x is fetched, and rows of it that a loop fetches in passing
 * (ffk_feed), into L2. */
#ifndef FFK_PREFETCH_H
#define FFK_PREFETCH_H

#include "ffk.h"

enum {
    FFK_LINE = 64,
    /* For each row of w that a loop reads in a step: fewer would leave a part of x to be waited
     * for, since a step of several tokens takes the room of as many rows of x. */
    FFK_FEED_LINES = 2,
    FFK_LATER_TOKENS = 4 /* four rows of 3 KB are what 300 ns of 40 GB/s bring: two latencies */
};

/* Ask for a line, into L2: a core can wait for fewer lines at a time where they go into L1. */
static inline void ffk_prefetch_line(const void *line) { __builtin_prefetch(line, 0, 2); }

/* Take what `rows` rows of w let a loop fetch, all of one row of x: return where it begins, and in
 * *lines how many lines it is. */
static inline const char *ffk_prefetch_take(ffk_feed *feed, int64_t rows, int64_t *lines) {
    const int64_t most = rows * FFK_FEED_LINES;
    if (feed->at == feed->end) {
        if (feed->left == 0) {
            *lines = 0;
            return NULL;
        }
        feed->at = feed->x + *feed->token++ * feed->row_bytes;
        feed->end = feed->at + feed->row_bytes;
        --feed->left;
    }
    const char *at = feed->at;
    const int64_t rest = (feed->end - at + FFK_LINE - 1) / FFK_LINE;
    *lines = rest < most ? rest : most;
    feed->at = *lines == rest ? feed->end : at + *lines * FFK_LINE;
    return at;
}

/* Fetch the share of `rows` rows of w, from number r on, of the `lines` lines at `at`. */
static inline void ffk_prefetch_feed(const char *at, int64_t lines, int64_t r, int rows) {
    for (int64_t i = r * FFK_FEED_LINES; i < (r + rows) * FFK_FEED_LINES; ++i)
        if (i < lines)
            ffk_prefetch_line(at + i * FFK_LINE);
}

#endif
