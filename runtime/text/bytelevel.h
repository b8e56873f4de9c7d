/* GPT-2's writing of bytes as visible characters, in which byte-level vocabularies are published:
 * the printable bytes of Latin-1 stand for themselves, the other 68 for U+0100..U+0143 in order. We
 * keep vocabularies as plain bytes and need it only while reading tokenizer.json.  Any thread. */
#ifndef RUNTIME_TEXT_BYTELEVEL_H
#define RUNTIME_TEXT_BYTELEVEL_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/mem.h"

/* Appends the bytes that the text stands for; false, with out as it was, if a character stands for
 * none.  The text must be valid UTF-8. */
bool bytelevel_decode(const char *text, size_t len, struct buffer *out);

#endif
