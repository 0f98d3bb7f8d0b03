/* generic.c - the vector code for whatever the compiler targets by default. */
#define FFK_ISA generic
#define FFK_ISA_SUPPORTED 1
#include "isa/isa_entry.inc"
