/* table.c - the kernels and instruction sets by name, and the way to run one. */
#include "table/arguments.h"

#include <time.h>

#define FFK_KERNEL(id) extern const ffk_kernel ffk_kernel_##id;
#include "kernels.inc"
#undef FFK_KERNEL

static const ffk_kernel *const kernels[] = {
#define FFK_KERNEL(id) &ffk_kernel_##id,
#include "kernels.inc"
#undef FFK_KERNEL
};

#define FFK_LADDER(id) extern const ffk_kernel ffk_ladder_##id;
#include "ladder.inc"
#undef FFK_LADDER

static const ffk_kernel *const ladder[] = {
#define FFK_LADDER(id) &ffk_ladder_##id,
#include "ladder.inc"
#undef FFK_LADDER
};

#define FFK_ISA_ENTRY(name) extern const ffk_isa ffk_isa_##name;
#include "isas.inc"
#undef FFK_ISA_ENTRY

static const ffk_isa *const isas[] = {
#define FFK_ISA_ENTRY(name) &ffk_isa_##name,
#include "isas.inc"
#undef FFK_ISA_ENTRY
};

size_t ffk_kernel_count(void) { return sizeof kernels / sizeof kernels[0]; }

const ffk_kernel *ffk_kernel_at(size_t i) { return i < ffk_kernel_count() ? kernels[i] : NULL; }

size_t ffk_ladder_count(void) { return sizeof ladder / sizeof ladder[0]; }

const ffk_kernel *ffk_ladder_at(size_t i) { return i < ffk_ladder_count() ? ladder[i] : NULL; }

size_t ffk_isa_count(void) { return sizeof isas / sizeof isas[0]; }

const ffk_isa *ffk_isa_at(size_t i) { return i < ffk_isa_count() ? isas[i] : NULL; }

size_t ffk_no_workspace(const ffk_shape *shape) {
    (void)shape;
    return 0;
}

size_t ffk_kernel_workspace(const ffk_kernel *kernel, const ffk_shape *shape) {
    if (kernel == NULL || shape == NULL ||
        ffk_check_shape(kernel->layer, kernel->dtypes, shape) != FFK_OK)
        return 0;
    return kernel->workspace_bytes(shape);
}

ffk_status ffk_kernel_run(const ffk_kernel *kernel, const ffk_shape *shape,
                          const ffk_operands *operands, const ffk_context *context) {
    const ffk_status status = ffk_check_arguments(kernel, shape, operands, context);
    return status == FFK_OK ? kernel->run(shape, operands, context) : status;
}

ffk_status ffk_kernel_time(const ffk_kernel *kernel, const ffk_shape *shape,
                           const ffk_operands *operands, int64_t n_operands,
                           const ffk_context *context, int64_t loops, int64_t *elapsed_ns) {
    if (operands == NULL || elapsed_ns == NULL)
        return FFK_NULL_POINTER;
    if (n_operands < 1 || loops < 1)
        return FFK_BAD_SHAPE;
    for (int64_t i = 0; i < n_operands; ++i) {
        const ffk_status status = ffk_check_arguments(kernel, shape, &operands[i], context);
        if (status != FFK_OK)
            return status;
    }
    struct timespec start, stop;
    ffk_status status = FFK_OK;
    if (clock_gettime(CLOCK_MONOTONIC, &start) != 0)
        return FFK_CLOCK_FAILED;
    for (int64_t i = 0, set = 0; i < loops && status == FFK_OK; ++i) {
        status = kernel->run(shape, &operands[set], context);
        if (++set == n_operands)
            set = 0;
    }
    if (clock_gettime(CLOCK_MONOTONIC, &stop) != 0)
        return FFK_CLOCK_FAILED;
    *elapsed_ns = (int64_t)(stop.tv_sec - start.tv_sec) * 1000000000 +
                  (int64_t)(stop.tv_nsec - start.tv_nsec);
    return status;
}
