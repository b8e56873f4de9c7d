/* ViSpec's image adaptor: a learned cross-attention that draws num_q vectors out of all features of
 * one image.  The last of them is the global vector g, the others are the compressed tokens.
 *
 *   K = E Wk^T + bk    V = E Wv^T + bv    C = concat_heads(softmax(q K^T / sqrt(head_dim)) V) Wo^T
 *
 * No norm, no residual, no positions, no mask.  Engine thread only. */
#ifndef RUNTIME_DRAFT_ADAPTOR_H
#define RUNTIME_DRAFT_ADAPTOR_H

#include "runtime/model/weights.h"

struct adaptor;

/* Is there one among the tensors (prefix of the draft's)? */
bool adaptor_is_there(const struct weights *w);

/* Reads imadpt.*; an image has at most max_tokens features of `hidden` values. */
int adaptor_open(struct adaptor **out, const struct weights *w, int hidden, int n_heads,
                 int max_tokens, struct error *err);
void adaptor_close(struct adaptor *a); /* accepts NULL */

int adaptor_n_outputs(const struct adaptor *a); /* num_q */

/* Queues vectors[0 .. num_q) float [.][hidden] of features float [n][hidden]. */
void adaptor_run(const struct adaptor *a, struct stream *s, const float *features, int n,
                 float *vectors);

#endif
