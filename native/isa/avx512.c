/* avx512.c - the vector code for AVX-512 F, VL, DQ and BW. */
#define FFK_ISA avx512
#define FFK_ISA_SHARED /* avx512_bf16.c takes its functions */
#define FFK_ISA_SUPPORTED                                                                          \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&                    \
     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
#include "isa/isa_entry.inc"
