/* ieee.h - refuse a build whose compiler was told to compute otherwise than IEEE arithmetic does.
 *
 * The build leaves out what it knows of such flags; this finds the others by what they define.
 */
#ifndef FFK_IEEE_H
#define FFK_IEEE_H

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) ||     \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "-ffast-math or a part of it makes arithmetic inexact: look at CC and FFK_CFLAGS"
#endif

#endif
