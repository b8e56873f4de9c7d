/* A device: memory, streams, events and graphs.  One process drives one device.
 *
 * Everything that computes is queued on a stream and runs later, in order, on the device; the host
 * never waits except in event_wait.  The CPU device works the same way: its stream is a thread of
 * its own, so the host may be rounds ahead there too, and code that is right on one device is right
 * on the other.  No call here returns an error: memory is taken while the daemon starts, and a
 * device that fails ends the process with file, line and call (the context is gone).
 *
 * Threads: one thread (the engine's) calls all of this; the stream's thread calls nothing here. */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

struct device;
struct stream;
struct event;
struct graph;
struct ops;

/* Opens "cpu", "cuda-bf16" or "cuda-f16" (a device computes in one type of activations).  n_threads
 * is the CPU device's number of worker threads; 0 takes all cores.  NULL if there is no such device
 * here. */
struct device *device_open(const char *name, int n_threads);
void device_close(struct device *dev); /* accepts NULL; everything made with dev is closed before */
const char *device_name(const struct device *dev);

size_t device_memory_size(const struct device *dev); /* bytes in all, used or not */

/* The operations of this device (ops.h); lives as long as dev. */
const struct ops *device_ops(const struct device *dev);

/* Names for a profiler what this thread does between begin and end, and what it queues or records
 * meanwhile: NVTX ranges on a GPU, nothing elsewhere.  Ranges nest. */
void device_range_begin(const struct device *dev, const char *name);
void device_range_end(const struct device *dev);

/* Device memory, aligned to 256 bytes.  Up to 16 MiB every byte is 0xff, so that a float read
 * before it is written is NaN and an index is -1; larger blocks (caches) come as they are.  What
 * must start as zero is cleared by its owner.  Ends the process when memory is out, naming `what`.
 * Owned by the caller. */
void *device_alloc(struct device *dev, size_t bytes, const char *what);
void device_free(struct device *dev, void *p); /* accepts NULL */

/* Copies host memory into device memory, now: for loading. */
void device_write(struct device *dev, void *device_dst, const void *host_src, size_t bytes);

/* Host memory that the device can read and write while a stream runs (pinned on a GPU).  Zeroed. */
void *device_alloc_shared(struct device *dev, size_t bytes, const char *what);
void device_free_shared(struct device *dev, void *p); /* accepts NULL */

struct stream *stream_open(struct device *dev);
void stream_close(struct stream *s); /* waits for the queued work first; accepts NULL */

/* Copies between host and device memory, in the stream's order.  The host's side stays valid and
 * unchanged until the copy has run. */
void stream_copy_in(struct stream *s, void *device_dst, const void *host_src, size_t bytes);
void stream_copy_out(struct stream *s, void *host_dst, const void *device_src, size_t bytes);
void stream_fill(struct stream *s, void *device_dst, int byte, size_t bytes);

/* Waits until all queued work has run. */
void stream_wait(struct stream *s);

/* An event is passed when everything queued before event_record has run. */
struct event *event_open(struct device *dev);
void event_close(struct event *e); /* accepts NULL */
void event_record(struct event *e, struct stream *s);
bool event_passed(const struct event *e);
void event_wait(struct event *e);

/* Records what is queued between begin and end instead of running it.  Arguments are copied, so a
 * graph reads lengths and counts through the device pointers in them, never from the host.
 * graph_launch queues the whole graph as one piece of work. */
void graph_begin(struct stream *s);
struct graph *graph_end(struct stream *s);
void graph_launch(struct stream *s, const struct graph *g);
int graph_n_ops(const struct graph *g); /* calls recorded: operations, copies, fills */
void graph_free(struct graph *g);       /* accepts NULL; no launch of it is pending */

#endif
