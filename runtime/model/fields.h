/* Fields of a model folder's JSON files, read with their defaults.
 *
 * The first failure fills err and stays; later reads return the default, so a reader of a file is a
 * list of reads and one look at has_failed at its end.  Missing and null are the same.  A message
 * names file, key, value and what is wanted. */
#ifndef RUNTIME_MODEL_FIELDS_H
#define RUNTIME_MODEL_FIELDS_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/error.h"

struct json_t; /* jansson's; NULL reads as an empty object */

struct fields {
    const char *path; /* for messages */
    struct error *err;
    bool has_failed;
};

/* A whole file, or its text, that must hold an object; the caller frees *out with json_decref.  A
 * missing file gives NULL if it is optional. */
int fields_load(const char *path, bool is_optional, struct json_t **out, struct error *err);
int fields_parse(const char *text, size_t len, const char *path, struct json_t **out,
                 struct error *err);

/* "path: key is value, wanted" (so `wanted` begins with "not"). */
void fields_fail(struct fields *r, const char *key, const struct json_t *value, const char *wanted);

/* The value of key; NULL if it is missing or null. */
const struct json_t *fields_get(const struct json_t *object, const char *key);

const struct json_t *fields_object(struct fields *r, const struct json_t *object, const char *key);
int fields_int(struct fields *r, const struct json_t *object, const char *key, int otherwise,
               int min, int max);
double fields_number(struct fields *r, const struct json_t *object, const char *key,
                     double otherwise, double min, double max);
bool fields_bool(struct fields *r, const struct json_t *object, const char *key, bool otherwise);

/* The index of the value among n names. */
int fields_name(struct fields *r, const struct json_t *object, const char *key, int otherwise,
                const char *const *names, int n);

#endif
