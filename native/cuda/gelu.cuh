/* gelu.cuh - the exact GELU, z * Phi(z) by erf (Hendrycks and Gimpel 2016), for one float. */
__device__ static float gelu(float z) { return z * 0.5f * (1.0f + erff(z * 0.70710678f)); }
