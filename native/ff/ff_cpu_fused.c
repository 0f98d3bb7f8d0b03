/* ff_cpu_fused.c - FF forward pass by our own products, both of them and the activation in one walk
 * over the weights: for batches so small that packing the weights is most of what a BLAS does.
 *
 *     y = gelu(x w_in^T) w_out, a block of neurons at a time: dense.h
 *
 * flops:  2 * batch * hidden * (d_in + d_out), activation not counted.
 * Bytes:  the weights once for each tile of at most 256 tokens, never packed; x and y of a tile
 *         once for each block of neurons, from L2 or the next cache.
 * Needs:  nothing. Workspace: sums of y for each range of neurons, where there are several or y is
 *         narrower than float32; x as float32, where it is narrower.
 * Tile:   dots of 8 tokens by 3 rows, sums of 8 tokens by 3 vectors of columns: 24 sums in
 *         registers, 11 loads for 24 multiply-adds. Blocks of 48 neurons at width 768 and 1 MiB of
 *         L2: two blocks' rows take half of it. The more tokens in a tile, the less often the
 *         weights come from L3 or memory; 8 units of work, so that several threads share one tile.
 */
#include "dense/dense.h"

static size_t workspace_bytes(const ffk_shape *s) { return ffk_dense_workspace(s, s->hidden); }

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    ffk_dense_run(s, s->hidden, o, c);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_ff_cpu_fused;
const ffk_kernel ffk_kernel_ff_cpu_fused = {.id = "ff_cpu_fused",
                                            .layer = "ff",
                                            .dtypes = FFK_TAKES_FLOAT32 | FFK_TAKES_BFLOAT16,
                                            .workspace_bytes = workspace_bytes,
                                            .run = run};
