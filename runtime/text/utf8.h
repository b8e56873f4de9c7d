/* UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
 *
 * A "bad part" is what Unicode calls a maximal subpart: the longest beginning of a character that
 * other bytes do not continue, or else one byte.  Each stands for one U+FFFD.  Any thread. */
#ifndef RUNTIME_TEXT_UTF8_H
#define RUNTIME_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/mem.h"

#define UTF8_REPLACEMENT     "\xEF\xBF\xBD" /* U+FFFD */
#define UTF8_REPLACEMENT_LEN 3

enum utf8_status {
    UTF8_INVALID,  /* no character begins like this */
    UTF8_PARTIAL,  /* more bytes can make a character of it */
    UTF8_COMPLETE, /* exactly one character */
};

/* What the n >= 1 bytes are as the beginning of one character. */
enum utf8_status utf8_status(const char *bytes, size_t n);

/* Length of the longest beginning of the text that consists of whole valid characters. */
size_t utf8_valid_len(const char *text, size_t len);

/* Decodes the character at text, which must be valid; *n gets its length in bytes. */
uint32_t utf8_decode(const char *text, size_t *n);

/* Writes the character to out and returns its length in bytes. */
size_t utf8_encode(uint32_t character, char out[4]);

/* Appends the text with every bad part replaced by U+FFFD. */
void utf8_repair(const char *text, size_t len, struct buffer *out);

/* Unicode's White_Space. */
bool utf8_is_white_space(uint32_t character);

#endif
