/* Rotation of one row's pairs, and its key and value into the cache; rope_append and the draft's
 * attention.
 *
 *   (x[i], x[i + half])  ->  (x[i] cos - x[i + half] sin,  x[i + half] cos + x[i] sin) */
#ifndef KERNELS_CUDA_ROPE_CUH
#define KERNELS_CUDA_ROPE_CUH

#include "kernels/cuda/pages.cuh"

/* Cosine and sine of pair i of a row. */
__device__ __forceinline__ float2 rope_angle(const struct rope *rope, const int32_t *pos, int i,
                                             int half)
{
    const int axis = i < rope->section[0] ? 0 : i < rope->section[0] + rope->section[1] ? 1 : 2;
    DEVICE_REQUIRE(pos[axis] >= 0 && pos[axis] < rope->n_pos);
    return ((const float2 *)rope->table)[(size_t)pos[axis] * half + i];
}

/* Rotates pair i of a head in place; what it becomes also goes to `copy` where that is not NULL. */
template <class T>
__device__ __forceinline__ void rope_rotate(T *head, int i, int half, float2 angle, T *copy)
{
    const float a = to_float(head[i]), b = to_float(head[i + half]);
    from_float(&head[i], a * angle.x - b * angle.y);
    from_float(&head[i + half], b * angle.x + a * angle.y);
    if (copy == NULL) return;
    copy[i] = head[i];
    copy[i + half] = head[i + half];
}

#endif
