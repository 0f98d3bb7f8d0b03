/* addresses.h - passes over arrays that come as addresses, for callers without C pointers: a number
 * is handed to C in a tenth of the time that a pointer of its type takes to make. */
#ifndef FFK_ADDRESSES_H
#define FFK_ADDRESSES_H

#include "ffk.h"

/* ffk_kernel_run over these arrays and otherwise the operands that are given. */
static inline ffk_status ffk_kernel_run_at(const ffk_kernel *kernel, const ffk_shape *shape,
                                           const ffk_operands *operands, const ffk_context *context,
                                           uintptr_t x, uintptr_t w_in, uintptr_t w_out,
                                           uintptr_t y) {
    ffk_operands at = *operands;
    at.x = (const float *)x;
    at.w_in = (const float *)w_in;
    at.w_out = (const float *)w_out;
    at.y = (float *)y;
    return ffk_kernel_run(kernel, shape, &at, context);
}

/* ffk_backward_run over these arrays, 0 for a gradient that is not wanted. */
static inline ffk_status ffk_backward_run_at(const ffk_backward *backward, const ffk_shape *shape,
                                             const ffk_gradients *gradients,
                                             const ffk_context *context, uintptr_t x,
                                             uintptr_t w_in, uintptr_t w_out, uintptr_t dy,
                                             uintptr_t dx, uintptr_t dw_in, uintptr_t dw_out) {
    ffk_gradients at = *gradients;
    at.x = (const float *)x;
    at.w_in = (const float *)w_in;
    at.w_out = (const float *)w_out;
    at.dy = (const float *)dy;
    at.dx = (float *)dx;
    at.dw_in = (float *)dw_in;
    at.dw_out = (float *)dw_out;
    return ffk_backward_run(backward, shape, &at, context);
}

#endif
