/* What the parts of the server share.  Filled by main.c before any thread starts; constant after
 * that, but for the atomics. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "runtime/engine/engine.h"
#include "server/openai.h"

#include <stdatomic.h>
#include <time.h>

struct server {
    struct engine *engine;
    struct openai_limits limits; /* model names, the engine's info */
    int n_listed_names;          /* the first of them, which /v1/models shows */
    const char *version;
    time_t started;    /* `created` of the models */
    struct auth *auth; /* NULL: no keys are asked for */
    struct workers *workers;
    struct metrics *metrics;
    atomic_bool is_draining;  /* new requests are refused */
    atomic_size_t body_bytes; /* request bodies in memory, of all connections */
};

#endif
