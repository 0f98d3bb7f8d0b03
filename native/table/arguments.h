/* arguments.h - checking what a kernel is given. */
#ifndef FFK_ARGUMENTS_H
#define FFK_ARGUMENTS_H

#include "ffk.h"

/* Check extents and dtype: FFK_OK, or why the kernel does not take the shape. */
ffk_status ffk_check_shape(const ffk_kernel *kernel, const ffk_shape *shape);
/* Check all that a pass is given. */
ffk_status ffk_check_arguments(const ffk_kernel *kernel, const ffk_shape *shape,
                               const ffk_operands *operands, const ffk_context *context);

#endif
