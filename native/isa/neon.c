/* neon.c - the vector code for AArch64, whose every processor has NEON with FMA. */
#define FFK_ISA neon
#define FFK_ISA_SUPPORTED 1
#include "isa/isa_entry.inc"
