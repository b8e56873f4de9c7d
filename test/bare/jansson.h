/* The part of jansson that model folders and golden cases are read with, under its names, for a
 * machine that has a GPU and no packages (make gpu-check).
 *
 * Valid JSON reads as jansson reads it; keys that repeat are always an error. */
#ifndef TEST_BARE_JANSSON_H
#define TEST_BARE_JANSSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h> /* as jansson's does */

enum { JSON_REJECT_DUPLICATES = 1, JSON_ENCODE_ANY = 2, JSON_ENSURE_ASCII = 4, JSON_COMPACT = 8 };

typedef enum {
    JSON_OBJECT,
    JSON_ARRAY,
    JSON_STRING,
    JSON_INTEGER,
    JSON_REAL,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL
} json_type;
typedef long long json_int_t;

typedef struct json_t {
    json_type type;
    json_int_t integer;
    double real;
    char *string;
    size_t n, capacity;
    struct json_t **values; /* [n] of an array or object */
    char **keys;            /* [n] of an object */
} json_t;

typedef struct {
    int line;
    char text[80];
} json_error_t;

json_t *json_loadb(const char *text, size_t len, size_t flags, json_error_t *error);
json_t *json_load_file(const char *path, size_t flags, json_error_t *error); /* error: or NULL */
void json_decref(json_t *json); /* the only reference */

json_t *json_object(void);
json_t *json_true(void);
int json_object_set_new(json_t *object, const char *key, json_t *value);
json_t *json_object_get(const json_t *object, const char *key);
json_t *json_array_get(const json_t *array, size_t i);
size_t json_array_size(const json_t *array);
size_t json_object_size(const json_t *object);
bool json_equal(const json_t *a, const json_t *b); /* of whole numbers */
const char *json_string_value(const json_t *json);
json_int_t json_integer_value(const json_t *json);
double json_number_value(const json_t *json);
char *json_dumps(const json_t *json, size_t flags); /* for messages; always "..." */

static inline bool json_is(const json_t *json, json_type type)
{
    return json && json->type == type;
}
#define json_is_object(json)  json_is(json, JSON_OBJECT)
#define json_is_array(json)   json_is(json, JSON_ARRAY)
#define json_is_integer(json) json_is(json, JSON_INTEGER)
#define json_is_number(json)  (json_is(json, JSON_INTEGER) || json_is(json, JSON_REAL))
#define json_is_string(json)  json_is(json, JSON_STRING)
#define json_is_false(json)   json_is(json, JSON_FALSE)
#define json_is_true(json)    json_is(json, JSON_TRUE)
#define json_is_boolean(json) (json_is(json, JSON_TRUE) || json_is(json, JSON_FALSE))
#define json_is_null(json)    json_is(json, JSON_NULL)

#define json_object_foreach(object, name, item)                                                    \
    for (size_t i_ = 0; json_is_object(object) && i_ < (object)->n &&                              \
                        ((name) = (object)->keys[i_], (item) = (object)->values[i_], true);        \
         i_++)

#define json_array_foreach(array, index, item)                                                     \
    for ((index) = 0;                                                                              \
         (index) < json_array_size(array) && ((item) = json_array_get(array, index), true);        \
         (index)++)

#endif
