/* The CPU device's own struct; kernels/device.h is the interface. */
#ifndef KERNELS_CPU_DEVICE_H
#define KERNELS_CPU_DEVICE_H

#include <stddef.h>

struct device {
    int n_threads; /* OpenMP threads of a stream's parallel regions; 0: OpenMP's own choice */
};

/* Zeroed host memory for the device's own small objects, freed with free(); ends the process when
 * there is none. */
void *cpu_alloc_host(size_t bytes);

#endif
