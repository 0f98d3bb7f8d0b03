/* arguments.c - the one place where the arguments of a pass are checked: kernels rely on it. */
#include "table/arguments.h"

#include <string.h>

/* An extent in elements below 2^40, so that a product of an extent and a row stays in int64_t. */
static int extent_ok(int64_t n) { return n > 0 && n < ((int64_t)1 << 40); }

/* Whether a token uses some of a layer's experts. */
static int chooses_experts(const char *layer) {
    return strcmp(layer, "topk") == 0 || strcmp(layer, "peer") == 0 || strcmp(layer, "moe") == 0;
}

static ffk_status check_experts(const char *layer, const ffk_shape *s) {
    if (s->depth != 0 || s->trees != 0 || !extent_ok(s->hidden) || s->experts < 1 ||
        s->experts > INT32_MAX || s->active < 1 || s->active > s->experts || s->active > 64)
        return FFK_BAD_SHAPE;
    if (s->hidden != 1 && strcmp(layer, "moe") != 0)
        return FFK_BAD_SHAPE;
    if (strcmp(layer, "peer") != 0)
        return FFK_OK;
    int64_t side = 1;
    while (side * side < s->experts)
        ++side;
    return side * side == s->experts ? FFK_OK : FFK_BAD_SHAPE;
}

static ffk_status check_extents(const char *layer, const ffk_shape *s) {
    if (s->activation != FFK_GELU && (s->activation != FFK_RELU || strcmp(layer, "leaf") != 0))
        return FFK_BAD_SHAPE;
    if (!extent_ok(s->batch) || !extent_ok(s->d_in) || !extent_ok(s->d_out))
        return FFK_BAD_SHAPE;
    const int chooses = chooses_experts(layer);
    if (!chooses && (s->experts != 0 || s->active != 0))
        return FFK_BAD_SHAPE;
    if (chooses)
        return check_experts(layer, s);
    if (strcmp(layer, "fff") == 0 || strcmp(layer, "hash") == 0) {
        if (strcmp(layer, "hash") == 0 && s->trees != 1)
            return FFK_BAD_SHAPE;
        if (s->hidden != 0 || s->depth < 0 || s->depth > 20 || s->trees < 1 ||
            s->trees > ((int64_t)1 << 20))
            return FFK_BAD_SHAPE;
    } else if (strcmp(layer, "leaf") == 0) {
        if (!extent_ok(s->hidden) || s->depth < 0 || s->depth > 20 || s->trees != 1)
            return FFK_BAD_SHAPE;
    } else if (!extent_ok(s->hidden) || s->depth != 0 || s->trees != 0) {
        return FFK_BAD_SHAPE;
    }
    return FFK_OK;
}

static ffk_status check_dtype(uint32_t dtypes, const ffk_shape *s) {
    const uint32_t takes = dtypes != 0 ? dtypes : FFK_TAKES_FLOAT32;
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
    if (blas->int_bits == 32 &&
        (s->batch > INT32_MAX || s->d_in > INT32_MAX || s->d_out > INT32_MAX ||
         s->hidden > INT32_MAX || s->experts > INT32_MAX / 2))
        return FFK_EXTENT_TOO_LARGE;
    return FFK_OK;
}

static ffk_status check_workspace(size_t needed, const void *workspace, size_t bytes) {
    if (needed == 0)
        return FFK_OK;
    if (workspace == NULL)
        return FFK_NULL_POINTER;
    if (bytes < needed)
        return FFK_WORKSPACE_TOO_SMALL;
    return (uintptr_t)workspace % FFK_ALIGNMENT == 0 ? FFK_OK : FFK_WORKSPACE_MISALIGNED;
}

ffk_status ffk_check_shape(const char *layer, uint32_t dtypes, const ffk_shape *shape) {
    const ffk_status status = check_extents(layer, shape);
    return status == FFK_OK ? check_dtype(dtypes, shape) : status;
}

ffk_status ffk_check_arguments(const ffk_kernel *kernel, const ffk_shape *shape,
                               const ffk_operands *operands, const ffk_context *context) {
    if (kernel == NULL || shape == NULL || operands == NULL || context == NULL)
        return FFK_NULL_POINTER;
    if (operands->x == NULL || operands->w_in == NULL || operands->w_out == NULL ||
        operands->y == NULL || context->isa == NULL)
        return FFK_NULL_POINTER;
    if (strcmp(kernel->layer, "leaf") == 0 &&
        (operands->router == NULL || operands->router_bias == NULL || operands->b_in == NULL ||
         operands->b_out == NULL))
        return FFK_NULL_POINTER;
    if ((strcmp(kernel->layer, "peer") == 0 || strcmp(kernel->layer, "moe") == 0) &&
        operands->router == NULL)
        return FFK_NULL_POINTER;
    ffk_status status = ffk_check_shape(kernel->layer, kernel->dtypes, shape);
    if (status == FFK_OK)
        status = check_blas(kernel, shape, context->blas);
    if (status != FFK_OK)
        return status;
    if (!context->isa->supported())
        return FFK_UNSUPPORTED_ISA;
    return check_workspace(kernel->workspace_bytes(shape), operands->workspace,
                           operands->workspace_bytes);
}

ffk_status ffk_check_gradients(const ffk_backward *backward, const ffk_shape *shape,
                               const ffk_gradients *gradients, const ffk_context *context) {
    if (backward == NULL || shape == NULL || gradients == NULL || context == NULL)
        return FFK_NULL_POINTER;
    if (gradients->x == NULL || gradients->w_in == NULL || gradients->w_out == NULL ||
        gradients->dy == NULL || context->isa == NULL)
        return FFK_NULL_POINTER;
    const ffk_status status = ffk_check_shape(backward->layer, backward->dtypes, shape);
    if (status != FFK_OK)
        return status;
    if (!context->isa->supported())
        return FFK_UNSUPPORTED_ISA;
    return check_workspace(backward->workspace_bytes(shape), gradients->workspace,
                           gradients->workspace_bytes);
}
