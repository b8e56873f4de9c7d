/* Streams, events and graphs of the CPU device.
 *
 * A stream is a thread and a ring of commands; one thread pushes, the stream's thread runs them in
 * order.  A command is a function and a copy of its arguments.  The stream's thread takes what is
 * queued in batches, so the mutex is touched once per BATCH commands and not once per command, and
 * pushing to a stream that is behind wakes nobody (pthread_cond_signal without a waiter makes no
 * system call).
 *
 *   n_done <= n_queued <= n_done + RING; command i lies in ring[i % RING].
 *
 * While a graph is recorded, commands go into it instead of the ring; a launched graph is one
 * command that runs all of them. */
#include "kernels/cpu/queue.h"

#include "kernels/cpu/device.h"
#include "kernels/cpu/openmp.h"

#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RING = 1024, /* two rounds that are not graphs fit several times */
    BATCH = 32,
};

struct command {
    void (*run)(const void *args);
    alignas(16) unsigned char args[MAX_ARGS];
};

struct cpu_graph {
    struct graph base;
    struct command *commands; /* owned */
    int n, capacity;
};

struct cpu_stream {
    struct stream base;
    pthread_t thread;
    int n_threads;
    struct cpu_graph *recording; /* owned until graph_end; the pushing thread's */

    pthread_mutex_t lock;
    pthread_cond_t work;     /* n_queued or is_closing changed */
    pthread_cond_t progress; /* n_done changed */
    uint64_t n_queued;       /* lock */
    uint64_t n_done;         /* lock */
    bool is_closing;         /* lock */
    struct command *ring;    /* [RING], owned */
};

/* An event counts its records, so that it can be recorded again before the last one has passed. */
struct cpu_event {
    struct event base;
    uint64_t n_recorded; /* the recording thread's */
    _Atomic uint64_t n_passed;
    pthread_mutex_t lock;
    pthread_cond_t passed; /* n_passed changed, under lock */
};

static void set_command(struct command *c, void (*run)(const void *), const void *args, size_t size)
{
    REQUIRE(size <= MAX_ARGS);
    c->run = run;
    memcpy(c->args, args, size);
}

/* ---- streams -------------------------------------------------------------------------------- */

static void run_batches_locked(struct cpu_stream *s)
{
    for (;;) {
        while (s->n_done == s->n_queued && !s->is_closing) pthread_cond_wait(&s->work, &s->lock);
        if (s->n_done == s->n_queued) return;
        uint64_t first = s->n_done, end = s->n_queued;
        if (end > first + BATCH) end = first + BATCH;
        pthread_mutex_unlock(&s->lock);
        for (uint64_t i = first; i < end; i++) {
            const struct command *c = &s->ring[i % RING];
            c->run(c->args);
        }
        pthread_mutex_lock(&s->lock);
        s->n_done = end;
        pthread_cond_signal(&s->progress);
    }
}

static void *stream_main(void *arg)
{
    struct cpu_stream *s = arg;
    pthread_setname_np(pthread_self(), "cpu-stream");
    omp_set_num_threads(s->n_threads); /* of this thread's regions */
    pthread_mutex_lock(&s->lock);
    run_batches_locked(s);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

struct stream *cpu_stream_open(struct device *dev)
{
    struct cpu_stream *s = cpu_alloc_host(sizeof(*s));
    s->ring = cpu_alloc_host(RING * sizeof(*s->ring));
    s->n_threads = cpu_n_threads(dev);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->progress, NULL);

    /* Signals are the main thread's; the OpenMP workers inherit this mask. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&s->thread, NULL, stream_main, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    REQUIRE(failed == 0);
    return &s->base;
}

static void free_graph(struct cpu_graph *g)
{
    if (g == NULL) return;
    free(g->commands);
    free(g);
}

void cpu_stream_close(struct stream *stream)
{
    struct cpu_stream *s = (struct cpu_stream *)stream;
    free_graph(s->recording);
    pthread_mutex_lock(&s->lock);
    s->is_closing = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->progress);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    free(s->ring);
    free(s);
}

static void graph_add(struct cpu_graph *g, void (*run)(const void *), const void *args, size_t size)
{
    if (g->n == g->capacity) {
        g->capacity = g->capacity ? 2 * g->capacity : 64;
        g->commands = realloc(g->commands, (size_t)g->capacity * sizeof(*g->commands));
        REQUIRE(g->commands != NULL);
    }
    set_command(&g->commands[g->n++], run, args, size);
}

void queue_push(struct stream *stream, void (*run)(const void *args), const void *args, size_t size)
{
    struct cpu_stream *s = (struct cpu_stream *)stream;
    if (s->recording != NULL) {
        graph_add(s->recording, run, args, size);
        return;
    }
    pthread_mutex_lock(&s->lock);
    while (s->n_queued == s->n_done + RING) pthread_cond_wait(&s->progress, &s->lock);
    set_command(&s->ring[s->n_queued % RING], run, args, size);
    s->n_queued++;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

void cpu_stream_wait(struct stream *stream)
{
    struct cpu_stream *s = (struct cpu_stream *)stream;
    REQUIRE(s->recording == NULL);
    pthread_mutex_lock(&s->lock);
    while (s->n_done != s->n_queued) pthread_cond_wait(&s->progress, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

/* ---- copies --------------------------------------------------------------------------------- */

struct copy_args {
    void *dst;
    const void *src;
    size_t bytes;
};

static void copy_run(const void *args)
{
    const struct copy_args *a = args;
    if (a->bytes > 0) memcpy(a->dst, a->src, a->bytes);
}

void cpu_copy(struct stream *s, void *dst, const void *src, size_t bytes)
{
    queue_push(s, copy_run, &(struct copy_args){dst, src, bytes}, sizeof(struct copy_args));
}

struct fill_args {
    void *dst;
    size_t bytes;
    int byte;
};

static void fill_run(const void *args)
{
    const struct fill_args *a = args;
    if (a->bytes > 0) memset(a->dst, a->byte, a->bytes);
}

void cpu_fill(struct stream *s, void *dst, int byte, size_t bytes)
{
    queue_push(s, fill_run, &(struct fill_args){dst, bytes, byte}, sizeof(struct fill_args));
}

/* ---- events --------------------------------------------------------------------------------- */

struct event *cpu_event_open(struct device *dev)
{
    (void)dev;
    struct cpu_event *e = cpu_alloc_host(sizeof(*e));
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->passed, NULL);
    return &e->base;
}

