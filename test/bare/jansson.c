#include "test/bare/jansson.h"

#include "runtime/mem.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

/* ---- values -----------------------------------------------------------------------------------
 */

static json_t *new_value(json_type type)
{
    json_t *json = xcalloc(1, sizeof(*json));
    json->type = type;
    return json;
}

json_t *json_object(void)
{
    return new_value(JSON_OBJECT);
}

json_t *json_true(void)
{
    return new_value(JSON_TRUE);
}

void json_decref(json_t *json)
{
    if (!json) return;
    for (size_t i = 0; i < json->n; i++) {
        json_decref(json->values[i]);
        if (json->keys) free(json->keys[i]);
    }
    free(json->values);
    free(json->keys);
    free(json->string);
    free(json);
}

/* key: NULL in an array. */
static void append(json_t *to, char *key, json_t *value)
{
    if (to->n == to->capacity) {
        to->capacity = 2 * to->capacity + 8;
        to->values = xrealloc(to->values, to->capacity * sizeof(json_t *));
        if (key) to->keys = xrealloc(to->keys, to->capacity * sizeof(*to->keys));
    }
    if (key) to->keys[to->n] = key;
    to->values[to->n++] = value;
}

int json_object_set_new(json_t *object, const char *key, json_t *value)
{
    append(object, xstrdup(key), value);
    return 0;
}

json_t *json_object_get(const json_t *object, const char *key)
{
    for (size_t i = 0; json_is_object(object) && i < object->n; i++)
        if (strcmp(object->keys[i], key) == 0) return object->values[i];
    return NULL;
}

size_t json_array_size(const json_t *array)
{
    return json_is_array(array) ? array->n : 0;
}

size_t json_object_size(const json_t *object)
{
    return json_is_object(object) ? object->n : 0;
}

bool json_equal(const json_t *a, const json_t *b)
{
    return json_is_integer(a) && json_is_integer(b) && a->integer == b->integer;
}

json_t *json_array_get(const json_t *array, size_t i)
{
    return i < json_array_size(array) ? array->values[i] : NULL;
}

const char *json_string_value(const json_t *json)
{
    return json_is(json, JSON_STRING) ? json->string : NULL;
}

json_int_t json_integer_value(const json_t *json)
{
    return json_is_integer(json) ? json->integer : 0;
}

double json_number_value(const json_t *json)
{
    return json_is(json, JSON_REAL) ? json->real : (double)json_integer_value(json);
}

char *json_dumps(const json_t *json, size_t flags)
{
    (void)flags;
    return json ? xstrdup("...") : NULL;
}

/* ---- text -------------------------------------------------------------------------------------
 */

struct reader {
    const char *at, *end; /* *end is a zero byte, which no number or word passes */
    int line, depth;
};

static void skip_space(struct reader *r)
{
    for (; r->at < r->end && strchr(" \t\r\n", *r->at); r->at++) r->line += *r->at == '\n';
}

static bool take(struct reader *r, const char *word)
{
    const size_t n = strlen(word);
    skip_space(r);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}

/* Four hexadecimal digits, or -1. */
static int read_unit(struct reader *r)
{
    unsigned unit;
    int n = 0;
    if (r->end - r->at < 4 || sscanf(r->at, "%4x%n", &unit, &n) != 1 || n != 4) return -1;
    r->at += 4;
    return (int)unit;
}

/* Behind \u: a code point as UTF-8. */
static bool read_code_point(struct reader *r, struct buffer *to)
{
    int c = read_unit(r);
    if (c >= 0xd800 && c < 0xdc00 && take(r, "\\u")) {
        const int low = read_unit(r);
        c = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((c - 0xd800) << 10) + low - 0xdc00 : -1;
    }
    if (c <= 0 || (c >= 0xd800 && c < 0xe000)) return false;
    const int n_more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const int first[4] = {0, 0xc0, 0xe0, 0xf0};
    char bytes[4] = {(char)(first[n_more] | c >> 6 * n_more)};
    for (int i = 1; i <= n_more; i++) bytes[i] = (char)(0x80 | (c >> 6 * (n_more - i) & 0x3f));
    buffer_append(to, bytes, (size_t)n_more + 1);
    return true;
}

