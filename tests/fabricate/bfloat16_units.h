/* bfloat16_units.h - the instructions for products of bfloat16 in plain C, in the place of the
 * processor's own: a file that includes this before a ceiling runs it on any x86-64. */
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bfloat16_pairs.h"

#define target(instructions) unused
#define __builtin_cpu_supports(name) 1
#define syscall(...) 0L

static uint32_t tiles[8][16][16];

static void move_tile(int tile, void *at, long stride, int out) {
    for (int i = 0; i < 16; ++i) {
        void *const row = (char *)at + i * stride;
        memcpy(out ? row : (void *)tiles[tile][i], out ? (void *)tiles[tile][i] : row, 64);
    }
}

static void multiply_tiles(int sum, int a, int b) {
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < 16; ++n) {
                float to;
                memcpy(&to, &tiles[sum][m][n], sizeof to);
                const uint32_t x = tiles[a][m][k], w = tiles[b][k][n];
                to += widen((uint16_t)x) * widen((uint16_t)w);
                to += widen((uint16_t)(x >> 16)) * widen((uint16_t)(w >> 16));
                memcpy(&tiles[sum][m][n], &to, sizeof to);
            }
}

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(shapes) (void)(shapes)
#define _tile_release() (void)0
#define _tile_zero(t) memset(tiles[t], 0, sizeof tiles[t])
#define _tile_loadd(t, at, stride) move_tile(t, (void *)(uintptr_t)(at), stride, 0)
#define _tile_stored(t, at, stride) move_tile(t, at, stride, 1)
#define _tile_dpbf16ps multiply_tiles
