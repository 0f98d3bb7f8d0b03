/* fff_l2_blas.c - FFF forward pass at BLAS level 2: a batched gemv and a batched axpy per tree
 * level.
 *
 * For a block of tokens, level by level: member b of the batched gemv is the one-row matrix
 * w_in[node[b]] times x[b]; after the descent, member b of the batched axpy of level d adds
 * gelu(z[d][b]) * w_out[node[d][b]] to y[b]. The walk turns right iff z >= 0 (a NaN turns left).
 *
 * flops:  2 * batch * trees * (depth + 1) * (d_in + d_out), activation not counted.
 * Reads:  trees * (depth + 1) * (d_in + d_out) weight elements per token, gathered.
 * Needs:  sgemv, saxpy; uses sgemv_batch, saxpy_batch where the provider has them.
 *         Workspace: z (depth + 1, block) and the nodes that they belong to.
 * Block:  at most 64 tokens, so that their rows of x and y (64 x 6 KiB at width 768) stay in L2
 *         over the levels.
 */
#include "blas/blas_batch.h"
#include "memory/workspace.h"

#include <string.h>

enum { BLOCK = FFK_BATCH_MAX };

static size_t workspace_bytes(const ffk_shape *s) {
    const size_t used = (size_t)(s->depth + 1) * BLOCK;
    return ffk_round_up(used * sizeof(float)) + ffk_round_up(used * sizeof(int64_t));
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

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const size_t used = (size_t)(s->depth + 1) * BLOCK;
    char *cursor = o->workspace;
    float *z = ffk_take(&cursor, used * sizeof *z);       /* (depth + 1, BLOCK) */
    int64_t *row = ffk_take(&cursor, used * sizeof *row); /* (depth + 1, BLOCK) */
    const float *x[BLOCK], *w_out[BLOCK];
    float *y[BLOCK];
    for (int64_t first = 0; first < s->batch; first += BLOCK) {
        const int64_t count = ffk_min(BLOCK, s->batch - first);
        for (int64_t i = 0; i < count; ++i) {
            x[i] = o->x + (first + i) * s->d_in;  /* (d_in,)  */
            y[i] = o->y + (first + i) * s->d_out; /* (d_out,) */
        }
        memset(y[0], 0, (size_t)(count * s->d_out) * sizeof(float));
        for (int64_t k = 0; k < s->trees; ++k) {
            descend(s, o, c, k, x, count, z, row);
            for (int64_t d = 0; d <= s->depth; ++d) {
                c->isa->gelu(count, z + d * BLOCK);
                for (int64_t i = 0; i < count; ++i)
                    w_out[i] = o->w_out + row[d * BLOCK + i] * s->d_out; /* (d_out,) */
                ffk_saxpy_batch(c->blas, s->d_out, z + d * BLOCK, w_out, y, count);
            }
        }
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_fff_l2_blas;
const ffk_kernel ffk_kernel_fff_l2_blas = {.id = "fff_l2_blas",
                                           .layer = "fff",
                                           .level = 2,
                                           .routines = FFK_NEEDS_SGEMV | FFK_NEEDS_SAXPY |
                                                       FFK_BATCHES_SGEMV | FFK_BATCHES_SAXPY,
                                           .token_block = BLOCK,
                                           .workspace_bytes = workspace_bytes,
                                           .run = run};
