/* Softmax attention of a tile of queries over tiles of keys: the inner part of all attentions but
 * the adaptor's.
 *
 *   o[i] = sum_j p_ij v_j / sum_j p_ij,   p_ij = 2^(s_ij - max_i),   s = q k^T log2(e) /
 * sqrt(head_dim)
 *
 * A block of 4 warps takes ROWS queries and key tiles of ATTEND_KEYS one after the other; while it
 * computes on one tile the next one's keys and values are copied into the other half of a ring: the
 * next of the same queries, or the first of those that the block takes behind them.  Of 64 queries
 * each warp has 16, and all keys of a tile.  Of 16 queries each warp has all, and 16 keys of a
 * tile; what the warps sum is added at the end (attend_merge).
 *
 * Each query has a word of 64 bits for a tile: the keys that it sees.  Keys that no query of the
 * block sees are not read: their places are filled with zeros, since what lies there may be NaN,
 * and NaN times 0 is not 0.  A warp whose queries see none of its keys does not compute.
 *
 *   shared   q [ROWS][D], k [2][64][D], v [2][64][D] of T, rows cut into chunks of 16 bytes, which
 *            are swizzled so that ldmatrix has no bank conflicts
 *
 * D is head_dim rounded up to 32, 64 or 128; the columns behind head_dim are zeros. */
#ifndef KERNELS_CUDA_ATTEND_CUH
#define KERNELS_CUDA_ATTEND_CUH

#include "kernels/cuda/load.cuh"

constexpr int ATTEND_ROWS = 64, ATTEND_KEYS = 64, ATTEND_THREADS = 128;

template <class T, int D> struct attend_ring {
    T k[2][ATTEND_KEYS * D], v[2][ATTEND_KEYS * D];
};
template <class T, int D, int ROWS = ATTEND_ROWS> struct attend_shared {
    T q[ROWS * D];
    struct attend_ring<T, D> ring;
};

/* A warp's first row of the block's, and its first key of a tile, of which it has ROWS. */
template <int ROWS> __device__ __forceinline__ int attend_first_row(void)
{
    return (int)threadIdx.x / 32 % (ROWS / 16) * 16;
}
template <int ROWS> __device__ __forceinline__ int attend_first_key(void)
{
    return (int)threadIdx.x / 32 / (ROWS / 16) * ROWS;
}

/* What a thread holds of its warp's 16 queries: with g = lane / 4 and t = 2 (lane % 4), rows g and
 * g + 8 (index 0 and 1), columns 8 i + t and + 1 of each group i of eight. */
template <int D> struct attend_state {
    float o[D / 8][4]; /* row g, row g, row g + 8, row g + 8 */
    float max[2];      /* largest score so far, in units of log2 */
    float sum[2];      /* of this thread's own columns, until attend_tiles ends */
};

/* The chunk of eight values c of row r. */
template <class T, int D> __device__ __forceinline__ T *attend_chunk(T *tile, int r, int c)
{
    const int swizzled = D == 32 ? c ^ (r / 2 % 4) : c ^ (r % 8);
    return tile + r * D + swizzled * 8;
}

/* Begins to copy a tile: row r from `from` + r * stride where bit r of `rows` is set.  Not
 * unrolled: nothing waits for a copy here, and registers are scarce. */
template <class T, int D, int ROWS = ATTEND_KEYS>
__device__ __forceinline__ void attend_load(T *tile, const T *from, int stride, uint64_t rows,
                                            int head_dim)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * (D / 8); i += ATTEND_THREADS) {
        const int r = i / (D / 8), c = i % (D / 8);
        const bool is_read = (rows >> r & 1) != 0 && c * 8 < head_dim;
        copy_async(attend_chunk<T, D>(tile, r, c), is_read ? from + r * stride + c * 8 : from,
                   is_read ? 16 : 0);
    }
}

template <class T> __device__ __forceinline__ uint32_t pack_pair(float low, float high)
{
    T a, b;
    from_float(&a, low);
    from_float(&b, high);
    return a.bits | (uint32_t)b.bits << 16;
}

template <int D> __device__ __forceinline__ void attend_begin(struct attend_state<D> *a)
{
    for (int i = 0; i < D / 8; i++)
        for (int j = 0; j < 4; j++) a->o[i][j] = 0;
    for (int row = 0; row < 2; row++) {
        a->max[row] = -INFINITY;
        a->sum[row] = 0;
    }
}

