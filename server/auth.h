/* API keys, read from a file: one key a line; empty lines and lines that begin with # do not count.
 *
 * The file must not be readable by others.  Keys are kept as hashes and compared in constant time.
 * Constant after opening: any thread. */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include "runtime/error.h"

#include <stdbool.h>

struct auth;

int auth_open(struct auth **out, const char *path, struct error *err);
void auth_close(struct auth *a); /* accepts NULL */

/* authorization and x_api_key are the values of these headers, NULL where absent.  True also if a
 * is NULL: then nobody is asked. */
bool auth_allows(const struct auth *a, const char *authorization, const char *x_api_key);

#endif