/* Behind the first quote; NULL if it is none. */
static char *read_string(struct reader *r)
{
    static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    struct buffer text = {0};
    bool is_good = true;
    while (is_good && r->at < r->end && *r->at != '"') {
        if (*r->at != '\\') {
            is_good = (unsigned char)*r->at >= ' ';
            buffer_append(&text, r->at++, 1);
            continue;
        }
        const char *escape = r->at[1] ? strchr(escapes, r->at[1]) : NULL;
        is_good = escape || r->at[1] == 'u';
        r->at += 2;
        if (escape)
            buffer_append(&text, meant + (escape - escapes), 1);
        else if (is_good)
            is_good = read_code_point(r, &text);
    }
    is_good = is_good && r->at < r->end;
    r->at++;
    buffer_append(&text, "", 1);
    if (is_good) return text.data;
    buffer_done(&text);
    return NULL;
}

static json_t *read_number(struct reader *r)
{
    char *end;
    const size_t n = strspn(r->at, "-+.eE0123456789");
    const bool is_real = strcspn(r->at, ".eE") < n;
    json_t *json = new_value(is_real ? JSON_REAL : JSON_INTEGER);
    if (is_real)
        json->real = strtod(r->at, &end);
    else
        json->integer = strtoll(r->at, &end, 10);
    const bool is_good = n > 0 && end == r->at + n;
    r->at = end;
    if (is_good) return json;
    json_decref(json);
    return NULL;
}

static json_t *read_value(struct reader *r);

/* Behind [ or {. */
static bool read_items(struct reader *r, json_t *to, bool is_object)
{
    const char *close = is_object ? "}" : "]";
    if (take(r, close)) return true;
    do {
        char *key = NULL;
        if (is_object && (!take(r, "\"") || !(key = read_string(r)))) return false;
        if (is_object && (json_object_get(to, key) || !take(r, ":"))) {
            free(key);
            return false;
        }
        json_t *value = read_value(r);
        append(to, key, value);
        if (!value) return false;
    } while (take(r, ","));
    return take(r, close);
}

static json_t *read_value(struct reader *r)
{
    if (take(r, "true")) return new_value(JSON_TRUE);
    if (take(r, "false")) return new_value(JSON_FALSE);
    if (take(r, "null")) return new_value(JSON_NULL);
    json_t *json = NULL;
    bool is_good = false;
    if (take(r, "\"")) {
        json = new_value(JSON_STRING);
        is_good = (json->string = read_string(r)) != NULL;
    } else if (*r->at == '{' || *r->at == '[') {
        const bool is_object = *r->at++ == '{';
        json = new_value(is_object ? JSON_OBJECT : JSON_ARRAY);
        is_good = r->depth++ < MAX_DEPTH && read_items(r, json, is_object);
        r->depth--;
    } else {
        return read_number(r);
    }
    if (is_good) return json;
    json_decref(json);
    return NULL;
}

/* ---- files ------------------------------------------------------------------------------------
 */

json_t *json_loadb(const char *text, size_t len, size_t flags, json_error_t *error)
{
    (void)flags;
    char *copy = xcalloc(len + 1, 1);
    memcpy(copy, text, len);
    struct reader r = {.at = copy, .end = copy + len, .line = 1};
    json_t *json = read_value(&r);
    skip_space(&r);
    if (json && r.at != r.end) {
        json_decref(json);
        json = NULL;
    }
    if (!json && error)
        *error = (json_error_t){.line = r.line, .text = "it is no JSON, or a key repeats"};
    free(copy);
    return json;
}

json_t *json_load_file(const char *path, size_t flags, json_error_t *error)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        if (error) *error = (json_error_t){.text = "it cannot be opened"};
        return NULL;
    }
    struct buffer text = {0};
    char block[4096];
    for (size_t n; (n = fread(block, 1, sizeof(block), f)) > 0;) buffer_append(&text, block, n);
    fclose(f);
    json_t *json = json_loadb(text.data ? text.data : "", text.len, flags, error);
    buffer_done(&text);
    return json;
}
