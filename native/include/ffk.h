/* ffk.h - the interface of the native library: types, the one kernel signature, the table.
 *
 * Extents are int64_t and count elements; arrays are row-major, contiguous, all of one dtype:
 * float32, or bfloat16 for the kernels that say so.
 *     x (batch, d_in)    y (batch, d_out)
 *     ff:  w_in (hidden, d_in)          w_out (hidden, d_out)
 *     fff: w_in (trees, n_nodes, d_in)  w_out (trees, n_nodes, d_out)   n_nodes = 2^(depth+1) - 1
 *     leaf: w_in (leaves, hidden, d_in)  w_out (leaves, hidden, d_out)  leaves = 2^depth
 *           b_in (leaves, hidden)  b_out (leaves, d_out)
 *           router (leaves - 1, d_in)  router_bias (leaves - 1,)
 *     topk, peer, moe: w_in (experts, hidden, d_in)  w_out (experts, hidden, d_out)
 *           router (2 sqrt(experts), d_in) of peer, (experts, d_in) of moe
 *     hash: as fff, of one tree
 * Kernels never allocate, print, abort or start threads; the caller owns every buffer.
 */
#ifndef FFK_H
#define FFK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a structure below grows. Structures grow at their end and enumerations behind their
 * last name, so that a plugin which was compiled against an older version finds the places that it
 * knows: the harness takes it, down to the version FFK_API_OLDEST. A change that would move a place
 * raises that one too; so does growth of ffk_products, two of which stand in an ffk_isa, and of
 * ffk_feed, which a plugin makes. Version 1 had no ffk_plugin_api (at the end of this file): a
 * library without it counts as version 1. */
#define FFK_API_VERSION 5
#define FFK_API_OLDEST 1

typedef enum {
    FFK_OK = 0,
    FFK_NULL_POINTER,
    FFK_BAD_SHAPE,
    FFK_EXTENT_TOO_LARGE, /* an extent does not fit the provider's integer */
    FFK_WORKSPACE_TOO_SMALL,
    FFK_WORKSPACE_MISALIGNED,
    FFK_MISSING_ROUTINE, /* the provider lacks a BLAS routine that the kernel calls */
    FFK_UNSUPPORTED_ISA,
    FFK_CLOCK_FAILED,
    FFK_UNSUPPORTED_DTYPE /* the kernel does not take arrays of this dtype */
} ffk_status;

/* What x, w_in, w_out and y are stored in. */
#define FFK_FLOAT32 0
#define FFK_BFLOAT16 1 /* the upper half of a float32; sums are float32 */

/* What the neurons of a leaf network make of their sums; those of the other layers, the GELU. */
#define FFK_GELU 0
#define FFK_RELU 1

typedef struct {
    int64_t batch, d_in, d_out;
    int64_t hidden;          /* ff: neurons; leaf, moe: of one leaf or expert; 0 for fff */
    int64_t depth, trees;    /* fff, hash: the root is at depth 0; leaf: turns, and 1; else 0 */
    int32_t dtype;           /* FFK_FLOAT32 or FFK_BFLOAT16 */
    int32_t activation;      /* FFK_GELU, or for a leaf FFK_RELU. Since version 4 */
    int64_t experts, active; /* topk, peer, moe: of which a token uses so many. Since version 4 */
} ffk_shape;

typedef uint16_t ffk_bfloat16;

/* With FFK_BFLOAT16 the four arrays are of ffk_bfloat16, and a kernel casts the pointers. */
typedef struct {
    const float *x, *w_in, *w_out;
    float *y;        /* overwritten, never read */
    void *workspace; /* aligned to FFK_ALIGNMENT, contents on entry are of no meaning */
    size_t workspace_bytes;
    const float *router, *router_bias, *b_in,
        *b_out; /* of the layers above that have them; else NULL. Since version 4 */
} ffk_operands;

#define FFK_ALIGNMENT 64 /* bytes: a cache line, and the widest vector register (AVX-512) */

typedef void (*ffk_function)(void);

/* A BLAS provider: Fortran calling convention, `int_bits` wide integers. A null batched routine
 * means that the provider has none: level 2 then loops over single calls. */
typedef struct {
    int32_t int_bits; /* 32 (LP64) or 64 (ILP64) */
    ffk_function sdot, saxpy, sgemv, sgemm, sgemv_batch, saxpy_batch;
} ffk_blas;

/* What becomes of rows of y: overwritten, overwritten past the caches, or added to. */
typedef enum { FFK_STORE, FFK_PAST, FFK_ADD } ffk_how;

#define FFK_ADD_TOKENS 8

/* Rows of x that are fetched in passing, a line at a time: what is left of one, and the tokens
 * behind it. */
typedef struct {
    const char *at, *end;
    const int32_t *token;
    int64_t left;
    const char *x;
    int64_t row_bytes;
} ffk_feed;

/* Products of tokens with rows of weights of one dtype: vector/rows.inc. A token is a row of x or y
 * by number. `ahead` are rows that come next: they are fetched meanwhile. */
