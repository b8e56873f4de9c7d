/* The daemon's address. */
#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include "runtime/error.h"

#include <stdbool.h>

/* A socket bound to host and port (0: any free one), not yet listening.  *url is the address for
 * people, "http://127.0.0.1:8000", owned by the caller; *is_local: no other machine can reach it.
 */
int listen_bind(int *fd, char **url, bool *is_local, const char *host, int port, struct error *err);

#endif
