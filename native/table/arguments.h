/* arguments.h - checking what a pass is given. */
#ifndef FFK_ARGUMENTS_H
#define FFK_ARGUMENTS_H

#include "ffk.h"

/* Check extents and dtype: FFK_OK, or why a pass over `layer` that takes `dtypes` (FFK_TAKES_*)
 * does not take the shape. */
ffk_status ffk_check_shape(const char *layer, uint32_t dtypes, const ffk_shape *shape);
/* Check all that a forward pass is given. */
ffk_status ffk_check_arguments(const ffk_kernel *kernel, const ffk_shape *shape,
                               const ffk_operands *operands, const ffk_context *context);
/* Check all that a backward pass is given. */
ffk_status ffk_check_gradients(const ffk_backward *backward, const ffk_shape *shape,
                               const ffk_gradients *gradients, const ffk_context *context);

#endif
