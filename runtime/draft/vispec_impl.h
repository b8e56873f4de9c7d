/* Inside of ViSpec: what loading (vispec.c, vispec_fold.c) hands to proposing (vispec_propose.c),
 * from device memory to device memory.  A bench fills the first part with random weights and reads
 * no file.
 *
 * What the layer is fed with is linear, so it is folded when the draft is loaded:
 *
 *   fc([e ; img_fc([h ; g])]) = Fe e + Fh (Ih h + Ig g + b1) + b2 = (Fe e + c) + G g + M h
 *
 *   fc = [Fe | Fh], b2      img_fc = [Ih | Ig], b1      M = Fh Ih   G = Fh Ig   c = Fh b1 + b2
 *
 * Fe e + c is a row of `table`, the vector pool holds G g, and a round computes M h.  That rounds
 * otherwise than the authors' order, which changes what is proposed at most, never an answer.
 * EAGLE-2 has no img_fc: M = Fh, c = b2, no g. */
#ifndef RUNTIME_DRAFT_VISPEC_IMPL_H
#define RUNTIME_DRAFT_VISPEC_IMPL_H

#include "runtime/draft/draft.h"
#include "runtime/model/weights.h"

struct vispec {
    struct draft draft; /* first, so that a draft of this kind is a vispec */
    struct device *dev;
    const struct ops *ops;   /* of dev */
    const struct lm *target; /* borrowed */
    struct draft_limits limits;

    void *table;              /* act [vocab][hidden] Fe e + c of each token's embedding e */
    struct packed *h_weights; /* M [hidden][hidden] */
    struct decoder_layer layer;
    struct rope rope;
    const struct packed *head; /* [n_vocab][hidden]: the target's lm_head, or own_head */
    int n_vocab;               /* tokens that it may propose */

    /* Where it may not propose all tokens; else NULL. */
    struct packed *own_head; /* some rows of lm_head */
    int32_t *ids_of;         /* [n_vocab] the token of each, increasing */

    /* Of pictures. */
    struct adaptor *adaptor;  /* NULL: EAGLE-2 */
    struct packed *g_weights; /* G [hidden][hidden]; NULL: EAGLE-2 */
    struct packed *e_weights; /* Fe [hidden][hidden] */
    float *e_bias;            /* c [hidden] */
    int32_t *row_ids;         /* [max_rows] 0, 1, ...; for vispec_multiply */

    /* max_rows = max(max_extend, max_seqs k) */
    struct lm_scratch scratch;
    void *beam_x;           /* act [max_seqs k][hidden]: levels leave their output here and in
                               scratch.x by turns, since each reads the one before */
    void *h;                /* act [max_rows][hidden] */
    void *heads;            /* act [max_seqs][hidden] outputs that start the trees */
    int32_t *ids;           /* [max_seqs k][k] */
    float *logprobs;        /* [max_seqs k][k] */
    struct draft_rows beam; /* [max_seqs k] */
};

/* Takes what proposing works on; draft.cfg, dev, ops, limits and n_vocab are set. */
void vispec_take_buffers(struct vispec *v);
void vispec_free_buffers(struct vispec *v); /* accepts one without buffers */

/* The kind's propose. */
void vispec_propose(struct draft *d, struct stream *s, const struct draft_round *r);

/* Makes table, M, G, Fe and c of fc.*, img_fc.* (if is_vispec) and the embeddings: the folder's
 * embed_tokens, or the target's.  Buffers are taken before. */
int vispec_fold(struct vispec *v, const struct weights *w, bool is_vispec, struct error *err);
void vispec_free_folded(struct vispec *v); /* accepts one that is not folded */

/* Queues y[i] = w x[i] + bias for n vectors in device memory; y may be x. */
struct product {
    const struct packed *w;
    const float *bias; /* or NULL */
    const void *x;     /* [n][hidden] of x_type */
    enum dtype x_type;
    void *y; /* [n][ldy] act, or float if y_is_float */
    int n, ldy;
    bool y_is_float;
};
void vispec_multiply(const struct vispec *v, struct stream *s, const struct product *p);

#endif
