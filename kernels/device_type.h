/* What a kind of device fills in for kernels/device.h.
 *
 * The four objects of device.h begin with the structs below, which say whose they are; the rest of
 * each belongs to the kind.  Except for open, a function here does what device.h says of the one
 * with its name, and is never called with NULL. */
#ifndef KERNELS_DEVICE_TYPE_H
#define KERNELS_DEVICE_TYPE_H

#include <stdbool.h>
#include <stddef.h>

struct ops;

struct device_type {
    const char *name;      /* what device_open is called with */
    const struct ops *ops; /* whose activations have the type that the name promises */
    struct device *(*open)(int n_threads); /* NULL if the machine has no such device */
    void (*close)(struct device *dev);
    size_t (*memory_size)(const struct device *dev);
    void (*range_begin)(const struct device *dev, const char *name);
    void (*range_end)(const struct device *dev);
    void *(*alloc)(struct device *dev, size_t bytes, const char *what);
    void (*free)(struct device *dev, void *p);
    void (*write)(struct device *dev, void *device_dst, const void *host_src, size_t bytes);
    void *(*alloc_shared)(struct device *dev, size_t bytes, const char *what);
    void (*free_shared)(struct device *dev, void *p);

    struct stream *(*stream_open)(struct device *dev);
    void (*stream_close)(struct stream *s);
    void (*copy_in)(struct stream *s, void *device_dst, const void *host_src, size_t bytes);
    void (*copy_out)(struct stream *s, void *host_dst, const void *device_src, size_t bytes);
    void (*fill)(struct stream *s, void *device_dst, int byte, size_t bytes);
    void (*stream_wait)(struct stream *s);

    struct event *(*event_open)(struct device *dev);
    void (*event_close)(struct event *e);
    void (*event_record)(struct event *e, struct stream *s);
    bool (*event_passed)(const struct event *e);
    void (*event_wait)(struct event *e);

    void (*graph_begin)(struct stream *s);
    struct graph *(*graph_end)(struct stream *s);
    void (*graph_launch)(struct stream *s, const struct graph *g);
    int (*graph_n_ops)(const struct graph *g);
    void (*graph_free)(struct graph *g);
};

/* `type` is set by device.c behind each open, begin and end. */
struct device {
    const struct device_type *type;
};
struct stream {
    const struct device_type *type;
};
struct event {
    const struct device_type *type;
};
struct graph {
    const struct device_type *type;
};

extern const struct device_type cpu_device;
extern const struct device_type cuda_bf16_device, cuda_f16_device; /* where built WITH_CUDA */

#endif
