/* The connections that are open, and a thread that watches them, because libmicrohttpd does not: it
 * knows no absolute deadlines, and it does not look at a connection that is suspended.
 *
 *   phase     ends when                                  otherwise
 *   HEAD      a whole request head has come              closed 10 s after its first line, or after
 * 75 s idle BODY      the body is complete                       408 after 30 s + 1 s for every 64
 * KiB received WORK      the request is answered                    cancelled the moment the client
 * leaves REPLY     the reply is sent                          closed after 30 s + 1 s for every 64
 * KiB of it
 *
 * A client that shuts down its sending side only (half-close) counts as having left.  All functions
 * are for the event thread, except those that say otherwise. */
#ifndef SERVER_CONNS_H
#define SERVER_CONNS_H

#include "runtime/error.h"
#include "server/request.h"

struct conns;
struct conn;

int conns_open(struct conns **out, struct error *err);
void conns_close(struct conns *c); /* when no connection is left; accepts NULL */

struct conn *conns_add(struct conns *c, int fd);
void conns_remove(struct conn *conn);

void conn_head(struct conn *conn); /* the first line is there */
void conn_body(struct conn *conn);
void conn_received(struct conn *conn, size_t n); /* bytes of a body */

/* Waits for an answer; request is borrowed until conn_idle. */
void conn_work(struct conn *conn, struct request *request);
void conn_reply(struct conn *conn, size_t len);
void conn_idle(struct conn *conn); /* the request is completed */

/* Requests that wait for an answer; any thread. */
int conns_n_working(struct conns *c);

/* Becomes readable when no request waits for an answer any more, once conns_cancel or conns_drain
 * was called. */
int conns_idle_fd(struct conns *c);
void conns_drain(struct conns *c); /* any thread */
void conns_cancel(
    struct conns *c); /* any thread: cancels all of them, their clients get an error */
void conns_abandon(struct conns *c); /* any thread: as if all clients had left */

#endif
