/* Inside of ViSpec: what loading (vispec.c) hands to proposing (vispec_propose.c), from device
 * memory to device memory.  A bench fills the first part with random weights and reads no file. */
#ifndef RUNTIME_DRAFT_VISPEC_IMPL_H
#define RUNTIME_DRAFT_VISPEC_IMPL_H

#include "runtime/draft/draft.h"

struct vispec {
    struct draft draft; /* first, so that a draft of this kind is a vispec */
    struct device *dev;
    const struct ops *ops;   /* of dev */
    const struct lm *target; /* borrowed */
    struct draft_limits limits;

    const void *embeddings; /* [vocab][hidden]: own_embeddings, or borrowed from the target */
    enum dtype embeddings_type;
    void *own_embeddings;
    struct packed *fc, *img_fc;   /* [hidden][2 hidden]; img_fc NULL: EAGLE-2 */
    float *fc_bias, *img_fc_bias; /* [hidden] or NULL */
    struct decoder_layer layer;
    struct rope rope;
    struct adaptor *adaptor; /* NULL: EAGLE-2 */

    /* max_rows = max(max_extend, max_seqs k) */
    struct lm_scratch scratch; /* x is the layer's output */
    void *a, *b;               /* act [max_rows][2 hidden] inputs of img_fc and fc */
    void *heads;               /* act [max_seqs][hidden] outputs that start the trees */
    int32_t *ids;              /* [max_seqs k][k] */
    float *logprobs;           /* [max_seqs k][k] */
    struct draft_rows beam;    /* [max_seqs k] */
};

/* Takes what proposing works on; draft.cfg, dev, ops and limits are set. */
void vispec_take_buffers(struct vispec *v);
void vispec_free_buffers(struct vispec *v); /* accepts one without buffers */

/* The kind's propose. */
void vispec_propose(struct draft *d, struct stream *s, const struct draft_round *r);

#endif
