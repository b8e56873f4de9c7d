#include "runtime/text/tokenizer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"
#include "runtime/text/bpe.h"
#include "runtime/text/decoder.h"
#include "runtime/text/normalizer.h"
#include "runtime/text/pretokenizer.h"
#include "runtime/text/utf8.h"

#define MAX_IDS (1 << 22) /* the largest published vocabularies have 2^18 */

struct tokenizer {
    struct added_tokens *added;
    struct normalizer *normalizer;
    struct pretokenizer *pretokenizer;
    struct bpe *bpe;
    struct decoder *decoder;
    struct token_list prefix;
    int n_ids;
};

static int add_special_to_prefix(struct tokenizer *t, const json_t *processor, const char *name,
                                 struct error *err)
{
    const json_t *specials = json_object_get(processor, "special_tokens");
    const json_t *ids = json_object_get(name ? json_object_get(specials, name) : NULL, "ids");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        if (id < 0 || id >= t->n_ids)
            return error_set(err, ERROR_BAD_REQUEST,
                             "post_processor: token %.64s has id %lld of %d", name, (long long)id,
                             t->n_ids);
        token_list_push(&t->prefix, (int32_t)id);
    }
    if (json_array_size(ids) > 0) return 0;
    return error_set(err, ERROR_BAD_REQUEST, "post_processor: token %.64s is not in special_tokens",
                     name ? name : "without id");
}

static int read_template(struct tokenizer *t, const json_t *processor, struct error *err)
{
    const json_t *single = json_object_get(processor, "single");
    bool is_behind_text = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *special = json_object_get(json_array_get(single, i), "SpecialToken");
        if (!special) {
            is_behind_text = true;
        } else if (is_behind_text) {
            return error_set(
                err, ERROR_BAD_REQUEST,
                "post_processor: puts tokens behind the text, which a prompt cannot use");
        } else if (add_special_to_prefix(
                       t, processor, json_string_value(json_object_get(special, "id")), err) != 0) {
            return -1;
        }
    }
    return 0;
}

static int read_post_processor(struct tokenizer *t, const json_t *json, struct error *err)
{
    if (!json || json_is_null(json)) return 0;
    const char *type = json_string_value(json_object_get(json, "type"));
    if (type && strcmp(type, "ByteLevel") == 0) return 0; /* moves offsets, not ids */
    if (type && strcmp(type, "TemplateProcessing") == 0) return read_template(t, json, err);
    if (!type || strcmp(type, "Sequence") != 0)
        return error_set(
            err, ERROR_BAD_REQUEST,
            "post_processor: type %.64s is not TemplateProcessing, ByteLevel or Sequence",
            type ? type : "null");
    const json_t *list = json_object_get(json, "processors");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        const char *inner = json_string_value(json_object_get(item, "type"));
        if (inner && strcmp(inner, "Sequence") == 0)
            return error_set(err, ERROR_BAD_REQUEST, "post_processor: a Sequence in a Sequence");
        if (read_post_processor(t, item, err) != 0) return -1;
    }
    return 0;
}

/* The largest id of the vocabulary and the added tokens, plus one. */
static int count_ids(const json_t *vocab, const struct added_tokens *added)
{
    json_int_t largest = -1;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value) if (json_integer_value(value) > largest)
        largest = json_integer_value(value);
    size_t n;
    const struct added_token *tokens = added_tokens_all(added, &n);
    for (size_t i = 0; i < n; i++)
        if (tokens[i].id > largest) largest = tokens[i].id;
    return (int)largest + 1;
}

static int read_root(struct tokenizer *t, const json_t *root, struct error *err)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *added = json_object_get(root, "added_tokens");
    if (!json_is_object(model))
        return error_set(err, ERROR_BAD_REQUEST, "model is missing or not an object");
    if (normalizer_open(&t->normalizer, json_object_get(root, "normalizer"), err) != 0 ||
        pretokenizer_open(&t->pretokenizer, json_object_get(root, "pre_tokenizer"), err) != 0 ||
        added_tokens_open(&t->added, added, t->normalizer, MAX_IDS, err) != 0 ||
        bpe_open(&t->bpe, model, t->added, pretokenizer_is_byte_level(t->pretokenizer), MAX_IDS,
                 err) != 0)
        return -1;
    const json_t *vocab = json_object_get(model, "vocab");
    t->n_ids = count_ids(vocab, t->added);
    if (decoder_open(&t->decoder, json_object_get(root, "decoder"), vocab, t->added, t->n_ids,
                     err) != 0)
        return -1;
    return read_post_processor(t, json_object_get(root, "post_processor"), err);
}

/* Takes root. */
static int open_root(struct tokenizer **out, json_t *root, const json_error_t *why,
                     struct error *err)
{
    if (!root) return error_set(err, ERROR_BAD_REQUEST, "line %d: %s", why->line, why->text);
    struct tokenizer *t = xcalloc(1, sizeof(*t));
    int result = read_root(t, root, err);
    json_decref(root);
    if (result == 0)
        *out = t;
    else
        tokenizer_close(t);
    return result;
}

