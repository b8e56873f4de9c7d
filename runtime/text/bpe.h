/* Byte-pair encoding: the "model" of a tokenizer.json.
 *
 * A word starts as one symbol a character (a byte, in a byte-level vocabulary).  The adjacent pair
 * whose merge stands first in the list is merged, the leftmost of equals first, until no pair has a
 * merge.  A heap of candidates and links between the symbols make that O(n log n): Llama's text is
 * not cut into words, so a megabyte of it is one word.
 *
 * Text never becomes a special token: those take no part in words or merges.  A byte-level
 * vocabulary is kept as plain bytes.  Immutable once opened: any thread, each with its own
 * bpe_work. */
#ifndef RUNTIME_TEXT_BPE_H
#define RUNTIME_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/error.h"
#include "runtime/text/added_tokens.h"
#include "runtime/text/token_list.h"

struct json_t; /* jansson's */
struct bpe;

/* Scratch memory of one thread, used again from word to word.  Zero-initialized is empty. */
struct bpe_work {
    struct bpe_symbol *symbols; /* [symbols_capacity] */
    uint64_t *heap;             /* [heap_capacity] */
    size_t symbols_capacity, heap_capacity, n_heap;
};

void bpe_work_done(struct bpe_work *work);

/* json is the value of "model", borrowed during the call.  Ids are checked against n_max_ids. */
int bpe_open(struct bpe **out, const struct json_t *json, const struct added_tokens *added,
             bool is_byte_level, int n_max_ids, struct error *err);
void bpe_close(struct bpe *bpe); /* accepts NULL */

/* Appends the word's ids.  The word must be valid UTF-8, or any bytes if the vocabulary is
 * byte-level, and shorter than 2 GiB. */
void bpe_encode(const struct bpe *bpe, const char *word, size_t len, struct bpe_work *work,
                struct token_list *out);

/* The id of a vocabulary entry that is not a special token, as the text that it stands for, or -1.
 */
int32_t bpe_find(const struct bpe *bpe, const char *text, size_t len);

#endif
