/* pieces.h - tokens grouped by the small network that each goes through: each row of weights that
 * is loaded serves all tokens of a piece. The leaves of a leaf FFF, the experts of a gate.
 *
 *     y[b] (+)= g[b] (act(w_in[e] x[b] + b_in[e]) w_out[e] + b_out[e]),  e the network of token b
 *
 * The batch is sorted by network, and each network's tokens are cut into pieces of at most
 * FFK_PIECE: 64 tokens, whose x of width 768 (192 KiB) stays in L2 while a block of 63 neurons
 * passes. Rows of x and y stay where they are: products gather them. The output's bias is one row
 * more of w_out, whose activation is 1. Without biases, and without gates, those are left out.
 */
#ifndef FFK_EXPERTS_PIECES_H
#define FFK_EXPERTS_PIECES_H

#include "leaf/activation.h"
#include "memory/workspace.h"
#include "threads/parallel_for.h"

#include <string.h>

enum {
    FFK_PIECE = 64,         /* tokens of a network */
    FFK_PIECE_NEURONS = 63, /* of a network at a time; with the bias 16 KiB of activations */
};

typedef struct {
    int32_t network, first, count; /* tokens [first, first + count) of the sorted batch */
} ffk_piece_tokens;

typedef struct {
    const ffk_shape *shape;
    const ffk_operands *operands;
    const ffk_products *products;
    const ffk_isa *isa;
    const int32_t *network; /* that of token b at b * stride */
    const float *gate;      /* as network; NULL for 1 */
    int64_t networks, stride;
    int adds;        /* y holds what other networks made of its tokens */
    int32_t *sorted; /* (batch,): tokens by network */
    int32_t *ends;   /* (networks,): scratch */
    ffk_piece_tokens *pieces;
    float *sums; /* (batch, d_out), where y is narrower than float32 and added up; else NULL */
} ffk_pieces;

static inline int64_t ffk_most_networks_pieces(const ffk_shape *s, int64_t networks) {
    return s->batch / FFK_PIECE + ffk_min(s->batch, networks);
}

/* y is added up in several parts: of many neurons, or of several networks a token. */
static inline size_t ffk_piece_sums_bytes(const ffk_shape *s) {
    const int parts = s->hidden > FFK_PIECE_NEURONS || s->active > 1;
    return parts && s->dtype != FFK_FLOAT32
               ? ffk_round_up((size_t)(s->batch * s->d_out) * sizeof(float))
               : 0;
}

static inline size_t ffk_pieces_bytes(const ffk_shape *s, int64_t networks) {
    return ffk_round_up((size_t)s->batch * sizeof(int32_t)) +
           ffk_round_up((size_t)networks * sizeof(int32_t)) +
           ffk_round_up((size_t)ffk_most_networks_pieces(s, networks) * sizeof(ffk_piece_tokens)) +
           ffk_piece_sums_bytes(s);
}

/* Carve what pieces need out of the workspace. */
static inline ffk_pieces ffk_begin_pieces(const ffk_shape *s, const ffk_operands *o,
                                          const ffk_isa *isa, int64_t networks, char **workspace) {
    ffk_pieces p = {.shape = s, .operands = o, .products = &isa->products[s->dtype], .isa = isa};
    p.networks = networks;
    p.stride = 1;
    p.sorted = ffk_take(workspace, (size_t)s->batch * sizeof *p.sorted);
    p.ends = ffk_take(workspace, (size_t)networks * sizeof *p.ends);
    p.pieces =
        ffk_take(workspace, (size_t)ffk_most_networks_pieces(s, networks) * sizeof *p.pieces);
    if (ffk_piece_sums_bytes(s) > 0)
        p.sums = ffk_take(workspace, ffk_piece_sums_bytes(s));
    return p;
}

static inline const void *ffk_piece_row(const ffk_pieces *p, const float *rows, int64_t row,
                                        int64_t d) {
    return (const char *)rows + (size_t)(row * d) * ffk_element_bytes(p->shape);
}

/* Sort the tokens by network, those of one as they stand in the batch, and cut them into pieces.
 * Return the number of pieces. */
