/* The draft: proposes tokens that the target verifies.
 *
 * A kind is a table of functions; the engine knows only this header.  Kinds that propose from
 * hidden states (ViSpec, EAGLE-2, later EAGLE-3 and Medusa), from tokens alone (n-gram) or with a
 * small model of their own all fill the same beam (kernels/sequence.h), from which ops->select
 * takes the tree: what a kind proposes never changes an answer, only its speed.  Engine thread
 * only. */
#ifndef RUNTIME_DRAFT_DRAFT_H
#define RUNTIME_DRAFT_DRAFT_H

#include "kernels/device.h"
#include "runtime/model/lm.h"

/* What one growing of trees works on; owned by the round. */
struct draft_round {
    struct round_state state;
    struct beam beam;
    struct draft_rows extend; /* rows since the last extend, made by ops->accept */
    const void *hidden;       /* act, the verify pass's hidden states that extend.h_row names */
    struct tree tree;         /* of the previous round, for ops->carry */
    struct kv_pool kv;        /* draft pool; all zero where the kind keeps no rows */
};

struct draft {
    const struct draft_kind *kind;
    struct lm_config cfg; /* the draft layer's shape; n_layers = 0: needs no draft pages */
    enum image_rows image_rows;
    int n_image_outputs; /* vectors that the adaptor makes of an image: num_q; 0 without one */
};

struct draft_kind {
    const char *name; /* as --draft names it */

    /* Queues: vectors[0 .. draft_n_image_vectors) = what the draft keeps of an image's n features
     * (float [n][hidden]), as its rows take it (kernels/ops.h, draft_input): each feature's term if
     * image_rows is ALL; then the adaptor's n_image_outputs, the last of which is the term of g,
     * the global vector, those before it the compressed tokens.  NULL where there are none. */
    void (*encode_image)(struct draft *d, struct stream *s, const float *features, int n,
                         float *vectors);

    /* Queues extend and `depth` expansions: leaves the candidates of all drafting seats in beam,
     * and carries (ops->carry) what the next round needs. */
    void (*propose)(struct draft *d, struct stream *s, const struct draft_round *r);

    void (*close)(struct draft *d);
};

/* Opens the draft in `dir` (ViSpec's layout; without imadpt and img_fc tensors it is EAGLE-2), or
 * the kind `none` for dir "none".  The target is borrowed; its tensors are still open. */
struct draft_limits {
    int max_seqs;         /* that speculate at once: heads of a round */
    int max_extend;       /* rows that one extend may get */
    int k;                /* rows of a beam */
    int n_positions;      /* as for lm_open */
    int max_image_tokens; /* features of one image; 0 where there are no images */
    const int32_t *vocab; /* [n_vocab] tokens that it may propose, increasing; NULL: all.  Borrowed
                             while it is opened */
    int n_vocab;
};
int draft_open(struct draft **out, struct device *dev, const char *dir, const struct lm *target,
               const struct draft_limits *limits, struct error *err);
void draft_close(struct draft *d); /* accepts NULL */

/* Vectors that an image of n features gets beside them. */
int draft_n_image_vectors(const struct draft *d, int n);

#endif
