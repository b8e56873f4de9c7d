/* Token ids to text, token by token.
 *
 * What a token gives can be sent at once; the bytes of an unfinished character are held back until
 * it is finished, found to be bad, or the output ends.  So all that is ever given is valid UTF-8.
 *
 * Bad bytes become U+FFFD as the reference does it.  Byte-level (Qwen2): one for each bad part.
 * Byte fallback (Llama): a run of byte tokens that is not valid as a whole gives one for each byte.
 * Of such a run, characters that were whole before the bad byte came have been sent already and
 * stay; only detokenize(), which sees the end of the run first, is exact there.
 *
 * The structure belongs to one sequence and one thread at a time; the tokenizer is borrowed. */
#ifndef RUNTIME_TEXT_DETOKENIZER_H
#define RUNTIME_TEXT_DETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/mem.h"
#include "runtime/text/tokenizer.h"

struct detokenizer {
    const struct decoder *decoder; /* borrowed from the tokenizer */
    bool skips_special;
    bool run_is_bad; /* the run of byte tokens is invalid from here to its end */
    int n_strip;     /* leading characters that are still to be removed */
    int n_held;
    char held[4]; /* beginning of a character */
};

/* Nothing is allocated, so there is no _done.  skips_special: control tokens give no text. */
void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool skips_special);

/* Appends the text that can be sent after this token.  An id without a token gives none. */
void detokenizer_push(struct detokenizer *d, int32_t id, struct buffer *out);

/* Appends what the bytes still held become, now that no token follows. */
void detokenizer_flush(struct detokenizer *d, struct buffer *out);

/* Appends the text of a whole output. */
void detokenize(const struct tokenizer *t, const int32_t *ids, size_t n, bool skips_special,
                struct buffer *out);

/* One token's own bytes, for logprobs: control tokens as they are written, no space removed, and
 * not necessarily valid UTF-8.  Borrowed from the tokenizer; not NUL-terminated. */
const char *detokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *len);

#endif
