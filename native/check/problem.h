/* problem.h - the operands of one shape between guards, and what a pass made of them. */
#ifndef FFK_CHECK_PROBLEM_H
#define FFK_CHECK_PROBLEM_H

#include "check/truth.h"

/* An array between two guards of canaries. */
typedef struct {
    unsigned char *memory, *data;
    size_t bytes;
} guarded;

/* What a pass reads; those that a layer has not are empty. */
enum { X, W_IN, W_OUT, ROUTER, ROUTER_BIAS, B_IN, B_OUT, INPUTS };

typedef struct {
    const char *layer;
    ffk_shape shape;
    guarded input[INPUTS], y, workspace;
    const double *exact[INPUTS]; /* the stored values; NULL of an empty one */
} problem;

/* Return drawn operands; the same shape gives the same bytes. Ends the program without memory. */
problem make_problem(const char *layer, const ffk_shape *shape, size_t workspace_bytes);
void free_problem(problem *p);

/* Fill y with a NaN of known bits. */
void poison(problem *p);

/* Return what a kernel gets of an input: NULL of an empty one. */
const float *input_of(const problem *p, int which);

/* Return a number that changes with any byte of x and the weights. */
uint64_t inputs_hash(const problem *p);

/* Return what is wrong after a pass over poisoned output, NULL where nothing is. near_ties counts
 * the tokens that were left out. */
const char *judge(const problem *p, int64_t *near_ties);

#endif
