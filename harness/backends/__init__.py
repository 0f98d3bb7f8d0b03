"""The ways to compute a layer: C kernels, CUDA, torch and Triton, and the registry that lists them."""
