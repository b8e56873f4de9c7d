#include "runtime/text/normalizer.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/text/utf8.h"

#define MAX_STEPS 16
#define MAX_DEPTH 8

enum step_kind { STEP_NFC, STEP_PREPEND, STEP_REPLACE };

struct step {
    enum step_kind kind;
    char *from, *to; /* REPLACE: from by to; PREPEND: to; owned */
    size_t from_len, to_len;
};

struct normalizer {
    struct step steps[MAX_STEPS];
    int n_steps;
};

static int copy_string(char **out, size_t *len, const json_t *json, const char *what,
                       struct error *err)
{
    if (!json_is_string(json))
        return error_set(err, ERROR_BAD_REQUEST, "normalizer: %s is not a string", what);
    *len = json_string_length(json);
    *out = xstrndup(json_string_value(json), *len);
    return 0;
}

static int add_replace(struct step *step, const json_t *json, struct error *err)
{
    const json_t *pattern = json_object_get(json_object_get(json, "pattern"), "String");
    step->kind = STEP_REPLACE;
    if (copy_string(&step->from, &step->from_len, pattern, "Replace.pattern.String", err) != 0 ||
        copy_string(&step->to, &step->to_len, json_object_get(json, "content"), "Replace.content",
                    err) != 0)
        return -1;
    if (step->from_len == 0)
        return error_set(err, ERROR_BAD_REQUEST, "normalizer: Replace of an empty string");
    return 0;
}

static int add_steps(struct normalizer *n, const json_t *json, int depth, struct error *err);

static int add_sequence(struct normalizer *n, const json_t *json, int depth, struct error *err)
{
    const json_t *list = json_object_get(json, "normalizers");
    if (!json_is_array(list) || depth == MAX_DEPTH)
        return error_set(err, ERROR_BAD_REQUEST,
                         "normalizer: a Sequence without a list, or more than %d deep", MAX_DEPTH);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (add_steps(n, json_array_get(list, i), depth + 1, err) != 0) return -1;
    return 0;
}

static int add_steps(struct normalizer *n, const json_t *json, int depth, struct error *err)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return error_set(err, ERROR_BAD_REQUEST, "normalizer: a step has no type");
    if (strcmp(type, "Sequence") == 0) return add_sequence(n, json, depth, err);
    if (n->n_steps == MAX_STEPS)
        return error_set(err, ERROR_BAD_REQUEST, "normalizer: more than %d steps", MAX_STEPS);
    struct step *step = &n->steps[n->n_steps++];
    if (strcmp(type, "NFC") == 0) {
        step->kind = STEP_NFC;
        return 0;
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = STEP_PREPEND;
        return copy_string(&step->to, &step->to_len, json_object_get(json, "prepend"), "Prepend",
                           err);
    }
    if (strcmp(type, "Replace") == 0) return add_replace(step, json, err);
    return error_set(err, ERROR_BAD_REQUEST,
                     "normalizer: type %.64s is not one of NFC, Prepend, Replace, Sequence", type);
}

int normalizer_open(struct normalizer **out, const struct json_t *json, struct error *err)
{
    struct normalizer *n = xcalloc(1, sizeof(*n));
    if (json && !json_is_null(json) && add_steps(n, json, 0, err) != 0) {
        normalizer_close(n);
        return -1;
    }
    *out = n;
    return 0;
}

void normalizer_close(struct normalizer *n)
{
    if (!n) return;
    for (int i = 0; i < n->n_steps; i++) {
        free(n->steps[i].from);
        free(n->steps[i].to);
    }
    free(n);
}

static void replace(const struct step *step, const char *text, size_t len, struct buffer *out)
{
    const char *end = text + len;
    while (text < end) {
        const char *hit = memmem(text, (size_t)(end - text), step->from, step->from_len);
        buffer_append(out, text, (size_t)((hit ? hit : end) - text));
        if (!hit) return;
        buffer_append(out, step->to, step->to_len);
        text = hit + step->from_len;
    }
}

/* True only if NFC leaves the character alone whatever stands around it.  False costs time, nothing
 * else, so the list holds the long ranges of common scripts. */
