/* compact: keys and values of the accepted nodes move behind old_len, in place (ops.h).
 *
 *   grid  (max_seqs, n_layers * n_kv_heads * 2)      block  64 threads, a column of the head each
 *
 * A thread owns its columns of all slots, and moves them in the order of the path: a node's index
 * is never below its place, so nothing is overwritten before it is read.  Bound by latency: a few
 * slots of a sequence. */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/pages.cuh"

constexpr int COMPACT_THREADS = 64;

template <class T>
static __global__ void compact_kernel(const __grid_constant__ struct compact_args a)
{
    grid_wait();
    const struct kv_pool *pool = &a.pool;
    const int seat = blockIdx.x, layer = blockIdx.y / 2 / pool->n_kv_heads;
    const int head = blockIdx.y / 2 % pool->n_kv_heads, head_dim = pool->head_dim;
    const int32_t *path = a.tree.path + (size_t)seat * MAX_NODES;
    const int n_path = a.tree.n_path[seat], old_len = a.tree.old_len[seat];
    T *x = (T *)(blockIdx.y % 2 == 0 ? pool->k : pool->v);
    for (int j = 0; j < n_path; j++) {
        if (path[j] == j) continue;
        const int from = old_len + path[j], to = old_len + j;
        const T *src = x + page_offset(pool, layer, page_of_slot(pool, seat, from), head) +
                       (size_t)(from % PAGE_LEN) * head_dim;
        T *dst = x + page_offset(pool, layer, page_of_slot(pool, seat, to), head) +
                 (size_t)(to % PAGE_LEN) * head_dim;
        for (int i = threadIdx.x; i < head_dim; i += COMPACT_THREADS) dst[i] = src[i];
    }
}

template <class T> void cuda_compact(struct stream *s, const struct compact_args *a)
{
    const dim3 grid(a->max_seqs, a->pool.n_layers * a->pool.n_kv_heads * 2);
    launch(s, compact_kernel<T>, grid, COMPACT_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_compact, compact_args)
