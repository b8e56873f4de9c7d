#include "runtime/text/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SPLITS 16
#define MAX_DEPTH  8

/* GPT-2's pattern, which ByteLevel uses itself where use_regex is true. */
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

enum prepend_scheme { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };

struct split {
    pcre2_code *code;
    bool keeps_matches, keeps_gaps; /* what becomes words */
};

struct pretokenizer {
    struct split splits[MAX_SPLITS];
    int n_splits;
    bool is_byte_level, adds_space;
    bool has_metaspace, splits_at_mark;
    enum prepend_scheme prepend;
    char *mark; /* Metaspace's replacement of a space, owned */
    size_t mark_len;
};

/* Patterns are written for Oniguruma, whose \s is Unicode's White_Space.  PCRE2's takes U+180E too.
 */
static void translate_pattern(const char *pattern, size_t len, struct buffer *out)
{
    for (size_t i = 0; i < len; i++) {
        if (pattern[i] == '\\' && i + 1 < len) {
            char class = pattern[++i];
            if (class == 's')
                buffer_printf(out, "\\p{White_Space}");
            else if (class == 'S')
                buffer_printf(out, "\\P{White_Space}");
            else
                buffer_append(out, pattern + i - 1, 2);
        } else {
            buffer_append(out, pattern + i, 1);
        }
    }
}

static struct split *add_split(struct pretokenizer *p, const char *pattern, size_t len,
                               bool is_literal, struct error *err)
{
    if (p->n_splits == MAX_SPLITS) {
        error_set(err, ERROR_BAD_REQUEST, "pre_tokenizer: more than %d splits", MAX_SPLITS);
        return NULL;
    }
    struct buffer text = {0};
    if (is_literal)
        buffer_append(&text, pattern, len);
    else
        translate_pattern(pattern, len, &text);
    int error = 0;
    PCRE2_SIZE at = 0;
    uint32_t options = PCRE2_UTF | (is_literal ? PCRE2_LITERAL : PCRE2_UCP);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)(text.data ? text.data : ""), text.len, options,
                                     &error, &at, NULL);
    buffer_done(&text);
    if (!code) {
        PCRE2_UCHAR why[120] = "";
        pcre2_get_error_message(error, why, sizeof(why));
        error_set(err, ERROR_BAD_REQUEST, "pre_tokenizer: pattern %.200s: %s", pattern,
                  (const char *)why);
        return NULL;
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* where it is forbidden, matching is slower */
    struct split *split = &p->splits[p->n_splits++];
    *split = (struct split){.code = code, .keeps_matches = true, .keeps_gaps = true};
    return split;
}

static int add_split_step(struct pretokenizer *p, const json_t *json, struct error *err)
{
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *text = regex ? regex : json_object_get(pattern, "String");
    const char *behavior = json_string_value(json_object_get(json, "behavior"));
    if (!json_is_string(text) || !behavior)
        return error_set(err, ERROR_BAD_REQUEST,
                         "pre_tokenizer: Split without pattern or behavior");
    bool is_removed = strcasecmp(behavior, "Removed") == 0;
    if (!is_removed && strcasecmp(behavior, "Isolated") != 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "pre_tokenizer: Split behavior %.64s is not Isolated or Removed",
                         behavior);
    struct split *split =
        add_split(p, json_string_value(text), json_string_length(text), !regex, err);
    if (!split) return -1;
    bool is_inverted = json_is_true(json_object_get(json, "invert"));
    split->keeps_matches = !is_removed || is_inverted;
    split->keeps_gaps = !is_removed || !is_inverted;
    return 0;
}

static int add_byte_level(struct pretokenizer *p, const json_t *json, struct error *err)
{
    p->is_byte_level = true;
    p->adds_space = json_is_true(json_object_get(json, "add_prefix_space"));
    if (p->adds_space && (p->n_splits > 0 || p->has_metaspace))
        return error_set(err, ERROR_BAD_REQUEST,
                         "pre_tokenizer: ByteLevel with add_prefix_space is not the first step");
    const json_t *use_regex = json_object_get(json, "use_regex");
    if (use_regex && !json_is_true(use_regex)) return 0;
    return add_split(p, GPT2_PATTERN, strlen(GPT2_PATTERN), false, err) ? 0 : -1;
}

static int add_metaspace(struct pretokenizer *p, const json_t *json, struct error *err)
{
    const json_t *mark = json_object_get(json, "replacement");
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    if (!json_is_string(mark) || json_string_length(mark) == 0)
        return error_set(err, ERROR_BAD_REQUEST, "pre_tokenizer: Metaspace without replacement");
    if (p->n_splits > 0 || p->is_byte_level || p->has_metaspace)
        return error_set(err, ERROR_BAD_REQUEST, "pre_tokenizer: Metaspace is not the first step");
    if (!scheme) /* files older than the schemes */
        scheme = json_is_false(json_object_get(json, "add_prefix_space")) ? "never" : "always";
    p->has_metaspace = true;
    p->mark_len = json_string_length(mark);
    p->mark = xstrndup(json_string_value(mark), p->mark_len);
    p->splits_at_mark = !json_is_false(json_object_get(json, "split"));
    if (strcmp(scheme, "first") == 0)
        p->prepend = PREPEND_FIRST;
    else if (strcmp(scheme, "always") == 0)
        p->prepend = PREPEND_ALWAYS;
    else if (strcmp(scheme, "never") == 0)
        p->prepend = PREPEND_NEVER;
    else
        return error_set(err, ERROR_BAD_REQUEST, "pre_tokenizer: prepend_scheme %.64s is not known",
                         scheme);
    return 0;
}

