/* The CPU device's own parts; kernels/device.h is the interface. */
#ifndef KERNELS_CPU_DEVICE_H
#define KERNELS_CPU_DEVICE_H

#include "kernels/device_type.h"

#include <stdint.h>

struct cpu_device {
    struct device base;
    int n_threads; /* OpenMP threads of a stream's parallel regions; 0: OpenMP's own choice */
};

/* Threads of a parallel region. */
int cpu_n_threads(const struct device *dev);

/* device_type's functions for streams, events and graphs (queue.c). */
struct stream *cpu_stream_open(struct device *dev);
void cpu_stream_close(struct stream *s);
void cpu_copy(struct stream *s, void *dst, const void *src, size_t bytes);
void cpu_fill(struct stream *s, void *dst, int byte, size_t bytes);
void cpu_stream_wait(struct stream *s);
struct event *cpu_event_open(struct device *dev);
void cpu_event_close(struct event *e);
void cpu_event_record(struct event *e, struct stream *s);
bool cpu_event_passed(const struct event *e);
void cpu_event_wait(struct event *e);
void cpu_graph_begin(struct stream *s);
struct graph *cpu_graph_end(struct stream *s);
void cpu_graph_launch(struct stream *s, const struct graph *g);
int cpu_graph_n_ops(const struct graph *g);
void cpu_graph_free(struct graph *g);

/* Zeroed host memory for the device's own small objects, freed with free(); ends the process when
 * there is none. */
void *cpu_alloc_host(size_t bytes);

#endif
