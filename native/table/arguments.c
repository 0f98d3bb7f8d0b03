/* arguments.c - the one place where the arguments of a pass are checked: kernels rely on it. */
#include "table/arguments.h"

#include <string.h>

/* An extent in elements below 2^40, so that a product of an extent and a row stays in int64_t. */
static int extent_ok(int64_t n) { return n > 0 && n < ((int64_t)1 << 40); }

static ffk_status check_extents(const ffk_kernel *kernel, const ffk_shape *s) {
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

ffk_status ffk_check_shape(const ffk_kernel *kernel, const ffk_shape *shape) {
    const ffk_status status = check_extents(kernel, shape);
    return status == FFK_OK ? check_dtype(kernel, shape) : status;
}

ffk_status ffk_check_arguments(const ffk_kernel *kernel, const ffk_shape *shape,
                               const ffk_operands *operands, const ffk_context *context) {
    if (kernel == NULL || shape == NULL || operands == NULL || context == NULL)
        return FFK_NULL_POINTER;
    if (operands->x == NULL || operands->w_in == NULL || operands->w_out == NULL ||
        operands->y == NULL || context->isa == NULL)
        return FFK_NULL_POINTER;
    ffk_status status = ffk_check_shape(kernel, shape);
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
