/* Attention over pages, for rows of any sequences: decode rows, prompt chunks and trees in one
 * launch (ops.h).
 *
 *   qkv  [n][(n_heads + 2 n_kv_heads) head_dim] T      out  [n][n_heads head_dim] T
 *   pages of 64 slots: [n_layers][n_pages][n_kv_heads][64][head_dim] T
 *
 * A tile is up to 64 queries: 64 / group rows that lie beside each other and belong to one
 * sequence, with the query heads that share a kv head; so a tree of a model without groups reads
 * its cache once.  The keys of a tile are cut into units of whole pages.  How many pages depends on
 * the sequence's own length only, so the bits of a row do not depend on other sequences.
 *
 *   grid  2 blocks an SM, each takes every gridDim-th (unit, kv head)      block  128 threads
 *
 * Tiles and units are found on the device, by the first warp of each block from the rows' seats and
 * lengths: the host knows neither.  A tile of one unit is written at once; else each unit leaves
 * its sums in the workspace, and whoever comes last adds them in order.
 *
 * Bound by memory for decoding and trees, by the MMA for long chunks of grouped heads. */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/pages.cuh"

constexpr int MIN_UNIT = 2;   /* pages: shorter units cost more in the merge than they gain */
constexpr int MAX_UNITS = 18; /* 16 by length, and what masks and the tile's last rows add */

struct attention_plan {
    struct page_tile queries; /* of the unit in work */
    int n_tiles, n_units;
    int is_last; /* this block merges */
};

/* Pages of a unit, for a tile whose first row has that prefix. */
__device__ __forceinline__ int unit_pages(int prefix)
{
    int pages = MIN_UNIT;
    while (pages * PAGE_LEN * 16 < prefix) pages *= 2;
    return pages;
}

__device__ __forceinline__ int tile_rows(const struct rows *rows, int r, int n, int rows_of_tile)
{
    int n_tile = 1;
    while (n_tile < rows_of_tile && r + n_tile < n && rows->seat[r + n_tile] == rows->seat[r])
        n_tile++;
    return n_tile;
}

__device__ __forceinline__ int tile_units(const struct rows *rows, int r, int n_tile)
{
    int end = 1;
    for (int i = r; i < r + n_tile; i++) end = max(end, row_end(rows, i));
    const int slots = unit_pages(rows->prefix[r]) * PAGE_LEN;
    return (end + slots - 1) / slots;
}

/* The first warp: row[i] of tile i's first row, first_unit[i] the units of the tiles before it. */
__device__ static void make_plan(struct attention_plan *plan, const struct rows *rows, int n,
                                 int rows_of_tile, int32_t *row, int32_t *first_unit)
{
    const int lane = threadIdx.x % 32;
    int n_tiles = 0, n_units = 0, run = 0; /* run: first row of the sequence so far */
    for (int base = 0; base < n; base += 32) {
        const int r = base + lane;
        const bool begins = r < n && (r == 0 || rows->seat[r] != rows->seat[r - 1]);
        const uint32_t runs = __ballot_sync(~0u, begins) & (~0u >> (31 - lane));
        const int run_of_row = runs != 0 ? base + 31 - __clz((int)runs) : run;
        const bool is_tile = r < n && (r - run_of_row) % rows_of_tile == 0;
        const uint32_t tiles = __ballot_sync(~0u, is_tile);
        int units = is_tile ? tile_units(rows, r, tile_rows(rows, r, n, rows_of_tile)) : 0;
        DEVICE_REQUIRE(units <= MAX_UNITS);
        int sum = units; /* over the lanes up to this one */
        for (int distance = 1; distance < 32; distance *= 2) {
            int below = __shfl_up_sync(~0u, sum, distance);
            if (lane >= distance) sum += below;
        }
        if (is_tile) {
            const int i = n_tiles + __popc(tiles & ((1u << lane) - 1));
            row[i] = r;
            first_unit[i] = n_units + sum - units;
        }
        n_tiles += __popc(tiles);
        n_units += __shfl_sync(~0u, sum, 31);
        run = __shfl_sync(~0u, run_of_row, 31);
    }
    if (lane == 0) {
        plan->n_tiles = n_tiles;
        plan->n_units = n_units;
        first_unit[n_tiles] = n_units;
    }
}

/* Place of a query's sums of one unit: D of o, then max and sum. */
template <int D>
__device__ __forceinline__ float *partial_of(float *workspace, const struct attention_args *a,
                                             int unit, int r, int head)
{
    return workspace + (((size_t)unit * a->rows.max + r) * a->n_heads + head) * (D + 2);
}

template <int D>
__device__ __forceinline__ void write_partial(const struct attend_state<D> *state, int row,
                                              float *to)
{
    const int t = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
        to[i * 8 + t] = state->o[i][2 * row];
        to[i * 8 + t + 1] = state->o[i][2 * row + 1];
    }
    if (t > 0) return;
    to[D] = state->max[row];
    to[D + 1] = state->sum[row];
}

