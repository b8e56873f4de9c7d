/* The normalizer of a tokenizer.json: what is done to a piece of text before it is cut into words.
 *
 * Known steps: NFC, Prepend, Replace of a string, and Sequences of them; any other is refused by
 * name, because leaving it out would change token ids silently.  Immutable once opened: any thread.
 */
#ifndef RUNTIME_TEXT_NORMALIZER_H
#define RUNTIME_TEXT_NORMALIZER_H

#include <stddef.h>

#include "runtime/error.h"
#include "runtime/mem.h"

struct json_t; /* jansson's */
struct normalizer;

/* json is the value of "normalizer", borrowed during the call; NULL or null means: change nothing.
 */
int normalizer_open(struct normalizer **out, const struct json_t *json, struct error *err);
void normalizer_close(struct normalizer *normalizer); /* accepts NULL */

/* Replaces the content of out by the normalized text, in time linear in len (n log n where
 * combining marks are out of order).  The text must be valid UTF-8; so is the result.  scratch is
 * any buffer. */
void normalizer_apply(const struct normalizer *normalizer, const char *text, size_t len,
                      struct buffer *out, struct buffer *scratch);

#endif
