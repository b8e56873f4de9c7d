/* The HTTP side: libmicrohttpd's event thread, which takes requests in and sends answers out and
 * does nothing slower than a millisecond in between. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "server/server.h"

enum {
    MAX_BODY = 50 << 20, /* bytes of a request body */
    MAX_DRAIN =
        2 * MAX_BODY,     /* bytes of a refused body that are read so that the client sees why */
    MAX_BODIES = 1 << 30, /* bytes of all bodies in memory */
    MAX_CONNECTIONS = 1000,
};

struct http;

/* Listens and serves.  Takes listen_fd; borrows server until http_close. */
int http_open(struct http **out, struct server *server, int listen_fd, struct error *err);

/* Ends the service in order: from now on new requests are refused; running ones are waited for
 * until drain_ms have passed or hurry_fd becomes readable; then they are cancelled.  False: some
 * did not end even so, and http_close must not be called. */
bool http_drain(struct http *h, int drain_ms, int hurry_fd);

/* After http_drain.  libmicrohttpd ends the process with a panic if it is stopped while a
 * connection is suspended.  Accepts NULL. */
void http_close(struct http *h);

#endif