/* Scores of this warp's queries with its keys: s[n][j] as o, columns 8 n + t.  The queries are read
 * again for each tile: in registers they would be the ones that spill. */
template <class T, int D, int ROWS>
__device__ __forceinline__ void attend_scores(float (&s)[ROWS / 8][4], T *q, T *k)
{
    const int lane = threadIdx.x % 32, row = attend_first_row<ROWS>() + lane % 16;
    const int key = attend_first_key<ROWS>() + lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) s[n][j] = 0;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        uint32_t a[4];
        load_matrices(a, attend_chunk<T, D>(q, row, 2 * i + lane / 16));
#pragma unroll
        for (int n = 0; n < ROWS / 8; n += 2) {
            uint32_t b[4]; /* keys 8 n .. 8 n + 15: two groups of eight, two halves of 16 columns */
            load_matrices(b, attend_chunk<T, D>(k, n * 8 + key, 2 * i + lane / 8 % 2));
            multiply_add(s[n], a, b[0], b[1], T());
            multiply_add(s[n + 1], a, b[2], b[3], T());
        }
    }
}

/* Turns scores into weights and scales what was summed before to the new largest score.  `visible`
 * has a bit for each of the warp's keys, whose first is bit 0; SEES_ALL says that all are set. */
template <bool SEES_ALL, int D, int N>
__device__ __forceinline__ void attend_softmax(struct attend_state<D> *a, float (&s)[N][4],
                                               const uint64_t (&visible)[2], float scale)
{
    const int t = 2 * (threadIdx.x % 4);
    const uint64_t bits[2] = {visible[0] >> t, visible[1] >> t};
    float max[2] = {a->max[0], a->max[1]}, base[2];
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const bool is_seen = SEES_ALL || (bits[j / 2] >> (8 * n + j % 2) & 1) != 0;
            s[n][j] = is_seen ? s[n][j] * scale : -INFINITY;
            max[j / 2] = fmaxf(max[j / 2], s[n][j]);
        }
#pragma unroll
    for (int row = 0; row < 2; row++) {
        max[row] = fmaxf(max[row], __shfl_xor_sync(~0u, max[row], 1));
        max[row] = fmaxf(max[row], __shfl_xor_sync(~0u, max[row], 2));
        base[row] = max[row] == -INFINITY ? 0 : max[row]; /* a row that sees nothing yet */
        const float shrink = exp2_fast(a->max[row] - base[row]);
        a->max[row] = max[row];
        a->sum[row] *= shrink;
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            a->o[i][2 * row] *= shrink;
            a->o[i][2 * row + 1] *= shrink;
        }
    }
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            s[n][j] = exp2_fast(s[n][j] - base[j / 2]);
            a->sum[j / 2] += s[n][j];
        }
}

