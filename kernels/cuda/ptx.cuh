/* The machine's instructions that C++ has no words for, each behind one small function, and the two
 * 16-bit types.  No other file contains PTX.
 *
 * The emulator replaces this file by test/emu/include/kernels/cuda/ptx.cuh, so a kernel uses only
 * what stands here and the plain CUDA of test/emu/include/cuda_runtime.h. */
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* Storage types of activations, weights and caches; arithmetic is in float. */
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(f16 x)
{
    return __half2float(__ushort_as_half(x.bits));
}

__device__ __forceinline__ float to_float(bf16 x)
{
    return __uint_as_float((uint32_t)x.bits << 16);
}

__device__ __forceinline__ float to_float(float x)
{
    return x;
}

/* *to = x, rounded to nearest even. */
__device__ __forceinline__ void from_float(f16 *to, float x)
{
    to->bits = __half_as_ushort(__float2half_rn(x));
}

__device__ __forceinline__ void from_float(bf16 *to, float x)
{
    to->bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

__device__ __forceinline__ void from_float(float *to, float x)
{
    *to = x;
}

/* The block's dynamic shared memory; a kernel has no other. */
__device__ __forceinline__ char *shared_memory(void)
{
    extern __shared__ __align__(128) char shared_bytes[];
    return shared_bytes;
}

/* ---- the kernel before (programmatic dependent launch) ------------------------------------------
 *
 * Every kernel is launched so that it may begin before the one in front of it has ended, and calls
 * grid_wait before it reads what another kernel writes, or writes anything in global memory.  All
 * threads call it.  It also lets the next kernel begin, which takes places on the SMs that this one
 * leaves free, and waits there for this one's end. */

__device__ __forceinline__ void grid_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* ---- copies from global to shared memory beside the computation
 * ---------------------------------- */

/* Copies n_bytes (0..16) from src to 16 bytes at dst, zeros behind them.  dst and src are aligned
 * to 16 bytes; src may be anything valid when n_bytes is 0. */
__device__ __forceinline__ void copy_async(void *dst, const void *src, int n_bytes)
{
    uint32_t to = (uint32_t)__cvta_generic_to_shared(dst);
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(src),
                 "r"(n_bytes)
                 : "memory");
}

/* Closes a group of this thread's copies. */
__device__ __forceinline__ void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N of this thread's groups are on their way. */
template <int N> __device__ __forceinline__ void copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* ---- matrices
 * ------------------------------------------------------------------------------------ */

/* Four 8 x 8 matrices of 16-bit values: lane l names row l % 8 of matrix l / 8 (16 bytes in shared
 * memory) and gets the pair (row l / 4, columns 2 (l % 4) and + 1) of each; transposed: the pair of
 * rows 2 (l % 4) and + 1 in column l / 4. */
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void *row)
{
    uint32_t from = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void *row)
{
    uint32_t from = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

/* d [16][8] += a [16][16] b [16][8] in float.  With g = lane / 4 and t = 2 (lane % 4) a lane holds
 *   a   (g, t), (g + 8, t), (g, t + 8), (g + 8, t + 8), each with its right neighbour
 *   b   (t, g), (t + 8, g), each with the one below        d   (g, t), (g, t + 1), (g + 8, ...) */
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1, f16)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1, bf16)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- the rest
 * ------------------------------------------------------------------------------------ */

/* 2^x, about 2 units of the last place; results below 2^-126 are 0. */
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* The device's clock in nanoseconds. */
__device__ __forceinline__ uint64_t clock_ns(void)
{
    uint64_t t;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
    return t;
}

#endif
