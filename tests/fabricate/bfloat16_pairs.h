/* bfloat16_pairs.h - AVX512_BF16 and what vector/pairs.inc takes besides in plain C: a file that
 * includes this before it runs anywhere, to the last bit as the processor does. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float sixteen __attribute__((vector_size(64)));
typedef uint16_t pairs __attribute__((vector_size(64)));
typedef int64_t eight __attribute__((vector_size(64)));
typedef int32_t places __attribute__((vector_size(64)));
#define __m512 sixteen
#define __m512bh pairs
#define __m512i eight

/* A value that is not normal counts as a zero of its sign. */
static float flush(float v) { return fabsf(v) < FLT_MIN ? copysignf(0.0f, v) : v; }

static float widen(uint16_t v) {
    const uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return flush(f);
}

/* A product of two is exact: what is rounded is the sum. */
static float add_product(float sum, uint16_t a, uint16_t b) {
    return flush(fmaf(widen(a), widen(b), flush(sum)));
}

static sixteen dot_two(sixteen sum, pairs a, pairs b) {
    for (int j = 0; j < 16; ++j)
        for (int i = 1; i >= 0; --i)
            sum[j] = add_product(sum[j], a[2 * j + i], b[2 * j + i]);
    return sum;
}
#define _mm512_dpbf16_ps dot_two

static eight load_masked(uint32_t mask, const uint16_t *p) {
    pairs v = {0};
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1)
            v[i] = p[i];
    return (eight)v;
}
#define _mm512_maskz_loadu_epi16 load_masked

static void store_masked(uint16_t *p, uint32_t mask, eight v_) {
    const pairs v = (pairs)v_;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1)
            p[i] = v[i];
}
#define _mm512_mask_storeu_epi16 store_masked

static sixteen load_masked_floats(uint16_t mask, const float *p) {
    sixteen v = {0};
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1)
            v[i] = p[i];
    return v;
}
#define _mm512_maskz_loadu_ps load_masked_floats

static eight alternate(eight a_, eight b_, int first) {
    const pairs a = (pairs)a_, b = (pairs)b_;
    pairs v = {0};
    for (int i = 0; i < 32; ++i)
        v[i] = (i & 1 ? b : a)[i / 8 * 8 + first + i % 8 / 2];
    return (eight)v;
}
#define _mm512_unpacklo_epi16(a, b) alternate(a, b, 0)
#define _mm512_unpackhi_epi16(a, b) alternate(a, b, 4)

static uint16_t narrow_one(float v) {
    uint32_t bits;
    const float kept = flush(v);
    memcpy(&bits, &kept, sizeof bits);
    return (uint16_t)(v != v ? bits >> 16 | 0x40 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static pairs narrow_two(sixteen high, sixteen low) {
    pairs v = {0};
    for (int i = 0; i < 32; ++i)
        v[i] = narrow_one(i < 16 ? low[i] : high[i - 16]);
    return v;
}
#define _mm512_cvtne2ps_pbh narrow_two

static eight permute_eights(eight order, eight from) {
    eight v = {0};
    for (int i = 0; i < 8; ++i)
        v[i] = from[order[i]];
    return v;
}
#define _mm512_permutexvar_epi64 permute_eights

static sixteen permute_two(sixteen a, eight order_, sixteen b) {
    const places order = (places)order_;
    sixteen v = {0};
    for (int i = 0; i < 16; ++i)
        v[i] = order[i] < 16 ? a[order[i]] : b[order[i] - 16];
    return v;
}
#define _mm512_permutex2var_ps permute_two

static eight spread_places(int32_t value) {
    places v = {0};
    return (eight)(v + value);
}
#define _mm512_set1_epi32 spread_places
#define _mm512_setr_epi64(...) ((eight){__VA_ARGS__})
#define _mm512_setr_epi32(...) ((eight)(places){__VA_ARGS__})

static void store_eight(void *p, eight v) { memcpy(p, &v, sizeof v); }
#define _mm512_stream_si512 store_eight
