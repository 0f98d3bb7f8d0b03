/* blas_batch.h - batched gemv and axpy over the tokens of a block.
 *
 * The provider's own routine where it has one (oneMKL's sgemv_batch and saxpy_batch: pointer
 * arrays, members in groups that share extents and scalars), else a loop of single calls.
 * saxpy_batch takes one alpha a group, so a batch with an alpha per token is `count` groups of one.
 */
#ifndef FFK_BLAS_BATCH_H
#define FFK_BLAS_BATCH_H

#include "blas/blas.h"

/* Members of one batched call at most; bounds the argument arrays below, which live on the stack.
 */
#define FFK_BATCH_MAX 64

#define FFK_BATCH_FUNCTIONS(int_t, bits)                                                           \
    typedef void (*ffk_sgemv_batch_##bits)(                                                        \
        const char *, const int_t *, const int_t *, const float *, const float *const *,           \
        const int_t *, const float *const *, const int_t *, const float *, float *const *,         \
        const int_t *, const int_t *, const int_t *);                                              \
    typedef void (*ffk_saxpy_batch_##bits)(const int_t *, const float *, const float *const *,     \
                                           const int_t *, float *const *, const int_t *,           \
                                           const int_t *, const int_t *);                          \
    static inline void ffk_sgemv_batch_call_##bits(                                                \
        const ffk_blas *blas, char trans, int64_t m, int64_t n, const float *const *a,             \
        const float *const *x, float *const *y, int64_t count) {                                   \
        const int_t m_ = (int_t)m, n_ = (int_t)n, one = 1, size = (int_t)count;                    \
        const float alpha = 1.0f, beta = 0.0f;                                                     \
        ((ffk_sgemv_batch_##bits)blas->sgemv_batch)(&trans, &m_, &n_, &alpha, a, &m_, x, &one,     \
                                                    &beta, y, &one, &one, &size);                  \
    }                                                                                              \
    static inline void ffk_saxpy_batch_call_##bits(const ffk_blas *blas, int64_t n,                \
                                                   const float *alpha, const float *const *x,      \
                                                   float *const *y, int64_t count) {               \
        int_t lengths[FFK_BATCH_MAX], ones[FFK_BATCH_MAX];                                         \
        for (int64_t i = 0; i < count; ++i) {                                                      \
            lengths[i] = (int_t)n;                                                                 \
            ones[i] = 1;                                                                           \
        }                                                                                          \
        const int_t groups = (int_t)count;                                                         \
        ((ffk_saxpy_batch_##bits)blas->saxpy_batch)(lengths, alpha, x, ones, y, ones, &groups,     \
                                                    ones);                                         \
    }

FFK_BATCH_FUNCTIONS(int32_t, 32)
FFK_BATCH_FUNCTIONS(int64_t, 64)

/* y[i] = A[i] x[i] ('N') or A[i]^T x[i] ('T') for i < count <= FFK_BATCH_MAX; A[i] column-major m x
 * n. */
static inline void ffk_sgemv_batch(const ffk_blas *blas, char trans, int64_t m, int64_t n,
                                   const float *const *a, const float *const *x, float *const *y,
                                   int64_t count) {
    if (blas->sgemv_batch == NULL) {
        for (int64_t i = 0; i < count; ++i)
            ffk_sgemv(blas, trans, m, n, a[i], x[i], y[i]);
    } else if (blas->int_bits == 32) {
        ffk_sgemv_batch_call_32(blas, trans, m, n, a, x, y, count);
    } else {
        ffk_sgemv_batch_call_64(blas, trans, m, n, a, x, y, count);
    }
}

/* y[i] += alpha[i] * x[i] for i < count <= FFK_BATCH_MAX, all (n,); the y[i] do not overlap. */
static inline void ffk_saxpy_batch(const ffk_blas *blas, int64_t n, const float *alpha,
                                   const float *const *x, float *const *y, int64_t count) {
    if (blas->saxpy_batch == NULL) {
        for (int64_t i = 0; i < count; ++i)
            ffk_saxpy(blas, n, alpha[i], x[i], y[i]);
    } else if (blas->int_bits == 32) {
        ffk_saxpy_batch_call_32(blas, n, alpha, x, y, count);
    } else {
        ffk_saxpy_batch_call_64(blas, n, alpha, x, y, count);
    }
}

#endif
