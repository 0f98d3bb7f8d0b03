/* peer_l3_blas.c - product keys, then neurons that are gathered: the scores by sgemm.
 *
 *     y[b] = sum over the chosen neurons e of g[b, e] gelu(<x[b], w_in[e]>) w_out[e]
 *
 * The chosen are those with the `active` largest sums of a score of either half of the keys, g the
 * softmax of those sums (He 2024, arXiv 2407.04153; the query's projection folded into the keys).
 *
 * flops:  2 * batch * (2 * sqrt(experts) * d_in + active * (d_in + d_out)), selection not counted.
 * Bytes:  x twice, y and the keys once, `active` rows of either weight a token.
 * Needs:  sgemm. Workspace: scores of a tile (scores.h), what is chosen.
 * Tile:   scores.h; neurons token by token: outputs.h.
 */
#include "experts/outputs.h"
#include "experts/scores.h"

enum { OWN = 0 };

static size_t workspace_bytes(const ffk_shape *s) {
    return ffk_choice_bytes(s) + ffk_scores_bytes(s, ffk_score_rows(FFK_PEER, s), OWN);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    char *cursor = o->workspace;
    ffk_scoring scoring = ffk_begin_scoring(FFK_PEER, OWN, s, o, c, &cursor);
    ffk_score(&scoring, OWN);
    ffk_outputs outputs = {.shape = s,
                           .operands = o,
                           .context = c,
                           .expert = scoring.expert,
                           .gate = scoring.gate,
                           .scored = FFK_PEER == FFK_TOPK};
    ffk_emit_outputs(&outputs);
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_peer_l3_blas;
const ffk_kernel ffk_kernel_peer_l3_blas = {.id = "peer_l3_blas",
                                            .layer = "peer",
                                            .level = 3,
                                            .routines = FFK_NEEDS_SGEMM,
                                            .workspace_bytes = workspace_bytes,
                                            .run = run};
