/* ceiling_amx.c - the peak rate of the matrix unit on bfloat16 (AMX, tdpbf16ps).
 *
 *     y[b, j] = hidden * sum over i < 32 of x[b, i] * w_out[i, j]
 *
 * flops:  64 * batch * hidden * d_out; a batch and a d_out of 32s waste none.
 * Needs:  d_in = 32, hidden of 32 and more, a processor and a system that let the unit be used
 * (else FFK_UNSUPPORTED_ISA). 4 sums of 16 x 16 in tiles, two tiles of x and two of w: a product of
 * two takes 16 cycles and as many follow each other without waiting for a sum.
 */
#define _GNU_SOURCE /* syscall */
#include "ceilings/repeated_product.h"

#if defined(FFK_HAVE_BFLOAT16_PRODUCTS) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#define HAVE_UNIT 1
/* Of arch_prctl(2): a process asks for the tiles' registers before it first touches them. */
enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
enum { SIDE = 16, INNER = 32, BLOCK = 2 * SIDE };

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes; /* what ldtilecfg reads */

static const tile_shapes shapes = {.palette = 1,
                                   .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                   .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* sums = steps * x w, x of 2 x 16 rows, w of 2 x 16 columns in pairs. */
__attribute__((target("amx-tile,amx-bf16"))) static void
multiply(int64_t steps, const ffk_bfloat16 x[2][SIDE][INNER],
         const ffk_bfloat16 w[2][INNER / 2][2 * SIDE], float sums[4][SIDE][SIDE]) {
    const int stride = 64;
    _tile_loadconfig(&shapes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, x[0], stride);
    _tile_loadd(5, x[1], stride);
    _tile_loadd(6, w[0], stride);
    _tile_loadd(7, w[1], stride);
    for (int64_t step = 0; step < steps; ++step) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums[0], stride);
    _tile_stored(1, sums[1], stride);
    _tile_stored(2, sums[2], stride);
    _tile_stored(3, sums[3], stride);
    _tile_release();
}

static void walk(const ffk_ceiling *c, int64_t first, int64_t end) {
    ffk_bfloat16 x[2][SIDE][INNER], w[2][INNER / 2][2 * SIDE];
    float sums[4][SIDE][SIDE];
    for (int64_t b = first; b < end; b += BLOCK) {
        for (int64_t i = 0; i < BLOCK; ++i)
            ffk_take_row(c, b + i, end, x[i / SIDE][i % SIDE]);
        for (int64_t j = 0; j < c->shape->d_out; j += BLOCK) {
            for (int64_t half = 0; half < 2; ++half)
                for (int64_t pair = 0; pair < INNER / 2; ++pair)
                    ffk_take_pairs(c, pair, j + half * SIDE, SIDE, w[half][pair]);
            multiply(c->shape->hidden, (const ffk_bfloat16(*)[SIDE][INNER])x,
                     (const ffk_bfloat16(*)[INNER / 2][2 * SIDE]) w, sums);
            for (int64_t i = 0; i < BLOCK && b + i < end; ++i)
                for (int64_t half = 0; half < 2 && j + half * SIDE < c->shape->d_out; ++half)
                    ffk_put_row(c, b + i, j + half * SIDE, SIDE,
                                sums[2 * (i / SIDE) + half][i % SIDE]);
        }
    }
}
#endif

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (s->d_in != 32 || s->hidden < 32)
        return FFK_BAD_SHAPE;
#ifdef HAVE_UNIT
    if (__builtin_cpu_supports("amx-bf16") &&
        syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0) {
        ffk_walk_all(s, o, c, walk);
        return FFK_OK;
    }
#endif
    (void)o, (void)c;
    return FFK_UNSUPPORTED_ISA;
}

FFK_BFLOAT16_CEILING(amx);
