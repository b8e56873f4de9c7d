/* What a seat asks of its rows of logits, beside the best token with or without noise.
 *
 * Whether a row's logits are kept, gets scores, and where its token is picked, follows from this on
 * every device; head, filter and pick ask it, and tests do (ops.h). */
#ifndef KERNELS_ASKED_H
#define KERNELS_ASKED_H

#include "kernels/inline.h"
#include "kernels/sequence.h"

#include <stdbool.h>

struct asked {
    bool penalties, bans, filters;
    bool scores; /* any of those */
    bool logits; /* for scores, or for log-probabilities */
};

/* Of the row of a node at `depth` of the seat's tree. */
BOTH_INLINE struct asked asked_of(const struct seat *seat, int depth, int vocab)
{
    const struct sampling *s = &seat->sampling;
    struct asked a;
    a.penalties =
        s->repetition_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
    a.bans = seat->n_generated + depth < s->min_tokens && s->n_stop_ids > 0;
    a.filters =
        s->temperature > 0 && ((s->top_k > 0 && s->top_k < vocab) || s->top_p < 1 || s->min_p > 0);
    a.scores = a.penalties || a.bans || a.filters;
    a.logits = a.scores || s->n_logprobs >= 0;
    return a;
}

#endif
