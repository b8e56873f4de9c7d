#include "server/json_in.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

enum {
    MAX_VALUES = 200 * 1000, /* commas, colons and brackets of a body, outside strings */
    MAX_DEPTH = 64,
};

/* Counts what the parser would allocate for, before it does. */
static int check_size(const char *body, size_t len, struct api_error *err)
{
    int n_values = 0, depth = 0;
    for (size_t i = 0; i < len; i++) {
        switch (body[i]) {
        case '"':
            for (i++; i < len && body[i] != '"'; i++)
                if (body[i] == '\\') i++;
            break;
        case '[':
        case '{':
            depth++;
            n_values++;
            break;
        case ']':
        case '}':
            depth--;
            break;
        case ',':
        case ':':
            n_values++;
            break;
        default:
            break;
        }
        if (depth > MAX_DEPTH)
            return api_error_set(err, "invalid_json", NULL,
                                 "the body's JSON is nested more than %d deep", MAX_DEPTH);
        if (n_values > MAX_VALUES)
            return api_error_set(err, "invalid_json", NULL,
                                 "the body's JSON has more than %d values", MAX_VALUES);
    }
    return 0;
}

int json_in_parse(struct json_t **out, const char *body, size_t len, struct api_error *err)
{
    if (len == 0) return api_error_set(err, "invalid_json", NULL, "the body is empty, not JSON");
    if (check_size(body, len, err) != 0) return -1;
    json_error_t cause;
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES, &cause);
    if (!root) {
        /* jansson quotes the text around the fault, which can be long; its first words say what it
         * is. */
        char *near = strstr(cause.text, " near '");
        if (near && json_error_code(&cause) != json_error_duplicate_key) *near = '\0';
        return api_error_set(err, "invalid_json", NULL,
                             "the body is not valid JSON: line %d column %d: %s", cause.line,
                             cause.column, cause.text);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return api_error_set(err, "invalid_json", NULL, "the body must be a JSON object");
    }
    *out = root;
    return 0;
}

struct json_t *json_in_get(const struct json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

const char *json_in_type(const struct json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

static int wrong_type(struct api_error *err, const char *key, const char *wanted,
                      const json_t *value)
{
    return api_error_set(err, "invalid_type", key, "'%s' must be %s, not %s", key, wanted,
                         json_in_type(value));
}

int json_in_bool(const struct json_t *object, const char *key, bool *out, struct api_error *err)
{
    const json_t *value = json_in_get(object, key);
    if (!value) return 0;
    if (!json_is_boolean(value)) return wrong_type(err, key, "a boolean", value);
    *out = json_is_true(value);
    return 0;
}

int json_in_real(const struct json_t *object, const char *key, double low, double high, float *out,
                 struct api_error *err)
{
    const json_t *value = json_in_get(object, key);
    if (!value) return 0;
    if (!json_is_number(value)) return wrong_type(err, key, "a number", value);
    double number = json_number_value(value);
    if (number < low || number > high)
        return api_error_set(err, "invalid_value", key, "'%s' is %g, it must be from %g to %g", key,
                             number, low, high);
    *out = (float)number;
    return 0;
}

bool json_in_value_int(const struct json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    if (!json_is_real(value)) return false;
    double number = json_real_value(value);
    if (number != floor(number) || fabs(number) > 9007199254740992.0) return false;
    *out = (int64_t)number;
    return true;
}

int json_in_int(const struct json_t *object, const char *key, int64_t low, int64_t high,
                int64_t *out, struct api_error *err)
{
    const json_t *value = json_in_get(object, key);
    if (!value) return 0;
    int64_t number;
    if (!json_in_value_int(value, &number)) return wrong_type(err, key, "an integer", value);
    if (number < low || number > high)
        return api_error_set(err, "invalid_value", key,
                             "'%s' is %lld, it must be from %lld to %lld", key, (long long)number,
                             (long long)low, (long long)high);
    *out = number;
    return 0;
}

int json_in_object(const struct json_t *object, const char *key, struct json_t **out,
                   struct api_error *err)
{
    json_t *value = json_in_get(object, key);
    if (value && !json_is_object(value)) return wrong_type(err, key, "an object", value);
    *out = value;
    return 0;
}