template <class T, int D, int ROWS>
__device__ __forceinline__ void attend_values(struct attend_state<D> *a,
                                              const float (&p)[ROWS / 8][4], T *v)
{
    const int lane = threadIdx.x % 32, key = attend_first_key<ROWS>() + lane % 16;
#pragma unroll
    for (int i = 0; i < ROWS / 16; i++) {
        const uint32_t weights[4] = {pack_pair<T>(p[2 * i][0], p[2 * i][1]),
                                     pack_pair<T>(p[2 * i][2], p[2 * i][3]),
                                     pack_pair<T>(p[2 * i + 1][0], p[2 * i + 1][1]),
                                     pack_pair<T>(p[2 * i + 1][2], p[2 * i + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            load_matrices_transposed(b, attend_chunk<T, D>(v, i * 16 + key, n + lane / 16));
            multiply_add(a->o[n], weights, b[0], b[1], T());
            multiply_add(a->o[n + 1], weights, b[2], b[3], T());
        }
    }
}

/* A run of key tiles `first` .. end - 1 that the same queries attend to.  Keys says what a tile is:
 *
 *   int next(int tile)                   the first tile from there on that has keys, or any >= end
 *   uint64_t all(int tile)               keys that any query of the block sees
 *   uint64_t seen(int tile, int row)     keys that query 0 or 1 of this thread sees
 *   const T *key(int tile), *value(int tile)      where key 0 and its value lie, and
 *   int stride                                    the distance of two keys
 */
template <class T, int D, class Keys> struct attend_run {
    Keys keys;
    int first, end, head_dim;

    __device__ __forceinline__ void copy_keys(T *to, int tile) const
    {
        if (tile < end)
            attend_load<T, D>(to, keys.key(tile), keys.stride, keys.all(tile), head_dim);
    }
    __device__ __forceinline__ void copy_values(T *to, int tile) const
    {
        if (tile < end)
            attend_load<T, D>(to, keys.value(tile), keys.stride, keys.all(tile), head_dim);
    }
};

/* What follows the last run of a block. */
template <class T> struct attend_nothing {
    __device__ __forceinline__ void begin_keys(T *) const
    {
    }
    __device__ __forceinline__ void begin_values(T *) const
    {
    }
};

/* Attends over a run that has tiles.  The last two groups of copies on their way bring the queries
 * with the first tile's keys, and its values, to half `half` of the ring.  Leaves the same of what
 * comes behind: begin_keys(k) and begin_values(v) begin its copies, after all threads have passed a
 * barrier.  The caller passes a barrier before it overwrites q. */
template <class T, int D, int ROWS, class Keys, class Behind>
__device__ __forceinline__ void
attend_tiles(struct attend_state<D> *a, T *q, struct attend_ring<T, D> *ring, int *half,
             const struct attend_run<T, D, Keys> &run, const Behind &behind)
{
    const uint64_t all_of_warp = ~0ull >> (64 - ROWS);
    const float scale = 1.44269504f / sqrtf((float)run.head_dim);
    attend_begin(a);
    for (int tile = run.keys.next(run.first), next; tile < run.end; tile = next) {
        next = run.keys.next(tile + 1);
        copy_wait<1>(); /* keys are here, values may be on their way */
        __syncthreads();
        if (next < run.end)
            run.copy_keys(ring->k[*half ^ 1], next);
        else
            behind.begin_keys(ring->k[*half ^ 1]);
        copy_commit();
        float s[ROWS / 8][4];
        uint64_t visible[2];
        for (int row = 0; row < 2; row++)
            visible[row] = run.keys.seen(tile, row) >> attend_first_key<ROWS>() & all_of_warp;
        const bool sees_any = __ballot_sync(~0u, (visible[0] | visible[1]) != 0) != 0;
        const bool is_full = (visible[0] & visible[1]) == all_of_warp;
        if (sees_any) {
            attend_scores<T, D, ROWS>(s, q, ring->k[*half]);
            if (__ballot_sync(~0u, is_full) == ~0u)
                attend_softmax<true>(a, s, visible, scale);
            else
                attend_softmax<false>(a, s, visible, scale);
        }
        copy_wait<1>();
        __syncthreads(); /* values are here, and nobody reads the other half any more */
        if (next < run.end)
            run.copy_values(ring->v[*half ^ 1], next);
        else
            behind.begin_values(ring->v[*half ^ 1]);
        copy_commit();
        if (sees_any) attend_values<T, D, ROWS>(a, s, ring->v[*half]);
        *half ^= 1;
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
        a->sum[row] += __shfl_xor_sync(~0u, a->sum[row], 1);
        a->sum[row] += __shfl_xor_sync(~0u, a->sum[row], 2);
    }
}

/* The same for a run that may be empty and has nothing behind it; its queries are on their way to
 * shared->q, not committed.  The caller passes a barrier before it uses shared memory again. */
template <class T, int D, int ROWS, class Keys>
__device__ __forceinline__ void attend_alone(struct attend_state<D> *a,
                                             struct attend_shared<T, D, ROWS> *shared,
                                             const struct attend_run<T, D, Keys> &run)
{
    const int first = run.keys.next(run.first);
    int half = 0;
    run.copy_keys(shared->ring.k[0], first);
    copy_commit();
    run.copy_values(shared->ring.v[0], first);
    copy_commit();
    attend_tiles<T, D, ROWS>(a, shared->q, &shared->ring, &half, run, attend_nothing<T>());
    copy_wait<0>();
}

/* The row of the block's that is row 0 or 1 of this thread. */
template <int ROWS = ATTEND_ROWS> __device__ __forceinline__ int attend_row(int row)
{
    return attend_first_row<ROWS>() + (int)threadIdx.x % 32 / 4 + row * 8;
}

/* The row that row 0 or 1 of this thread takes its visible keys from, where the block has n: those
 * behind the last see what it sees, so that a warp sees all of a tile wherever its real rows do. In
 * a warp that has none it is a row behind the last, which sees nothing. */
template <int ROWS = ATTEND_ROWS> __device__ __forceinline__ int attend_seeing_row(int row, int n)
{
    return min(attend_row<ROWS>(row), max(n - 1, attend_first_row<ROWS>()));
}

/* Writes row 0 or 1 of this thread, divided by its sum, to out[head_dim]; zeros if there was no
 * key. */
template <class T, int D>
__device__ __forceinline__ void attend_write(const struct attend_state<D> *a, int row, T *out,
                                             int head_dim)
{
    const int t = 2 * (threadIdx.x % 4);
    const float scale = a->sum[row] > 0 ? 1 / a->sum[row] : a->sum[row]; /* NaN stays NaN */
#pragma unroll
    for (int i = 0; i < D / 8; i++)
        if (i * 8 < head_dim)
            *(uint32_t *)(out + i * 8 + t) =
                pack_pair<T>(a->o[i][2 * row] * scale, a->o[i][2 * row + 1] * scale);
}

/* What the warps have summed for the same 16 rows.  The eight columns more keep a warp's stores
 * from meeting in a bank. */
template <int D> struct attend_parts {
    float o[4][16][D + 8], max[4][16], sum[4][16];
};

/* Adds the warps' sums of 16 rows in order and writes n_rows of them as attend_write does, row r to
 * out + r * stride. */
template <class T, int D>
__device__ __forceinline__ void attend_merge(const struct attend_state<D> *a,
                                             struct attend_shared<T, D, 16> *shared, T *out,
                                             size_t stride, int n_rows, int head_dim)
{
    struct attend_parts<D> *parts = (struct attend_parts<D> *)&shared->ring;
    static_assert(sizeof(*parts) <= sizeof(shared->ring), "lies over the ring");
    const int warp = threadIdx.x / 32, t = 2 * (threadIdx.x % 4);
    __syncthreads(); /* nobody reads keys and values any more */
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const int r = attend_row<16>(row);
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            *(float2 *)&parts->o[warp][r][8 * i + t] =
                float2{a->o[i][2 * row], a->o[i][2 * row + 1]};
        if (t > 0) continue;
        parts->max[warp][r] = a->max[row];
        parts->sum[warp][r] = a->sum[row];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_rows * head_dim / 8; i += ATTEND_THREADS) {
        const int r = i / (head_dim / 8), column = i % (head_dim / 8) * 8;
        float x[8] = {}, max = -INFINITY, sum = 0;
#pragma unroll
        for (int w = 0; w < 4; w++) max = fmaxf(max, parts->max[w][r]);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const float weight = max > -INFINITY ? exp2_fast(parts->max[w][r] - max) : 0;
            sum += weight * parts->sum[w][r];
            for (int j = 0; j < 8; j++) x[j] += weight * parts->o[w][r][column + j];
        }
        const float scale = sum > 0 ? 1 / sum : sum; /* NaN stays NaN */
        for (int j = 0; j < 8; j++) x[j] *= scale;
        store_eight(out + r * stride + column, narrow<T>(x), 8);
    }
}

