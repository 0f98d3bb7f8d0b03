/* workspace.h - carving aligned pieces out of the caller's workspace. */
#ifndef FFK_WORKSPACE_H
#define FFK_WORKSPACE_H

#include "memory/sizes.h"

/* Round `bytes` up to whole FFK_ALIGNMENT units, so that the next piece is aligned too. */
static inline size_t ffk_round_up(size_t bytes) {
    return (bytes + (FFK_ALIGNMENT - 1)) / FFK_ALIGNMENT * FFK_ALIGNMENT;
}

/* Return the piece of `bytes` at *cursor and move the cursor behind it. */
static inline void *ffk_take(char **cursor, size_t bytes) {
    void *piece = *cursor;
    *cursor += ffk_round_up(bytes);
    return piece;
}

#endif
