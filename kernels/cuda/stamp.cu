/* stamp: the device's clock into the round's output (ops.h).  One thread. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/ops.cuh"

static __global__ void stamp_kernel(const __grid_constant__ struct stamp_args a)
{
    grid_wait();
    const uint32_t round = (uint32_t)*a.state.round - (a.is_after_accept ? 1 : 0);
    a.state.outputs[round % ROUND_RING].stamps[a.index] = clock_ns();
}

void cuda_stamp(struct stream *s, const struct stamp_args *a)
{
    REQUIRE(a->index >= 0 && a->index < N_STAMPS);
    launch(s, stamp_kernel, 1, 1, 0, *a);
}
