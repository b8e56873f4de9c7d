/* The pre_tokenizer of a tokenizer.json: cuts normalized text into words, which are merged apart.
 *
 * Known: Split by a pattern (Isolated, or Removed), ByteLevel, Metaspace, and Sequences of them;
 * what is not known is refused by name.  A pattern that the regular-expression engine gives up on
 * leaves the rest of the text as one word.  Immutable once opened: any thread. */
#ifndef RUNTIME_TEXT_PRETOKENIZER_H
#define RUNTIME_TEXT_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/error.h"
#include "runtime/mem.h"

struct json_t; /* jansson's */
struct pretokenizer;

struct word {
    size_t start, len; /* bytes of the list's text */
};

/* Zero-initialized is empty; used again from call to call. */
struct word_list {
    const char *text; /* borrowed from the call's text, or it is changed.data */
    size_t text_len;
    struct word *words; /* [n] */
    size_t n, capacity;
    struct buffer changed;
    struct word *spare; /* [spare_capacity] */
    size_t spare_capacity;
};

void word_list_done(struct word_list *list);

/* json is the value of "pre_tokenizer", borrowed during the call; NULL or null means: one word. */
int pretokenizer_open(struct pretokenizer **out, const struct json_t *json, struct error *err);
void pretokenizer_close(struct pretokenizer *p); /* accepts NULL */

/* Whether the vocabulary is written as GPT-2 writes bytes (see bytelevel.h). */
bool pretokenizer_is_byte_level(const struct pretokenizer *p);

/* Cuts the text, which must be valid UTF-8 and stay as it is while the list is used.  is_start: the
 * text begins the prompt, so that Metaspace's scheme "first" puts its mark in front. */
void pretokenizer_cut(const struct pretokenizer *p, const char *text, size_t len, bool is_start,
                      struct word_list *out);

#endif
