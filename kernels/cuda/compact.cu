/* compact: keys and values of the accepted nodes move behind old_len, in place (ops.h).
 *
 *   grid  (eights of a sequence's columns / ROW_THREADS, max_seqs)
 *   block  ROW_THREADS, eight columns of one head's keys or values in one layer a thread
 *
 * A thread owns its columns of all slots, and moves them in the order of the path, a few slots at a
 * time: all loads, then all stores.  Nodes of a path increase and none is below its place, so no
 * slot is stored to before it is loaded.  Bound by latency: a few slots of a sequence. */
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/pages.cuh"

constexpr int COMPACT_MOVES = 4; /* at a time: as many as most paths have */

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    compact_kernel(const __grid_constant__ struct compact_args a)
{
    grid_wait();
    const struct kv_pool *pool = &a.pool;
    const int head_dim = pool->head_dim, n_eights = (head_dim + 7) / 8, seat = blockIdx.y;
    const int i = blockIdx.x * ROW_THREADS + threadIdx.x, column = i % n_eights * 8;
    const int head = i / n_eights % pool->n_kv_heads, matrix = i / n_eights / pool->n_kv_heads;
    const int32_t *path = a.tree.path + (size_t)seat * MAX_NODES;
    const int n_path = a.tree.n_path[seat], old_len = a.tree.old_len[seat];
    const int n = head_dim - column;
    if (matrix >= 2 * pool->n_layers) return;
    T *x = (T *)(matrix % 2 == 0 ? pool->k : pool->v) + page_offset(pool, matrix / 2, 0, head) +
           column;
    for (int first = 0; first < n_path; first += COMPACT_MOVES) {
        struct eight<T> moved[COMPACT_MOVES];
        int from[COMPACT_MOVES];
#pragma unroll
        for (int j = 0; j < COMPACT_MOVES; j++) {
            from[j] = first + j < n_path ? path[first + j] : first + j;
            if (from[j] != first + j)
                moved[j] = load_eight(x + slot_offset(pool, seat, old_len + from[j]), n);
        }
#pragma unroll
        for (int j = 0; j < COMPACT_MOVES; j++)
            if (from[j] != first + j)
                store_eight(x + slot_offset(pool, seat, old_len + first + j), moved[j], n);
    }
}

template <class T> void cuda_compact(struct stream *s, const struct compact_args *a)
{
    const struct kv_pool *pool = &a->pool;
    const int n_eights = 2 * pool->n_layers * pool->n_kv_heads * ceil_div(pool->head_dim, 8);
    const dim3 grid(ceil_div(n_eights, ROW_THREADS), a->max_seqs);
    launch(s, compact_kernel<T>, grid, ROW_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_compact, compact_args)
