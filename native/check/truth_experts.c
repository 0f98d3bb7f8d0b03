/* truth_experts.c - the layers of experts, topk, peer and moe, of one token in double precision:
 * what harness/problem/experts.py does for a batch. */
#include "check/truth.h"

#include <math.h>
#include <string.h>

enum { MOST = 64 }; /* experts that a token may use */

/* Fill the scores: pre-activations of topk, rows of the router of moe, of peer the sums of one row
 * of either half. */
static void find_scores(const char *layer, const ffk_shape *s, const operands64 *o, const double *x,
                        token_truth *t) {
    const double *rows = strcmp(layer, "topk") == 0 ? o->w_in : o->router;
    if (strcmp(layer, "peer") != 0) {
        for (int64_t e = 0; e < s->experts; ++e)
            t->score[e] = dot(s->d_in, x, rows + e * s->d_in, &t->size[e]);
        return;
    }
    const int64_t side = llround(sqrt((double)s->experts));
    for (int64_t e = 0; e < s->experts; ++e) {
        double first, second;
        t->score[e] = dot(s->d_in, x, rows + e / side * s->d_in, &first) +
                      dot(s->d_in, x, rows + (side + e % side) * s->d_in, &second);
        t->size[e] = first + second;
    }
}

static int is_among(const int64_t *chosen, int64_t count, int64_t e) {
    for (int64_t i = 0; i < count; ++i)
        if (chosen[i] == e)
            return 1;
    return 0;
}

/* Return the expert of the largest score that is not among those chosen, -1 where none is left. */
static int64_t find_next(const ffk_shape *s, const int64_t *chosen, int64_t count,
                         const token_truth *t) {
    int64_t best = -1;
    for (int64_t e = 0; e < s->experts; ++e)
        if (!is_among(chosen, count, e) && (best < 0 || t->score[e] > t->score[best]))
            best = e;
    return best;
}

/* The softmax's gate of each chosen expert: over those chosen (peer), or over all (moe). */
static void find_gates(const char *layer, const ffk_shape *s, const int64_t *chosen,
                       const token_truth *t, gating *gates) {
    const int among_all = strcmp(layer, "moe") == 0;
    double total = 0.0, mean = 0.0;
    for (int64_t e = 0; e < s->experts; ++e) {
        if (!among_all && !is_among(chosen, s->active, e))
            continue;
        const double share = exp(t->score[e] - t->score[chosen[0]]);
        total += share;
        mean += share * t->size[e];
    }
    for (int64_t i = 0; i < s->active; ++i)
        gates[i] = (gating){exp(t->score[chosen[i]] - t->score[chosen[0]]) / total,
                            t->size[chosen[i]] + mean / total, 1};
}

void add_experts(const char *layer, const ffk_shape *s, const operands64 *o, const double *x,
                 token_truth *t) {
    int64_t chosen[MOST];
    gating gates[MOST];
    find_scores(layer, s, o, x, t);
    for (int64_t i = 0; i < s->active; ++i) {
        chosen[i] = find_next(s, chosen, i, t);
        gates[i] = (gating){1.0, 0.0, 0};
    }
    const int64_t next = find_next(s, chosen, s->active, t);
    double largest = 0.0, size;
    for (int64_t e = 0; e < s->experts; ++e)
        largest = fmax(largest, t->size[e]);
    if (next >= 0 && largest > 0.0)
        t->margin = (t->score[chosen[s->active - 1]] - t->score[next]) / (2.0 * largest);
    if (strcmp(layer, "topk") != 0)
        find_gates(layer, s, chosen, t, gates);
    for (int64_t i = 0; i < s->active; ++i)
        for (int64_t h = chosen[i] * s->hidden; h < (chosen[i] + 1) * s->hidden; ++h)
            add_neuron(s, x, o->w_in + h * s->d_in, o->w_out + h * s->d_out, 0.0, gates[i], t,
                       &size);
}
