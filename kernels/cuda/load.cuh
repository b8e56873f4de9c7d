/* Eight neighbouring elements of a row: what a thread of the operations on rows loads, holds and
 * stores.  Where they lie on 16 bytes that is one access (two for float); else, and at the end of a
 * row whose width is no multiple of eight, one an element.  The arithmetic is the same. */
#ifndef KERNELS_CUDA_LOAD_CUH
#define KERNELS_CUDA_LOAD_CUH

#include "kernels/cuda/cuda.cuh"

#include <string.h>

/* Words and not elements, so that nothing waits for a load before the elements are wanted. */
template <class T> struct alignas(16) eight {
    uint32_t words[2 * sizeof(T)];
};

/* Element i = value, where it was zero. */
template <class T> __device__ __forceinline__ void eight_set(struct eight<T> *e, int i, T value)
{
    uint32_t word = 0;
    memcpy(&word, &value, sizeof(value));
    e->words[i * sizeof(T) / 4] |= word << (i * sizeof(T) % 4 * 8);
}

template <class T> __device__ __forceinline__ T eight_get(const struct eight<T> &e, int i)
{
    const uint32_t word = e.words[i * sizeof(T) / 4] >> (i * sizeof(T) % 4 * 8);
    T value;
    memcpy(&value, &word, sizeof(value));
    return value;
}

/* from[0..7], of which there are n, at most all; the others are zero. */
template <class T> __device__ __forceinline__ struct eight<T> load_eight(const T *from, int n) {
    struct eight<T> e = {};
    if (n >= 8 && (uintptr_t)from % 16 == 0) {
        memcpy(&e, __builtin_assume_aligned((const void *)from, 16), sizeof(e));
        return e;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n) eight_set(&e, i, from[i]);
    return e;
}

/* to[0..7] = e, or the first n of them. */
template <class T>
__device__ __forceinline__ void store_eight(T *to, const struct eight<T> &e, int n)
{
    if (n >= 8 && (uintptr_t)to % 16 == 0) {
        memcpy(__builtin_assume_aligned((void *)to, 16), &e, sizeof(e));
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n) to[i] = eight_get(e, i);
}

template <class T> __device__ __forceinline__ void widen(float (&x)[8], const struct eight<T> &e)
{
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = to_float(eight_get(e, i));
}

template <class T> __device__ __forceinline__ struct eight<T> narrow(const float (&x)[8]) {
    struct eight<T> e = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        T value;
        from_float(&value, x[i]);
        eight_set(&e, i, value);
    }
    return e;
}

/* A grid of blocks of ROW_THREADS with a thread for each eight of each row: the row is blockIdx.x,
 * its first element eight_of_thread(). */
static inline dim3
grid_of_eights(int n_rows, int width)
{
    return dim3(n_rows, (width + 8 * ROW_THREADS - 1) / (8 * ROW_THREADS));
}

__device__ __forceinline__ int eight_of_thread(void)
{
    return 8 * (int)(blockIdx.y * ROW_THREADS + threadIdx.x);
}

/* Elements i..i + 7 of an embedding as float: of row `id` of the checkpoint's table, or of row ~id
 * of the vector pool. */
__device__ __forceinline__ void load_embedding(float (&x)[8], const void *table, enum dtype type,
                                               const float *pool, int32_t id, int width, int i)
{
    const size_t at = (size_t)(id < 0 ? ~id : id) * width + i;
    if (id < 0)
        widen(x, load_eight(pool + at, width - i));
    else if (type == DTYPE_F16)
        widen(x, load_eight((const f16 *)table + at, width - i));
    else if (type == DTYPE_BF16)
        widen(x, load_eight((const bf16 *)table + at, width - i));
    else
        widen(x, load_eight((const float *)table + at, width - i));
}

#endif
