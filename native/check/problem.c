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

/* Return the elements of each input, and the neurons that a token's sum is over. */
static int64_t count_inputs(const char *layer, const ffk_shape *s, int64_t count[INPUTS]) {
    const int64_t leaves = (int64_t)1 << s->depth;
    int64_t neurons = s->hidden, used = s->hidden, router = 0, bias = 0;
    if (strcmp(layer, "fff") == 0 || strcmp(layer, "hash") == 0) {
        neurons = s->trees * (2 * leaves - 1);
        used = s->trees * (s->depth + 1);
    } else if (strcmp(layer, "leaf") == 0) {
        neurons = leaves * s->hidden;
        router = leaves - 1;
        bias = leaves;
    } else if (s->experts > 0) {
        neurons = s->experts * s->hidden;
        used = s->active * s->hidden;
        router = strcmp(layer, "moe") == 0 ? s->experts : 0;
        if (strcmp(layer, "peer") == 0)
            router = 2 * llround(sqrt((double)s->experts));
    }
    count[X] = s->batch * s->d_in;
    count[W_IN] = neurons * s->d_in;
    count[W_OUT] = neurons * s->d_out;
    count[ROUTER] = router * s->d_in;
    count[ROUTER_BIAS] = bias > 0 ? router : 0;
    count[B_IN] = bias * s->hidden;
    count[B_OUT] = bias * s->d_out;
    return used;
}

problem make_problem(const char *layer, const ffk_shape *s, size_t workspace_bytes) {
    const size_t item = s->dtype == FFK_BFLOAT16 ? 2 : 4;
    int64_t count[INPUTS];
    const int64_t used = count_inputs(layer, s, count);
    problem p = {.layer = layer,
                 .shape = *s,
                 .y = make_guarded((size_t)(s->batch * s->d_out) * item),
                 .workspace = make_guarded(workspace_bytes)};
    for (int k = 0; k < INPUTS; ++k) {
        const int64_t meets = k == W_OUT || k == B_OUT ? used : s->d_in;
        const double bound = k == X ? sqrt(3.0) : 1.0 / sqrt((double)meets);
        p.input[k] = make_guarded((size_t)count[k] * item);
        p.exact[k] = count[k] > 0 ? fill(&p.input[k], s->dtype, bound, (uint64_t)k + 1) : NULL;
    }
    return p;
}

void free_problem(problem *p) {
    for (int k = 0; k < INPUTS; ++k) {
        free(p->input[k].memory);
        free((void *)p->exact[k]);
    }
    free(p->y.memory);
    free(p->workspace.memory);
}

const float *input_of(const problem *p, int which) {
    /* The router of a single leaf has no row, and yet an address. */
    const int has = p->input[which].bytes > 0 || strcmp(p->layer, "leaf") == 0;
    return has ? (const float *)(const void *)p->input[which].data : NULL;
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
    uint64_t hash = 0xCBF29CE484222325ULL; /* FNV-1a */
    for (size_t k = 0; k < INPUTS; ++k)
        for (size_t i = 0; i < p->input[k].bytes; ++i)
            hash = (hash ^ p->input[k].data[i]) * 0x100000001B3ULL;
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

static int are_guards_intact(const problem *p) {
    for (size_t k = 0; k < INPUTS; ++k)
        if (!is_intact(&p->input[k]))
            return 0;
    return is_intact(&p->y) && is_intact(&p->workspace);
}

const char *judge(const problem *p, int64_t *near_ties) {
    const ffk_shape *s = &p->shape;
    const double *const *e = p->exact;
    const operands64 exact = {e[X],           e[W_IN], e[W_OUT], e[ROUTER],
                              e[ROUTER_BIAS], e[B_IN], e[B_OUT]};
    if (!are_guards_intact(p))
        return "something outside of the arrays was written";
    double *room = allocate((size_t)(3 * s->d_out + 2 * s->experts) * sizeof *room);
    double *scores = room + 3 * s->d_out;
    token_truth t = {.y = room,
                     .scale = room + s->d_out,
                     .squares = room + 2 * s->d_out,
                     .score = scores,
                     .size = scores + s->experts};
    const char *wrong = NULL;
    *near_ties = 0;
    for (int64_t b = 0; b < s->batch && wrong == NULL; ++b) {
        find_truth(p->layer, s, &exact, b, &t);
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
