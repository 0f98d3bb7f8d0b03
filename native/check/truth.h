/* truth.h - the layers in double precision, written to be read, and the verdict on one token. */
#ifndef FFK_CHECK_TRUTH_H
#define FFK_CHECK_TRUTH_H

#include "ffk.h"

/* Operands as doubles, of any dtype as they are stored. */
typedef struct {
    const double *x, *w_in, *w_out;
} operands64;

/* What one token's output is judged by; arrays of d_out. */
typedef struct {
    double *y, *scale, *squares; /* output, magnitudes summed into it, squares of what is rounded */
    double margin;               /* smallest relative pre-activation that decides a turn */
} token_truth;

double from_bfloat16(ffk_bfloat16 bits);
ffk_bfloat16 to_bfloat16(float value);

/* Fill `t` with the truth of token b. */
void find_truth(const ffk_shape *s, const operands64 *o, int64_t b, token_truth *t);

/* Say whether a token's path hangs on a near-tie, so that it can't be compared. */
int is_near_tie(const token_truth *t);

/* Return the error of a value as a share of what it may miss the truth by. */
double error_of(const ffk_shape *s, const token_truth *t, int64_t j, double value);

#endif
