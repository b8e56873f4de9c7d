/* Rotation of a row's pairs; qkv, the draft's attention and vision_rope.
 *
 *   (x[i], x[i + half])  ->  (x[i] cos - x[i + half] sin,  x[i + half] cos + x[i] sin)
 *
 * But in qkv, a thread takes eight pairs: an eight of each half. */
#ifndef KERNELS_CUDA_ROPE_CUH
#define KERNELS_CUDA_ROPE_CUH

#include "kernels/cuda/load.cuh"
#include "kernels/cuda/pages.cuh"

/* A pair, with the same roundings wherever this is inlined. */
__device__ __forceinline__ float2 rotate_pair(float2 x, float2 angle)
{
    return {fmaf(x.x, angle.x, -(x.y * angle.y)), fmaf(x.y, angle.x, x.x * angle.y)};
}

/* Cosines and sines of pairs i .. i + 7 of a row; zeros behind half. */
__device__ __forceinline__ void rope_angles(float2 (&angle)[8], const struct rope *rope,
                                            const int32_t *pos, int i, int half)
{
    const int32_t of_axis[3] = {pos[0], pos[1], pos[2]};
    const int first[2] = {rope->section[0], rope->section[0] + rope->section[1]};
    int32_t p[8];
    bool is_in_table = true; /* asked once, so that the loads do not wait for each other */
#pragma unroll
    for (int j = 0; j < 8; j++) {
        p[j] = i + j < first[0] ? of_axis[0] : i + j < first[1] ? of_axis[1] : of_axis[2];
        is_in_table &= i + j >= half || (p[j] >= 0 && p[j] < rope->n_pos);
    }
    DEVICE_REQUIRE(is_in_table);
#pragma unroll
    for (int j = 0; j < 8; j++)
        angle[j] = i + j < half ? ((const float2 *)rope->table)[(size_t)p[j] * half + i + j]
                                : float2{0, 0};
}

/* Eight pairs of a head. */
template <class T> struct rope_pairs {
    struct eight<T> low, high;
};

template <class T>
__device__ __forceinline__ struct rope_pairs<T> load_pairs(const T *head, int i, int half) {
    return {load_eight(head + i, half - i), load_eight(head + half + i, half - i)};
}

template <class T>
__device__ __forceinline__ void store_pairs(T *head, const struct rope_pairs<T> &x, int i, int half)
{
    store_eight(head + i, x.low, half - i);
    store_eight(head + half + i, x.high, half - i);
}

template <class T>
__device__ __forceinline__ struct rope_pairs<T> rotate_pairs(const struct rope_pairs<T> &x,
                                                             const float2 (&angle)[8]) {
    float a[8], b[8], low[8], high[8];
    widen(a, x.low);
    widen(b, x.high);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float2 x = rotate_pair({a[j], b[j]}, angle[j]);
        low[j] = x.x;
        high[j] = x.y;
    }
    return {narrow<T>(low), narrow<T>(high)};
}

#endif
