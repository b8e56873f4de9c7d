/* The decoder of a tokenizer.json, applied to the whole vocabulary once: the bytes of every token,
 * and what is left to do when tokens are joined (detokenizer.h does it).
 *
 * Two kinds are known: ByteLevel, and the byte-fallback Sequence of Replace, ByteFallback, Fuse and
 * Strip at the start.  Immutable once opened: any thread. */
#ifndef RUNTIME_TEXT_DECODER_H
#define RUNTIME_TEXT_DECODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/error.h"
#include "runtime/text/added_tokens.h"

struct json_t; /* jansson's */
struct decoder;

struct decoder_token {
    const char *bytes; /* borrowed from the decoder; not NUL-terminated */
    size_t len;
    bool is_special; /* a control token */
    bool is_byte;    /* byte fallback: one byte of a run, valid UTF-8 or not */
};

/* json is the value of "decoder", vocab that of "model.vocab"; both borrowed during the call, and
 * all ids are known to be below n_ids. */
int decoder_open(struct decoder **out, const struct json_t *json, const struct json_t *vocab,
                 const struct added_tokens *added, int n_ids, struct error *err);
void decoder_close(struct decoder *d); /* accepts NULL */

/* An id that no token has (a row of the model that the tokenizer does not use) gives no bytes. */
struct decoder_token decoder_token(const struct decoder *d, int32_t id);

/* Whether bad UTF-8 gives one U+FFFD per bad part, as against one per byte of the run. */
bool decoder_is_byte_level(const struct decoder *d);

/* How often `*strip`, a string of one character, is removed at the start of the whole output. */
int decoder_n_strip(const struct decoder *d, const char **strip);

#endif
