/* Text to token ids, as a Hugging Face tokenizer.json says.
 *
 * The way of a text: invalid UTF-8 becomes U+FFFD; added tokens are found (added_tokens.h); the
 * pieces between them are normalized (normalizer.h), cut into words (pretokenizer.h) and merged
 * (bpe.h).  Two families are supported, and tested against the reference: byte-fallback BPE (Llama)
 * and byte-level BPE (Qwen2).  What a file asks for beyond that is refused when it is opened, never
 * ignored.
 *
 * An opened tokenizer does not change: any number of threads may use it at once.  The way back is
 * detokenizer.h. */
#ifndef RUNTIME_TEXT_TOKENIZER_H
#define RUNTIME_TEXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/error.h"
#include "runtime/text/added_tokens.h"
#include "runtime/text/token_list.h"

struct decoder;
struct tokenizer;

/* What control tokens ("special" in the file) written in a text are. */
enum tokenizer_specials {
    SPECIALS_PARSED,  /* the tokens: for text that we or the operator wrote */
    SPECIALS_AS_TEXT, /* ordinary text: for users' text.  Added tokens that are not special, such as
                         Qwen's <tool_call>, are found all the same. */
};

/* Reads the file at path.  On success the caller owns *out. */
int tokenizer_open(struct tokenizer **out, const char *path, struct error *err);
int tokenizer_open_memory(struct tokenizer **out, const char *json, size_t len, struct error *err);
void tokenizer_close(struct tokenizer *t); /* accepts NULL */

/* Largest id + 1.  The model's logits may have more rows, never fewer. */
int tokenizer_n_ids(const struct tokenizer *t);

/* The id of an added token or vocabulary entry ("<image>", "</s>"), or -1. */
int tokenizer_find_token(const struct tokenizer *t, const char *text);

/* All added tokens, borrowed from the tokenizer. */
const struct added_token *tokenizer_added_tokens(const struct tokenizer *t, size_t *n);

/* The ids that the post-processor puts in front of a prompt (BOS), borrowed from the tokenizer. */
const int32_t *tokenizer_prefix(const struct tokenizer *t, size_t *n);

/* Appends the ids of a text that begins a prompt, without the prefix.  Time is O(len log len). */
void tokenizer_encode(const struct tokenizer *t, const char *text, size_t len,
                      enum tokenizer_specials specials, struct token_list *out);

/* The same for a text that follows a control token.  Only Metaspace's "first" makes a difference:
 * Llama's legacy pipeline puts a space in front of every piece, this one only in front of a prompt.
 */
void tokenizer_encode_rest(const struct tokenizer *t, const char *text, size_t len,
                           enum tokenizer_specials specials, struct token_list *out);

/* Finds the next control token at or behind pos, in text that we or the operator wrote. */
bool tokenizer_next_special(const struct tokenizer *t, const char *text, size_t len, size_t pos,
                            struct token_match *out);

/* For detokenizer.h; borrowed from the tokenizer. */
const struct decoder *tokenizer_decoder(const struct tokenizer *t);

#endif