static int add_steps(struct pretokenizer *p, const json_t *json, int depth, struct error *err)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return error_set(err, ERROR_BAD_REQUEST, "pre_tokenizer: a step has no type");
    if (strcmp(type, "Split") == 0) return add_split_step(p, json, err);
    if (strcmp(type, "ByteLevel") == 0) return add_byte_level(p, json, err);
    if (strcmp(type, "Metaspace") == 0) return add_metaspace(p, json, err);
    if (strcmp(type, "Sequence") != 0)
        return error_set(err, ERROR_BAD_REQUEST,
                         "pre_tokenizer: type %.64s is not one of Split, ByteLevel, Metaspace, "
                         "Sequence",
                         type);
    const json_t *list = json_object_get(json, "pretokenizers");
    if (!json_is_array(list) || depth == MAX_DEPTH)
        return error_set(err, ERROR_BAD_REQUEST,
                         "pre_tokenizer: a Sequence without a list, or more than %d deep",
                         MAX_DEPTH);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (add_steps(p, json_array_get(list, i), depth + 1, err) != 0) return -1;
    return 0;
}

int pretokenizer_open(struct pretokenizer **out, const struct json_t *json, struct error *err)
{
    struct pretokenizer *p = xcalloc(1, sizeof(*p));
    if (json && !json_is_null(json) && add_steps(p, json, 0, err) != 0) {
        pretokenizer_close(p);
        return -1;
    }
    *out = p;
    return 0;
}

void pretokenizer_close(struct pretokenizer *p)
{
    if (!p) return;
    for (int i = 0; i < p->n_splits; i++) pcre2_code_free(p->splits[i].code);
    free(p->mark);
    free(p);
}

bool pretokenizer_is_byte_level(const struct pretokenizer *p)
{
    return p->is_byte_level;
}

void word_list_done(struct word_list *list)
{
    free(list->words);
    free(list->spare);
    buffer_done(&list->changed);
    *list = (struct word_list){0};
}

static void add_word(struct word_list *list, size_t start, size_t end)
{
    if (start == end) return;
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 64;
        list->words = xrealloc(list->words, list->capacity * sizeof(*list->words));
    }
    list->words[list->n++] = (struct word){start, end - start};
}

static void split_word(const struct split *split, pcre2_match_data *match, struct word word,
                       struct word_list *out)
{
    PCRE2_SPTR text = (PCRE2_SPTR)out->text + word.start;
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
    size_t done = 0;
    while (done < word.len && pcre2_match(split->code, text, word.len, done,
                                          PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match, NULL) > 0) {
        if (range[0] < done || range[1] <= range[0]) break; /* only \K makes such a match */
        if (split->keeps_gaps) add_word(out, word.start + done, word.start + range[0]);
        if (split->keeps_matches) add_word(out, word.start + range[0], word.start + range[1]);
        done = range[1];
    }
    if (split->keeps_gaps) add_word(out, word.start + done, word.start + word.len);
}

static void run_split(const struct split *split, struct word_list *list)
{
    struct word *words = list->words;
    size_t n = list->n, capacity = list->capacity;
    list->words = list->spare;
    list->capacity = list->spare_capacity;
    list->n = 0;
    list->spare = words;
    list->spare_capacity = capacity;
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    if (!match) abort(); /* out of memory */
    for (size_t i = 0; i < n; i++) split_word(split, match, words[i], list);
    pcre2_match_data_free(match);
}

/* Spaces become marks, with one more in front where the scheme wants it; the result is
 * list->changed. */
static void apply_metaspace(const struct pretokenizer *p, const char *text, size_t len,
                            bool is_start, struct word_list *list)
{
    struct buffer *out = &list->changed;
    out->len = 0;
    bool begins_with_mark =
        len > 0 && (text[0] == ' ' || (len >= p->mark_len && !memcmp(text, p->mark, p->mark_len)));
    bool prepends = p->prepend == PREPEND_ALWAYS || (p->prepend == PREPEND_FIRST && is_start);
    if (len > 0 && prepends && !begins_with_mark) buffer_append(out, p->mark, p->mark_len);
    while (len > 0) {
        const char *space = memchr(text, ' ', len);
        size_t n = space ? (size_t)(space - text) : len;
        buffer_append(out, text, n);
        if (!space) break;
        buffer_append(out, p->mark, p->mark_len);
        text += n + 1;
        len -= n + 1;
    }
    list->text = out->data;
    list->text_len = out->len;
}

/* One word from each mark to the next. */
static void cut_at_marks(const struct pretokenizer *p, struct word_list *list)
{
    size_t start = 0;
    while (start < list->text_len) {
        size_t from = start + 1; /* a mark at the start belongs to this word */
        const char *next = memmem(list->text + from, list->text_len - from, p->mark, p->mark_len);
        size_t end = next ? (size_t)(next - list->text) : list->text_len;
        add_word(list, start, end);
        start = end;
    }
}

void pretokenizer_cut(const struct pretokenizer *p, const char *text, size_t len, bool is_start,
                      struct word_list *list)
{
    list->text = text;
    list->text_len = len;
    list->n = 0;
    if (p->adds_space && len > 0 && text[0] != ' ') {
        list->changed.len = 0;
        buffer_append(&list->changed, " ", 1);
        buffer_append(&list->changed, text, len);
        list->text = list->changed.data;
        list->text_len = list->changed.len;
    }
    if (p->has_metaspace) apply_metaspace(p, text, len, is_start, list);
    if (p->has_metaspace && p->splits_at_mark)
        cut_at_marks(p, list);
    else
        add_word(list, 0, list->text_len);
    for (int i = 0; i < p->n_splits; i++) run_split(&p->splits[i], list);
}
