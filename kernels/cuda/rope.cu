/* Rotary embedding, and for the language model new keys and values into the cache (ops.h).
 *
 *   grid  (max rows, n_heads + 2 n_kv_heads), of the tower (n, 2 n_heads)
 *   block  64 threads, a pair of one head each
 *
 * Bound by latency: a few rows of a few kilobytes. */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/rope.cuh"

constexpr int ROPE_THREADS = 64;

template <class T>
static __global__ void rope_append_kernel(const __grid_constant__ struct rope_append_args a)
{
    grid_wait();
    const int r = blockIdx.x, head = blockIdx.y, head_dim = a.pool.head_dim, half = head_dim / 2;
    if (r >= n_rows(a.rows.n, a.rows.max)) return;
    const int n_kv = a.pool.n_kv_heads, kv_head = (head - a.n_heads) % n_kv;
    const bool is_value = head >= a.n_heads + n_kv;
    const size_t width = (size_t)(a.n_heads + 2 * n_kv) * head_dim;
    T *x = (T *)a.qkv + r * width + (size_t)head * head_dim, *to = NULL;
    if (head >= a.n_heads) {
        const int slot = a.rows.slot[r], page = page_of_slot(&a.pool, a.rows.seat[r], slot);
        to = (T *)(is_value ? a.pool.v : a.pool.k) + page_offset(&a.pool, a.layer, page, kv_head) +
             (size_t)(slot % PAGE_LEN) * head_dim;
    }
    for (int i = threadIdx.x; i < half; i += ROPE_THREADS) {
        if (is_value) {
            to[i] = x[i];
            to[i + half] = x[i + half];
        } else {
            rope_rotate(x, i, half, rope_angle(&a.rope, a.rows.pos + 3 * (size_t)r, i, half), to);
        }
    }
}

template <class T> void cuda_rope_append(struct stream *s, const struct rope_append_args *a)
{
    const struct kv_pool *pool = &a->pool;
    REQUIRE(a->layer >= 0 && a->layer < pool->n_layers);
    REQUIRE(pool->n_kv_heads > 0 && a->n_heads % pool->n_kv_heads == 0 && pool->head_dim % 8 == 0);
    REQUIRE(a->rope.section[0] + a->rope.section[1] <= pool->head_dim / 2);
    const dim3 grid(a->rows.max, a->n_heads + 2 * pool->n_kv_heads);
    launch(s, rope_append_kernel<T>, grid, ROPE_THREADS, 0, *a);
}

template <class T>
static __global__ void vision_rope_kernel(const __grid_constant__ struct vision_rope_args a)
{
    grid_wait();
    const int r = blockIdx.x, head = blockIdx.y, half = a.head_dim / 2; /* q heads, then k heads */
    const size_t width = (size_t)3 * a.n_heads * a.head_dim;
    T *x = (T *)a.qkv + r * width + (size_t)head * a.head_dim;
    for (int i = threadIdx.x; i < half; i += ROPE_THREADS)
        rope_rotate(x, i, half, rope_angle(&a.rope, a.pos + 3 * (size_t)r, i, half), (T *)NULL);
}

template <class T> void cuda_vision_rope(struct stream *s, const struct vision_rope_args *a)
{
    REQUIRE(a->head_dim > 0 && a->head_dim % 2 == 0);
    launch(s, vision_rope_kernel<T>, dim3(a->n, 2 * a->n_heads), ROPE_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_rope_append, rope_append_args)
FOR_BOTH_TYPES(cuda_vision_rope, vision_rope_args)
