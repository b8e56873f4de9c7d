/* Writes JSON into a buffer.  jansson reads what clients send; what we send is written here,
 * because a reply must be valid whatever bytes a model emits, on one line, and cheap enough for one
 * chunk a token.  Any thread. */
#ifndef SERVER_JSON_OUT_H
#define SERVER_JSON_OUT_H

#include "runtime/mem.h"

#include <stddef.h>
#include <stdint.h>

/* A string with its quotes.  Bytes that are no UTF-8 become U+FFFD.  Control characters are
 * escaped, and so are U+0085, U+2028 and U+2029: some clients split event streams at them. */
void json_out_string(struct buffer *b, const char *text, size_t len);
void json_out_text(struct buffer *b, const char *text); /* the same, NUL-terminated */

/* The shortest of 9 significant digits; what JSON has no number for becomes -9999.0, OpenAI's mark
 * for "very unlikely". */
void json_out_real(struct buffer *b, double value);

void json_out_ints(struct buffer *b, const int32_t *values, size_t n); /* [1,2,3] */

#endif