void cpu_event_close(struct event *event)
{
    struct cpu_event *e = (struct cpu_event *)event;
    cpu_event_wait(event); /* also: the stream's thread has left event_run's critical section */
    pthread_cond_destroy(&e->passed);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

struct event_args {
    struct cpu_event *event;
    uint64_t record;
};

static void event_run(const void *args)
{
    const struct event_args *a = args;
    pthread_mutex_lock(&a->event->lock);
    atomic_store_explicit(&a->event->n_passed, a->record, memory_order_release);
    pthread_cond_signal(&a->event->passed);
    pthread_mutex_unlock(&a->event->lock);
}

void cpu_event_record(struct event *event, struct stream *s)
{
    struct cpu_event *e = (struct cpu_event *)event;
    REQUIRE(((struct cpu_stream *)s)->recording == NULL);
    e->n_recorded++;
    queue_push(s, event_run, &(struct event_args){e, e->n_recorded}, sizeof(struct event_args));
}

bool cpu_event_passed(const struct event *event)
{
    const struct cpu_event *e = (const struct cpu_event *)event;
    return atomic_load_explicit(&e->n_passed, memory_order_acquire) == e->n_recorded;
}

void cpu_event_wait(struct event *event)
{
    struct cpu_event *e = (struct cpu_event *)event;
    pthread_mutex_lock(&e->lock);
    while (!cpu_event_passed(event)) pthread_cond_wait(&e->passed, &e->lock);
    pthread_mutex_unlock(&e->lock);
}

/* ---- graphs --------------------------------------------------------------------------------- */

void cpu_graph_begin(struct stream *stream)
{
    struct cpu_stream *s = (struct cpu_stream *)stream;
    REQUIRE(s->recording == NULL);
    s->recording = cpu_alloc_host(sizeof(*s->recording));
}

struct graph *cpu_graph_end(struct stream *stream)
{
    struct cpu_stream *s = (struct cpu_stream *)stream;
    REQUIRE(s->recording != NULL);
    struct graph *g = &s->recording->base;
    s->recording = NULL;
    return g;
}

struct launch_args {
    const struct cpu_graph *graph;
};

static void graph_run(const void *args)
{
    const struct cpu_graph *g = ((const struct launch_args *)args)->graph;
    for (int i = 0; i < g->n; i++) g->commands[i].run(g->commands[i].args);
}

void cpu_graph_launch(struct stream *s, const struct graph *g)
{
    REQUIRE(((struct cpu_stream *)s)->recording == NULL);
    queue_push(s, graph_run, &(struct launch_args){(const struct cpu_graph *)g},
               sizeof(struct launch_args));
}

int cpu_graph_n_ops(const struct graph *g)
{
    return ((const struct cpu_graph *)g)->n;
}

void cpu_graph_free(struct graph *g)
{
    free_graph((struct cpu_graph *)g);
}

/* ---- what all operations share --------------------------------------------------------------- */

static pthread_key_t scratch_key;

static void make_scratch_key(void)
{
    REQUIRE(pthread_key_create(&scratch_key, free) == 0);
}

/* The size stands in front. */
void *cpu_scratch(size_t bytes)
{
    enum { FRONT = 64 };
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_scratch_key);
    char *scratch = pthread_getspecific(scratch_key);
    if (scratch != NULL && *(size_t *)scratch >= bytes) return scratch + FRONT;
    free(scratch);
    scratch = malloc(FRONT + bytes);
    REQUIRE(scratch != NULL);
    *(size_t *)scratch = bytes;
    REQUIRE(pthread_setspecific(scratch_key, scratch) == 0);
    return scratch + FRONT;
}

int cpu_n_rows(const int32_t *n, int max)
{
    if (n == NULL) return max;
    REQUIRE(*n >= 0 && *n <= max);
    return *n;
}

void cpu_require_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: not true: %s\n", file, line, condition);
    abort();
}
