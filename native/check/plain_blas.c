/* plain_blas.c - sdot, saxpy, sgemv and sgemm in plain loops. Fortran convention, column-major;
 * unit increments, and alpha = 1 in the products, which is all that the kernels ask for. */
#include "check/plain_blas.h"

static float sdot(const int32_t *n, const float *x, const int32_t *step_x, const float *y,
                  const int32_t *step_y) {
    (void)step_x, (void)step_y;
    float sum = 0.0f;
    for (int32_t i = 0; i < *n; ++i)
        sum += x[i] * y[i];
    return sum;
}

static void saxpy(const int32_t *n, const float *alpha, const float *x, const int32_t *step_x,
                  float *y, const int32_t *step_y) {
    (void)step_x, (void)step_y;
    for (int32_t i = 0; i < *n; ++i)
        y[i] += *alpha * x[i];
}

static void sgemm(const char *trans_a, const char *trans_b, const int32_t *m, const int32_t *n,
                  const int32_t *k, const float *alpha, const float *a, const int32_t *lda,
                  const float *b, const int32_t *ldb, const float *beta, float *c,
                  const int32_t *ldc) {
    (void)trans_b, (void)alpha;
    const int64_t step = *trans_a == 'T' ? 1 : *lda, row = *trans_a == 'T' ? *lda : 1;
    for (int64_t j = 0; j < *n; ++j) {
        for (int64_t i = 0; i < *m; ++i) {
            float *target = &c[j * *ldc + i];
            float sum = *beta == 0.0f ? 0.0f : *beta * *target;
            for (int64_t p = 0; p < *k; ++p)
                sum += a[i * row + p * step] * b[j * *ldb + p];
            *target = sum;
        }
    }
}

static void sgemv(const char *trans, const int32_t *m, const int32_t *n, const float *alpha,
                  const float *a, const int32_t *lda, const float *x, const int32_t *step_x,
                  const float *beta, float *y, const int32_t *step_y) {
    (void)step_x, (void)step_y;
    const int32_t one = 1, rows = *trans == 'T' ? *n : *m, inner = *trans == 'T' ? *m : *n;
    sgemm(trans, "N", &rows, &one, &inner, alpha, a, lda, x, &inner, beta, y, &rows);
}

const ffk_blas plain_blas = {.int_bits = 32,
                             .sdot = (ffk_function)sdot,
                             .saxpy = (ffk_function)saxpy,
                             .sgemv = (ffk_function)sgemv,
                             .sgemm = (ffk_function)sgemm};
