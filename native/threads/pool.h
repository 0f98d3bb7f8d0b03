/* pool.h - making and ending the threads of an ffk_team: the caller's business, no kernel's.
 */
#ifndef FFK_POOL_H
#define FFK_POOL_H

#include "ffk.h"

/* Return a team of that many threads, the calling one included; NULL where they can't be had. One
 * pass at a time may use it. */
const ffk_team *ffk_pool_make(int64_t threads);
void ffk_pool_end(const ffk_team *team);

#endif
