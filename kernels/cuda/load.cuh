/* Element i of an embedding as float: of row `id` of the checkpoint's table, or of row ~id of the
 * vector pool. */
#ifndef KERNELS_CUDA_LOAD_CUH
#define KERNELS_CUDA_LOAD_CUH

#include "kernels/cuda/cuda.cuh"

__device__ __forceinline__ float embedding(const void *table, enum dtype type, const float *pool,
                                           int32_t id, int width, int i)
{
    if (id < 0) return pool[(size_t)~id * width + i];
    const size_t at = (size_t)id * width + i;
    if (type == DTYPE_F16) return to_float(((const f16 *)table)[at]);
    if (type == DTYPE_BF16) return to_float(((const bf16 *)table)[at]);
    return ((const float *)table)[at];
}

#endif
