/* fff_cuda_naive.cu - FFF forward pass on the GPU, one thread per token.
 *
 * Each thread walks its token's root-to-leaf path in every tree; the node at depth d contributes
 *     y[b] += gelu(z) * w_out[node],   z = <x[b], w_in[node]>
 * and the walk turns right iff z >= 0 (a NaN turns left).
 *
 * The paper's "naive CUDA" column of the FFF, kept naive on purpose.
 *
 * flops:     2 * batch * trees * (depth + 1) * (d_in + d_out), activation not counted.
 * Bytes:     trees * (depth + 1) * (d_in + d_out) weight elements a token. The threads of a warp
 *            stand in different rows: a load touches up to 32 sectors of 32 bytes for 128 bytes of
 *            use, and hopes that the L1 cache keeps the neighbours until they are read. y is read
 *            and written once a node.
 * Occupancy: at most 40 registers and no shared memory: limited by the batch alone, as in
 *            ff_cuda_naive.
 * Tile:      128 threads a block, for the same reason as there.
 */
#include "naive.cuh"

extern "C" __global__ void __launch_bounds__(TOKENS)
    fff_cuda_naive_float32(const float *x, const float *w_in, const float *w_out, float *y,
                           int batch, int d_in, int d_out, int depth, int trees) {
    if (!begin_token(x, y, batch, d_in, d_out))
        return;
    const long long n_nodes = (2LL << depth) - 1;
    for (int k = 0; k < trees; ++k) {
        long long node = 0;
        for (int d = 0; d <= depth; ++d) {
            const float *row_in = w_in + (k * n_nodes + node) * d_in;    /* (d_in,)  */
            const float *row_out = w_out + (k * n_nodes + node) * d_out; /* (d_out,) */
            const float z = add_neuron(x, row_in, row_out, y, d_in, d_out);
            node = 2 * node + 1 + (z >= 0.0f);
        }
    }
}
