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

/* Take at most `most` lines, all of one row: return where they begin, and in *lines how many. */
static inline const char *ffk_prefetch_take(ffk_feed *feed, int64_t most, int64_t *lines) {
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

/* Fetch `count` of the lines at `at`, from number `first` on, at most up to `lines`. */
static inline void ffk_prefetch_feed(const char *at, int64_t lines, int64_t first, int count) {
    for (int64_t i = first; i < first + count; ++i)
        if (i < lines)
            __builtin_prefetch(at + i * FFK_LINE, 0, 2);
}

#endif
