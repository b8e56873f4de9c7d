/* Attention over rows that lie side by side: inside segments (vision tower), and of learned queries
 * over a whole image (adaptor).  ops.h has the formulas.
 *
 *   vision   qkv [n][3 n_heads head_dim] T      out [n][n_heads head_dim] T
 *            grid (n / 64, n_heads), block 128 threads: 64 rows of one head, over the keys of all
 *            segments that they belong to; bound by the MMA
 *   pool     k, v [n][n_heads head_dim] T      query float      out [n_query][n_heads head_dim] T
 *            grid (n_query, n_heads), block 256 threads; once an image, in float, since its result
 *            is all that the draft learns of the image; bound by latency */
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ops.cuh"

/* ---- inside segments ---------------------------------------------------------------------------
 */

/* The segment that holds a row: first[segment] <= row < first[segment + 1]. */
__device__ __forceinline__ int segment_of(const int32_t *first, int n_segments, int row)
{
    int low = 0, behind = n_segments;
    while (behind - low > 1) {
        const int middle = (low + behind) / 2;
        if (first[middle] <= row)
            low = middle;
        else
            behind = middle;
    }
    return low;
}

/* The keys of attend_tiles: tile i is rows first + 64 i and on. */
template <class T> struct segment_keys {
    const T *k, *v; /* of row `first` */
    int stride;
    int n;              /* keys of all segments */
    int from[2], to[2]; /* what this thread's queries see of them */

    __device__ __forceinline__ uint64_t all(int tile) const
    {
        return bits_between(0, n - tile * ATTEND_KEYS);
    }
    __device__ __forceinline__ uint64_t seen(int tile, int row) const
    {
        return bits_between(from[row] - tile * ATTEND_KEYS, to[row] - tile * ATTEND_KEYS);
    }
    __device__ __forceinline__ int next(int tile) const
    {
        return tile;
    }
    __device__ __forceinline__ const T *key(int tile) const
    {
        return k + (size_t)tile * ATTEND_KEYS * stride;
    }
    __device__ __forceinline__ const T *value(int tile) const
    {
        return v + (size_t)tile * ATTEND_KEYS * stride;
    }
};

template <class T, int D>
static __global__ void __launch_bounds__(ATTEND_THREADS, 2)
    vision_attention_kernel(const __grid_constant__ struct vision_attention_args a)
{
    struct attend_shared<T, D> *shared = (struct attend_shared<T, D> *)shared_memory();
    const int row0 = blockIdx.x * ATTEND_ROWS, n_tile = min(ATTEND_ROWS, a.n - row0);
    const size_t width = (size_t)a.n_heads * a.head_dim, head = (size_t)blockIdx.y * a.head_dim;
    const T *qkv = (const T *)a.qkv + head;
    grid_wait();
    const int first = a.first[segment_of(a.first, a.n_segments, row0)];
    const int end = a.first[segment_of(a.first, a.n_segments, row0 + n_tile - 1) + 1];
    struct segment_keys<T> keys = {};
    keys.stride = (int)(3 * width);
    keys.k = qkv + width + (size_t)first * keys.stride;
    keys.v = keys.k + width;
    keys.n = end - first;
    for (int row = 0; row < 2; row++) {
        const int r = attend_seeing_row(row, n_tile);
        if (r >= n_tile) continue;
        const int segment = segment_of(a.first, a.n_segments, row0 + r);
        keys.from[row] = a.first[segment] - first;
        keys.to[row] = a.first[segment + 1] - first;
    }
    struct attend_state<D> state;
    attend_load<T, D>(shared->q, qkv + (size_t)row0 * keys.stride, keys.stride,
                      bits_between(0, n_tile), a.head_dim);
    const int n_tiles = (keys.n + ATTEND_KEYS - 1) / ATTEND_KEYS;
    const struct attend_run<T, D, struct segment_keys<T>> run = {
        keys, 0, n_tiles, a.head_dim
    };
    attend_alone(&state, shared, run);
    for (int row = 0; row < 2; row++)
        if (attend_row(row) < n_tile)
            attend_write<T, D>(&state, row, (T *)a.out + (row0 + attend_row(row)) * width + head,
                               a.head_dim);
}

template <class T, int D>
static void launch_vision_attention(struct stream *s, const struct vision_attention_args *a)
{
    const dim3 grid(ceil_div(a->n, ATTEND_ROWS), a->n_heads);
    launch(s, vision_attention_kernel<T, D>, grid, ATTEND_THREADS,
           sizeof(struct attend_shared<T, D>), *a);
}

template <class T>
void cuda_vision_attention(struct stream *s, const struct vision_attention_args *a)
{
    REQUIRE(a->n == 0 || a->n_segments > 0);
    ATTEND_FOR_HEAD_DIM(a->head_dim, launch_vision_attention, T, s, a);
}

/* ---- of learned queries ------------------------------------------------------------------------
 */

constexpr int POOL_HEADER = 64 * sizeof(float); /* shared memory in front of the weights */

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    pool_attention_kernel(const __grid_constant__ struct pool_attention_args a)
{
    float *scratch = (float *)shared_memory(), *weights = (float *)(shared_memory() + POOL_HEADER);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = ROW_THREADS / 32;
    const size_t width = (size_t)a.n_heads * a.head_dim, head = (size_t)blockIdx.y * a.head_dim;
    const float scale = 1 / sqrtf((float)a.head_dim);
    grid_wait();
    const float *query = a.query + blockIdx.x * width + head;
    float max = -INFINITY, sum = 0;
    for (int j = warp; j < a.n; j += n_warps) { /* a key a warp */
        const T *k = (const T *)a.k + j * width + head;
        float score = 0;
        for (int i = lane; i < a.head_dim; i += 32) score += query[i] * to_float(k[i]);
        score = warp_sum(score) * scale;
        if (lane == 0) weights[j] = score;
        max = fmaxf(max, score);
    }
    if (lane == 0) scratch[32 + warp] = max;
    __syncthreads();
    for (int i = 0; i < n_warps; i++) max = fmaxf(max, scratch[32 + i]);
    for (int j = threadIdx.x; j < a.n; j += ROW_THREADS) {
        weights[j] = expf(weights[j] - max);
        sum += weights[j];
    }
    sum = block_sum(sum, scratch); /* its barrier stands behind the weights */
    for (int i = threadIdx.x; i < a.head_dim; i += ROW_THREADS) {
        const T *v = (const T *)a.v + head + i;
        float o = 0;
        for (int j = 0; j < a.n; j++) o += weights[j] * to_float(v[j * width]);
        from_float((T *)a.out + blockIdx.x * width + head + i, o / sum);
    }
}

template <class T> void cuda_pool_attention(struct stream *s, const struct pool_attention_args *a)
{
    const size_t shared_bytes = POOL_HEADER + (size_t)a->n * sizeof(float);
    static_assert(POOL_HEADER + MAX_POOLED * sizeof(float) <= 160 << 10, "an A100 has that, too");
    REQUIRE(a->n > 0 && a->n <= MAX_POOLED && a->head_dim > 0);
    launch(s, pool_attention_kernel<T>, dim3(a->n_query, a->n_heads), ROW_THREADS, shared_bytes,
           *a);
}

FOR_BOTH_TYPES(cuda_vision_attention, vision_attention_args)
FOR_BOTH_TYPES(cuda_pool_attention, pool_attention_args)
