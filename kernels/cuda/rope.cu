/* Rotary embedding, and for the language model new keys and values into the cache (ops.h).
 *
 *   grid  (max rows, eights of the row's heads / ROW_THREADS)
 *   block  ROW_THREADS, eight pairs of one head a thread
 *
 * Heads are those of q, k and v, of the tower q and k.  Bound by latency: a few rows of a few
 * kilobytes. */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/rope.cuh"

static dim3 rope_grid(int n_rows, int n_heads, int head_dim)
{
    return dim3(n_rows, ceil_div(n_heads * ceil_div(head_dim / 2, 8), ROW_THREADS));
}

/* This thread's head of a row, and the first of its pairs. */
__device__ __forceinline__ int rope_head(int half, int *pair)
{
    const int n_eights = (half + 7) / 8, i = blockIdx.y * ROW_THREADS + threadIdx.x;
    *pair = i % n_eights * 8;
    return i / n_eights;
}

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    rope_append_kernel(const __grid_constant__ struct rope_append_args a)
{
    grid_wait();
    const int r = blockIdx.x, head_dim = a.pool.head_dim, half = head_dim / 2;
    const int n_kv = a.pool.n_kv_heads, n_all = a.n_heads + 2 * n_kv;
    int pair;
    const int head = rope_head(half, &pair);
    if (head >= n_all || r >= n_rows(a.rows.n, a.rows.max)) return;
    const int slot = a.rows.slot[r], seat = a.rows.seat[r];
    T *x = (T *)a.qkv + ((size_t)r * n_all + head) * head_dim, *cache = NULL;
    const bool is_value = head >= a.n_heads + n_kv;
    float2 angle[8];
    if (!is_value) rope_angles(angle, &a.rope, a.rows.pos + 3 * (size_t)r, pair, half);
    struct rope_pairs<T> pairs = load_pairs(x, pair, half);
    if (head >= a.n_heads) { /* while angles and pairs are on their way */
        cache = (T *)(is_value ? a.pool.v : a.pool.k) +
                page_offset(&a.pool, a.layer, 0, (head - a.n_heads) % n_kv) +
                slot_offset(&a.pool, seat, slot);
    }
    if (!is_value) {
        pairs = rotate_pairs(pairs, angle);
        store_pairs(x, pairs, pair, half);
    }
    if (cache != NULL) store_pairs(cache, pairs, pair, half);
}

template <class T> void cuda_rope_append(struct stream *s, const struct rope_append_args *a)
{
    const struct kv_pool *pool = &a->pool;
    REQUIRE(a->layer >= 0 && a->layer < pool->n_layers);
    REQUIRE(pool->n_kv_heads > 0 && a->n_heads % pool->n_kv_heads == 0 && pool->head_dim % 8 == 0);
    REQUIRE(a->rope.section[0] + a->rope.section[1] <= pool->head_dim / 2);
    const dim3 grid = rope_grid(a->rows.max, a->n_heads + 2 * pool->n_kv_heads, pool->head_dim);
    launch(s, rope_append_kernel<T>, grid, ROW_THREADS, 0, *a);
}

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    vision_rope_kernel(const __grid_constant__ struct vision_rope_args a)
{
    grid_wait();
    const int r = blockIdx.x, half = a.head_dim / 2;
    int pair;
    const int head = rope_head(half, &pair);
    if (head >= 2 * a.n_heads) return;
    T *x = (T *)a.qkv + ((size_t)r * 3 * a.n_heads + head) * a.head_dim;
    float2 angle[8];
    rope_angles(angle, &a.rope, a.pos + 3 * (size_t)r, pair, half);
    store_pairs(x, rotate_pairs(load_pairs(x, pair, half), angle), pair, half);
}

template <class T> void cuda_vision_rope(struct stream *s, const struct vision_rope_args *a)
{
    REQUIRE(a->head_dim > 0 && a->head_dim % 2 == 0);
    const dim3 grid = rope_grid(a->n, 2 * a->n_heads, a->head_dim);
    launch(s, vision_rope_kernel<T>, grid, ROW_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_rope_append, rope_append_args)
FOR_BOTH_TYPES(cuda_vision_rope, vision_rope_args)
