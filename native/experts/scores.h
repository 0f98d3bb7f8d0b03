/* scores.h - the scores of all tokens and what they choose, tile by tile of the batch.
 *
 *     score[b, r] = <x[b], row[r]>,  rows: w_in of topk, the router of peer and moe
 *
 * Two ways to one result: the provider's sgemm over tiles whose scores take at most
 * FFK_SCORES_BYTES, which is a thousand tokens of 4095 scores, so that packing the rows is a
 * twentieth of the work; or our own dots of FFK_SCORE_TILE tokens with three rows at a time, x of
 * which stays in L2 while the rows pass, and which need neither packing nor BLAS: for small batches
 * and for bfloat16.
 *
 * Own dots: the batch is cut into at most FFK_SCORE_RANGES ranges with scores of their own.
 */
#ifndef FFK_EXPERTS_SCORES_H
#define FFK_EXPERTS_SCORES_H

#include "blas/blas.h"
#include "experts/choice.h"
#include "threads/parallel_for.h"

enum {
    FFK_SCORES_BYTES = 16 << 20,
    FFK_SCORE_TILE = 64,
    FFK_SCORE_RANGES = 16,
    FFK_SCORE_STEP = 64 /* tokens of a tile that one thread chooses for at a time */
};

typedef struct {
    const ffk_shape *shape;
    const ffk_operands *operands;
    const ffk_context *context;
    ffk_chooser how;
    int64_t rows, first, count; /* of scores; the tile's tokens */
    float *scores;
    int32_t *expert; /* (batch, active) */
    float *gate;     /* (batch, active) */
} ffk_scoring;

static inline int64_t ffk_blas_tile(const ffk_shape *s, int64_t rows) {
    const int64_t fit = FFK_SCORES_BYTES / (rows * (int64_t)sizeof(float));
    return ffk_min(s->batch, fit < FFK_SCORE_STEP ? FFK_SCORE_STEP : fit);
}

static inline int64_t ffk_score_ranges(const ffk_shape *s) {
    return ffk_min(ffk_ceil_div(s->batch, FFK_SCORE_TILE), FFK_SCORE_RANGES);
}

static inline size_t ffk_scores_bytes(const ffk_shape *s, int64_t rows, int own) {
    const int64_t tokens =
        own ? ffk_score_ranges(s) * ffk_min(s->batch, FFK_SCORE_TILE) : ffk_blas_tile(s, rows);
    return ffk_round_up((size_t)(tokens * rows) * sizeof(float));
}

/* Bytes of what is chosen: expert and gate. */
static inline size_t ffk_choice_bytes(const ffk_shape *s) {
    return 2 * ffk_round_up((size_t)(s->batch * s->active) * sizeof(int32_t));
}

static inline const void *ffk_score_row(const ffk_scoring *c, int64_t row) {
    const void *rows = c->how == FFK_TOPK ? c->operands->w_in : c->operands->router;
    return (const char *)rows + (size_t)(row * c->shape->d_in) * ffk_element_bytes(c->shape);
}

static inline void ffk_choose_tokens(const ffk_scoring *c, float *scores, int64_t first,
                                     int64_t count) {
    const ffk_shape *s = c->shape;
    for (int64_t b = first; b < first + count; ++b, scores += c->rows)
        ffk_choose(c->how, s, c->context->isa, c->rows, scores, c->expert + b * s->active,
                   c->gate + b * s->active);
}

static inline void ffk_choose_step(void *state, int64_t i) {
    const ffk_scoring *c = state;
    const int64_t at = i * FFK_SCORE_STEP;
    ffk_choose_tokens(c, c->scores + at * c->rows, c->first + at,
                      ffk_min(FFK_SCORE_STEP, c->count - at));
}

static inline void ffk_score_by_blas(ffk_scoring *c) {
    const ffk_shape *s = c->shape;
    const int64_t tile = ffk_blas_tile(s, c->rows);
    for (c->first = 0; c->first < s->batch; c->first += tile) {
        c->count = ffk_min(tile, s->batch - c->first);
        ffk_sgemm(c->context->blas, 'T', c->rows, c->count, s->d_in, ffk_score_row(c, 0), s->d_in,
                  c->operands->x + c->first * s->d_in, s->d_in, 0.0f, c->scores, c->rows);
        ffk_parallel_for(c->context->team, ffk_ceil_div(c->count, FFK_SCORE_STEP), ffk_choose_step,
                         c);
    }
}

static inline void ffk_score_range(void *state, int64_t i) {
    const ffk_scoring *c = state;
    const ffk_shape *s = c->shape;
    const ffk_products *products = &c->context->isa->products[s->dtype];
    const int64_t ranges = ffk_score_ranges(s), tiles = ffk_ceil_div(s->batch, FFK_SCORE_TILE);
    float *scores = c->scores + i * ffk_min(s->batch, FFK_SCORE_TILE) * c->rows;
    const int64_t end = (i + 1) * tiles / ranges;
    for (int64_t tile = i * tiles / ranges; tile < end; ++tile) {
        int32_t token[FFK_SCORE_TILE];
        float z[3 * FFK_SCORE_TILE];
        const int64_t first = tile * FFK_SCORE_TILE;
        const int64_t count = ffk_min(FFK_SCORE_TILE, s->batch - first);
        for (int64_t t = 0; t < count; ++t)
            token[t] = (int32_t)(first + t);
        for (int64_t r = 0, step; r < c->rows; r += step) {
            step = c->rows - r >= 3 ? 3 : 1;
            const void *row[3], *ahead[3];
            for (int64_t k = 0; k < step; ++k) {
                row[k] = ffk_score_row(c, r + k);
                ahead[k] = ffk_score_row(c, ffk_min(r + step + k, c->rows - 1));
            }
            products->dots(count, step, s->d_in, c->operands->x, token, 0, row, z, ahead, step);
            for (int64_t t = 0; t < count; ++t)
                for (int64_t k = 0; k < step; ++k)
                    scores[t * c->rows + r + k] = z[t * step + k];
        }
        ffk_choose_tokens(c, scores, first, count);
    }
}

static inline void ffk_score(ffk_scoring *c, int own) {
    if (own)
        ffk_parallel_for(c->context->team, ffk_score_ranges(c->shape), ffk_score_range, c);
    else
        ffk_score_by_blas(c);
}

/* Carve what scoring needs out of the workspace. */
static inline ffk_scoring ffk_begin_scoring(ffk_chooser how, int own, const ffk_shape *s,
                                            const ffk_operands *o, const ffk_context *c,
                                            char **workspace) {
    ffk_scoring scoring = {.shape = s, .operands = o, .context = c, .how = how};
    const size_t chosen = (size_t)(s->batch * s->active);
    scoring.rows = ffk_score_rows(how, s);
    scoring.expert = ffk_take(workspace, chosen * sizeof *scoring.expert);
    scoring.gate = ffk_take(workspace, chosen * sizeof *scoring.gate);
    scoring.scores = ffk_take(workspace, ffk_scores_bytes(s, scoring.rows, own));
    return scoring;
}

#endif
