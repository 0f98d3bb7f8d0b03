/* outputs.h - the output of tokens whose experts are chosen, token by token.
 *
 *     y[b] = sum over the chosen experts e of g[b, e] gelu(<x[b], w_in[e]>) w_out[e]
 *
 * Experts of one neuron. Tokens share no rows: of thousands of experts the few tokens whose x a
 * core's L2 holds have hardly one in common, and more tokens would have their x where the rows are,
 * so that sharing a row would cost as much as it saves. While a row is multiplied, the next one is
 * fetched; y is written once, in registers until then.
 *
 * The batch is cut into at most FFK_OUTPUT_UNITS ranges, shared among the caller's threads.
 */
#ifndef FFK_EXPERTS_OUTPUTS_H
#define FFK_EXPERTS_OUTPUTS_H

#include "experts/choice.h"
#include "fff/node_rows.h"
#include "threads/parallel_for.h"

enum { FFK_OUTPUT_UNITS = 16 };

typedef struct {
    const ffk_shape *shape;
    const ffk_operands *operands;
    const ffk_context *context;
    const int32_t *expert; /* (batch, active) */
    const float *gate;     /* (batch, active): gates, or where `scored` the pre-activations */
    int scored;
} ffk_outputs;

static inline void ffk_output_range(void *state, int64_t unit) {
    const ffk_outputs *o = state;
    const ffk_shape *s = o->shape;
    const ffk_products *products = &o->context->isa->products[s->dtype];
    const size_t element = ffk_element_bytes(s);
    const size_t in_bytes = (size_t)s->d_in * element, out_bytes = (size_t)s->d_out * element;
    const int64_t in_lines = ffk_head_lines(o->context, in_bytes);
    const int64_t out_lines = ffk_head_lines(o->context, out_bytes);
    const int64_t units = ffk_min(s->batch, FFK_OUTPUT_UNITS);
    const char *w_in = (const char *)o->operands->w_in, *w_out = (const char *)o->operands->w_out;
    float a[FFK_MOST_ACTIVE] = {0.0f}; /* the GELU takes whole lines of it */
    const void *row[FFK_MOST_ACTIVE];
    const int64_t padded = ffk_min(FFK_MOST_ACTIVE, (s->active + 15) / 16 * 16);
    const int64_t end = (unit + 1) * s->batch / units;
    for (int64_t b = unit * s->batch / units; b < end; ++b) {
        const char *x = (const char *)o->operands->x + (size_t)b * in_bytes;
        const int32_t *expert = o->expert + b * s->active;
        const float *gate = o->gate + b * s->active;
        for (int64_t k = 0; k < s->active; ++k) {
            row[k] = w_out + (size_t)expert[k] * out_bytes;
            if (k + 1 < s->active && !o->scored)
                ffk_fetch_head(w_in + (size_t)expert[k + 1] * in_bytes, in_lines);
            ffk_fetch_head(row[k], out_lines);
            if (o->scored) {
                a[k] = gate[k];
                continue;
            }
            a[k] = products->dot(s->d_in, x, w_in + (size_t)expert[k] * in_bytes);
        }
        o->context->isa->gelu(padded, a);
        for (int64_t k = 0; k < s->active && !o->scored; ++k)
            a[k] *= gate[k];
        products->combine_one(s->active, s->d_out, a, row,
                              (char *)o->operands->y + (size_t)b * out_bytes);
    }
}

static inline void ffk_emit_outputs(ffk_outputs *o) {
    ffk_parallel_for(o->context->team, ffk_min(o->shape->batch, FFK_OUTPUT_UNITS), ffk_output_range,
                     o);
}

#endif
