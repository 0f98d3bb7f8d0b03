/* choice.h - which experts each token uses: the largest of its scores, and the gates that they get.
 *
 *     topk: the scores are the pre-activations of all neurons; gate 1
 *     peer: scores of two halves of a key; an expert's is the sum of one of either half; gate: the
 *           softmax over the chosen
 *     moe:  a score an expert; gate: the softmax over all
 *
 * Of equal scores the first is taken. A NaN is larger than nothing: where too few others are left,
 * what is chosen then is of no meaning, but within bounds.
 *
 * The most of a half that can be among the `active` largest sums: the i-th of one half with the
 * j-th of the other is smaller than (i + 1) (j + 1) - 1 others, so that only (i + 1) (j + 1) <=
 * active are looked at (35 pairs for 12, not 144).
 */
#ifndef FFK_EXPERTS_CHOICE_H
#define FFK_EXPERTS_CHOICE_H

#include "memory/workspace.h"

#include <string.h>

enum { FFK_MOST_ACTIVE = 64 };

typedef enum { FFK_TOPK, FFK_PEER, FFK_MOE } ffk_chooser;

/* Largest values so far, in descending order, and where they come from. */
typedef struct {
    float value[FFK_MOST_ACTIVE];
    int32_t index[FFK_MOST_ACTIVE];
} ffk_largest;

static inline void ffk_insert(ffk_largest *best, int64_t count, float value, int32_t index) {
    int64_t at = count;
    for (; at > 0 && value > best->value[at - 1]; --at) {
        best->value[at] = best->value[at - 1];
        best->index[at] = best->index[at - 1];
    }
    best->value[at] = value;
    best->index[at] = index;
}

/* The largest of a row of blocks of BLOCK: a block is walked in a loop that vectorises, and looked
 * into only where its maximum enters the list. */
enum { FFK_LARGEST_BLOCK = 32 };

/* Find the `count` largest of `n` >= count values. */
static inline void ffk_find_largest(int64_t n, const float *value, int64_t count,
                                    ffk_largest *best) {
    for (int64_t i = 0; i < count; ++i)
        ffk_insert(best, i, value[i], (int32_t)i);
    int64_t i = count;
    for (; i + FFK_LARGEST_BLOCK <= n; i += FFK_LARGEST_BLOCK) {
        int32_t larger = 0;
        for (int64_t k = 0; k < FFK_LARGEST_BLOCK; ++k)
            larger += value[i + k] > best->value[count - 1];
        for (int64_t k = 0; larger > 0 && k < FFK_LARGEST_BLOCK; ++k)
            if (value[i + k] > best->value[count - 1])
                ffk_insert(best, count - 1, value[i + k], (int32_t)(i + k));
    }
    for (; i < n; ++i)
        if (value[i] > best->value[count - 1])
            ffk_insert(best, count - 1, value[i], (int32_t)i);
}

/* How many values a token's choice hangs on. */
static inline int64_t ffk_score_rows(ffk_chooser how, const ffk_shape *s) {
    if (how != FFK_PEER)
        return s->experts;
    int64_t side = 1;
    while (side * side < s->experts)
        ++side;
    return 2 * side;
}

/* Find the largest sums of one value of each half. */
static inline void ffk_find_pairs(int64_t side, const float *score, int64_t count,
                                  ffk_largest *best) {
    ffk_largest first, second;
    const int64_t most = ffk_min(count, side);
    int64_t found = 0;
    ffk_find_largest(side, score, most, &first);
    ffk_find_largest(side, score + side, most, &second);
    for (int64_t i = 0; i < most; ++i)
        for (int64_t j = 0; j < most && (i + 1) * (j + 1) <= count; ++j) {
            const float sum = first.value[i] + second.value[j];
            const int32_t index = (int32_t)(first.index[i] * side + second.index[j]);
            if (found < count)
                ffk_insert(best, found++, sum, index);
            else if (sum > best->value[count - 1])
                ffk_insert(best, count - 1, sum, index);
        }
}

/* Turn values into shares of their exponentials' sum; `most` is the largest. */
static inline void ffk_softmax(const ffk_isa *isa, int64_t n, float most, float *value) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n; ++i)
        value[i] -= most;
    isa->exp(n, value);
    for (int64_t i = 0; i < n; ++i)
        sum += value[i];
    for (int64_t i = 0; i < n; ++i)
        value[i] /= sum;
}

/* Choose for one token: fill expert and gate, (active,) each; of topk the gates are the chosen
 * scores. score is spoiled. */
static inline void ffk_choose(ffk_chooser how, const ffk_shape *s, const ffk_isa *isa, int64_t rows,
                              float *score, int32_t *expert, float *gate) {
    ffk_largest best;
    if (how == FFK_PEER)
        ffk_find_pairs(rows / 2, score, s->active, &best);
    else
        ffk_find_largest(rows, score, s->active, &best);
    memcpy(expert, best.index, (size_t)s->active * sizeof *expert);
    memcpy(gate, best.value, (size_t)s->active * sizeof *gate);
    if (how == FFK_PEER)
        ffk_softmax(isa, s->active, best.value[0], gate);
    if (how == FFK_MOE) {
        ffk_softmax(isa, rows, best.value[0], score);
        for (int64_t k = 0; k < s->active; ++k)
            gate[k] = score[expert[k]];
    }
}

#endif
