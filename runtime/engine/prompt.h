/* From messages to what the engine runs: token ids with image slots, and pixels.
 *
 * Any thread; the slow part of a request (base64, decoding, resizing, tokenizing) happens here, on
 * the server's workers.  Sizes that a client controls meet their limits here. */
#ifndef RUNTIME_ENGINE_PROMPT_H
#define RUNTIME_ENGINE_PROMPT_H

#include "runtime/error.h"
#include "runtime/text/chat_template.h"

#include <stdint.h>

struct engine;
struct prompt;

enum { MAX_IMAGES = 16 };

/* Builds the prompt of a chat.  image_urls are the data: URLs of the messages' image parts, in
 * order; borrowed during the call.  Fails with the client's errors (codes of docs/api.md),
 * ERROR_TOO_LONG where the prompt leaves no room for a token. */
int prompt_build(struct prompt **out, const struct engine *e, const struct chat_message *messages,
                 int n_messages, const char *const *image_urls, int n_images, struct error *err);
void prompt_free(struct prompt *p); /* accepts NULL */

int prompt_n_tokens(const struct prompt *p);
const int32_t *
prompt_tokens(const struct prompt *p); /* image tokens expanded; lives as long as p */

/* The bytes of one token as they stand in an answer (for logprobs); up to 64 bytes, returns their
 * number. Special tokens give their name. */
int prompt_token_bytes(const struct engine *e, int id, char out[64]);

#endif
