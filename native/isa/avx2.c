/* avx2.c - the vector code for AVX2 with FMA. */
#define FFK_ISA avx2
#define FFK_ISA_SUPPORTED (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#include "isa/isa_entry.inc"
