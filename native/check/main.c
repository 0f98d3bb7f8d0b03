/* main.c - run every kernel of a layer, under every instruction set that the processor has, against
 * the layers in plain double precision. Needs no Python and no BLAS, so that it runs where those
 * are not: cross-compiled, under an emulator.
 *
 *     check_kernels              run all; a line for each fault; status 1 if there was one
 *     check_kernels spoil WHAT   spoil what each pass left behind: value, unwritten, guard or
 * input. Every pass must then be found at fault.
 */
#include "check/plain_blas.h"
#include "check/problem.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    int64_t passes, faults, near_ties;
} tally;

/* batch, d_in, d_out, hidden, depth, trees, dtype, activation, experts, active: extents beside the
 * edges of vectors and tiles, and batches beside a block of 64 and, for a tree, beside tiles of 128
 * and 256. An FFF of one tree is a hash's too. */
static const struct {
    const char *layer;
    ffk_shape shape;
} shapes[] = {
    {"ff", {1, 1, 1, 1, 0, 0, 0, FFK_GELU, 0, 0}},
    {"ff", {5, 7, 8, 17, 0, 0, 0, FFK_GELU, 0, 0}},
    {"ff", {3, 9, 31, 16, 0, 0, 0, FFK_GELU, 0, 0}},
    {"ff", {1, 33, 15, 129, 0, 0, 0, FFK_GELU, 0, 0}},
    {"ff", {65, 16, 17, 33, 0, 0, 0, FFK_GELU, 0, 0}},
    {"ff", {64, 61, 37, 127, 0, 0, 0, FFK_GELU, 0, 0}},
    {"ff", {130, 32, 1, 40, 0, 0, 0, FFK_GELU, 0, 0}},
    {"ff", {2, 1, 64, 7, 0, 0, 0, FFK_GELU, 0, 0}},
    {"fff", {1, 1, 1, 0, 0, 1, 0, FFK_GELU, 0, 0}},
    {"fff", {5, 7, 8, 0, 3, 1, 0, FFK_GELU, 0, 0}},
    {"fff", {3, 9, 31, 0, 1, 2, 0, FFK_GELU, 0, 0}},
    {"fff", {1, 33, 15, 0, 11, 1, 0, FFK_GELU, 0, 0}},
    {"fff", {65, 16, 17, 0, 4, 5, 0, FFK_GELU, 0, 0}},
    {"fff", {64, 61, 37, 0, 2, 1, 0, FFK_GELU, 0, 0}},
    {"fff", {130, 32, 1, 0, 6, 3, 0, FFK_GELU, 0, 0}},
    {"fff", {2, 1, 64, 0, 5, 1, 0, FFK_GELU, 0, 0}},
    {"fff", {257, 24, 40, 0, 8, 1, 0, FFK_GELU, 0, 0}},
    {"fff", {11, 13, 9, 0, 0, 40, 0, FFK_GELU, 0, 0}},
    {"fff", {129, 128, 96, 0, 7, 1, 0, FFK_GELU, 0, 0}},
    {"fff", {255, 17, 19, 0, 10, 2, 0, FFK_GELU, 0, 0}},
    {"leaf", {1, 1, 1, 1, 0, 1, 0, FFK_GELU, 0, 0}},
    {"leaf", {5, 7, 8, 3, 3, 1, 0, FFK_RELU, 0, 0}},
    {"leaf", {65, 16, 17, 5, 2, 1, 0, FFK_GELU, 0, 0}},
    {"leaf", {130, 33, 31, 64, 1, 1, 0, FFK_GELU, 0, 0}},
    {"leaf", {257, 24, 40, 8, 8, 1, 0, FFK_RELU, 0, 0}},
    {"leaf", {3, 61, 9, 130, 0, 1, 0, FFK_GELU, 0, 0}},
    {"leaf", {255, 17, 19, 1, 5, 1, 0, FFK_GELU, 0, 0}},
    {"topk", {5, 7, 8, 1, 0, 0, 0, FFK_GELU, 17, 3}},
    {"topk", {65, 33, 31, 1, 0, 0, 0, FFK_GELU, 130, 12}},
    {"topk", {1, 1, 1, 1, 0, 0, 0, FFK_GELU, 1, 1}},
    {"peer", {5, 7, 8, 1, 0, 0, 0, FFK_GELU, 16, 3}},
    {"peer", {65, 33, 31, 1, 0, 0, 0, FFK_GELU, 121, 12}},
    {"peer", {130, 16, 9, 1, 0, 0, 0, FFK_GELU, 64, 64}},
    {"moe", {5, 7, 8, 3, 0, 0, 0, FFK_GELU, 5, 1}},
    {"moe", {65, 33, 31, 17, 0, 0, 0, FFK_GELU, 16, 2}},
    {"moe", {257, 16, 9, 1, 0, 0, 0, FFK_GELU, 33, 1}},
};

