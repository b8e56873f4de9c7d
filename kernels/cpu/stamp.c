/* The clock of the round's phases. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"

#include <time.h>

static void stamp_run(const struct stamp_args *a)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint32_t round = (uint32_t)*a->state.round - (a->is_after_accept ? 1u : 0u);
    a->state.outputs[round % ROUND_RING].stamps[a->index] =
        (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

CPU_OPERATION(stamp, stamp_args)
