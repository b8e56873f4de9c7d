/* A few threads that do what would block the event thread: parsing, decoding, tokenizing, and
 * formatting whole replies.
 *
 * A job is a request and a function.  Work for new requests is bounded (workers_start); work that
 * ends a request which is already admitted always finds room (workers_finish).  Any thread. */
#ifndef SERVER_WORKERS_H
#define SERVER_WORKERS_H

#include "runtime/error.h"

#include <stdbool.h>

struct workers;

/* What a request carries to be queued; in one queue at most. */
struct job {
    void (*run)(struct job *job); /* on a worker */
    struct job *next;
};

int workers_open(struct workers **out, int n_threads, int max_new, struct error *err);

/* Runs what is queued, then ends the threads. Jobs that come later run at once, on the caller's
 * thread. */
void workers_stop(struct workers *w);
void workers_close(struct workers *w); /* after workers_stop; accepts NULL */

bool workers_start(struct workers *w, struct job *job); /* false: full */
void workers_finish(struct workers *w, struct job *job);

#endif
