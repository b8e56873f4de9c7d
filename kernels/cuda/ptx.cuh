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

/* The block's dynamic shared memory, aligned to 1024 bytes; a kernel has no other. */
__device__ __forceinline__ char *shared_memory(void)
{
    extern __shared__ __align__(1024) char shared_bytes[];
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

/* ---- bulk copies
 *
 * One copy of n_bytes (a multiple of 16; both ends aligned to 16 bytes) from global to shared
 * memory, that an engine of its own makes, and a barrier that tells of its end.  A barrier is in
 * shared memory; its copies come one after the other and have parity 0, 1, 0, ...
 *
 *   copy_barrier_init  one thread; then comes a barrier of the block
 *   copy_bulk          all lanes of one warp; the parity before has been waited for
 *   copy_bulk_wait     each thread that reads what was copied
 *
 * Below sm_90 the lanes copy by cp.async, which belongs to the group that they close next; readers
 * then wait for that group and at a barrier, which they do anyway for their own copies. */

struct copy_barrier {
    uint64_t state;
};

__device__ __forceinline__ void copy_barrier_init(struct copy_barrier *b)
{
#if __CUDA_ARCH__ >= 900
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(b);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n"
                 "fence.mbarrier_init.release.cluster;" ::"r"(at)
                 : "memory");
#endif
}

__device__ __forceinline__ void copy_bulk(void *dst, const void *src, uint32_t n_bytes,
                                          struct copy_barrier *b)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 != 0) return;
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(b),
                   to = (uint32_t)__cvta_generic_to_shared(dst);
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n"
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%2], [%3], %1, "
        "[%0];" ::"r"(at),
        "r"(n_bytes), "r"(to), "l"(src)
        : "memory");
#else
    for (uint32_t i = threadIdx.x % 32 * 16; i < n_bytes; i += 32 * 16)
        copy_async((char *)dst + i, (const char *)src + i, 16);
#endif
}

__device__ __forceinline__ void copy_bulk_wait(struct copy_barrier *b, int parity)
{
#if __CUDA_ARCH__ >= 900
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(b);
    uint32_t is_done;
    do
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, p;}"
                     : "=r"(is_done)
                     : "r"(at), "r"(parity)
                     : "memory");
    while (is_done == 0);
#endif
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

/* ---- products of tiles --------------------------------------------------------------------------
 *
 * A tile is rows of 64 16-bit values in shared memory, aligned to 1024 bytes; chunk c of 16 bytes
 * of row r lies at place c ^ r % 8 of the row (the hardware's "128-byte swizzle").
 *
 *   tiles_written   each thread, when its part of the tiles has arrived; then comes a barrier
 *   tiles_multiply  begins d [64][N] = a [64][64] b [N][64]^T (+ d if `add`), in float, for the
 *                   four warps of a warpgroup; columns of d from n_rows on need not be computed
 *   tiles_wait      d is there, and a and b may be overwritten
 *
 * With g = lane / 4 and t = 2 (lane % 4), d[j][e] of warp w is row 16 w + g + e / 2 * 8, column
 * 8 j + t + e % 2.  Below sm_90 the same by ldmatrix and mma, at once. */

__device__ __forceinline__ void tiles_written(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#define SUMS_4(i)  "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 1), SUMS_4(i + 2), SUMS_4(i + 3)
#define SUMS_64    SUMS_16(0), SUMS_16(4)
#define SUMS_128   SUMS_64, SUMS_16(8), SUMS_16(12)
#define NAMES_64                                                                                   \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_128                                                                                  \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#if __CUDA_ARCH__ >= 900
/* What wgmma wants to know of a tile, from 16-column step `step` on: address, 1024 bytes from eight
 * rows to the next, the swizzle. */
__device__ __forceinline__ uint64_t tile_descriptor(const void *tile, int step)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(tile) + 32 * step;
    return (at & 0x3ffff) >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

#define WGMMA(N, type, a, b, is_add)                                                               \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #is_add ", 0; "                                 \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" NAMES_##N    \
                 "}, %" #a ", %" #b ", p, 1, 1, 0, 0;}"                                            \
                 : SUMS_##N                                                                        \
                 : "l"(from_a), "l"(from_b), "r"((int)add))

__device__ __forceinline__ void tile_step(float (&d)[8][4], uint64_t from_a, uint64_t from_b,
                                          bool add, f16)
{
    WGMMA(64, "f16", 32, 33, 34);
}
__device__ __forceinline__ void tile_step(float (&d)[8][4], uint64_t from_a, uint64_t from_b,
                                          bool add, bf16)
{
    WGMMA(64, "bf16", 32, 33, 34);
}
__device__ __forceinline__ void tile_step(float (&d)[16][4], uint64_t from_a, uint64_t from_b,
                                          bool add, f16)
{
    WGMMA(128, "f16", 64, 65, 66);
}
__device__ __forceinline__ void tile_step(float (&d)[16][4], uint64_t from_a, uint64_t from_b,
                                          bool add, bf16)
{
    WGMMA(128, "bf16", 64, 65, 66);
}
#endif

template <int N, class T>
__device__ __forceinline__ void tiles_multiply(float (&d)[N / 8][4], const T *a, const T *b,
                                               int n_rows, bool add)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int i = 0; i < 4; i++)
        tile_step(d, tile_descriptor(a, i), tile_descriptor(b, i), add || i > 0, T());
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    for (int j = 0; j < N / 8 && !add; j++)
        for (int e = 0; e < 4; e++) d[j][e] = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t x[4], y[4];
        const int r = warp * 16 + lane % 16;
        load_matrices(x, a + r * 64 + ((2 * i + lane / 16) ^ r % 8) * 8);
#pragma unroll
        for (int j = 0; j < N / 8; j += 2) {
            if (8 * j >= n_rows) break;
            const int row = 8 * j + lane % 8 + lane / 16 * 8;
            load_matrices(y, b + row * 64 + ((2 * i + lane / 8 % 2) ^ row % 8) * 8);
            multiply_add(d[j], x, y[0], y[1], T());
            multiply_add(d[j + 1], x, y[2], y[3], T());
        }
    }
#endif
}

__device__ __forceinline__ void tiles_wait(float (&d)[8][4])
{
#if __CUDA_ARCH__ >= 900
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS_64::"memory");
#endif
}

__device__ __forceinline__ void tiles_wait(float (&d)[16][4])
{
#if __CUDA_ARCH__ >= 900
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS_128::"memory");
#endif
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
