/* truth.h - the layers in double precision, written to be read, and the verdict on one token. */
#ifndef FFK_CHECK_TRUTH_H
#define FFK_CHECK_TRUTH_H

#include "ffk.h"

/* Operands as doubles, of any dtype as they are stored; those that a layer has not, NULL. */
typedef struct {
    const double *x, *w_in, *w_out, *router, *router_bias, *b_in, *b_out;
} operands64;

/* What one token's output is judged by; y, scale and squares of d_out. */
typedef struct {
    double *y, *scale, *squares; /* output, magnitudes summed into it, squares of what is rounded */
    double *score, *size;        /* of each expert, and the magnitudes summed into it */
    double margin; /* smallest relative distance from where another path or expert were taken */
} token_truth;

/* What scales a neuron: 1, or a gate and how often its own relative rounding counts. */
typedef struct {
    double gate, size;
    int is_gated;
} gating;

double from_bfloat16(ffk_bfloat16 bits);
ffk_bfloat16 to_bfloat16(float value);

/* Return <x, w>, and in `size` the sum of the magnitudes. */
double dot(int64_t n, const double *x, const double *w, double *size);

/* Add one neuron to the truth; return its pre-activation and, in `size`, the sum of magnitudes. */
double add_neuron(const ffk_shape *s, const double *x, const double *w_in, const double *w_out,
                  double bias, gating g, token_truth *t, double *size);

/* Add the experts that token x uses of topk, peer or moe. */
void add_experts(const char *layer, const ffk_shape *s, const operands64 *o, const double *x,
                 token_truth *t);

/* Fill `t` with the truth of token b of a layer. */
void find_truth(const char *layer, const ffk_shape *s, const operands64 *o, int64_t b,
                token_truth *t);

/* Say whether a token's path hangs on a near-tie, so that it can't be compared. */
int is_near_tie(const token_truth *t);

/* Return the error of a value as a share of what it may miss the truth by. */
double error_of(const ffk_shape *s, const token_truth *t, int64_t j, double value);

#endif
