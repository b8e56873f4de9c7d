/* Activations of ops.h. */
#ifndef KERNELS_CUDA_ACTIVATE_CUH
#define KERNELS_CUDA_ACTIVATE_CUH

#include "kernels/cuda/cuda.cuh"

__device__ __forceinline__ float activate(float x, enum activation activation)
{
    if (activation == ACT_GELU) return 0.5f * x * (1 + erff(x * 0.70710678f));
    if (activation == ACT_QUICK_GELU) return x / (1 + expf(-1.702f * x));
    return x;
}

#endif
