/* What the threads of a warp or block do together: sums, in an order that depends on nothing but
 * their number, offsets, ranks, and finding out which block comes last. */
#ifndef KERNELS_CUDA_BLOCK_CUH
#define KERNELS_CUDA_BLOCK_CUH

#include "kernels/cuda/ptx.cuh"

#include <cuda_runtime.h>

template <class T> __device__ __forceinline__ T warp_sum(T x)
{
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    return x;
}

/* Four numbers in one load. */
template <class T> struct alignas(4 * sizeof(T)) four_of {
    T x, y, z, w;
};

/* Sum of x over the block, for all threads.  `scratch` is 32 numbers of shared memory, aligned to
 * four of them, free again when the next barrier has passed.  Missing warps count as zeros, so that
 * every thread adds in four chains of eight, whatever the number of warps. */
template <class T> __device__ __forceinline__ T block_sum(T x, T *scratch)
{
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    if (threadIdx.x < 32 && threadIdx.x >= blockDim.x / 32) scratch[threadIdx.x] = 0;
    __syncthreads();
    four_of<T> sum = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const four_of<T> four = ((const four_of<T> *)scratch)[i];
        sum.x += four.x;
        sum.y += four.y;
        sum.z += four.z;
        sum.w += four.w;
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

/* A number whose order among unsigned integers is x's among floats; -0 is 0.  Not for NaN. */
__device__ __forceinline__ uint32_t ordered_bits(float x)
{
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits >> 31 != 0 ? ~bits : bits | 1u << 31;
}

__device__ __forceinline__ float from_ordered_bits(uint32_t bits)
{
    return __uint_as_float(bits >> 31 != 0 ? bits & ~(1u << 31) : ~bits);
}

/* x[0 .. n) are counts and become offsets: x[i] the sum of those before, x[n] of all.  One warp; x
 * is in shared memory, between barriers. */
__device__ __forceinline__ void warp_offsets(int32_t *x, int n)
{
    const int lane = threadIdx.x % 32;
    int sum = 0;
    for (int first = 0; first <= n; first += 32) {
        const int i = first + lane, count = i < n ? x[i] : 0;
        int up_to = count;
        for (int distance = 1; distance < 32; distance *= 2) {
            const int before = __shfl_up_sync(~0u, up_to, distance);
            if (lane >= distance) up_to += before;
        }
        if (i <= n) x[i] = sum + up_to - count;
        sum += __shfl_sync(~0u, up_to, 31);
    }
}

/* Whether this block is the last of n that call this with the same ticket; all threads.  If so it
 * sees what the others had written.  The ticket is zero before and behind; `scratch` is shared. */
__device__ __forceinline__ bool is_last_block(int32_t *ticket, int n, int *scratch)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *scratch = atomicAdd(ticket, 1) == n - 1;
        if (*scratch) *ticket = 0;
    }
    __syncthreads();
    __threadfence();
    return *scratch != 0;
}

#endif
