/* avx512_bf16.c - what avx512.c has, and products of bfloat16 by pairs (AVX512_BF16). */
#define FFK_ISA avx512_bf16
#define FFK_ISA_BASE avx512
#define FFK_ISA_SUPPORTED                                                                          \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&                    \
     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&                   \
     __builtin_cpu_supports("avx512bf16"))
#include "isa/isa_entry.inc"
