/* parallel_for.h - the caller's threads, as a kernel uses them: units of work that hang on none of
 * each other. The units of a pass are the same for any number of threads, and so are its results.
 */
#ifndef FFK_PARALLEL_FOR_H
#define FFK_PARALLEL_FOR_H

#include "ffk.h"

static inline void ffk_parallel_for(const ffk_team *team, int64_t units,
                                    void (*unit)(void *job, int64_t i), void *job) {
    if (team != NULL && team->threads > 1 && units > 1) {
        team->share(team->state, units, unit, job);
        return;
    }
    for (int64_t i = 0; i < units; ++i)
        unit(job, i);
}

#endif
