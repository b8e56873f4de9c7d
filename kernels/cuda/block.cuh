/* Sums and bests over the threads of a block, in an order that depends on nothing but its size. */
#ifndef KERNELS_CUDA_BLOCK_CUH
#define KERNELS_CUDA_BLOCK_CUH

#include "kernels/cuda/ptx.cuh"

#include <cuda_runtime.h>

__device__ __forceinline__ float warp_sum(float x)
{
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    return x;
}

/* Sum of x over the block, for all threads.  `scratch` is 32 floats of shared memory on 16 bytes,
 * free again when the next barrier has passed.  Missing warps count as zeros, so that every thread
 * adds in four chains of eight, whatever the number of warps. */
__device__ __forceinline__ float block_sum(float x, float *scratch)
{
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    if (threadIdx.x < 32 && threadIdx.x >= blockDim.x / 32) scratch[threadIdx.x] = 0;
    __syncthreads();
    float4 sum = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float4 four = ((const float4 *)scratch)[i];
        sum.x += four.x;
        sum.y += four.y;
        sum.z += four.z;
        sum.w += four.w;
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

#endif
