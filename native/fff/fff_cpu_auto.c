/* fff_cpu_auto.c - FFF forward pass by whichever of our own kernels suits the problem.
 *
 * Fewer than four tokens share next to no rows below the upper levels, so that grouping them costs
 * more than it saves: fff_cpu_fused. From eight on fff_cpu_grouped was faster at every shape that
 * was measured (docs/kernels.md); with a second thread it is the only one that can use it.
 *
 * flops, bytes, needs: those of the kernel that is chosen. Workspace: the larger of the two.
 */
#include "ffk.h"
#include "workspace.h"

extern const ffk_kernel ffk_kernel_fff_cpu_fused, ffk_kernel_fff_cpu_grouped;

enum { GROUPED_FROM = 8 };

static const ffk_kernel *choose(const ffk_shape *s, const ffk_context *c) {
    (void)c;
    return s->batch < GROUPED_FROM ? &ffk_kernel_fff_cpu_fused : &ffk_kernel_fff_cpu_grouped;
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
