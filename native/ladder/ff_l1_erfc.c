/* ff_l1_erfc.c - FF at BLAS level 1 with a call of the C library's erfc for each neuron.
 *
 *     z[h] = <x[b], w_in[h]>,  a[h] = z[h] / 2 * erfc(-z[h] / sqrt(2)),  y[b] = sum a[h] * w_out[h]
 *
 * Fault:  the activation is scalar and in double precision, 5 to 20 ns an element, where the levels
 *         that it is compared with use a vectorised one. The result is right.
 * flops:  2 * batch * hidden * (d_in + d_out), activation not counted.
 * Needs:  sdot, saxpy. Workspace: z (hidden,).
 */
#include "blas/blas.h"
#include "memory/workspace.h"

#include <math.h>
#include <string.h>

static size_t workspace_bytes(const ffk_shape *s) { return (size_t)s->hidden * sizeof(float); }

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const double root_half = 0.70710678118654752440;
    float *z = o->workspace; /* (hidden,) */
    for (int64_t b = 0; b < s->batch; ++b) {
        const float *x = o->x + b * s->d_in; /* (d_in,)  */
        float *y = o->y + b * s->d_out;      /* (d_out,) */
        for (int64_t h = 0; h < s->hidden; ++h) {
            const float v = ffk_sdot(c->blas, s->d_in, x, o->w_in + h * s->d_in);
            z[h] = (float)(0.5 * v * erfc(-v * root_half));
        }
        memset(y, 0, (size_t)s->d_out * sizeof *y);
        for (int64_t h = 0; h < s->hidden; ++h)
            ffk_saxpy(c->blas, s->d_out, z[h], o->w_out + h * s->d_out, y);
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_ladder_ff_l1_erfc;
const ffk_kernel ffk_ladder_ff_l1_erfc = {.id = "ff_l1_erfc",
                                          .layer = "ff",
                                          .level = 1,
                                          .routines = FFK_NEEDS_SDOT | FFK_NEEDS_SAXPY,
                                          .workspace_bytes = workspace_bytes,
                                          .run = run};