typedef struct {
    /* z[i * rows + r] = <x[token[i]], w[r]>, rows 1 or 3. coming: how many more numbers of tokens
     * stand behind the last one, where x comes from memory; 0 where it is in a cache. */
    void (*dots)(int64_t tokens, int64_t rows, int64_t d, const void *x, const int32_t *token,
                 int64_t coming, const void *const *w, float *z, const void *const *ahead,
                 int64_t n_ahead);
    /* y[token[i]] (+)= sum over r of a[i * rows + r] * w[r]; an added y is float32. feed: fetched
     * where how == FFK_PAST, else NULL will do. */
    void (*combine)(int64_t tokens, int64_t rows, int64_t d, const float *a, const void *const *w,
                    void *y, const int32_t *token, ffk_how how, const void *const *ahead,
                    int64_t n_ahead, ffk_feed *feed);
    /* The same for one token and row, and for one token and how == FFK_STORE: less code, which a
     * lone token would wait for as it does for its weights. */
    float (*dot)(int64_t d, const void *x, const void *w);
    void (*combine_one)(int64_t rows, int64_t d, const float *a, const void *const *w, void *y);
    /* For a dense layer, at most FFK_ADD_TOKENS tokens and d columns: rows of w, and of x and y,
     * which are float32, stand `stride` elements apart. Meanwhile fetch every `every`-th of the
     * rows `ahead`, from number `turn` on, none where turn is negative; multiply counts them by
     * threes. a[r * FFK_ADD_TOKENS + t] += <x[t], w[r]>, and then y[t] += sum over r of
     * a[r * FFK_ADD_TOKENS + t] * w[r]. */
    void (*multiply)(int64_t tokens, int64_t rows, int64_t d, int64_t stride, const float *x,
                     const void *w, float *a, const void *ahead, int64_t n_ahead, int64_t every,
                     int64_t turn);
    void (*add)(int64_t tokens, int64_t rows, int64_t d, int64_t stride, const float *a,
                const void *w, float *y, const void *ahead, int64_t every, int64_t turn);
    /* n elements as float32. */
    void (*widen)(int64_t n, const void *from, float *to);
    /* Round n elements from float32. */
    void (*narrow)(int64_t n, const float *from, void *to);
} ffk_products;

/* Our own vector code, compiled once per instruction set. */
typedef struct {
    const char *name;
    int32_t (*supported)(void);
    void (*gelu)(int64_t n, float *z); /* in place */
    /* The loops of the ceilings: vector/ceilings.inc. */
    void (*fma)(int64_t n, int64_t steps, float m, float c, const float *x, float *y);
    float (*sum)(int64_t n, const float *x);
    float (*dot)(int64_t n, const float *x, const float *w);
    void (*fill)(int64_t n, float value, float *y);
    void (*scale)(int64_t n, float factor, const float *x, float *y);
    ffk_products products[2]; /* by dtype */
    void (*settle)(void);     /* order what was stored past the caches before what follows */
    void (*stream)(int64_t n, float factor, const float *x, float *y);
    void (*gelu_slope)(int64_t n, float *z); /* the derivative of the GELU, in place */
    void (*exp)(int64_t n, float *z);        /* in place. Since version 4 */
} ffk_isa;

/* The caller's threads. share() runs unit(job, i) for all i below `units`, in any order, on any of
 * the threads, and returns when all have ended and what they stored, past the caches too, is in its
 * place. */
typedef struct {
    int64_t threads;
    void (*share)(void *state, int64_t units, void (*unit)(void *job, int64_t i), void *job);
    void *state;
} ffk_team;

typedef struct {
    const ffk_blas *blas;
    const ffk_isa *isa;
    const ffk_team *team;       /* NULL for the calling thread alone */
    int64_t l2_bytes, l3_bytes; /* caches that one core sees; 0 where the system does not tell */
    int32_t far_weights; /* the weights come from memory, as far as the caller knows: whole rows are
                            fetched ahead, which from a cache costs more than it gains. Since
                            version 5 */
} ffk_context;

#define FFK_NEEDS_SDOT (1u << 0)
#define FFK_NEEDS_SAXPY (1u << 1)
#define FFK_NEEDS_SGEMV (1u << 2)
#define FFK_NEEDS_SGEMM (1u << 3)
#define FFK_BATCHES_SGEMV (1u << 4) /* uses sgemv_batch where there is one */
#define FFK_BATCHES_SAXPY (1u << 5)

#define FFK_TAKES_FLOAT32 (1u << FFK_FLOAT32)
#define FFK_TAKES_BFLOAT16 (1u << FFK_BFLOAT16)

typedef ffk_status (*ffk_kernel_run_fn)(const ffk_shape *, const ffk_operands *,
                                        const ffk_context *);
typedef size_t (*ffk_kernel_workspace_fn)(const ffk_shape *);

