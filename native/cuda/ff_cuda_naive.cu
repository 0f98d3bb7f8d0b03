/* ff_cuda_naive.cu - FF forward pass on the GPU, one thread per token.
 *
 *     y[b] = sum over h of gelu(<x[b], w_in[h]>) * w_out[h]
 *
 * The paper's "naive CUDA" column of the FF: what a direct translation of the loops gives. It is
 * the baseline of that column and is kept naive on purpose.
 *
 * flops:     2 * batch * hidden * (d_in + d_out), activation not counted.
 * Bytes:     a warp reads each weight element once for its 32 tokens (a broadcast), and 32 elements
 *            of x and y that stand d_in and d_out apart: 32 sectors of 32 bytes for 128 bytes of
 *            use. y is read and written once a neuron.
 * Occupancy: at most 40 registers and no shared memory: limited by the batch alone. 16384 tokens
 *            are 512 warps, about four a multiprocessor of a large GPU: latency is not hidden.
 * Tile:      128 threads a block: the smallest that fills a multiprocessor's four schedulers, so
 *            that small batches still spread over many of them.
 */
#include "naive.cuh"

extern "C" __global__ void __launch_bounds__(TOKENS)
    ff_cuda_naive_float32(const float *x, const float *w_in, const float *w_out, float *y,
                          int batch, int d_in, int d_out, int hidden) {
    if (!begin_token(x, y, batch, d_in, d_out))
        return;
    for (int h = 0; h < hidden; ++h) {
        const float *row_in = w_in + (long long)h * d_in;    /* (d_in,)  */
        const float *row_out = w_out + (long long)h * d_out; /* (d_out,) */
        add_neuron(x, row_in, row_out, y, d_in, d_out);
    }
}
