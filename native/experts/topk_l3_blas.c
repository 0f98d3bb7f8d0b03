/* topk_l3_blas.c - all pre-activations, of which the largest are kept: the product by sgemm.
 *
 *     z = x w_in^T,  y[b] = sum over the `active` largest z[b, h] of gelu(z[b, h]) w_out[h]
 *
 * What a tree saves: the whole first product of a plain layer is computed, and most of it thrown
 * away.
 *
 * flops:  2 * batch * (experts * d_in + active * d_out), the selection not counted.
 * Bytes:  x, y and w_in once a tile, `active` rows of w_out a token.
 * Needs:  sgemm. Workspace: scores of a tile (scores.h), what is chosen.
 * Tile:   scores.h.
 */
#include "experts/outputs.h"
#include "experts/scores.h"

enum { OWN = 0 };

static size_t workspace_bytes(const ffk_shape *s) {
    return ffk_choice_bytes(s) + ffk_scores_bytes(s, ffk_score_rows(FFK_TOPK, s), OWN);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    char *cursor = o->workspace;
    ffk_scoring scoring = ffk_begin_scoring(FFK_TOPK, OWN, s, o, c, &cursor);
    ffk_score(&scoring, OWN);
    ffk_outputs outputs = {.shape = s,
                           .operands = o,
                           .context = c,
                           .expert = scoring.expert,
                           .gate = scoring.gate,
                           .scored = FFK_TOPK == FFK_TOPK};
    ffk_emit_outputs(&outputs);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_topk_l3_blas;
const ffk_kernel ffk_kernel_topk_l3_blas = {.id = "topk_l3_blas",
                                            .layer = "topk",
                                            .level = 3,
                                            .routines = FFK_NEEDS_SGEMM,
                                            .workspace_bytes = workspace_bytes,
                                            .run = run};
