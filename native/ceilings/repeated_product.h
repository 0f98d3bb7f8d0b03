/* repeated_product.h - what the ceilings of bfloat16 products have in common: blocks of y, padded.
 *
 *     y[b, j] = hidden * sum over i < d_in of x[b, i] * w_out[i, j]
 *
 * A block is computed in registers: its operands are loaded once and multiplied `hidden` times, so
 * that only the unit that multiplies counts. Rows and columns beyond the last are computed as
 * zeros and dropped; extents of whole blocks waste none. Sums are float32, y is rounded once.
 */
#ifndef FFK_REPEATED_PRODUCT_H
#define FFK_REPEATED_PRODUCT_H

#include "ceilings/ceiling.h"

#include <string.h>

/* Since gcc 11 and clang 12 both instruction sets and the questions for them are known. */
#if defined(__x86_64__) && (__GNUC__ >= 11 || (defined(__clang__) && __clang_major__ >= 12))
#define FFK_HAVE_BFLOAT16_PRODUCTS 1
#include <immintrin.h>
#endif

/* Copy x's row b, zeros where it lies behind `end`. */
static inline void ffk_take_row(const ffk_ceiling *c, int64_t b, int64_t end, ffk_bfloat16 *row) {
    const int64_t d = c->shape->d_in;
    const ffk_bfloat16 *x = (const ffk_bfloat16 *)c->operands->x;
    if (b < end)
        memcpy(row, x + b * d, (size_t)d * sizeof *row);
    else
        memset(row, 0, (size_t)d * sizeof *row);
}

/* pairs[2 * j + (i & 1)] = w_out[i, first + j]: row `pair` of columns as both units read them. */
static inline void ffk_take_pairs(const ffk_ceiling *c, int64_t pair, int64_t first,
                                  int64_t columns, ffk_bfloat16 *pairs) {
    const int64_t d = c->shape->d_out;
    const ffk_bfloat16 *w = (const ffk_bfloat16 *)c->operands->w_out;
    for (int64_t j = 0; j < columns; ++j)
        for (int64_t i = 0; i < 2; ++i)
            pairs[2 * j + i] = first + j < d ? w[(2 * pair + i) * d + first + j] : 0;
}

/* Round a row of sums into y[b, first ..]. */
static inline void ffk_put_row(const ffk_ceiling *c, int64_t b, int64_t first, int64_t columns,
                               const float *sums) {
    const int64_t d = c->shape->d_out, left = d - first;
    ffk_bfloat16 *y = (ffk_bfloat16 *)c->operands->y + b * d + first;
    c->isa->products[FFK_BFLOAT16].narrow(left < columns ? left : columns, sums, y);
}

/* The entry of such a ceiling, whose pass is `run`. */
#define FFK_BFLOAT16_CEILING(name)                                                                 \
    extern const ffk_kernel ffk_kernel_ceiling_##name;                                             \
    const ffk_kernel ffk_kernel_ceiling_##name = {.id = "ceiling_" #name,                          \
                                                  .layer = "ceiling",                              \
                                                  .dtypes = FFK_TAKES_BFLOAT16,                    \
                                                  .workspace_bytes = ffk_no_workspace,             \
                                                  .run = run}

#endif
