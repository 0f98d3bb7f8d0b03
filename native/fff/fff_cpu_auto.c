/* fff_cpu_auto.c - FFF forward pass by whichever of our own kernels suits the problem.
 *
 * One or two tokens share next to nothing: fff_cpu_fused. For two of them fff_cpu_grouped takes 0.9
 * of its time from a cache and 1.15 from memory. From three on fff_cpu_grouped is the faster one
 * (but at width 3072, where three and four tokens take 1.15 of the other's time). With several
 * trees it adds to y once a tree, where the fused kernel keeps the sum of all in registers: there
 * from eight tokens on. The harness measures which is faster where both are near, and takes that; a
 * caller of this table can't. Trees of depth 0 are a plain layer to it: from two tokens on.
 *
 * flops, bytes, needs: those of the kernel that is chosen. Workspace: the larger of the two.
 */
#include "ffk.h"
#include "memory/workspace.h"

extern const ffk_kernel ffk_kernel_fff_cpu_fused, ffk_kernel_fff_cpu_grouped;

enum { GROUPED_FROM = 3, GROUPED_FROM_TREES = 8, GROUPED_FROM_DENSE = 2 };

static const ffk_kernel *choose(const ffk_shape *s, const ffk_context *c) {
    (void)c;
    const int64_t several = s->depth > 0 ? GROUPED_FROM_TREES : GROUPED_FROM_DENSE;
    const int64_t from = s->trees > 1 ? several : GROUPED_FROM;
    return s->batch < from ? &ffk_kernel_fff_cpu_fused : &ffk_kernel_fff_cpu_grouped;
}

static size_t workspace_bytes(const ffk_shape *s) {
    const size_t fused = ffk_kernel_fff_cpu_fused.workspace_bytes(s);
    const size_t grouped = ffk_kernel_fff_cpu_grouped.workspace_bytes(s);
    return fused > grouped ? fused : grouped;
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    return choose(s, c)->run(s, o, c);
}

extern const ffk_kernel ffk_kernel_fff_cpu_auto;
const ffk_kernel ffk_kernel_fff_cpu_auto = {.id = "fff_cpu_auto",
                                            .layer = "fff",
                                            .dtypes = FFK_TAKES_FLOAT32 | FFK_TAKES_BFLOAT16,
                                            .workspace_bytes = workspace_bytes,
                                            .run = run,
                                            .choose = choose};
