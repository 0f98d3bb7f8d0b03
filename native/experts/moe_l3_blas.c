/* moe_l3_blas.c - a mixture of experts: scores by sgemm, tokens grouped by expert.
 *
 *     y[b] = sum over the `active` chosen e of g[b, e] gelu(x[b] w_in[e]^T) w_out[e]
 *
 * The chosen have the largest scores x router^T, g is the softmax over all scores (Fedus et al.
 * 2021, arXiv 2101.03961). With several a token, those of one place in its order of scores are
 * passed through together, one place after the other: no two threads add to one row of y.
 *
 * flops:  2 * batch * (experts * d_in + active * hidden * (d_in + d_out)), the softmax not counted.
 * Bytes:  x 1 + active times, y once (active > 1: 2 * active - 1 times), router and each touched
 *         expert about once.
 * Needs:  sgemm. Workspace: scores of a tile, what is chosen, tokens by expert; float32 sums of y,
 *         where it is narrower and added up.
 * Tile:   scores.h, pieces.h.
 */
#include "experts/pieces.h"
#include "experts/scores.h"

enum { OWN = 0 };

static size_t workspace_bytes(const ffk_shape *s) {
    return ffk_choice_bytes(s) + ffk_scores_bytes(s, ffk_score_rows(FFK_MOE, s), OWN) +
           ffk_pieces_bytes(s, s->experts);
}

static ffk_status run(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    char *cursor = o->workspace;
    ffk_scoring scoring = ffk_begin_scoring(FFK_MOE, OWN, s, o, c, &cursor);
    ffk_score(&scoring, OWN);
    ffk_pieces pieces = ffk_begin_pieces(s, o, c->isa, s->experts, &cursor);
    pieces.stride = s->active;
    for (int64_t k = 0; k < s->active; ++k) {
        pieces.network = scoring.expert + k;
        pieces.gate = scoring.gate + k;
        pieces.adds = k > 0;
        ffk_through_networks(&pieces, c->team);
    }
    return FFK_OK;
}

extern const ffk_kernel ffk_kernel_moe_l3_blas;
const ffk_kernel ffk_kernel_moe_l3_blas = {.id = "moe_l3_blas",
                                           .layer = "moe",
                                           .level = 3,
                                           .routines = FFK_NEEDS_SGEMM,
                                           .workspace_bytes = workspace_bytes,
                                           .run = run};
