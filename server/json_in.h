/* Reads fields of a client's JSON with OpenAI's rules: null is the same as absent, a real with an
 * integral value is an integer, and an error names the field and what it wants.  Any thread. */
#ifndef SERVER_JSON_IN_H
#define SERVER_JSON_IN_H

#include "server/api_error.h"

#include <stdbool.h>
#include <stdint.h>

struct json_t; /* jansson's */

/* Parses a whole body that must be an object.  Refuses duplicate keys, deep nesting and more values
 * than a request can need (each costs the parser some 50 bytes, whatever it costs the client). */
int json_in_parse(struct json_t **out, const char *body, size_t len, struct api_error *err);

/* The value of a key, NULL where it is absent or null. */
struct json_t *json_in_get(const struct json_t *object, const char *key);

/* Each leaves *out as it is where the field is absent.  -1: wrong type or out of range, err filled.
 */
int json_in_bool(const struct json_t *object, const char *key, bool *out, struct api_error *err);
int json_in_real(const struct json_t *object, const char *key, double low, double high, float *out,
                 struct api_error *err);
int json_in_int(const struct json_t *object, const char *key, int64_t low, int64_t high,
                int64_t *out, struct api_error *err);
int json_in_object(const struct json_t *object, const char *key, struct json_t **out,
                   struct api_error *err);

/* One value as an integer.  False where it is none. */
bool json_in_value_int(const struct json_t *value, int64_t *out);

/* "a string", "an array", ... for messages. */
const char *json_in_type(const struct json_t *value);

#endif
