/* Which tokens a draft may propose.  Its logits are computed for these alone, and what it leaves
 * out costs an answer nothing but speed: the target verifies over its whole vocabulary. */
#ifndef RUNTIME_ENGINE_DRAFT_VOCAB_H
#define RUNTIME_ENGINE_DRAFT_VOCAB_H

#include "runtime/model/config.h"
#include "runtime/text/tokenizer.h"

enum {
    DRAFT_VOCAB_FULL = 1 << 16, /* up to here a draft proposes all tokens by default */
    DRAFT_VOCAB_FIRST = 1 << 15,
};

/* What the choice depends on; all borrowed. */
struct draft_vocab {
    const char *option; /* "all", a file with one token id a line, or NULL: all tokens of a small
                           vocabulary; of a larger one the first DRAFT_VOCAB_FIRST (BPE makes
                           frequent pairs first), the added tokens and the end tokens */
    int vocab;
    const struct tokenizer *tokenizer;
    const struct generation_config *generation;
    int k; /* children of a node, which need as many tokens */
};

/* The tokens in increasing order, or an empty list for all of them; the caller frees it by
 * token_list_done. */
int draft_vocab_choose(struct token_list *out, const struct draft_vocab *v, struct error *err);

#endif