static inline int64_t ffk_cut_networks(ffk_pieces *p) {
    const int64_t batch = p->shape->batch;
    int64_t n = 0;
    memset(p->ends, 0, (size_t)p->networks * sizeof *p->ends);
    for (int64_t b = 0; b < batch; ++b)
        ++p->ends[p->network[b * p->stride]];
    for (int64_t k = 0, first = 0; k < p->networks; ++k) {
        const int64_t count = p->ends[k];
        for (int64_t done = 0; done < count; done += FFK_PIECE)
            p->pieces[n++] = (ffk_piece_tokens){(int32_t)k, (int32_t)(first + done),
                                                (int32_t)ffk_min(FFK_PIECE, count - done)};
        p->ends[k] = (int32_t)first;
        first += count;
    }
    for (int64_t b = 0; b < batch; ++b)
        p->sorted[p->ends[p->network[b * p->stride]]++] = (int32_t)b;
    return n;
}

/* Fill a (count, stride) with the activations of `rows` neurons from the one numbered `neuron` of
 * all networks on; where stride is larger, with 1 behind each token's; times the token's gate. */
static inline void ffk_piece_activate(const ffk_pieces *p, const int32_t *token, int64_t count,
                                      int64_t neuron, int64_t rows, int64_t stride, float *a) {
    const ffk_shape *s = p->shape;
    float z[3 * FFK_PIECE], bias[FFK_PIECE_NEURONS] = {0.0f};
    if (p->operands->b_in != NULL)
        p->products->widen(rows, ffk_piece_row(p, p->operands->b_in, neuron, 1), bias);
    for (int64_t r = 0, step; r < rows; r += step) {
        step = rows - r >= 3 ? 3 : 1;
        const void *w[3];
        for (int64_t k = 0; k < step; ++k)
            w[k] = ffk_piece_row(p, p->operands->w_in, neuron + r + k, s->d_in);
        p->products->dots(count, step, s->d_in, p->operands->x, token, 0, w, z, NULL, 0);
        for (int64_t t = 0; t < count; ++t)
            for (int64_t k = 0; k < step; ++k)
                a[t * stride + r + k] = z[t * step + k] + bias[r + k];
    }
    for (int64_t t = 0; t < count; ++t)
        for (int64_t k = rows; k < stride; ++k)
            a[t * stride + k] = 0.0f;
    ffk_activate(s, p->isa, count * stride, a);
    for (int64_t t = 0; t < count; ++t) {
        for (int64_t k = rows; k < stride; ++k)
            a[t * stride + k] = 1.0f;
        if (p->gate != NULL)
            for (int64_t k = 0; k < stride; ++k)
                a[t * stride + k] *= p->gate[token[t] * p->stride];
    }
}

static inline void ffk_compute_piece(void *state, int64_t i) {
    const ffk_pieces *p = state;
    const ffk_shape *s = p->shape;
    const ffk_piece_tokens *piece = &p->pieces[i];
    const int32_t *token = p->sorted + piece->first;
    float a[FFK_PIECE * (FFK_PIECE_NEURONS + 1)];
    const void *w[FFK_PIECE_NEURONS + 1];
    void *y = p->sums != NULL ? (void *)p->sums : (void *)p->operands->y;
    for (int64_t t = 0; t < piece->count && p->sums != NULL && !p->adds; ++t)
        memset(p->sums + token[t] * s->d_out, 0, (size_t)s->d_out * sizeof(float));
    for (int64_t h = 0; h < s->hidden; h += FFK_PIECE_NEURONS) {
        const int64_t rows = ffk_min(FFK_PIECE_NEURONS, s->hidden - h);
        const int64_t neuron = piece->network * s->hidden + h;
        /* the bias stands with the first block */
        const int64_t stride = rows + (h == 0 && p->operands->b_out != NULL);
        const ffk_how how = h == 0 && p->sums == NULL && !p->adds ? FFK_STORE : FFK_ADD;
        ffk_piece_activate(p, token, piece->count, neuron, rows, stride, a);
        for (int64_t r = 0; r < rows; ++r)
            w[r] = ffk_piece_row(p, p->operands->w_out, neuron + r, s->d_out);
        if (stride > rows)
            w[rows] = ffk_piece_row(p, p->operands->b_out, piece->network, s->d_out);
        p->products->combine(piece->count, stride, s->d_out, a, w, y, token, how, NULL, 0, NULL);
    }
    for (int64_t t = 0; t < piece->count && p->sums != NULL; ++t)
        p->products->narrow(s->d_out, p->sums + token[t] * s->d_out,
                            (char *)p->operands->y +
                                (size_t)(token[t] * s->d_out) * ffk_element_bytes(s));
}

/* Pass all tokens through their networks. */
static inline void ffk_through_networks(ffk_pieces *p, const ffk_team *team) {
    ffk_parallel_for(team, ffk_cut_networks(p), ffk_compute_piece, p);
}

#endif
