/* A chat request: from the JSON of POST /v1/chat/completions to what the engine takes.
 *
 * docs/api.md is the contract that this module enforces: which fields act, which are ignored, which
 * are refused, and with what error.  Parsing needs the model only for its limits and defaults.  Any
 * thread. */
#ifndef SERVER_OPENAI_H
#define SERVER_OPENAI_H

#include "runtime/engine/engine.h"
#include "server/api_error.h"
#include "server/messages.h"

#include <stdbool.h>
#include <stdint.h>

/* What parsing needs to know of the server. */
struct openai_limits {
    const struct engine_info *info; /* borrowed */
    const char *const *model_names; /* names a client may use; borrowed */
    int n_model_names;
};

struct chat_request {
    struct json_t *root; /* owned; messages borrow their texts from it */
    const char *model;   /* as the client called it; borrowed from root */
    struct messages messages;

    bool stream, include_usage;
    bool return_token_ids;
    int64_t max_tokens;           /* -1: what is left of the context */
    struct generation generation; /* without prompt, callback and the final max_tokens */
};

/* On success the caller owns *out. */
int openai_parse(struct chat_request *out, const char *body, size_t len,
                 const struct openai_limits *limits, struct api_error *err);
void openai_done(struct chat_request *r); /* accepts a zeroed struct */

#endif
