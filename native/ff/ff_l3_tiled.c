/* ff_l3_tiled.c - FF forward pass at BLAS level 3, tokens in tiles so that the intermediate stays
 * in cache.
 *
 *     for each tile of tokens:  z = x w_in^T,  y = gelu(z) w_out
 *
 * flops:  2 * batch * hidden * (d_in + d_out), activation not counted.
 * Bytes:  x, y once; the weights once per tile, packed anew by each gemm.
 * Needs:  sgemm. Workspace: z (tile, hidden).
 * Threads: the provider's for the products, the caller's for the activation (activation.h).
 * Tile:   chosen by elements of z, 16 MiB of them: half of a 32 MiB last-level cache. Smaller tiles
 *         pack the weights more often than the saved traffic is worth, larger ones spill z.
 */
#include "blas/blas.h"
#include "ff/activation.h"
#include "memory/workspace.h"

enum { TILE_ELEMENTS = 4 * 1024 * 1024, TILE_MIN = 64 };

static int64_t tile_tokens(const ffk_shape *s) {
    const int64_t fit = TILE_ELEMENTS / s->hidden;
    return ffk_min(s->batch, fit < TILE_MIN ? TILE_MIN : fit);
}

static size_t workspace_bytes(const ffk_shape *s) {
    return (size_t)tile_tokens(s) * (size_t)s->hidden * sizeof(float);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    float *z = o->workspace; /* (tile, hidden) */
    const int64_t tile = tile_tokens(s);
    for (int64_t first = 0; first < s->batch; first += tile) {
        const int64_t count = ffk_min(tile, s->batch - first);
        const float *x = o->x + first * s->d_in; /* (count, d_in)  */
        float *y = o->y + first * s->d_out;      /* (count, d_out) */
        ffk_sgemm(c->blas, 'T', s->hidden, count, s->d_in, o->w_in, s->d_in, x, s->d_in, 0.0f, z,
                  s->hidden);
        ffk_gelu(c, count * s->hidden, z);
        ffk_sgemm(c->blas, 'N', s->d_out, count, s->hidden, o->w_out, s->d_out, z, s->hidden, 0.0f,
                  y, s->d_out);
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ff_l3_tiled;
const ffk_kernel ffk_kernel_ff_l3_tiled = {.id = "ff_l3_tiled",
                                           .layer = "ff",
                                           .level = 3,
                                           .routines = FFK_NEEDS_SGEMM,
                                           .workspace_bytes = workspace_bytes,
                                           .run = run};
