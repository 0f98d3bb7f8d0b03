/* truth.c - the layers one token at a time in double precision, but for those of experts. The
 * tolerances are those of harness/problem/check.py, where they are derived. */
#include "check/truth.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const gating UNGATED = {1.0, 0.0, 0};

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

double dot(int64_t n, const double *x, const double *w, double *size) {
    double sum = 0.0;
    *size = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        sum += x[i] * w[i];
        *size += fabs(x[i] * w[i]);
    }
    return sum;
}

/* The activation of z and its slope there. */
static double activate(const ffk_shape *s, double z, double *slope) {
    if (s->activation == FFK_RELU) {
        *slope = z > 0.0;
        return fmax(z, 0.0);
    }
    const double phi = 0.5 * (1.0 + erf(z / sqrt(2.0)));
    *slope = phi + z * exp(-z * z / 2.0) / sqrt(2.0 * acos(-1.0));
    return z * phi;
}

double add_neuron(const ffk_shape *s, const double *x, const double *w_in, const double *w_out,
                  double bias, gating g, token_truth *t, double *size) {
    const double z = dot(s->d_in, x, w_in, size) + bias;
    *size += fabs(bias);
    double slope;
    const double a = activate(s, z, &slope), magnitude = fabs(a);
    const double scale = g.gate * (*size + magnitude * (1.0 + g.size));
    const double rounded = g.gate * (fabs(slope * z) + magnitude * (1 + g.is_gated));
    for (int64_t j = 0; j < s->d_out; ++j) {
        t->y[j] += g.gate * a * w_out[j];
        t->scale[j] += scale * fabs(w_out[j]);
        t->squares[j] += rounded * rounded * w_out[j] * w_out[j];
    }
    return z;
}

/* Decide a turn by z, to the right where it is 0 or more, and keep how near it was. */
static int turn(double z, double size, token_truth *t) {
    if (size > 0.0)
        t->margin = fmin(t->margin, fabs(z) / size);
    return z >= 0.0;
}

static void descend(const ffk_shape *s, const operands64 *o, const double *x, int64_t k,
                    token_truth *t) {
    const int64_t n_nodes = ((int64_t)2 << s->depth) - 1;
    for (int64_t d = 0, node = 0; d <= s->depth; ++d) {
        const int64_t row = k * n_nodes + node;
        double size;
        const double z = add_neuron(s, x, o->w_in + row * s->d_in, o->w_out + row * s->d_out, 0.0,
                                    UNGATED, t, &size);
        node = 2 * node + 1 + (d < s->depth && turn(z, size, t));
    }
}

static void add_leaf(const ffk_shape *s, const operands64 *o, const double *x, token_truth *t) {
    int64_t node = 0;
    double size;
    for (int64_t d = 0; d < s->depth; ++d) {
        const double bias = o->router_bias[node];
        const double z = dot(s->d_in, x, o->router + node * s->d_in, &size) + bias;
        node = 2 * node + 1 + turn(z, size + fabs(bias), t);
    }
    const int64_t leaf = node + 1 - ((int64_t)1 << s->depth);
    for (int64_t h = leaf * s->hidden; h < (leaf + 1) * s->hidden; ++h)
        add_neuron(s, x, o->w_in + h * s->d_in, o->w_out + h * s->d_out, o->b_in[h], UNGATED, t,
                   &size);
    for (int64_t j = 0; j < s->d_out; ++j) {
        t->y[j] += o->b_out[leaf * s->d_out + j];
        t->scale[j] += fabs(o->b_out[leaf * s->d_out + j]);
    }
}

/* The path to the leaf that the bits of a token pick: of its first 4 elements as they are stored,
 * h = (h ^ bits) * 0x9E3779B1, h ^= h >> 15, and then the upper `depth` bits. */
static void add_hashed(const ffk_shape *s, const operands64 *o, const double *x, token_truth *t) {
    uint32_t h = 0;
    for (int64_t i = 0; i < 4 && i < s->d_in; ++i) {
        const float value = (float)x[i];
        uint32_t bits = to_bfloat16(value);
        if (s->dtype == FFK_FLOAT32)
            memcpy(&bits, &value, sizeof bits);
        h = (h ^ bits) * 0x9E3779B1u;
        h ^= h >> 15;
    }
    double size;
    for (int64_t d = 0, node = 0; d <= s->depth; ++d) {
        add_neuron(s, x, o->w_in + node * s->d_in, o->w_out + node * s->d_out, 0.0, UNGATED, t,
                   &size);
        node = 2 * node + 1 + (int64_t)((h >> (31 - d)) & 1);
    }
}

void find_truth(const char *layer, const ffk_shape *s, const operands64 *o, int64_t b,
                token_truth *t) {
    const double *x = o->x + b * s->d_in;
    for (int64_t j = 0; j < s->d_out; ++j)
        t->y[j] = t->scale[j] = t->squares[j] = 0.0;
    t->margin = INFINITY;
    double size;
    if (strcmp(layer, "ff") == 0)
        for (int64_t h = 0; h < s->hidden; ++h)
            add_neuron(s, x, o->w_in + h * s->d_in, o->w_out + h * s->d_out, 0.0, UNGATED, t,
                       &size);
    else if (strcmp(layer, "fff") == 0)
        for (int64_t k = 0; k < s->trees; ++k)
            descend(s, o, x, k, t);
    else if (strcmp(layer, "leaf") == 0)
        add_leaf(s, o, x, t);
    else if (strcmp(layer, "hash") == 0)
        add_hashed(s, o, x, t);
    else
        add_experts(layer, s, o, x, t);
}

int is_near_tie(const token_truth *t) { return t->margin < 4.0 * (double)FLT_EPSILON; }

double error_of(const ffk_shape *s, const token_truth *t, int64_t j, double value) {
    double allowed = 2.0 * (double)FLT_EPSILON * t->scale[j] + (double)FLT_MIN;
    if (s->dtype == FFK_BFLOAT16)
        allowed += ldexp(1.0, -8) * (fabs(t->y[j]) + 3.0 * sqrt(t->squares[j]));
    const double error = fabs(value - t->y[j]) / allowed;
    return isnan(error) ? INFINITY : error;
}