static bool is_inert(uint32_t c)
{
    return c < 0x300 || (c >= 0x3400 && c <= 0x9FFF) /* CJK */ ||
           (c >= 0xAC00 && c <= 0xD7A3) /* Hangul syllables; single jamo that join are elsewhere */
           || (c >= 0x2010 && c <= 0x2027) /* dashes, quotes, ellipsis */ ||
           (c >= 0xFF01 && c <= 0xFFEE) /* full-width forms */;
}

static bool is_nfc(const char *text, size_t len)
{
    for (size_t i = 0, n; i < len; i += n)
        if (!is_inert(utf8_decode(text + i, &n))) return false;
    return true;
}

struct mark {
    int32_t character;
    int combining_class;
    size_t pos; /* keeps the sort stable */
};

static int compare_marks(const void *a, const void *b)
{
    const struct mark *x = a, *y = b;
    if (x->combining_class != y->combining_class)
        return x->combining_class < y->combining_class ? -1 : 1;
    return x->pos < y->pos ? -1 : 1;
}

/* Canonical ordering of one run of combining marks.  utf8proc would do it in place by exchanging
 * neighbours, which takes hours on a megabyte of marks chosen by an enemy. */
static void sort_run(int32_t *characters, size_t n)
{
    struct mark few[16];
    struct mark *marks = n <= 16 ? few : xcalloc(n, sizeof(*marks));
    bool is_sorted = true;
    for (size_t i = 0; i < n; i++) {
        int class = utf8proc_get_property(characters[i])->combining_class;
        marks[i] = (struct mark){characters[i], class, i};
        if (i > 0 && marks[i - 1].combining_class > class) is_sorted = false;
    }
    if (!is_sorted) qsort(marks, n, sizeof(*marks), compare_marks);
    for (size_t i = 0; i < n; i++) characters[i] = marks[i].character;
    if (marks != few) free(marks);
}

static void sort_marks(int32_t *characters, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t start = i;
        while (i < n && utf8proc_get_property(characters[i])->combining_class != 0) i++;
        if (i - start > 1) sort_run(characters + start, i - start);
    }
}

static void nfc(const char *text, size_t len, struct buffer *out)
{
    if (is_nfc(text, len)) {
        buffer_append(out, text, len);
        return;
    }
    enum { LONGEST = 4 }; /* the longest canonical decomposition of one character, in Unicode */
    int32_t *characters = xcalloc(len * LONGEST, sizeof(*characters));
    size_t n_characters = 0;
    for (size_t i = 0, n; i < len; i += n) {
        int boundary = 0;
        int32_t c = (int32_t)utf8_decode(text + i, &n);
        utf8proc_ssize_t n_new = utf8proc_decompose_char(c, characters + n_characters, LONGEST,
                                                         UTF8PROC_DECOMPOSE, &boundary);
        if (n_new <= 0 || n_new > LONGEST) {
            characters[n_characters] = c;
            n_new = 1;
        }
        n_characters += (size_t)n_new;
    }
    sort_marks(characters, n_characters);
    utf8proc_ssize_t n_composed = utf8proc_normalize_utf32(
        characters, (utf8proc_ssize_t)n_characters, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < n_composed; i++) {
        char bytes[4];
        buffer_append(out, bytes, utf8_encode((uint32_t)characters[i], bytes));
    }
    free(characters);
}

void normalizer_apply(const struct normalizer *n, const char *text, size_t len, struct buffer *out,
                      struct buffer *scratch)
{
    struct buffer from = *scratch, to = *out;
    to.len = 0;
    buffer_append(&to, text, len);
    for (int i = 0; i < n->n_steps && to.len > 0; i++) { /* nothing stays nothing */
        const struct step *step = &n->steps[i];
        struct buffer swap = from;
        from = to;
        to = swap;
        to.len = 0;
        switch (step->kind) {
        case STEP_NFC:
            nfc(from.data, from.len, &to);
            break;
        case STEP_REPLACE:
            replace(step, from.data, from.len, &to);
            break;
        case STEP_PREPEND:
            buffer_append(&to, step->to, step->to_len);
            buffer_append(&to, from.data, from.len);
            break;
        }
    }
    *scratch = from;
    *out = to;
}
