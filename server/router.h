/* Which requests there are, and the answers that need no model.
 *
 * Paths match exactly, after everything that two parsers could read differently has been refused:
 * libmicrohttpd 0.9.75 lets through what smuggles a second request behind a proxy's back.  Any
 * thread. */
#ifndef SERVER_ROUTER_H
#define SERVER_ROUTER_H

#include "server/api_error.h"
#include "server/server.h"

struct route {
    const char *path;
    bool is_prefix;    /* path is followed by something */
    bool is_public;    /* answers without a key */
    const char *allow; /* methods */
    /* Writes the reply's body and returns 0, or -1 with err.  NULL: a chat request. */
    int (*answer)(struct server *s, const char *path, struct buffer *b, struct api_error *err);
    const char *content_type;
};

/* True if the request target, as it came, is nothing but a path and a query. */
bool router_target_is_plain(const char *target);

/* The route of a path and method; NULL with err filled.  *allow is the Allow header of a 405. */
const struct route *router_find(const char *method, const char *path, const char **allow,
                                struct api_error *err);

#endif
