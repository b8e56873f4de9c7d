/* Rotary embedding of the vision tower (ops.h).
 *
 *   grid  (n, eights of the row's q and k heads / ROW_THREADS)
 *   block  ROW_THREADS, eight pairs of one head a thread
 *
 * Bound by memory. */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/rope.cuh"

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    vision_rope_kernel(const __grid_constant__ struct vision_rope_args a)
{
    grid_wait();
    const int r = blockIdx.x, half = a.head_dim / 2, n_eights = (half + 7) / 8;
    const int i = blockIdx.y * ROW_THREADS + threadIdx.x, head = i / n_eights,
              pair = i % n_eights * 8;
    if (head >= 2 * a.n_heads) return;
    T *x = (T *)a.qkv + ((size_t)r * 3 * a.n_heads + head) * a.head_dim;
    float2 angle[8];
    rope_angles(angle, &a.rope, a.pos + 3 * (size_t)r, pair, half);
    store_pairs(x, rotate_pairs(load_pairs(x, pair, half), angle), pair, half);
}

template <class T> void cuda_vision_rope(struct stream *s, const struct vision_rope_args *a)
{
    REQUIRE(a->head_dim > 0 && a->head_dim % 2 == 0);
    const int n_eights = 2 * a->n_heads * ceil_div(a->head_dim / 2, 8);
    const dim3 grid(a->n, ceil_div(n_eights, ROW_THREADS));
    launch(s, vision_rope_kernel<T>, grid, ROW_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_vision_rope, vision_rope_args)
