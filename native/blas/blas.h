/* blas.h - calls into a provider's BLAS: one inline function per routine, for both integer widths.
 *
 * Fortran convention: every argument by address, matrices column-major. A row-major (r, c) array is
 * the column-major (c, r) one, so w (n, d) row-major is passed as a d x n matrix with leading
 * dimension d. The branch on the width costs a predicted jump per call, nothing beside the call.
 * sdot returns float: the f2c convention (double) is refused when the provider is loaded.
 */
#ifndef FFK_BLAS_H
#define FFK_BLAS_H

#include "ffk.h"

#define FFK_BLAS_FUNCTIONS(int_t, bits)                                                            \
    typedef float (*ffk_sdot_##bits)(const int_t *, const float *, const int_t *, const float *,   \
                                     const int_t *);                                               \
    typedef void (*ffk_saxpy_##bits)(const int_t *, const float *, const float *, const int_t *,   \
                                     float *, const int_t *);                                      \
    typedef void (*ffk_sgemv_##bits)(const char *, const int_t *, const int_t *, const float *,    \
                                     const float *, const int_t *, const float *, const int_t *,   \
                                     const float *, float *, const int_t *);                       \
    typedef void (*ffk_sgemm_##bits)(const char *, const char *, const int_t *, const int_t *,     \
                                     const int_t *, const float *, const float *, const int_t *,   \
                                     const float *, const int_t *, const float *, float *,         \
                                     const int_t *);                                               \
    static inline float ffk_sdot_call_##bits(const ffk_blas *blas, int64_t n, const float *x,      \
                                             const float *y) {                                     \
        const int_t n_ = (int_t)n, one = 1;                                                        \
        return ((ffk_sdot_##bits)blas->sdot)(&n_, x, &one, y, &one);                               \
    }                                                                                              \
    static inline void ffk_saxpy_call_##bits(const ffk_blas *blas, int64_t n, float alpha,         \
                                             const float *x, float *y) {                           \
        const int_t n_ = (int_t)n, one = 1;                                                        \
        ((ffk_saxpy_##bits)blas->saxpy)(&n_, &alpha, x, &one, y, &one);                            \
    }                                                                                              \
    static inline void ffk_sgemv_call_##bits(const ffk_blas *blas, char trans, int64_t m,          \
                                             int64_t n, const float *a, const float *x,            \
                                             float *y) {                                           \
        const int_t m_ = (int_t)m, n_ = (int_t)n, one = 1;                                         \
        const float alpha = 1.0f, beta = 0.0f;                                                     \
        ((ffk_sgemv_##bits)blas->sgemv)(&trans, &m_, &n_, &alpha, a, &m_, x, &one, &beta, y,       \
                                        &one);                                                     \
    }                                                                                              \
    static inline void ffk_sgemm_call_##bits(                                                      \
        const ffk_blas *blas, char trans_a, int64_t m, int64_t n, int64_t k, const float *a,       \
        int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {             \
        const int_t m_ = (int_t)m, n_ = (int_t)n, k_ = (int_t)k;                                   \
        const int_t lda_ = (int_t)lda, ldb_ = (int_t)ldb, ldc_ = (int_t)ldc;                       \
        const char trans_b = 'N';                                                                  \
        const float alpha = 1.0f;                                                                  \
        ((ffk_sgemm_##bits)blas->sgemm)(&trans_a, &trans_b, &m_, &n_, &k_, &alpha, a, &lda_, b,    \
                                        &ldb_, &beta, c, &ldc_);                                   \
    }

FFK_BLAS_FUNCTIONS(int32_t, 32)
FFK_BLAS_FUNCTIONS(int64_t, 64)

/* Return <x, y>, both (n,). */
static inline float ffk_sdot(const ffk_blas *blas, int64_t n, const float *x, const float *y) {
    return blas->int_bits == 32 ? ffk_sdot_call_32(blas, n, x, y) : ffk_sdot_call_64(blas, n, x, y);
}

/* y += alpha * x, both (n,). */
static inline void ffk_saxpy(const ffk_blas *blas, int64_t n, float alpha, const float *x,
                             float *y) {
    if (blas->int_bits == 32)
        ffk_saxpy_call_32(blas, n, alpha, x, y);
    else
        ffk_saxpy_call_64(blas, n, alpha, x, y);
}

/* y = A x ('N') or A^T x ('T'), A column-major m x n with leading dimension m; y is overwritten. */
static inline void ffk_sgemv(const ffk_blas *blas, char trans, int64_t m, int64_t n, const float *a,
                             const float *x, float *y) {
    if (blas->int_bits == 32)
        ffk_sgemv_call_32(blas, trans, m, n, a, x, y);
    else
        ffk_sgemv_call_64(blas, trans, m, n, a, x, y);
}

/* C = op(A) B + beta C, C column-major m x n. */
static inline void ffk_sgemm(const ffk_blas *blas, char trans_a, int64_t m, int64_t n, int64_t k,
                             const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                             float *c, int64_t ldc) {
    if (blas->int_bits == 32)
        ffk_sgemm_call_32(blas, trans_a, m, n, k, a, lda, b, ldb, beta, c, ldc);
    else
        ffk_sgemm_call_64(blas, trans_a, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

#endif
