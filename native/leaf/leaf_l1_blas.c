/* leaf_l1_blas.c - leaf FFF forward pass at BLAS level 1: dots and axpys, token by token.
 *
 * Each token walks from the root of the router to a leaf, to the right iff
 * <x[b], router[n]> + router_bias[n] >= 0 (a NaN turns left); that leaf alone gives
 *     y[b] = b_out[j] + sum over h of act(z[h]) * w_out[j, h],
 *     z[h] = <x[b], w_in[j, h]> + b_in[j, h]
 *
 * flops:  2 * batch * (depth * d_in + hidden * (d_in + d_out)), biases and activation not counted.
 * Reads:  depth * d_in + hidden * (d_in + d_out) weight elements per token, gathered by leaf.
 * Needs:  sdot, saxpy. Workspace: z (hidden,).
 */
#include "blas/blas.h"
#include "leaf/activation.h"
#include "memory/workspace.h"

#include <string.h>

static size_t workspace_bytes(const ffk_shape *s) {
    return ffk_round_up((size_t)s->hidden * sizeof(float));
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    float *z = o->workspace; /* (hidden,) */
    for (int64_t b = 0; b < s->batch; ++b) {
        const float *x = o->x + b * s->d_in; /* (d_in,)  */
        float *y = o->y + b * s->d_out;      /* (d_out,) */
        int64_t node = 0;
        for (int64_t d = 0; d < s->depth; ++d) {
            const float turn = ffk_sdot(c->blas, s->d_in, x, o->router + node * s->d_in);
            node = 2 * node + 1 + (turn + o->router_bias[node] >= 0.0f);
        }
        const int64_t leaf = node - (((int64_t)1 << s->depth) - 1);
        const float *w_in = o->w_in + leaf * s->hidden * s->d_in;    /* (hidden, d_in)  */
        const float *w_out = o->w_out + leaf * s->hidden * s->d_out; /* (hidden, d_out) */
        for (int64_t h = 0; h < s->hidden; ++h)
            z[h] =
                ffk_sdot(c->blas, s->d_in, x, w_in + h * s->d_in) + o->b_in[leaf * s->hidden + h];
        ffk_activate(s, c->isa, s->hidden, z);
        memcpy(y, o->b_out + leaf * s->d_out, (size_t)s->d_out * sizeof *y);
        for (int64_t h = 0; h < s->hidden; ++h)
            ffk_saxpy(c->blas, s->d_out, z[h], w_out + h * s->d_out, y);
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_leaf_l1_blas;
const ffk_kernel ffk_kernel_leaf_l1_blas = {.id = "leaf_l1_blas",
                                            .layer = "leaf",
                                            .level = 1,
                                            .routines = FFK_NEEDS_SDOT | FFK_NEEDS_SAXPY,
                                            .token_block = 1,
                                            .workspace_bytes = workspace_bytes,
                                            .run = run};
