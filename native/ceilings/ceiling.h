/* ceiling.h - what the ceilings have in common: rows shared among the caller's threads, and their
 * entry of the table. */
#ifndef FFK_CEILING_H
#define FFK_CEILING_H

#include "memory/sizes.h"
#include "threads/parallel_for.h"

typedef struct ffk_ceiling {
    const ffk_shape *shape;
    const ffk_operands *operands;
    const ffk_isa *isa;
    /* Walk over rows first..end - 1 of y, `hidden` times. */
    void (*walk)(const struct ffk_ceiling *c, int64_t first, int64_t end);
    int64_t parts; /* ranges of rows, each walked by one thread */
    int64_t l3_bytes;
} ffk_ceiling;

static inline void ffk_walk_part(void *job, int64_t i) {
    const ffk_ceiling *c = job;
    const int64_t rows = c->shape->batch;
    c->walk(c, i * rows / c->parts, (i + 1) * rows / c->parts);
}

/* Walk over all rows. Each thread has a part where a pass walks several times: so it stays within
 * its own caches, and meets the others once a pass. Where a pass walks once, there are more parts
 * than threads, so that none waits long for the slowest. What is written hangs on neither. */
static inline void ffk_walk_all(const ffk_shape *s, const ffk_operands *o,
                                const ffk_context *context,
                                void (*walk)(const ffk_ceiling *c, int64_t first, int64_t end)) {
    const int64_t threads = context->team != NULL ? context->team->threads : 1;
    const int64_t most = s->hidden > 1 ? threads : 16 * threads;
    ffk_ceiling c = {.shape = s,
                     .operands = o,
                     .isa = context->isa,
                     .walk = walk,
                     .parts = most < s->batch ? most : s->batch,
                     .l3_bytes = ffk_l3_bytes(context)};
    ffk_parallel_for(context->team, c.parts, ffk_walk_part, &c);
}

/* y[b, j] = w_out[hidden - 1, 0] * x[b, j]: walk p scales by w_out[p, 0], d_in = d_out. */
static inline void ffk_walk_scaling(const ffk_ceiling *c, int64_t first, int64_t end,
                                    void (*scale)(int64_t n, float factor, const float *x,
                                                  float *y)) {
    const int64_t d = c->shape->d_in;
    for (int64_t pass = 0; pass < c->shape->hidden; ++pass)
        for (int64_t b = first; b < end; ++b)
            scale(d, c->operands->w_out[pass * d], c->operands->x + b * d, c->operands->y + b * d);
}

/* The entry of a ceiling whose pass is `run`, of a BLAS level and the routines that it calls. */
#define FFK_CEILING(name, blas_level, needs)                                                       \
    extern const ffk_kernel ffk_kernel_ceiling_##name;                                             \
    const ffk_kernel ffk_kernel_ceiling_##name = {.id = "ceiling_" #name,                          \
                                                  .layer = "ceiling",                              \
                                                  .level = (blas_level),                           \
                                                  .routines = (needs),                             \
                                                  .workspace_bytes = ffk_no_workspace,             \
                                                  .run = run}

#endif
