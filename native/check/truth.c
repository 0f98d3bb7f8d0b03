/* truth.c - FF and FFF one token at a time in double precision. The tolerances are those of
 * harness/problem/check.py, where they are derived. */
#include "check/truth.h"

#include <float.h>
#include <math.h>
#include <string.h>

double from_bfloat16(ffk_bfloat16 bits) {
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

ffk_bfloat16 to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits += 0x7FFF + ((bits >> 16) & 1); /* to nearest, ties to even; the data holds no NaN */
    return (ffk_bfloat16)(bits >> 16);
}

/* Add one neuron to the truth; return its pre-activation and, in `size`, the sum of magnitudes. */
static double add_neuron(const ffk_shape *s, const double *x, const double *w_in,
                         const double *w_out, token_truth *t, double *size) {
    double z = 0.0;
    *size = 0.0;
    for (int64_t i = 0; i < s->d_in; ++i) {
        z += x[i] * w_in[i];
        *size += fabs(x[i] * w_in[i]);
    }
    const double phi = 0.5 * (1.0 + erf(z / sqrt(2.0)));
    const double slope = phi + z * exp(-z * z / 2.0) / sqrt(2.0 * acos(-1.0));
    const double a = z * phi, rounded = fabs(slope * z) + fabs(a);
    for (int64_t j = 0; j < s->d_out; ++j) {
        t->y[j] += a * w_out[j];
        t->scale[j] += (*size + fabs(a)) * fabs(w_out[j]);
        t->squares[j] += rounded * rounded * w_out[j] * w_out[j];
    }
    return z;
}

static void descend(const ffk_shape *s, const operands64 *o, const double *x, int64_t k,
                    token_truth *t) {
    const int64_t n_nodes = ((int64_t)2 << s->depth) - 1;
    for (int64_t d = 0, node = 0; d <= s->depth; ++d) {
        const int64_t row = k * n_nodes + node;
        double size;
        const double z =
            add_neuron(s, x, o->w_in + row * s->d_in, o->w_out + row * s->d_out, t, &size);
        if (d < s->depth && size > 0.0)
            t->margin = fmin(t->margin, fabs(z) / size);
        node = 2 * node + 1 + (z >= 0.0);
    }
}

void find_truth(const ffk_shape *s, const operands64 *o, int64_t b, token_truth *t) {
    const double *x = o->x + b * s->d_in;
    for (int64_t j = 0; j < s->d_out; ++j)
        t->y[j] = t->scale[j] = t->squares[j] = 0.0;
    t->margin = INFINITY;
    double size;
    for (int64_t h = 0; h < s->hidden; ++h)
        add_neuron(s, x, o->w_in + h * s->d_in, o->w_out + h * s->d_out, t, &size);
    for (int64_t k = 0; k < s->trees; ++k)
        descend(s, o, x, k, t);
}

int is_near_tie(const token_truth *t) { return t->margin < 4.0 * (double)FLT_EPSILON; }

double error_of(const ffk_shape *s, const token_truth *t, int64_t j, double value) {
    double allowed = 2.0 * (double)FLT_EPSILON * t->scale[j] + (double)FLT_MIN;
    if (s->dtype == FFK_BFLOAT16)
        allowed += ldexp(1.0, -8) * (fabs(t->y[j]) + 3.0 * sqrt(t->squares[j]));
    const double error = fabs(value - t->y[j]) / allowed;
    return isnan(error) ? INFINITY : error;
}
