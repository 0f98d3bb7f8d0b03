/* naive.cuh - what the naive FF and FFF share: the thread of one token, and one neuron of it. */
#include "gelu.cuh"

enum { TOKENS = 128 }; /* threads of a block, one a token */

/* Move x (batch, d_in) and y (batch, d_out) to this thread's rows and clear the latter; say whether
 * the thread has a token at all. */
__device__ static bool begin_token(const float *&x, float *&y, int batch, int d_in, int d_out) {
    const int token = blockIdx.x * TOKENS + threadIdx.x;
    if (token >= batch)
        return false;
    x += (long long)token * d_in;
    y += (long long)token * d_out;
    for (int j = 0; j < d_out; ++j)
        y[j] = 0.0f;
    return true;
}

/* y += gelu(z) * row_out with z = <x, row_in>, which is returned. */
__device__ static float add_neuron(const float *x, const float *row_in, const float *row_out,
                                   float *y, int d_in, int d_out) {
    float z = 0.0f;
    for (int i = 0; i < d_in; ++i)
        z += x[i] * row_in[i];
    const float a = gelu(z);
    for (int j = 0; j < d_out; ++j)
        y[j] += a * row_out[j];
    return z;
}
