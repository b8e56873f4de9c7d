/* What the engine said of one answer, kept until somebody formats it.
 *
 * The engine's thread only copies an event behind the last one (answer_append); chunks and replies
 * are made of it elsewhere, later, part by part in order.  The bytes are packed: a part is its
 * head, its text, and its tokens, each followed by its alternatives.  Locking is the owner's. */
#ifndef SERVER_ANSWER_H
#define SERVER_ANSWER_H

#include "runtime/engine/engine.h"
#include "runtime/mem.h"

void answer_append(struct buffer *b, const struct gen_event *event);

struct answer_part {
    const char *text; /* borrowed from the buffer */
    size_t text_len;
    int n_tokens;     /* to read with answer_token */
    const char *next; /* behind the last token read */
};

struct answer_token {
    int32_t id;
    float logprob;
    int32_t n_top;
    int32_t top_ids[MAX_LOGPROBS];
    float top_logprobs[MAX_LOGPROBS];
};

/* Reads the part at *pos and moves *pos behind it; false at the end. */
bool answer_next(const struct buffer *b, size_t *pos, struct answer_part *out);

/* Reads the part's next token.  Called at most n_tokens times. */
void answer_token(struct answer_part *part, struct answer_token *out);

#endif
