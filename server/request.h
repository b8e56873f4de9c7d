/* One HTTP request, from its first line to its log line.
 *
 * Three parties hold a request, each with a reference: the connection that it came on (event
 * thread), a worker that prepares it or formats its reply, and the engine that makes its answer.
 *
 *                  connection (http.c)             worker                     engine
 *
 *    request_new ------> head, body
 *                            |  request_admit
 *                            v
 *                        suspended ------------> prepare -- engine_submit --> on_event ...
 *                            |    <-- is_failed ---+                             |
 *                            |                                                   |
 *   streaming:               |    <-- is_admitted, then every event ------------+
 *     request_read <---------+                                                  |
 *        |    ^--------------+                                                  | last event
 *        v                                                                      |
 *   not streaming:           |    <-- is_answered -- finish (formats) <---------+
 *     one reply  <-----------+
 *        |
 *        v
 *    request_completed   (the connection lets go; a running generation is cancelled)
 *
 * "Suspended" means that libmicrohttpd does not look at the connection until somebody resumes it.
 * The event thread suspends under the request's lock after it has seen that there is nothing to do;
 * others change the request under the same lock and then resume.  So no wake-up is lost and none is
 * doubled.
 *
 * When the client leaves (request_client_left) or the server ends (request_cancel) the generation
 * is cancelled; the engine keeps its reference until the last event all the same.
 *
 * Lock order: the connection table's lock, then a request's.  The engine is never called with a
 * request's lock held, because its thread takes that lock in on_event. */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include "server/reply.h"
#include "server/server.h"
#include "server/workers.h"

#include <pthread.h>

enum {
    STREAM_BUFFER_MAX =
        4 << 20, /* bytes of an answer that wait for a slow client; more cancels it */
    STREAM_CHUNK_MAX = 32 << 10, /* bytes formatted in one go, to keep the event thread quick */
};

struct MHD_Connection;
struct conn;

struct request {
    struct job job;        /* first: a job is a request */
    struct server *server; /* borrowed */
    atomic_int n_refs;
    int status;                      /* of the response; 0 until there is one; the event thread's */
    int64_t arrived_us, admitted_us; /* first line; body complete */

    /* ---- the event thread's, until the request is admitted and after it is completed ---- */
    char id[132]; /* x-request-id */
    struct conn *conn;
    const char *method; /* borrowed from the connection */
    char *path;
    const struct route *route;
    struct api_error error; /* found while the body was still coming; .status 0: none */
    const char *allow;      /* methods for a 405 */
    struct buffer body;
    size_t n_discarded;
    bool is_head_seen, is_bad_uri;
    bool is_begun, is_ended; /* the first and the last event of its stream are formatted */

    /* ---- the event thread's while it streams ---- */
    struct buffer reading; /* events being formatted, taken from `events` */
    size_t read_pos;
    struct buffer wire; /* formatted, not sent */
    size_t wire_pos;

    /* ---- written by the worker before is_admitted, constant after it ---- */
    struct reply reply;
    int n_images;

    pthread_mutex_t lock;             /* all below */
    struct MHD_Connection *suspended; /* NULL: not suspended */
    bool is_streaming;                /* the client asked for a stream */
    bool is_admitted;                 /* the engine has it, or had it */
    bool is_answered;                 /* answer_body holds the reply */
    bool is_gone;                     /* nobody reads any more */
    bool is_cancelled;
    bool is_overrun; /* the client reads too slowly: STREAM_BUFFER_MAX was reached */
    bool is_ping_due;
    bool is_finished;
    bool has_generation;
    int n_tokens; /* so far */
    uint64_t generation;
    struct buffer events;      /* answer_append */
    struct reply_end end;      /* if is_finished */
    int64_t first_us, last_us; /* first and last token event */
    int64_t read_ms;           /* when the stream was last read or woken */
    struct api_error failure;  /* status 0: none */
    struct buffer answer_body;
};

/* The caller owns one reference. */
struct request *request_new(struct server *server);
void request_ref(struct request *r);
void request_unref(struct request *r);

/* Hands a request whose body is complete to the workers.  -1: full, err filled.  Event thread. */
int request_admit(struct request *r, struct api_error *err);

/* What the event thread does next. */
enum request_next {
    REQUEST_SUSPENDED, /* nothing: c was suspended */
    REQUEST_STREAM,    /* begin a stream */
    REQUEST_REPLY,     /* send answer_body, or failure if its status is not 0 */
    REQUEST_CLOSE,     /* close the connection */
};
enum request_next request_next(struct request *r, struct MHD_Connection *c);

/* Copies the stream's next bytes; 0: c was suspended, REQUEST_READ_END, REQUEST_READ_ABORT.  Event
 * thread. */
enum { REQUEST_READ_END = -1, REQUEST_READ_ABORT = -2 };
long request_read(struct request *r, struct MHD_Connection *c, char *out, size_t max);

void request_client_left(struct request *r); /* any thread */
void request_cancel(struct request *r);      /* any thread; the client gets an error */

/* Looks after a stream: asks for a ping after silence.  True if the client has not read for too
 * long, or cannot keep up; the caller then closes the connection.  Any thread. */
bool request_tick(struct request *r, int64_t now_ms);

/* The connection lets go: cancels what still runs, writes the log line, gives back the reference.
 */
void request_completed(struct request *r);

#endif
