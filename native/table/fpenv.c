/* fpenv.c - whether the hardware flushes subnormal numbers to zero in the calling thread.
 *
 * A library linked with -ffast-math turns this on for the whole process when it is loaded. Results
 * then differ from IEEE arithmetic, and code that would be slowed by subnormals is not: a figure
 * taken so does not hold in a process without that library. The control register is asked, not the
 * compiler: flags say nothing about what another library did.
 */
#include "ffk.h"

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#define MXCSR_FLUSH_TO_ZERO 0x8000u
#define MXCSR_DENORMALS_ARE_ZERO 0x0040u
#endif

int32_t ffk_flush_to_zero(void) {
#if defined(__x86_64__) || defined(__i386__)
    const unsigned control = _mm_getcsr();
    return ((control & MXCSR_FLUSH_TO_ZERO) ? FFK_FLUSHES_RESULTS : 0) |
           ((control & MXCSR_DENORMALS_ARE_ZERO) ? FFK_FLUSHES_OPERANDS : 0);
#elif defined(__aarch64__)
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    /* Bit 24 (FZ) flushes results and operands alike. */
    return (control >> 24) & 1 ? FFK_FLUSHES_RESULTS | FFK_FLUSHES_OPERANDS : 0;
#else
    return -1;
#endif
}
