/* What happens to a chat request away from the event thread: a worker prepares it and gives it to
 * the engine, the engine's thread records what it says, and a worker formats a reply that is not a
 * stream. The picture of it is in request.h. */
#ifndef SERVER_WORK_H
#define SERVER_WORK_H

#include "server/request.h"

/* The job of an admitted request, on a worker; takes the worker's reference. */
void work_prepare(struct job *job);

/* Resumes the request's connection if it is suspended.  The request's lock is held. */
void work_wake_locked(struct request *r);

#endif
