/* device.h for all kinds of devices: finds the kind by name, and each object's by its first word.
 */
#include "kernels/device.h"

#include "kernels/device_type.h"
#include "kernels/ops.h"

#include <string.h>

static const struct device_type *const types[] = {
#ifndef WITHOUT_CPU
    &cpu_device,
#endif
#ifdef WITH_CUDA
    &cuda_bf16_device,
    &cuda_f16_device,
#endif
    NULL,
};

size_t dtype_size(enum dtype t)
{
    return t == DTYPE_F32 ? 4 : 2;
}

struct device *device_open(const char *name, int n_threads)
{
    for (const struct device_type *const *type = types; *type != NULL; type++) {
        if (strcmp((*type)->name, name) != 0) continue;
        struct device *dev = (*type)->open(n_threads);
        if (dev != NULL) dev->type = *type;
        return dev;
    }
    return NULL;
}

void device_close(struct device *dev)
{
    if (dev != NULL) dev->type->close(dev);
}

const char *device_name(const struct device *dev)
{
    return dev->type->name;
}

size_t device_memory_size(const struct device *dev)
{
    return dev->type->memory_size(dev);
}

const struct ops *device_ops(const struct device *dev)
{
    return dev->type->ops;
}

void device_range_begin(const struct device *dev, const char *name)
{
    dev->type->range_begin(dev, name);
}

void device_range_end(const struct device *dev)
{
    dev->type->range_end(dev);
}

void *device_alloc(struct device *dev, size_t bytes, const char *what)
{
    return dev->type->alloc(dev, bytes, what);
}

void device_free(struct device *dev, void *p)
{
    if (p != NULL) dev->type->free(dev, p);
}

void device_write(struct device *dev, void *device_dst, const void *host_src, size_t bytes)
{
    dev->type->write(dev, device_dst, host_src, bytes);
}

void *device_alloc_shared(struct device *dev, size_t bytes, const char *what)
{
    return dev->type->alloc_shared(dev, bytes, what);
}

void device_free_shared(struct device *dev, void *p)
{
    if (p != NULL) dev->type->free_shared(dev, p);
}

struct stream *stream_open(struct device *dev)
{
    struct stream *s = dev->type->stream_open(dev);
    s->type = dev->type;
    return s;
}

void stream_close(struct stream *s)
{
    if (s != NULL) s->type->stream_close(s);
}

void stream_copy_in(struct stream *s, void *device_dst, const void *host_src, size_t bytes)
{
    s->type->copy_in(s, device_dst, host_src, bytes);
}

void stream_copy_out(struct stream *s, void *host_dst, const void *device_src, size_t bytes)
{
    s->type->copy_out(s, host_dst, device_src, bytes);
}

void stream_fill(struct stream *s, void *device_dst, int byte, size_t bytes)
{
    s->type->fill(s, device_dst, byte, bytes);
}

void stream_wait(struct stream *s)
{
    s->type->stream_wait(s);
}

struct event *event_open(struct device *dev)
{
    struct event *e = dev->type->event_open(dev);
    e->type = dev->type;
    return e;
}

void event_close(struct event *e)
{
    if (e != NULL) e->type->event_close(e);
}

void event_record(struct event *e, struct stream *s)
{
    e->type->event_record(e, s);
}

bool event_passed(const struct event *e)
{
    return e->type->event_passed(e);
}

void event_wait(struct event *e)
{
    e->type->event_wait(e);
}

void graph_begin(struct stream *s)
{
    s->type->graph_begin(s);
}

struct graph *graph_end(struct stream *s)
{
    struct graph *g = s->type->graph_end(s);
    g->type = s->type;
    return g;
}

void graph_launch(struct stream *s, const struct graph *g)
{
    s->type->graph_launch(s, g);
}

int graph_n_ops(const struct graph *g)
{
    return g->type->graph_n_ops(g);
}

void graph_free(struct graph *g)
{
    if (g != NULL) g->type->graph_free(g);
}
