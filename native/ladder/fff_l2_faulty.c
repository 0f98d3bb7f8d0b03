/* fff_l2_faulty.c - FFF at BLAS level 2 with the published faults, as two kernels.
 *
 * fff_l2_unit_scale:  y[b] = sum over the nodes of b's path of 1 * w_out[node]
 * fff_l2_same_row:    every token is given the address of x[0] and of y[0], and the factor 1:
 *                     y[0] = batch * sum over the nodes of x[0]'s path of w_out[node];
 *                     the other rows of y are not written
 *
 * Faults: with one row for all, x and y stay in the first-level cache, every token takes one path,
 *         and the rows of the weights on it (two times 12 of 4095) stay there too. With the factor
 * 1 the activation is computed and not used. flops:  2 * batch * trees * (depth + 1) * (d_in +
 * d_out), activation not counted. Needs:  sgemv, saxpy; uses sgemv_batch, saxpy_batch where the
 * provider has them. Workspace: z (depth + 1, block), the rows that they belong to, the factors
 * (block,). Block:  64 tokens as in fff_l2_blas, so that nothing but the faults differs.
 */
#include "blas/blas_batch.h"
#include "memory/workspace.h"

#include <stdbool.h>
#include <string.h>

enum { BLOCK = FFK_BATCH_MAX };

static size_t workspace_bytes(const ffk_shape *s) {
    const size_t used = (size_t)(s->depth + 1) * BLOCK;
    return ffk_round_up(used * sizeof(float)) + ffk_round_up(used * sizeof(int64_t)) +
           ffk_round_up(BLOCK * sizeof(float));
}

/* Descend one tree with `count` tokens: fill z and row, both (depth + 1, BLOCK). */
static void descend(const ffk_shape *s, const ffk_operands *o, const ffk_context *c, int64_t tree,
                    const float *const *x, int64_t count, float *z, int64_t *row) {
    const int64_t first_row = tree * (((int64_t)2 << s->depth) - 1);
    const float *w_in[BLOCK];
    float *z_at[BLOCK];
    for (int64_t i = 0; i < count; ++i)
        row[i] = first_row;
    for (int64_t d = 0; d <= s->depth; ++d, z += BLOCK, row += BLOCK) {
        for (int64_t i = 0; i < count; ++i) {
            w_in[i] = o->w_in + row[i] * s->d_in; /* (d_in,) */
            z_at[i] = z + i;
        }
        ffk_sgemv_batch(c->blas, 'T', s->d_in, 1, w_in, x, z_at, count);
        if (d == s->depth)
            return;
        for (int64_t i = 0; i < count; ++i)
            row[BLOCK + i] = first_row + 2 * (row[i] - first_row) + 1 + (z[i] >= 0.0f);
    }
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c,
                      bool same_row) {
    const size_t used = (size_t)(s->depth + 1) * BLOCK;
    char *cursor = o->workspace;
    float *z = ffk_take(&cursor, used * sizeof *z);         /* (depth + 1, BLOCK) */
    int64_t *row = ffk_take(&cursor, used * sizeof *row);   /* (depth + 1, BLOCK) */
    float *unit = ffk_take(&cursor, BLOCK * sizeof(float)); /* (BLOCK,) */
    const float *x[BLOCK], *w_out[BLOCK];
    float *y[BLOCK];
    for (int64_t i = 0; i < BLOCK; ++i)
        unit[i] = 1.0f;
    if (same_row)
        memset(o->y, 0, (size_t)s->d_out * sizeof(float));
    for (int64_t first = 0; first < s->batch; first += BLOCK) {
        const int64_t count = ffk_min(BLOCK, s->batch - first);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t token = same_row ? 0 : first + i;
            x[i] = o->x + token * s->d_in;  /* (d_in,)  */
            y[i] = o->y + token * s->d_out; /* (d_out,) */
        }
        if (!same_row)
            memset(y[0], 0, (size_t)(count * s->d_out) * sizeof(float));
        for (int64_t k = 0; k < s->trees; ++k) {
            descend(s, o, c, k, x, count, z, row);
            for (int64_t d = 0; d <= s->depth; ++d) {
                c->isa->gelu(count, z + d * BLOCK);
                for (int64_t i = 0; i < count; ++i)
                    w_out[i] = o->w_out + row[d * BLOCK + i] * s->d_out; /* (d_out,) */
                ffk_saxpy_batch(c->blas, s->d_out, unit, w_out, y, count);
            }
        }
    }
    return FFK_OK;
}

static ffk_status run_same_row(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    return run(s, o, c, true);
}

static ffk_status run_unit_scale(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    return run(s, o, c, false);
}

#define ROUTINES (FFK_NEEDS_SGEMV | FFK_NEEDS_SAXPY | FFK_BATCHES_SGEMV | FFK_BATCHES_SAXPY)

extern const ffk_kernel ffk_ladder_fff_l2_same_row, ffk_ladder_fff_l2_unit_scale;
const ffk_kernel ffk_ladder_fff_l2_same_row = {.id = "fff_l2_same_row",
                                               .layer = "fff",
                                               .level = 2,
                                               .routines = ROUTINES,
                                               .workspace_bytes = workspace_bytes,
                                               .run = run_same_row};
const ffk_kernel ffk_ladder_fff_l2_unit_scale = {.id = "fff_l2_unit_scale",
                                                 .layer = "fff",
                                                 .level = 2,
                                                 .routines = ROUTINES,
                                                 .workspace_bytes = workspace_bytes,
                                                 .run = run_unit_scale};
