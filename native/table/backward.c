/* backward.c - the backward passes by name, and the way to run one. */
#include "table/arguments.h"

#define FFK_BACKWARD(id) extern const ffk_backward ffk_backward_##id;
#include "backward.inc"
#undef FFK_BACKWARD

static const ffk_backward *const passes[] = {
#define FFK_BACKWARD(id) &ffk_backward_##id,
#include "backward.inc"
#undef FFK_BACKWARD
};

size_t ffk_backward_count(void) { return sizeof passes / sizeof passes[0]; }

const ffk_backward *ffk_backward_at(size_t i) {
    return i < ffk_backward_count() ? passes[i] : NULL;
}

size_t ffk_backward_workspace(const ffk_backward *backward, const ffk_shape *shape) {
    if (backward == NULL || shape == NULL ||
        ffk_check_shape(backward->layer, backward->dtypes, shape) != FFK_OK)
        return 0;
    return backward->workspace_bytes(shape);
}

ffk_status ffk_backward_run(const ffk_backward *backward, const ffk_shape *shape,
                            const ffk_gradients *gradients, const ffk_context *context) {
    const ffk_status status = ffk_check_gradients(backward, shape, gradients, context);
    return status == FFK_OK ? backward->run(shape, gradients, context) : status;
}
