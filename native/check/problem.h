/* problem.h - the operands of one shape between guards, and what a pass made of them. */
#ifndef FFK_CHECK_PROBLEM_H
#define FFK_CHECK_PROBLEM_H

#include "check/truth.h"

/* An array between two guards of canaries. */
typedef struct {
    unsigned char *memory, *data;
    size_t bytes;
} guarded;

typedef struct {
    ffk_shape shape;
    guarded x, w_in, w_out, y, workspace;
    operands64 exact; /* the stored values */
} problem;

/* Return drawn operands; the same shape gives the same bytes. Ends the program without memory. */
problem make_problem(const ffk_shape *shape, size_t workspace_bytes);
void free_problem(problem *p);

/* Fill y with a NaN of known bits. */
void poison(problem *p);

/* Return a number that changes with any byte of x and the weights. */
uint64_t inputs_hash(const problem *p);

/* Return what is wrong after a pass over poisoned output, NULL where nothing is. near_ties counts
 * the tokens that were left out. */
const char *judge(const problem *p, int64_t *near_ties);

#endif