int tokenizer_open(struct tokenizer **out, const char *path, struct error *err)
{
    json_error_t why;
    struct error cause;
    if (open_root(out, json_load_file(path, 0, &why), &why, &cause) == 0) return 0;
    return error_set(err, cause.kind, "%s: %.300s", path, cause.text);
}

int tokenizer_open_memory(struct tokenizer **out, const char *json, size_t len, struct error *err)
{
    json_error_t why;
    return open_root(out, json_loadb(json, len, 0, &why), &why, err);
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t) return;
    added_tokens_close(t->added);
    normalizer_close(t->normalizer);
    pretokenizer_close(t->pretokenizer);
    bpe_close(t->bpe);
    decoder_close(t->decoder);
    token_list_done(&t->prefix);
    free(t);
}

int tokenizer_n_ids(const struct tokenizer *t)
{
    return t->n_ids;
}

int tokenizer_find_token(const struct tokenizer *t, const char *text)
{
    size_t n, len = strlen(text);
    const struct added_token *tokens = added_tokens_all(t->added, &n);
    for (size_t i = 0; i < n; i++)
        if (tokens[i].len == len && memcmp(tokens[i].content, text, len) == 0) return tokens[i].id;
    return bpe_find(t->bpe, text, len);
}

const struct added_token *tokenizer_added_tokens(const struct tokenizer *t, size_t *n)
{
    return added_tokens_all(t->added, n);
}

const int32_t *tokenizer_prefix(const struct tokenizer *t, size_t *n)
{
    *n = t->prefix.n;
    return t->prefix.ids;
}

const struct decoder *tokenizer_decoder(const struct tokenizer *t)
{
    return t->decoder;
}

bool tokenizer_next_special(const struct tokenizer *t, const char *text, size_t len, size_t pos,
                            struct token_match *out)
{
    return added_tokens_next(t->added, false, FILTER_SPECIAL_ONLY, text, len, pos, out);
}

/* One call of tokenizer_encode. */
struct encoding {
    const struct tokenizer *tokenizer;
    enum token_filter filter;
    struct buffer repaired, normal, scratch;
    struct word_list words;
    struct bpe_work work;
    struct token_list *out;
};

/* Text without added tokens, normalized. */
static void encode_normal(struct encoding *e, const char *text, size_t len, bool is_start)
{
    if (len == 0) return;
    pretokenizer_cut(e->tokenizer->pretokenizer, text, len, is_start, &e->words);
    for (size_t i = 0; i < e->words.n; i++)
        bpe_encode(e->tokenizer->bpe, e->words.text + e->words.words[i].start,
                   e->words.words[i].len, &e->work, e->out);
}

/* Text without those added tokens that are looked for in raw text. */
static void encode_raw(struct encoding *e, const char *text, size_t len, bool is_start)
{
    if (len == 0) return;
    normalizer_apply(e->tokenizer->normalizer, text, len, &e->normal, &e->scratch);
    size_t done = 0;
    struct token_match match;
    while (added_tokens_next(e->tokenizer->added, true, e->filter, e->normal.data, e->normal.len,
                             done, &match)) {
        encode_normal(e, e->normal.data + done, match.start - done, is_start && done == 0);
        token_list_push(e->out, match.id);
        done = match.end;
    }
    if (done < e->normal.len)
        encode_normal(e, e->normal.data + done, e->normal.len - done, is_start && done == 0);
}

static void encode(const struct tokenizer *t, const char *text, size_t len,
                   enum tokenizer_specials specials, bool is_start, struct token_list *out)
{
    struct encoding e = {.tokenizer = t, .out = out};
    e.filter = specials == SPECIALS_PARSED ? FILTER_ALL : FILTER_ORDINARY;
    if (utf8_valid_len(text, len) < len) {
        utf8_repair(text, len, &e.repaired);
        text = e.repaired.data;
        len = e.repaired.len;
    }
    size_t done = 0;
    struct token_match match;
    while (added_tokens_next(t->added, false, e.filter, text, len, done, &match)) {
        encode_raw(&e, text + done, match.start - done, is_start && done == 0);
        token_list_push(out, match.id);
        done = match.end;
    }
    encode_raw(&e, text + done, len - done, is_start && done == 0);
    buffer_done(&e.repaired);
    buffer_done(&e.normal);
    buffer_done(&e.scratch);
    word_list_done(&e.words);
    bpe_work_done(&e.work);
}

void tokenizer_encode(const struct tokenizer *t, const char *text, size_t len,
                      enum tokenizer_specials specials, struct token_list *out)
{
    encode(t, text, len, specials, true, out);
}

void tokenizer_encode_rest(const struct tokenizer *t, const char *text, size_t len,
                           enum tokenizer_specials specials, struct token_list *out)
{
    encode(t, text, len, specials, false, out);
}