/* The words of 64 bits with bits first .. end - 1 set, where both may lie outside of 0 .. 64. */
__device__ __forceinline__ uint64_t bits_between(int first, int end)
{
    const uint64_t below_end = end >= 64 ? ~0ull : end > 0 ? (1ull << end) - 1 : 0;
    const uint64_t below_first = first >= 64 ? ~0ull : first > 0 ? (1ull << first) - 1 : 0;
    return below_end & ~below_first;
}

/* OR over the lanes of a warp. */
__device__ __forceinline__ uint64_t warp_or(uint64_t x)
{
    for (int distance = 16; distance > 0; distance /= 2) x |= __shfl_xor_sync(~0u, x, distance);
    return x;
}

/* Calls function<T, D>(args) with the D for a head_dim. */
#define ATTEND_FOR_HEAD_DIM(head_dim, function, T, ...)                                            \
    do {                                                                                           \
        REQUIRE((head_dim) > 0 && (head_dim) % HEAD_STEP == 0 && (head_dim) <= MAX_HEAD_DIM);      \
        if ((head_dim) <= 32)                                                                      \
            function<T, 32>(__VA_ARGS__);                                                          \
        else if ((head_dim) <= 64)                                                                 \
            function<T, 64>(__VA_ARGS__);                                                          \
        else                                                                                       \
            function<T, 128>(__VA_ARGS__);                                                         \
    } while (0)

#endif
