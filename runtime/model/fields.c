#include "runtime/model/fields.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/mem.h"

enum { MAX_FILE_LEN = 16 << 20 };

/* ---- values --------------------------------------------------------------------------------- */

void fields_fail(struct fields *r, const char *key, const json_t *value, const char *wanted)
{
    if (r->has_failed) return;
    r->has_failed = true;
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_COMPACT);
    error_set(r->err, ERROR_BAD_REQUEST, "%s: %s is %.100s, %s", r->path, key,
              text ? text : "missing", wanted);
    free(text);
}

const json_t *fields_get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

const json_t *fields_object(struct fields *r, const json_t *object, const char *key)
{
    const json_t *value = fields_get(object, key);
    if (value && !json_is_object(value)) fields_fail(r, key, value, "not an object");
    return json_is_object(value) ? value : NULL;
}

int fields_int(struct fields *r, const json_t *object, const char *key, int otherwise, int min,
               int max)
{
    const json_t *value = fields_get(object, key);
    if (!value) return otherwise;
    json_int_t i = json_integer_value(value);
    if (json_is_integer(value) && i >= min && i <= max) return (int)i;
    char wanted[80];
    snprintf(wanted, sizeof(wanted), "not a whole number from %d to %d", min, max);
    fields_fail(r, key, value, wanted);
    return otherwise;
}

double fields_number(struct fields *r, const json_t *object, const char *key, double otherwise,
                     double min, double max)
{
    const json_t *value = fields_get(object, key);
    if (!value) return otherwise;
    double d = json_number_value(value);
    if (json_is_number(value) && d >= min && d <= max) return d;
    char wanted[80];
    snprintf(wanted, sizeof(wanted), "not a number from %g to %g", min, max);
    fields_fail(r, key, value, wanted);
    return otherwise;
}

bool fields_bool(struct fields *r, const json_t *object, const char *key, bool otherwise)
{
    const json_t *value = fields_get(object, key);
    if (!value) return otherwise;
    if (!json_is_boolean(value)) fields_fail(r, key, value, "not true or false");
    return json_is_true(value);
}

int fields_name(struct fields *r, const json_t *object, const char *key, int otherwise,
                const char *const *names, int n)
{
    const json_t *value = fields_get(object, key);
    if (!value) return otherwise;
    const char *name = json_string_value(value);
    for (int i = 0; name && i < n; i++)
        if (strcmp(name, names[i]) == 0) return i;
    struct buffer wanted = {0};
    for (int i = 0; i < n; i++) buffer_printf(&wanted, "%s%s", i ? " or " : "not ", names[i]);
    fields_fail(r, key, value, wanted.data);
    buffer_done(&wanted);
    return otherwise;
}

/* ---- files ---------------------------------------------------------------------------------- */

int fields_parse(const char *text, size_t len, const char *path, json_t **out, struct error *err)
{
    json_error_t where;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        return error_set(err, ERROR_BAD_REQUEST, "%s: line %d: %s", path, where.line, where.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(err, ERROR_BAD_REQUEST, "%s: is not a JSON object", path);
    }
    *out = root;
    return 0;
}

int fields_load(const char *path, bool is_optional, json_t **out, struct error *err)
{
    FILE *f = fopen(path, "rb");
    if (!f && errno == ENOENT && is_optional) {
        *out = NULL;
        return 0;
    }
    if (!f) return error_set(err, ERROR_BAD_REQUEST, "%s: %s", path, strerror(errno));
    struct buffer text = {0};
    char block[4096];
    size_t n;
    while (text.len <= MAX_FILE_LEN && (n = fread(block, 1, sizeof(block), f)) > 0)
        buffer_append(&text, block, n);
    bool has_failed = ferror(f) != 0;
    fclose(f);
    int result;
    if (has_failed)
        result = error_set(err, ERROR_BAD_REQUEST, "%s: cannot be read", path);
    else if (text.len > MAX_FILE_LEN)
        result =
            error_set(err, ERROR_BAD_REQUEST, "%s: is longer than %d bytes", path, MAX_FILE_LEN);
    else
        result = fields_parse(text.data ? text.data : "", text.len, path, out, err);
    buffer_done(&text);
    return result;
}