/* out of a tile's queries from its units' sums, added in order. */
template <class T, int D>
__device__ static void merge_units(const struct attention_args *a, float *workspace,
                                   const struct page_tile *tile, int n_units, int kv_head)
{
    const int head_dim = a->pool.head_dim;
    for (int i = threadIdx.x; i < tile->n_rows * tile->group * head_dim; i += ATTEND_THREADS) {
        const int query = i / head_dim, column = i % head_dim;
        const int r = tile->row0 + query / tile->group;
        const int head = kv_head * tile->group + query % tile->group;
        float max = -INFINITY, sum = 0, o = 0;
        for (int unit = 0; unit < n_units; unit++)
            max = fmaxf(max, partial_of<D>(workspace, a, unit, r, head)[D]);
        for (int unit = 0; unit < n_units && max > -INFINITY; unit++) {
            const float *part = partial_of<D>(workspace, a, unit, r, head);
            const float weight = exp2_fast(part[D] - max);
            sum += weight * part[D + 1];
            o += weight * part[column];
        }
        from_float((T *)a->out + ((size_t)r * a->n_heads + head) * head_dim + column,
                   sum > 0 ? o / sum : sum);
    }
}

template <class T, int D>
__device__ static void attend_unit(const struct attention_args *a,
                                   struct attend_shared<T, D> *shared, const struct page_tile *tile,
                                   float *workspace, int unit, int n_units, int kv_head)
{
    const struct kv_pool *pool = &a->pool;
    const int head_dim = pool->head_dim, pages = unit_pages(a->rows.prefix[tile->row0]);
    const size_t width = (size_t)(a->n_heads + 2 * pool->n_kv_heads) * head_dim;
    const struct page_keys<T> keys = {
        tile, pool, (size_t)head_dim
    };
    struct attend_state<D> state;
    load_queries<T, D>(shared->q, tile, (const T *)a->qkv, width, kv_head, head_dim);
    attend_tiles<T, D>(&state, shared, keys, unit * pages, min((unit + 1) * pages, tile->n_pages),
                       head_dim);
    for (int row = 0; row < 2; row++) {
        const int query = attend_row(row), r = tile->row0 + query / tile->group;
        const int head = kv_head * tile->group + query % tile->group;
        if (query / tile->group >= tile->n_rows) continue;
        if (n_units == 1)
            attend_write<T, D>(&state, row,
                               (T *)a->out + ((size_t)r * a->n_heads + head) * head_dim, head_dim);
        else
            write_partial<D>(&state, row, partial_of<D>(workspace, a, unit, r, head));
    }
}

template <class T, int D>
static __global__ void __launch_bounds__(ATTEND_THREADS, 2)
    attention_kernel(const __grid_constant__ struct attention_args a, float *workspace,
                     int32_t *tickets)
{
    struct attend_shared<T, D> *shared = (struct attend_shared<T, D> *)shared_memory();
    struct attention_plan *plan = (struct attention_plan *)(shared + 1);
    int32_t *row = (int32_t *)(plan + 1), *first_unit = row + a.rows.max;
    const int n_kv = a.pool.n_kv_heads, group = a.n_heads / n_kv,
              rows_of_tile = ATTEND_ROWS / group;
    grid_wait();
    const int n = n_rows(a.rows.n, a.rows.max);
    if (threadIdx.x < 32) make_plan(plan, &a.rows, n, rows_of_tile, row, first_unit);
    __syncthreads();
    for (int work = blockIdx.x; work < plan->n_units * n_kv; work += gridDim.x) {
        const int kv_head = work % n_kv, unit = work / n_kv;
        int tile = 0, behind = plan->n_tiles; /* first_unit[tile] <= unit < first_unit[behind] */
        while (behind - tile > 1) {
            const int middle = (tile + behind) / 2;
            if (first_unit[middle] <= unit)
                tile = middle;
            else
                behind = middle;
        }
        const int n_units = first_unit[tile + 1] - first_unit[tile];
        if (threadIdx.x < 32)
            set_page_tile(&plan->queries, &a.rows, &a.pool, a.layer, kv_head, row[tile],
                          tile_rows(&a.rows, row[tile], n, rows_of_tile), group);
        __syncthreads();
        attend_unit<T, D>(&a, shared, &plan->queries, workspace, unit - first_unit[tile], n_units,
                          kv_head);
        if (n_units > 1 &&
            is_last_block(&tickets[(size_t)tile * n_kv + kv_head], n_units, &plan->is_last))
            merge_units<T, D>(&a, workspace, &plan->queries, n_units, kv_head);
        __syncthreads(); /* before the next unit comes into shared memory */
    }
}

template <class T, int D>
static void launch_attention(struct stream *s, const struct attention_args *a)
{
    const struct cuda_stream *stream = cuda_stream_of(s);
    const size_t shared_bytes = sizeof(struct attend_shared<T, D>) + sizeof(struct attention_plan) +
                                ((size_t)2 * a->rows.max + 1) * sizeof(int32_t);
    REQUIRE((size_t)MAX_UNITS * a->rows.max * a->n_heads * (D + 2) <= WORKSPACE_FLOATS);
    REQUIRE((size_t)a->rows.max * a->pool.n_kv_heads <= N_TICKETS);
    launch(s, attention_kernel<T, D>, 2 * stream->dev->n_sms, ATTEND_THREADS, shared_bytes, *a,
           stream->workspace, stream->tickets);
}

template <class T> void cuda_attention(struct stream *s, const struct attention_args *a)
{
    const struct kv_pool *pool = &a->pool;
    REQUIRE(a->layer >= 0 && a->layer < pool->n_layers);
    REQUIRE(pool->n_kv_heads > 0 && a->n_heads % pool->n_kv_heads == 0);
    REQUIRE(a->n_heads / pool->n_kv_heads <= ATTEND_ROWS);
    ATTEND_FOR_HEAD_DIM(pool->head_dim, launch_attention, T, s, a);
}

FOR_BOTH_TYPES(cuda_attention, attention_args)
