/* Answers as OpenAI's objects: the chat.completion, and the members that its chunks share with it.
 * docs/api.md has examples.  Formatting asks the engine only for the bytes of tokens.  Any thread.
 */
#ifndef SERVER_REPLY_H
#define SERVER_REPLY_H

#include "server/answer.h"
#include "server/api_error.h"
#include "server/ids.h"

#include <stdbool.h>
#include <time.h>

/* What all objects of one answer repeat. */
struct reply {
    const struct engine *engine; /* borrowed */
    const char *version;         /* borrowed */
    char id[ID_LEN];
    time_t created;
    char *model; /* as the client called it; owned */
    int n_prompt;
    int32_t *prompt_ids; /* [n_prompt] if return_token_ids, else NULL; owned */
    bool logprobs, return_token_ids;
    bool include_usage; /* of a stream */
};

void reply_done(struct reply *r);

/* How an answer ended. */
struct reply_end {
    enum gen_finish finish;
    struct gen_timings timings;
};

/* An answer that did not end by itself as the error to send; 0 if it did. */
int reply_failure(const struct reply_end *end, struct api_error *err);

/* The whole chat.completion. */
void reply_completion(struct buffer *b, const struct reply *r, const struct buffer *answer,
                      const struct reply_end *end);

/* Members, each with its leading comma: ,"name":value */
void reply_head(struct buffer *b, const struct reply *r, const char *object); /* without comma */
void reply_usage(struct buffer *b, const struct reply *r, const struct reply_end *end);
void reply_timings(struct buffer *b, const struct reply_end *end);
void reply_prompt_ids(struct buffer *b, const struct reply *r);
void reply_finish_reason(struct buffer *b, const struct reply_end *end); /* NULL: not finished */

/* The logprobs entries and ids of a part's tokens, appended to lists that may have some already. */
void reply_tokens(const struct reply *r, struct answer_part part, struct buffer *logprobs,
                  struct buffer *ids);

/* ,"logprobs":{...} or null, and ,"token_ids":[...], from what reply_tokens collected. */
void reply_token_members(struct buffer *b, const struct reply *r, const struct buffer *logprobs,
                         const struct buffer *ids);

#endif
