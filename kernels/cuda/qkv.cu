/* q, k and v of the language model's rows (ops.h): gemm.cuh's sums, of which q and k are rotated
 * before they are rounded, and k and v go into the cache.
 *
 *   x  [n][n_in] T      q  [n][n_heads head_dim] T      bias  [(n_heads + 2 n_kv_heads) head_dim]
 *   pages of 64 slots: [n_layers][n_pages][n_kv_heads][64][head_dim] T */
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/rope.cuh"

/* A thread has one pair of a head, i and i + half, of R rows at once: numbers 0, 1, 8, 9, 16 .. of
 * those from its first on, of which there are n.  All loads of a kind come before the first
 * question about them, or each would wait for the one before. */
__device__ __forceinline__ int row_of(int r)
{
    return r / 2 * 8 + r % 2;
}

template <class T> struct store_qkv {
    T *q;
    const float *bias;
    struct rope rope;
    struct rows rows;
    struct kv_pool pool;
    int layer, n_heads;

    struct shared {};

    template <int R>
    __device__ __forceinline__ void find_angles(float2 (&angle)[R], int i, int row0, int n) const
    {
        const int behind = rope.section[0] + rope.section[1], axis = i < rope.section[0] ? 0
                                                                     : i < behind        ? 1
                                                                                         : 2;
        const int32_t *from = rows.pos + 3 * (size_t)row0 + axis;
        const float2 *table = (const float2 *)rope.table + i;
        int pos[R];
        bool is_in_table = true;
#pragma unroll
        for (int r = 0; r < R; r++) pos[r] = row_of(r) < n ? from[3 * row_of(r)] : 0;
#pragma unroll
        for (int r = 0; r < R; r++) is_in_table &= pos[r] >= 0 && pos[r] < rope.n_pos;
        DEVICE_REQUIRE(is_in_table);
#pragma unroll
        for (int r = 0; r < R; r++) angle[r] = table[(size_t)pos[r] * (pool.head_dim / 2)];
    }

    /* Heads from the layer's first to the rows' slots, of kv head 0. */
    template <int R>
    __device__ __forceinline__ void find_slots(int (&place)[R], int row0, int n) const
    {
        int slot[R], page[R];
        bool is_there = true;
#pragma unroll
        for (int r = 0; r < R; r++) {
            slot[r] = row_of(r) < n ? rows.slot[row0 + row_of(r)] : 0;
            page[r] = row_of(r) < n ? rows.seat[row0 + row_of(r)] * pool.max_pages : 0;
        }
#pragma unroll
        for (int r = 0; r < R; r++) is_there &= slot[r] >= 0 && slot[r] / PAGE_LEN < pool.max_pages;
        DEVICE_REQUIRE(is_there);
#pragma unroll
        for (int r = 0; r < R; r++)
            page[r] = row_of(r) < n ? pool.table[page[r] + slot[r] / PAGE_LEN] : 0;
#pragma unroll
        for (int r = 0; r < R; r++) is_there &= page[r] >= 0 && page[r] < pool.n_pages;
        DEVICE_REQUIRE(is_there);
#pragma unroll
        for (int r = 0; r < R; r++)
            place[r] = page[r] * pool.n_kv_heads * PAGE_LEN + slot[r] % PAGE_LEN;
    }

    /* Sums of pair i of a head. */
    template <int R>
    __device__ __forceinline__ void take_rows(const float2 (&sum)[R], int head, int i, int row0,
                                              int n) const
    {
        const int head_dim = pool.head_dim, n_kv = pool.n_kv_heads;
        const bool is_rotated = head < n_heads + n_kv;
        float2 angle[R]; /* v's are loaded, too, and not used: less code */
        int place[R];    /* in heads */
        T *to;
        if (head < n_heads) {
            to = q + ((size_t)row0 * n_heads + head) * head_dim;
#pragma unroll
            for (int r = 0; r < R; r++) place[r] = row_of(r) * n_heads;
        } else {
            to = (T *)(is_rotated ? pool.k : pool.v) +
                 page_offset(&pool, layer, 0, (head - n_heads) % n_kv);
            find_slots(place, row0, n);
        }
        find_angles(angle, i, row0, n);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float2 x = is_rotated ? rotate_pair(sum[r], angle[r]) : sum[r];
            T *at = to + (size_t)place[r] * head_dim + i;
            if (row_of(r) >= n) continue;
            from_float(at, x.x);
            from_float(at + head_dim / 2, x.y);
        }
    }

    template <int N>
    __device__ __forceinline__ void take(struct shared *, float (&sum)[N][4], int tile, int row0,
                                         int n_rows) const
    {
        constexpr int R = N; /* half of all, for registers */
        const int head_dim = pool.head_dim, pair = gemm_pair(tile), i = pair % (head_dim / 2),
                  head = pair / (head_dim / 2), first = gemm_row(0, 0);
        if (head >= n_heads + 2 * pool.n_kv_heads) return;
        float2 b = {};
        if (bias != NULL) b = {bias[head * head_dim + i], bias[head * head_dim + head_dim / 2 + i]};
#pragma unroll
        for (int j0 = 0; j0 < N; j0 += R / 2) {
            float2 x[R];
            if (8 * j0 >= n_rows) break;
#pragma unroll
            for (int r = 0; r < R; r++)
                x[r] = {sum[j0 + r / 2][r % 2] + b.x, sum[j0 + r / 2][r % 2 + 2] + b.y};
            take_rows(x, head, i, row0 + first + 8 * j0, n_rows - first - 8 * j0);
        }
    }
};

template <class T> void cuda_qkv(struct stream *s, const struct qkv_args *a)
{
    const struct kv_pool *pool = &a->pool;
    const struct packed *w = a->w;
    const int head_dim = pool->head_dim;
    REQUIRE(a->layer >= 0 && a->layer < pool->n_layers);
    REQUIRE(pool->n_kv_heads > 0 && a->n_heads % pool->n_kv_heads == 0 && head_dim % 8 == 0);
    REQUIRE(a->rope.section[0] + a->rope.section[1] <= head_dim / 2);
    REQUIRE(w->pair == head_dim / 2 && w->n_out == (a->n_heads + 2 * pool->n_kv_heads) * head_dim);
    const struct store_qkv<T> epilogue = {
        (T *)a->q, a->bias, a->rope, a->rows, a->pool, a->layer, a->n_heads
    };
    launch_gemm<T>(s, w, a->x, w->n_in, a->rows.n, a->rows.max, epilogue);
}

FOR_BOTH_TYPES(cuda_qkv, qkv_args)
