/* What the tests of runtime/text share: golden JSON, and tokenizers made from it. */
#ifndef TEST_TEXT_GOLDEN_H
#define TEST_TEXT_GOLDEN_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/mem.h"
#include "runtime/text/tokenizer.h"
#include "test/test.h"

static inline json_t *golden_json(const char *relative)
{
    json_error_t why;
    json_t *json = json_load_file(test_path(relative), 0, &why);
    if (!json) test_fail(__FILE__, __LINE__, "%s: %s", test_path(relative), why.text);
    return json;
}

static inline struct tokenizer *golden_tokenizer(const char *relative)
{
    struct tokenizer *t = NULL;
    struct error err;
    if (tokenizer_open(&t, test_path(relative), &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    return t;
}

static inline struct tokenizer *tokenizer_of(const json_t *root)
{
    struct tokenizer *t = NULL;
    struct error err;
    char *text = json_dumps(root, JSON_COMPACT);
    if (tokenizer_open_memory(&t, text, strlen(text), &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    free(text);
    return t;
}

/* The published vocabulary, llama2 or qwen, with a pipeline of pipelines_without_vocab.json.  Skips
 * the test where scripts/fetch-vocabularies could not get it. */
static inline struct tokenizer *real_tokenizer(const char *vocab, const char *pipeline)
{
    char relative[200];
    snprintf(relative, sizeof(relative), "../build/vocab/%s/tokenizer.json", vocab);
    if (access(test_path(relative), R_OK) != 0)
        SKIP("scripts/fetch-vocabularies could not get the published vocabulary");
    json_t *root = golden_json("golden/hf/tokenizer/pipelines_without_vocab.json");
    json_t *file = golden_json(relative);
    json_t *steps = json_object_get(root, pipeline);
    json_t *model = json_object_get(file, "model");
    json_object_set(json_object_get(steps, "model"), "vocab", json_object_get(model, "vocab"));
    json_object_set(json_object_get(steps, "model"), "merges", json_object_get(model, "merges"));
    struct tokenizer *t = tokenizer_of(steps);
    json_decref(file);
    json_decref(root);
    return t;
}

static inline struct token_list json_ids(const json_t *list)
{
    struct token_list ids = {0};
    for (size_t i = 0; i < json_array_size(list); i++)
        token_list_push(&ids, (int32_t)json_integer_value(json_array_get(list, i)));
    return ids;
}

/* CHECK_STR of a string made for it, which the check takes; _BOTH takes want, too. */
#define CHECK_STR_FREE(got, want) check_str_free(__FILE__, __LINE__, #got, got, want)

#define CHECK_STR_FREE_BOTH(got, want)                                                             \
    do {                                                                                           \
        char *want_ = (want);                                                                      \
        CHECK_STR_FREE(got, want_);                                                                \
        free(want_);                                                                               \
    } while (0)

static inline void check_str_free(const char *file, int line, const char *name, char *got,
                                  const char *want)
{
    if (strcmp(got, want) != 0) test_fail(file, line, "%s is \"%s\", not \"%s\"", name, got, want);
    free(got);
}

/* "1 2 3", freed by the caller, as everything below. */
static inline char *ids_text(const int32_t *ids, size_t n)
{
    struct buffer b = {0};
    buffer_append(&b, "", 0);
    for (size_t i = 0; i < n; i++) buffer_printf(&b, i ? " %d" : "%d", ids[i]);
    return b.data;
}

static inline char *json_ids_text(const json_t *list)
{
    struct token_list ids = json_ids(list);
    char *result = ids_text(ids.ids, ids.n);
    token_list_done(&ids);
    return result;
}

/* The ids of a string, as text. */
static inline char *encoded(const struct tokenizer *t, const char *text,
                            enum tokenizer_specials specials)
{
    struct token_list ids = {0};
    tokenizer_encode(t, text, strlen(text), specials, &ids);
    char *result = ids_text(ids.ids, ids.n);
    token_list_done(&ids);
    return result;
}

#endif
