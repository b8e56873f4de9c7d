/* The CPU device: its memory is the host's. */
#include "kernels/cpu/device.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/device.h"

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

struct device *device_open(const char *name, int n_threads)
{
    if (strcmp(name, "cpu") != 0) return NULL;
    REQUIRE(n_threads >= 0);
    struct device *dev = cpu_alloc_host(sizeof(*dev));
    dev->n_threads = n_threads;
    return dev;
}

void device_close(struct device *dev)
{
    free(dev);
}

const char *device_name(const struct device *dev)
{
    (void)dev;
    return "cpu";
}

size_t device_memory_size(const struct device *dev)
{
    (void)dev;
    return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}

const struct ops *device_ops(const struct device *dev)
{
    (void)dev;
    return &cpu_ops;
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

void *device_alloc(struct device *dev, size_t bytes, const char *what)
{
    (void)dev;
    return alloc_filled(bytes, 0xff, what);
}

void device_free(struct device *dev, void *p)
{
    (void)dev;
    free(p);
}

void *device_alloc_shared(struct device *dev, size_t bytes, const char *what)
{
    (void)dev;
    return alloc_filled(bytes, 0, what);
}

void device_free_shared(struct device *dev, void *p)
{
    (void)dev;
    free(p);
}
