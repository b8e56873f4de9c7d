/* How a CPU operation gets onto its stream, and what its loops share.
 *
 * An operation `x` is a pair: cpu_x() copies its arguments into the stream and returns; x_run() is
 * called with that copy by the stream's thread.  x_run may open OpenMP parallel regions. */
#ifndef KERNELS_CPU_QUEUE_H
#define KERNELS_CPU_QUEUE_H

#include <stddef.h>
#include <stdint.h>

struct stream;

enum { MAX_ARGS = 768 }; /* bytes of the largest argument struct */

/* Queues run(copy of args); blocks while the queue is full.  While a graph is recorded, records. */
void queue_push(struct stream *s, void (*run)(const void *args), const void *args, size_t size);

/* Defines cpu_NAME(), which queues NAME_run(const struct ARGS *). */
#define CPU_OPERATION(name, args_type)                                                             \
    static void name##_queued(const void *args)                                                    \
    {                                                                                              \
        name##_run(args);                                                                          \
    }                                                                                              \
    void cpu_##name(struct stream *s, const struct args_type *args)                                \
    {                                                                                              \
        _Static_assert(sizeof(*args) <= MAX_ARGS, "raise MAX_ARGS");                               \
        queue_push(s, name##_queued, args, sizeof(*args));                                         \
    }

/* Rows in use: *n, or max where n is NULL.  Ends the process if *n is out of range. */
int cpu_n_rows(const int32_t *n, int max);

/* This thread's memory of at least `bytes`, for one operation at a time.  A thread takes it once
 * for the largest that it sees, and gives it back when it ends. */
void *cpu_scratch(size_t bytes);

/* Ends the process unless the condition holds; for shapes, which are bugs when wrong. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) cpu_require_failed(__FILE__, __LINE__, #condition);                      \
    } while (0)
_Noreturn void cpu_require_failed(const char *file, int line, const char *condition);

#endif
