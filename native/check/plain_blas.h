/* plain_blas.h - a BLAS in plain loops, for targets that have no other. Never timed. */
#ifndef FFK_CHECK_PLAIN_BLAS_H
#define FFK_CHECK_PLAIN_BLAS_H

#include "ffk.h"

/* The routines that the kernels call, with 32-bit integers; no batched ones. */
extern const ffk_blas plain_blas;

#endif
