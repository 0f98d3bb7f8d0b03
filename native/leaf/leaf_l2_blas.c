/* leaf_l2_blas.c - leaf FFF forward pass at BLAS level 2: batched gemvs, and a batched axpy for the
 * biases of the outputs.
 *
 * A block of tokens descends level by level: member b of the batched gemv is the one-row matrix
 * router[node[b]] times x[b]. Then two batched gemvs more, member b the whole w_in, and the whole
 * w_out, of the leaf that token b has come to:
 *     y[b] = act(w_in[j] x[b] + b_in[j]) w_out[j] + b_out[j]
 * The walk turns right iff the router's sum, with its bias, is >= 0 (a NaN turns left).
 *
 * flops:  2 * batch * (depth * d_in + hidden * (d_in + d_out)), biases and activation not counted.
 * Reads:  depth * d_in + hidden * (d_in + d_out) weight elements per token, gathered by leaf.
 * Needs:  sgemv, saxpy; uses sgemv_batch, saxpy_batch where the provider has them.
 *         Workspace: z (block, hidden).
 * Block:  at most 64 tokens, as the FFF's level 2 has.
 */
#include "blas/blas_batch.h"
#include "leaf/activation.h"
#include "memory/workspace.h"

enum { BLOCK = FFK_BATCH_MAX };

static size_t workspace_bytes(const ffk_shape *s) {
    return ffk_round_up((size_t)(BLOCK * s->hidden) * sizeof(float));
}

/* Find the leaf (count,) that each token of a block comes to. */
static void descend(const ffk_shape *s, const ffk_operands *o, const ffk_context *c,
                    const float *const *x, int64_t count, int64_t *leaf) {
    const float *router[BLOCK];
    float z[BLOCK], *z_at[BLOCK];
    for (int64_t i = 0; i < count; ++i) {
        leaf[i] = 0;
        z_at[i] = z + i;
    }
    for (int64_t d = 0; d < s->depth; ++d) {
        for (int64_t i = 0; i < count; ++i)
            router[i] = o->router + leaf[i] * s->d_in; /* (d_in,) */
        ffk_sgemv_batch(c->blas, 'T', s->d_in, 1, router, x, z_at, count);
        for (int64_t i = 0; i < count; ++i)
            leaf[i] = 2 * leaf[i] + 1 + (z[i] + o->router_bias[leaf[i]] >= 0.0f);
    }
    for (int64_t i = 0; i < count; ++i)
        leaf[i] -= ((int64_t)1 << s->depth) - 1;
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    float *z = o->workspace; /* (BLOCK, hidden) */
    const float *x[BLOCK], *weights[BLOCK], *a[BLOCK];
    float *z_at[BLOCK], *y[BLOCK], ones[BLOCK];
    int64_t leaf[BLOCK];
    for (int64_t first = 0; first < s->batch; first += BLOCK) {
        const int64_t count = ffk_min(BLOCK, s->batch - first);
        for (int64_t i = 0; i < count; ++i) {
            x[i] = o->x + (first + i) * s->d_in;  /* (d_in,)  */
            y[i] = o->y + (first + i) * s->d_out; /* (d_out,) */
            a[i] = z_at[i] = z + i * s->hidden;   /* (hidden,) */
            ones[i] = 1.0f;
        }
        descend(s, o, c, x, count, leaf);
        for (int64_t i = 0; i < count; ++i)
            weights[i] = o->w_in + leaf[i] * s->hidden * s->d_in; /* (hidden, d_in) */
        ffk_sgemv_batch(c->blas, 'T', s->d_in, s->hidden, weights, x, z_at, count);
        for (int64_t i = 0; i < count; ++i)
            for (int64_t h = 0; h < s->hidden; ++h)
                z_at[i][h] += o->b_in[leaf[i] * s->hidden + h];
        ffk_activate(s, c->isa, count * s->hidden, z);
        for (int64_t i = 0; i < count; ++i)
            weights[i] = o->w_out + leaf[i] * s->hidden * s->d_out; /* (hidden, d_out) */
        ffk_sgemv_batch(c->blas, 'N', s->d_out, s->hidden, weights, a, y, count);
        for (int64_t i = 0; i < count; ++i)
            weights[i] = o->b_out + leaf[i] * s->d_out; /* (d_out,) */
        ffk_saxpy_batch(c->blas, s->d_out, ones, weights, y, count);
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_leaf_l2_blas;
const ffk_kernel ffk_kernel_leaf_l2_blas = {.id = "leaf_l2_blas",
                                            .layer = "leaf",
                                            .level = 2,
                                            .routines = FFK_NEEDS_SGEMV | FFK_NEEDS_SAXPY |
                                                        FFK_BATCHES_SGEMV | FFK_BATCHES_SAXPY,
                                            .token_block = BLOCK,
                                            .workspace_bytes = workspace_bytes,
                                            .run = run};
