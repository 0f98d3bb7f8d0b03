/* table.c - the kernels and instruction sets by name, and the one place where arguments are
 * checked. */
#include "ffk.h"

#include <string.h>
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

/* An extent in elements below 2^40, so that a product of an extent and a row stays in int64_t. */
static int extent_ok(int64_t n) { return n > 0 && n < ((int64_t)1 << 40); }

static ffk_status check_shape(const ffk_kernel *kernel, const ffk_shape *s) {
    if (!extent_ok(s->batch) || !extent_ok(s->d_in) || !extent_ok(s->d_out))
        return FFK_BAD_SHAPE;
    if (strcmp(kernel->layer, "fff") == 0) {
        if (s->hidden != 0 || s->depth < 0 || s->depth > 20 || s->trees < 1 ||
            s->trees > ((int64_t)1 << 20))
            return FFK_BAD_SHAPE;
    } else if (!extent_ok(s->hidden) || s->depth != 0 || s->trees != 0) {
        return FFK_BAD_SHAPE;
    }
    return FFK_OK;
}

static ffk_status check_dtype(const ffk_kernel *kernel, const ffk_shape *s) {
    const uint32_t takes = kernel->dtypes != 0 ? kernel->dtypes : FFK_TAKES_FLOAT32;
    if (s->dtype != FFK_FLOAT32 && s->dtype != FFK_BFLOAT16)
        return FFK_UNSUPPORTED_DTYPE;
    return takes & (1u << s->dtype) ? FFK_OK : FFK_UNSUPPORTED_DTYPE;
}

static ffk_status check_blas(const ffk_kernel *kernel, const ffk_shape *s, const ffk_blas *blas) {
    if (kernel->routines == 0)
        return FFK_OK;
    if (blas == NULL)
        return FFK_NULL_POINTER;
    if (blas->int_bits != 32 && blas->int_bits != 64)
        return FFK_BAD_SHAPE;
    const uint32_t needs = kernel->routines;
    if (((needs & FFK_NEEDS_SDOT) && blas->sdot == NULL) ||
        ((needs & FFK_NEEDS_SAXPY) && blas->saxpy == NULL) ||
        ((needs & FFK_NEEDS_SGEMV) && blas->sgemv == NULL) ||
        ((needs & FFK_NEEDS_SGEMM) && blas->sgemm == NULL))
        return FFK_MISSING_ROUTINE;
    if (blas->int_bits == 32 && (s->batch > INT32_MAX || s->d_in > INT32_MAX ||
                                 s->d_out > INT32_MAX || s->hidden > INT32_MAX))
        return FFK_EXTENT_TOO_LARGE;
    return FFK_OK;
}

static ffk_status check(const ffk_kernel *kernel, const ffk_shape *shape,
                        const ffk_operands *operands, const ffk_context *context) {
    if (kernel == NULL || shape == NULL || operands == NULL || context == NULL)
        return FFK_NULL_POINTER;
    if (operands->x == NULL || operands->w_in == NULL || operands->w_out == NULL ||
        operands->y == NULL || context->isa == NULL)
        return FFK_NULL_POINTER;
    ffk_status status = check_shape(kernel, shape);
    if (status == FFK_OK)
        status = check_dtype(kernel, shape);
    if (status == FFK_OK)
        status = check_blas(kernel, shape, context->blas);
    if (status != FFK_OK)
        return status;
    if (!context->isa->supported())
        return FFK_UNSUPPORTED_ISA;
    const size_t needed = kernel->workspace_bytes(shape);
    if (needed == 0)
        return FFK_OK;
    if (operands->workspace == NULL)
        return FFK_NULL_POINTER;
    if (operands->workspace_bytes < needed)
        return FFK_WORKSPACE_TOO_SMALL;
    if ((uintptr_t)operands->workspace % FFK_ALIGNMENT != 0)
        return FFK_WORKSPACE_MISALIGNED;
    return FFK_OK;
}

size_t ffk_no_workspace(const ffk_shape *shape) {
    (void)shape;
    return 0;
}

size_t ffk_kernel_workspace(const ffk_kernel *kernel, const ffk_shape *shape) {
    if (kernel == NULL || shape == NULL || check_shape(kernel, shape) != FFK_OK ||
        check_dtype(kernel, shape) != FFK_OK)
        return 0;
    return kernel->workspace_bytes(shape);
}

ffk_status ffk_kernel_run(const ffk_kernel *kernel, const ffk_shape *shape,
                          const ffk_operands *operands, const ffk_context *context) {
    const ffk_status status = check(kernel, shape, operands, context);
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
        const ffk_status status = check(kernel, shape, &operands[i], context);
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