static void spoil(const char *what, problem *p) {
    const size_t item = p->shape.dtype == FFK_BFLOAT16 ? 2 : 4;
    unsigned char *last = p->y.data + p->y.bytes - item;
    unsigned char before[4];
    memcpy(before, last, item);
    if (strcmp(what, "value") == 0)
        last[item - 1] ^= 0x40; /* the highest bit of the exponent */
    else if (strcmp(what, "guard") == 0)
        p->y.data[p->y.bytes] ^= 1;
    else if (strcmp(what, "input") == 0)
        p->input[W_OUT].data[0] ^= 1;
    else if (strcmp(what, "unwritten") == 0) {
        poison(p); /* all of it: a pass that did nothing */
        memcpy(p->y.data, before, item < p->y.bytes ? item : 0);
    }
}

/* Run two passes, each over poisoned output, and return what is wrong with them. */
static const char *run(const ffk_kernel *kernel, const ffk_context *context, problem *p,
                       const char *what, int64_t *near_ties) {
    const ffk_operands o = {.x = input_of(p, X),
                            .w_in = input_of(p, W_IN),
                            .w_out = input_of(p, W_OUT),
                            .y = (float *)(void *)p->y.data,
                            .workspace = p->workspace.data,
                            .workspace_bytes = p->workspace.bytes,
                            .router = input_of(p, ROUTER),
                            .router_bias = input_of(p, ROUTER_BIAS),
                            .b_in = input_of(p, B_IN),
                            .b_out = input_of(p, B_OUT)};
    const uint64_t inputs = inputs_hash(p);
    for (int pass = 0; pass < 2; ++pass) {
        poison(p);
        if (ffk_kernel_run(kernel, &p->shape, &o, context) != FFK_OK)
            return "the kernel refused the shape";
        spoil(what, p);
        const char *wrong = judge(p, near_ties);
        if (wrong != NULL)
            return wrong;
        if (inputs_hash(p) != inputs)
            return "an operand was changed";
    }
    return NULL;
}

static int takes(const ffk_kernel *kernel, const char *layer, const ffk_shape *s) {
    const uint32_t dtypes = kernel->dtypes != 0 ? kernel->dtypes : FFK_TAKES_FLOAT32;
    const int is_hash = strcmp(kernel->layer, "hash") == 0 && s->trees == 1;
    return strcmp(is_hash ? "fff" : kernel->layer, layer) == 0 && (dtypes & (1u << s->dtype)) != 0;
}

static void check_kernel(const ffk_kernel *kernel, const ffk_isa *isa, const char *what,
                         tally *sum) {
    const ffk_context context = {.blas = &plain_blas, .isa = isa};
    const int64_t before = sum->passes;
    for (size_t i = 0; i < 2 * (sizeof shapes / sizeof *shapes); ++i) {
        ffk_shape s = shapes[i / 2].shape;
        s.dtype = i % 2 == 0 ? FFK_FLOAT32 : FFK_BFLOAT16;
        if (!takes(kernel, shapes[i / 2].layer, &s))
            continue;
        problem p = make_problem(kernel->layer, &s, ffk_kernel_workspace(kernel, &s));
        int64_t near_ties = 0;
        const char *wrong = run(kernel, &context, &p, what, &near_ties);
        if (wrong != NULL)
            printf("%s under %s, batch %d, %d x %d x %d (depth %d, trees %d, experts %d), %s: %s\n",
                   kernel->id, isa->name, (int)s.batch, (int)s.d_in, (int)s.hidden, (int)s.d_out,
                   (int)s.depth, (int)s.trees, (int)s.experts,
                   s.dtype == FFK_BFLOAT16 ? "bfloat16" : "float32", wrong);
        sum->passes += 1;
        sum->faults += wrong != NULL;
        sum->near_ties += near_ties;
        free_problem(&p);
    }
    if (sum->passes == before && strcmp(kernel->layer, "ceiling") != 0) {
        printf("%s: no shape here is one of its layer\n", kernel->id);
        sum->faults += 1;
    }
}

int main(int count, char **words) {
    const char *what = count == 3 && strcmp(words[1], "spoil") == 0 ? words[2] : "";
    tally sum = {0};
    for (size_t i = 0; i < ffk_isa_count(); ++i) {
        const ffk_isa *isa = ffk_isa_at(i);
        if (!isa->supported())
            continue;
        printf("instruction set %s\n", isa->name);
        for (size_t k = 0; k < ffk_kernel_count(); ++k)
            check_kernel(ffk_kernel_at(k), isa, what, &sum);
    }
    printf("%d problems, %d faults, %d near-ties left out\n", (int)sum.passes, (int)sum.faults,
           (int)sum.near_ties);
    return sum.faults != 0 || sum.passes == 0;
}