typedef struct ffk_kernel {
    const char *id, *layer; /* layer: as above, or "ceiling" */
    int32_t level;          /* BLAS level, 0 where the kernel is not built on BLAS */
    uint32_t routines;      /* FFK_NEEDS_*, FFK_BATCHES_* */
    uint32_t dtypes;        /* FFK_TAKES_*; 0 for float32 alone */
    int64_t token_block; /* tokens that are computed together and apart from all others: a pass over
                            the batch is one over its parts of whole blocks. 0: the whole batch */
    ffk_kernel_workspace_fn workspace_bytes;
    ffk_kernel_run_fn run;
    /* The kernel that a pass will be left to; NULL where it is this one. */
    const struct ffk_kernel *(*choose)(const ffk_shape *, const ffk_context *);
} ffk_kernel;

/* ---- the table ---- */
size_t ffk_kernel_count(void);
const ffk_kernel *ffk_kernel_at(size_t i);
size_t ffk_ladder_count(void);
const ffk_kernel *ffk_ladder_at(size_t i); /* faulty on purpose: see ladder.inc */
size_t ffk_isa_count(void);
const ffk_isa *ffk_isa_at(size_t i); /* fastest first */

/* For an entry that needs no workspace, or whose caller knows the size of it: returns 0. */
size_t ffk_no_workspace(const ffk_shape *shape);
/* Bytes of workspace that `kernel` needs for `shape`; 0 for a shape that it would refuse. */
size_t ffk_kernel_workspace(const ffk_kernel *kernel, const ffk_shape *shape);
/* Validate the arguments and run one forward pass. */
ffk_status ffk_kernel_run(const ffk_kernel *kernel, const ffk_shape *shape,
                          const ffk_operands *operands, const ffk_context *context);
/* Validate once, then time `loops` passes as one interval of CLOCK_MONOTONIC. Pass i works on
 * operands[i % n_operands], so that several sets of weights can be rotated. */
ffk_status ffk_kernel_time(const ffk_kernel *kernel, const ffk_shape *shape,
                           const ffk_operands *operands, int64_t n_operands,
                           const ffk_context *context, int64_t loops, int64_t *elapsed_ns);

/* ---- gradients ---- */

/* What a backward pass is given and fills: x and the weights as the forward pass had them, and dy,
 * the gradient of a loss by its output; dx as x, dw_in and dw_out as the weights. A pass fills
 * those gradients that are not NULL. */
typedef struct {
    const float *x, *w_in, *w_out, *dy;
    float *dx, *dw_in, *dw_out; /* overwritten, never read */
    void *workspace;            /* as that of ffk_operands */
    size_t workspace_bytes;
} ffk_gradients;

typedef ffk_status (*ffk_backward_run_fn)(const ffk_shape *, const ffk_gradients *,
                                          const ffk_context *);

/* A backward pass stands in a table of its own: it is given other arrays than a forward pass, and
 * serves whatever computed that. Needs no BLAS. */
typedef struct {
    const char *id, *layer; /* layer: "ff" or "fff" */
    uint32_t dtypes;        /* FFK_TAKES_* */
    ffk_kernel_workspace_fn workspace_bytes;
    ffk_backward_run_fn run;
} ffk_backward;

size_t ffk_backward_count(void);
const ffk_backward *ffk_backward_at(size_t i);
/* As ffk_kernel_workspace and ffk_kernel_run. */
size_t ffk_backward_workspace(const ffk_backward *backward, const ffk_shape *shape);
ffk_status ffk_backward_run(const ffk_backward *backward, const ffk_shape *shape,
                            const ffk_gradients *gradients, const ffk_context *context);

/* ---- the calling thread's floating-point environment ---- */
#define FFK_FLUSHES_RESULTS 1  /* subnormal results become zero (FTZ) */
#define FFK_FLUSHES_OPERANDS 2 /* subnormal operands count as zero (DAZ) */

/* Return the FFK_FLUSHES_* that are on, -1 where the processor can't be asked. */
int32_t ffk_flush_to_zero(void);

/* ---- what an object was compiled with ---- */
typedef struct {
    uint32_t version;                                                   /* FFK_API_VERSION */
    uint32_t shape, operands, blas, feed, products, isa, team, context; /* bytes of each ffk_* */
} ffk_api;

#define FFK_API                                                                                    \
    {FFK_API_VERSION,  sizeof(ffk_shape), sizeof(ffk_operands),                                    \
     sizeof(ffk_blas), sizeof(ffk_feed),  sizeof(ffk_products),                                    \
     sizeof(ffk_isa),  sizeof(ffk_team),  sizeof(ffk_context)}

/* Every object that includes this header defines it, weakly, so that a library of several has one.
 * The harness reads it when it loads a plugin, before it calls any of its functions, and refuses a
 * newer version than its own, one older than FFK_API_OLDEST, and other sizes: an older version's
 * may be smaller. All files of a plugin are compiled against one header. */
extern const ffk_api ffk_plugin_api __attribute__((weak, visibility("default")));
const ffk_api ffk_plugin_api = FFK_API;

#ifdef __cplusplus
}
#endif

#endif
