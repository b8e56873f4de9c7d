/* The CPU device: its memory is the host's. */
#include "kernels/cpu/device.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/openmp.h"
#include "kernels/cpu/queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    ALIGNMENT = 256,
    HUGE_PAGE = 2 << 20, /* larger blocks ask for huge pages: weights are read end to end */
    UNTOUCHED =
        16 << 20, /* larger blocks are caches: filling them would cost the start, and memory */
};

static struct device *open_device(int n_threads)
{
    REQUIRE(n_threads >= 0);
    struct cpu_device *dev = cpu_alloc_host(sizeof(*dev));
    dev->n_threads = n_threads;
    return &dev->base;
}

int cpu_n_threads(const struct device *dev)
{
    int n = ((const struct cpu_device *)dev)->n_threads;
    return n > 0 ? n : omp_get_max_threads();
}

static void close_device(struct device *dev)
{
    free(dev);
}

static size_t memory_size(const struct device *dev)
{
    (void)dev;
    return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}

static void begin_range(const struct device *dev, const char *name)
{
    (void)dev;
    (void)name;
}

static void end_range(const struct device *dev)
{
    (void)dev;
}

void *cpu_alloc_host(size_t bytes)
{
    void *p = calloc(1, bytes);
    REQUIRE(p != NULL);
    return p;
}

static void *alloc_filled(size_t bytes, int byte, const char *what)
{
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    void *p = NULL;
    if (posix_memalign(&p, alignment, bytes > 0 ? bytes : 1) != 0) {
        fprintf(stderr, "cpu device: no memory for %s (%zu bytes)\n", what, bytes);
        exit(1);
    }
    if (bytes >= HUGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE); /* a wish; may fail */
    if (bytes < UNTOUCHED) memset(p, byte, bytes);
    return p;
}

static void *alloc(struct device *dev, size_t bytes, const char *what)
{
    (void)dev;
    return alloc_filled(bytes, 0xff, what);
}

static void write_memory(struct device *dev, void *device_dst, const void *host_src, size_t bytes)
{
    (void)dev;
    memcpy(device_dst, host_src, bytes);
}

static void *alloc_shared(struct device *dev, size_t bytes, const char *what)
{
    (void)dev;
    return alloc_filled(bytes, 0, what);
}

static void free_memory(struct device *dev, void *p)
{
    (void)dev;
    free(p);
}

const struct device_type cpu_device = {
    .name = "cpu",
    .ops = &cpu_ops,
    .open = open_device,
    .close = close_device,
    .memory_size = memory_size,
    .range_begin = begin_range,
    .range_end = end_range,
    .alloc = alloc,
    .free = free_memory,
    .write = write_memory,
    .alloc_shared = alloc_shared,
    .free_shared = free_memory,
    .stream_open = cpu_stream_open,
    .stream_close = cpu_stream_close,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
    .fill = cpu_fill,
    .stream_wait = cpu_stream_wait,
    .event_open = cpu_event_open,
    .event_close = cpu_event_close,
    .event_record = cpu_event_record,
    .event_passed = cpu_event_passed,
    .event_wait = cpu_event_wait,
    .graph_begin = cpu_graph_begin,
    .graph_end = cpu_graph_end,
    .graph_launch = cpu_graph_launch,
    .graph_n_ops = cpu_graph_n_ops,
    .graph_free = cpu_graph_free,
};
