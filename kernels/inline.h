/* Functions that CPU and CUDA device have in common, each in a header that both include. */
#ifndef KERNELS_INLINE_H
#define KERNELS_INLINE_H

#ifdef __CUDACC__
#define BOTH_INLINE static __host__ __device__ __forceinline__
#else
#define BOTH_INLINE static inline
#endif

#endif
