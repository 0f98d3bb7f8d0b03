/* problem.c - drawing, guarding and judging; the only file of the check that allocates. */
#include "check/problem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 256, CANARY = 0xC7 };
static const uint32_t POISON_32 = 0x7FC0DEAD;
static const uint16_t POISON_16 = 0x7FED;

static void *allocate(size_t bytes) {
    /* Whole cache lines; a request of 0 bytes may give no address. */
    void *memory = aligned_alloc(FFK_ALIGNMENT, (bytes + FFK_ALIGNMENT) & ~(size_t)63);
    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    return memory;
}

static guarded make_guarded(size_t bytes) {
    guarded g = {.memory = allocate(bytes + 2 * GUARD), .bytes = bytes};
    g.data = g.memory + GUARD;
    memset(g.memory, CANARY, bytes + 2 * GUARD);
    return g;
}

static int is_intact(const guarded *g) {
    for (size_t i = 0; i < GUARD; ++i)
        if (g->memory[i] != CANARY || g->data[g->bytes + i] != CANARY)
            return 0;
    return 1;
}

/* Return the next number of a stream, uniform in [-1, 1): xorshift64*, Vigna 2016. */
static double draw(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (double)((*state * 0x2545F4914F6CDD1DULL) >> 11) / (double)(1ULL << 52) - 1.0;
}

static double *fill(const guarded *g, int32_t dtype, double bound, uint64_t seed) {
    const size_t n = g->bytes / (dtype == FFK_BFLOAT16 ? 2 : 4);
    double *exact = allocate(n * sizeof *exact);
    for (size_t i = 0; i < n; ++i) {
        const float value = (float)(bound * draw(&seed));
        exact[i] = value;
        if (dtype == FFK_BFLOAT16) {
            ((ffk_bfloat16 *)g->data)[i] = to_bfloat16(value);
            exact[i] = from_bfloat16(((ffk_bfloat16 *)g->data)[i]);
        } else {
            ((float *)g->data)[i] = value;
        }
    }
    return exact;
}

problem make_problem(const ffk_shape *s, size_t workspace_bytes) {
    const int is_tree = s->hidden == 0;
    const int64_t used = is_tree ? s->trees * (s->depth + 1) : s->hidden;
    const int64_t neurons = is_tree ? s->trees * (((int64_t)2 << s->depth) - 1) : s->hidden;
    const size_t item = s->dtype == FFK_BFLOAT16 ? 2 : 4;
    problem p = {.shape = *s,
                 .x = make_guarded((size_t)(s->batch * s->d_in) * item),
                 .w_in = make_guarded((size_t)(neurons * s->d_in) * item),
                 .w_out = make_guarded((size_t)(neurons * s->d_out) * item),
                 .y = make_guarded((size_t)(s->batch * s->d_out) * item),
                 .workspace = make_guarded(workspace_bytes)};
    p.exact.x = fill(&p.x, s->dtype, sqrt(3.0), 1);
    p.exact.w_in = fill(&p.w_in, s->dtype, 1.0 / sqrt((double)s->d_in), 2);
    p.exact.w_out = fill(&p.w_out, s->dtype, 1.0 / sqrt((double)used), 3);
    return p;
}

void free_problem(problem *p) {
    guarded *const all[] = {&p->x, &p->w_in, &p->w_out, &p->y, &p->workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
        free(all[i]->memory);
    free((void *)p->exact.x);
    free((void *)p->exact.w_in);
    free((void *)p->exact.w_out);
}

void poison(problem *p) {
    const size_t n = (size_t)(p->shape.batch * p->shape.d_out);
    for (size_t i = 0; i < n; ++i) {
        if (p->shape.dtype == FFK_BFLOAT16)
            ((uint16_t *)p->y.data)[i] = POISON_16;
        else
            ((uint32_t *)p->y.data)[i] = POISON_32;
    }
}

uint64_t inputs_hash(const problem *p) {
    const guarded *const all[] = {&p->x, &p->w_in, &p->w_out};
    uint64_t hash = 0xCBF29CE484222325ULL; /* FNV-1a */
    for (size_t k = 0; k < sizeof all / sizeof *all; ++k)
        for (size_t i = 0; i < all[k]->bytes; ++i)
            hash = (hash ^ all[k]->data[i]) * 0x100000001B3ULL;
    return hash;
}

static int is_poison(const problem *p, int64_t i) {
    return p->shape.dtype == FFK_BFLOAT16 ? ((const uint16_t *)p->y.data)[i] == POISON_16
                                          : ((const uint32_t *)p->y.data)[i] == POISON_32;
}

static double output(const problem *p, int64_t i) {
    return p->shape.dtype == FFK_BFLOAT16 ? from_bfloat16(((const ffk_bfloat16 *)p->y.data)[i])
                                          : (double)((const float *)p->y.data)[i];
}

const char *judge(const problem *p, int64_t *near_ties) {
    const ffk_shape *s = &p->shape;
    const guarded *const all[] = {&p->x, &p->w_in, &p->w_out, &p->y, &p->workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
        if (!is_intact(all[i]))
            return "something outside of the arrays was written";
    double *room = allocate(3 * (size_t)s->d_out * sizeof *room);
    token_truth t = {.y = room, .scale = room + s->d_out, .squares = room + 2 * s->d_out};
    const char *wrong = NULL;
    *near_ties = 0;
    for (int64_t b = 0; b < s->batch && wrong == NULL; ++b) {
        find_truth(s, &p->exact, b, &t);
        const int skip = is_near_tie(&t);
        *near_ties += skip;
        for (int64_t j = 0; j < s->d_out && wrong == NULL; ++j) {
            if (is_poison(p, b * s->d_out + j))
                wrong = "an output element was not written";
            else if (!skip && error_of(s, &t, j, output(p, b * s->d_out + j)) > 1.0)
                wrong = "an output element is off by more than the tolerance";
        }
    }
    free(room);
    if (wrong == NULL && *near_ties > 1 && *near_ties > s->batch / 10)
        return "too many tokens hang on a near-tie: nothing is proved";
    return wrong;
}
