/* The added_tokens of a tokenizer.json: strings that are found in the text before anything else
 * happens to it, and become one id each.
 *
 * Those with normalized=false are looked for in the raw text, the others afterwards in the
 * normalized pieces between them.  Of several that begin at a place the longest counts.  The
 * special ones are the model's control tokens; in a user's text they must stay text.  Immutable
 * once opened: any thread. */
#ifndef RUNTIME_TEXT_ADDED_TOKENS_H
#define RUNTIME_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/error.h"
#include "runtime/text/normalizer.h"

struct json_t; /* jansson's */
struct added_tokens;

struct added_token {
    const char *content; /* borrowed from the added_tokens */
    size_t len;
    int32_t id;
    bool is_special, is_normalized;
    bool strips_left, strips_right; /* takes the white space beside it */
    bool is_single_word;            /* counts only between other than word characters */
};

enum token_filter {
    FILTER_ALL,          /* every added token counts */
    FILTER_ORDINARY,     /* special ones are passed over, and what stands inside them */
    FILTER_SPECIAL_ONLY, /* the others are passed over */
};

struct token_match {
    size_t start, end; /* white space that the token takes included */
    int32_t id;
};

/* json is the value of "added_tokens", borrowed during the call.  Ids are checked against
 * n_max_ids. */
int added_tokens_open(struct added_tokens **out, const struct json_t *json,
                      const struct normalizer *normalizer, int n_max_ids, struct error *err);
void added_tokens_close(struct added_tokens *tokens); /* accepts NULL */

const struct added_token *added_tokens_all(const struct added_tokens *tokens, size_t *n);

/* The next added token at or behind pos, among those of the raw or of the normalized text.  The
 * text must be valid UTF-8. */
bool added_tokens_next(const struct added_tokens *tokens, bool is_normalized,
                       enum token_filter filter, const char *text, size_t len, size_t pos,
                       struct token_match *out);

#endif
