/* Attention over pages, for rows of any sequences: decode rows, prompt chunks and trees in one
 * launch (ops.h).
 *
 *   q, out  [n][n_heads head_dim] T
 *   pages of 64 slots: [n_layers][n_pages][n_kv_heads][64][head_dim] T
 *
 *   tile   up to 64 queries: 64 / group rows that lie beside each other and belong to one sequence,
 *          with the query heads that share a kv head; so a tree of a model without groups reads its
 *          cache once
 *   unit   a run of pages of one tile, for one kv head; how many pages depends on the sequence's
 *          own length only, so the bits of a row do not depend on other sequences
 *
 *   attention_plan   1 block: the units of all rows, once for all layers
 *   attention        2 blocks an SM, each takes every gridDim-th unit of a head
 *   merge            a warp a row and head: adds the sums of its units in order, where there are
 *                    several
 *
 * Bound by memory for decoding and trees, by the MMA for long chunks of grouped heads. */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/pages.cuh"

static_assert(MAX_HEAD_GROUP <= ATTEND_ROWS, "a tile has all heads that share a kv head");
static_assert(MAX_HEAD_DIM <= 128, "the widest template, whose partial sums are counted below");

constexpr int MIN_PAGES = 2;  /* of a unit: shorter ones cost more in the merge than they gain */
constexpr int MAX_UNITS = 32; /* of a tile: a lane each in merge */
constexpr int PLAN_THREADS = 512, MERGE_THREADS = 256;

struct attention_plan {
    int32_t n_units;
    int32_t row_units[PLAN_ROWS], row_partial[PLAN_ROWS]; /* units, and slot of the first one's */
    int32_t row_stride[PLAN_ROWS];                        /* slots from one unit to the next */
    struct page_unit units[PLAN_ROWS * MAX_UNITS];
};
static_assert(sizeof(struct attention_plan) <= PLAN_BYTES, "a plan fits its place");

/* Units that fill the GPU, of a long sequence; a constant of the model. */
__host__ __device__ __forceinline__ int wanted_units(int n_kv_heads)
{
    return min(max(256 / n_kv_heads, 4), MAX_UNITS - 4);
}

/* Pages of a unit, for a tile whose first row has that prefix: such that the tree behind it does
 * not begin another unit, and in steps of an eighth or less, so that a sequence that grows seldom
 * comes to another cut. */
__device__ __forceinline__ int unit_pages(int prefix, int n_kv_heads)
{
    const int n_pages = prefix / PAGE_LEN + 2, wanted = wanted_units(n_kv_heads);
    const int pages = max(MIN_PAGES, (n_pages + wanted - 1) / wanted);
    const int shift = max(0, 28 - __clz(pages)); /* keeps four bits */
    return (pages + (1 << shift) - 1) >> shift << shift;
}

/* Inclusive sum or maximum over the threads of the block up to this one.  `scratch` is a word for
 * each warp; a barrier lies between two calls. */
template <class F> __device__ __forceinline__ int block_scan(int x, int *scratch, F join)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int distance = 1; distance < 32; distance *= 2) {
        const int below = __shfl_up_sync(~0u, x, distance);
        if (lane >= distance) x = join(x, below);
    }
    if (lane == 31) scratch[warp] = x;
    __syncthreads();
    for (int i = 0; i < warp; i++) x = join(x, scratch[i]);
    return x;
}

struct add_ints {
    __device__ int operator()(int a, int b) const
    {
        return a + b;
    }
};
struct max_ints {
    __device__ int operator()(int a, int b) const
    {
        return a > b ? a : b;
    }
};

struct plan_shared {
    int scratch[3][PLAN_THREADS / 32];
    int run, n_units, n_partials; /* of the rows so far: first row of the last sequence, sums */
};

struct tile_plan {
    struct page_unit first; /* unit; the others differ in their pages and partial */
    int n_units, n_pages;   /* of the tile */
};

__device__ static struct tile_plan plan_tile(const struct plan_args *a, int row0, int n)
{
    const struct rows *rows = &a->rows;
    const int rows_of_tile = ATTEND_ROWS / (a->n_heads / a->n_kv_heads);
    struct tile_plan t = {};
    t.first.row0 = row0;
    t.first.seat = rows->seat[row0];
    t.first.min_prefix = rows->prefix[row0];
    t.first.n_pages = unit_pages(rows->prefix[row0], a->n_kv_heads);
    int r = row0, end = 1;
    for (; r < min(row0 + rows_of_tile, n) && rows->seat[r] == t.first.seat; r++) {
        t.first.min_prefix = min(t.first.min_prefix, rows->prefix[r]);
        end = max(end, row_end(rows, r));
    }
    t.first.n_rows = r - row0;
    t.n_pages = (end + PAGE_LEN - 1) / PAGE_LEN;
    t.n_units = (t.n_pages + t.first.n_pages - 1) / t.first.n_pages;
    DEVICE_REQUIRE(t.n_units <= MAX_UNITS);
    return t;
}

/* Writes the tile's units from number unit0 on; their sums lie in the slots from partial0 on. */
__device__ static void write_tile(struct attention_plan *plan, const struct tile_plan *t, int unit0,
                                  int partial0)
{
    const int n_rows = t->first.n_rows, pages = t->first.n_pages;
    for (int i = 0; i < t->n_units; i++) {
        struct page_unit unit = t->first;
        unit.first_page = i * pages;
        unit.n_pages = min(pages, t->n_pages - i * pages);
        unit.partial = t->n_units > 1 ? partial0 + i * n_rows : -1;
        plan->units[unit0 + i] = unit;
    }
    for (int i = 0; i < n_rows; i++) {
        plan->row_units[t->first.row0 + i] = t->n_units;
        plan->row_partial[t->first.row0 + i] = partial0 + i;
        plan->row_stride[t->first.row0 + i] = n_rows;
    }
}

static __global__ void __launch_bounds__(PLAN_THREADS)
    plan_kernel(const __grid_constant__ struct plan_args a, struct attention_plan *plan,
                int max_partials)
{
    struct plan_shared *shared = (struct plan_shared *)shared_memory();
    const int rows_of_tile = ATTEND_ROWS / (a.n_heads / a.n_kv_heads);
    grid_wait();
    const int n = n_rows(a.rows.n, a.rows.max);
    if (threadIdx.x == 0) shared->run = shared->n_units = shared->n_partials = 0;
    __syncthreads();
    for (int base = 0; base < n; base += PLAN_THREADS) {
        const int r = base + threadIdx.x;
        const bool begins = r < n && (r == 0 || a.rows.seat[r] != a.rows.seat[r - 1]);
        const int run =
            max(shared->run, block_scan(begins ? r : 0, shared->scratch[0], max_ints()));
        const bool is_tile = r < n && (r - run) % rows_of_tile == 0;
        struct tile_plan tile = {};
        if (is_tile) tile = plan_tile(&a, r, n);
        const int n_units = tile.n_units,
                  n_partials = n_units > 1 ? n_units * tile.first.n_rows : 0;
        const int unit0 =
            shared->n_units + block_scan(n_units, shared->scratch[1], add_ints()) - n_units;
        const int partial0 = shared->n_partials +
                             block_scan(n_partials, shared->scratch[2], add_ints()) - n_partials;
        DEVICE_REQUIRE(partial0 + n_partials <= max_partials);
        write_tile(plan, &tile, unit0, partial0);
        __syncthreads();
        if (threadIdx.x == PLAN_THREADS - 1) {
            shared->run = run;
            shared->n_units = unit0 + n_units;
            shared->n_partials = partial0 + n_partials;
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) plan->n_units = shared->n_units;
}

/* Slots for partial sums; each holds, for all heads, [D] of o, and behind all of these max and sum.
 */
template <int D> __host__ __device__ __forceinline__ int n_partials(int n_heads)
{
    return PARTIAL_FLOATS / (n_heads * (D + 2));
}
template <int D>
__device__ __forceinline__ float *partial_o(float *partials, int slot, int head, int n_heads)
{
    return partials + ((size_t)slot * n_heads + head) * D;
}
template <int D>
__device__ __forceinline__ float2 *partial_sum(float *partials, int slot, int head, int n_heads)
{
    float *behind = partials + (size_t)n_partials<D>(n_heads) * n_heads * D;
    return (float2 *)behind + (size_t)slot * n_heads + head;
}

template <int D>
__device__ __forceinline__ void write_partial(const struct attend_state<D> *state, int row,
                                              float *o, float2 *sum)
{
    const int t = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < D / 8; i++)
        *(float2 *)(o + i * 8 + t) = float2{state->o[i][2 * row], state->o[i][2 * row + 1]};
    if (t == 0) *sum = {state->max[row], state->sum[row]};
}

/* A unit that a block has: its queries, and what is known of it. */
template <class T, int D> struct alignas(128) unit_shared {
    T q[ATTEND_ROWS * D];
    struct page_tile tile;
};

/* The one that it computes, and the one behind that. */
template <class T, int D> struct attention_shared {
    struct attend_ring<T, D> ring;
    struct unit_shared<T, D> unit[2];
};

/* What attend_tiles takes of it. */
template <class T, int D>
__device__ __forceinline__ struct attend_run<T, D, struct page_keys<T>>
run_of(const struct unit_shared<T, D> *unit, const struct attention_args *a) {
    const int head_dim = a->pool.head_dim, first = unit->tile.unit.first_page;
    const struct page_keys<T> keys = {
        &unit->tile, &a->pool, head_dim
    };
    return {keys, first, first + unit->tile.unit.n_pages, head_dim};
}

/* A unit that comes behind another; NULL is none. */
template <class T, int D>
struct unit_behind {
    struct unit_shared<T, D> *unit;
    const struct attention_args *a;

    __device__ __forceinline__ void begin_keys(T *k) const
    {
        if (unit == NULL) return;
        load_queries<T, D>(unit->q, &unit->tile, (const T *)a->q, a->n_heads, a->pool.head_dim);
        run_of(unit, a).copy_keys(k, unit->tile.unit.first_page);
    }
    __device__ __forceinline__ void begin_values(T *v) const
    {
        if (unit != NULL) run_of(unit, a).copy_values(v, unit->tile.unit.first_page);
    }
};

/* Writes what a unit's rows have summed: the result, or a part of it. */
template <class T, int D>
__device__ __forceinline__ void write_unit(const struct attend_state<D> *state,
                                           const struct page_tile *tile,
                                           const struct attention_args *a, float *partials)
{
    const int head_dim = a->pool.head_dim, group = tile->group, partial = tile->unit.partial;
    for (int row = 0; row < 2; row++) {
        const int query = attend_row(row), i = query / group;
        const int head = tile->kv_head * group + query % group;
        if (i >= tile->unit.n_rows) continue;
        T *out = (T *)a->out + ((size_t)(tile->unit.row0 + i) * a->n_heads + head) * head_dim;
        if (partial < 0)
            attend_write<T, D>(state, row, out, head_dim);
        else
            write_partial<D>(state, row, partial_o<D>(partials, partial + i, head, a->n_heads),
                             partial_sum<D>(partials, partial + i, head, a->n_heads));
    }
}

template <class T, int D>
static __global__ void __launch_bounds__(ATTEND_THREADS, 2)
    attention_kernel(const __grid_constant__ struct attention_args a,
                     const struct attention_plan *plan, float *partials)
{
    struct attention_shared<T, D> *shared = (struct attention_shared<T, D> *)shared_memory();
    const int n_kv = a.pool.n_kv_heads, group = a.n_heads / n_kv;
    const auto set_unit = [&](int i, const struct page_unit *unit, int kv_head) {
        set_page_tile(&shared->unit[i].tile, unit, &a.rows, &a.pool, a.layer, kv_head, group);
    };
    grid_wait();
    const struct page_unit first = plan->units[blockIdx.x / n_kv]; /* read beside n_units */
    const int n_work = plan->n_units * n_kv;
    if ((int)blockIdx.x >= n_work) return;
    set_unit(0, &first, blockIdx.x % n_kv);
    __syncthreads();
    const struct unit_behind<T, D> begin = {
        &shared->unit[0], &a
    };
    begin.begin_keys(shared->ring.k[0]);
    copy_commit();
    begin.begin_values(shared->ring.v[0]);
    copy_commit();
    int half = 0, i = 0;
    for (int work = blockIdx.x; work < n_work; work += gridDim.x, i ^= 1) {
        const int next = work + (int)gridDim.x;
        if (next < n_work) set_unit(i ^ 1, &plan->units[next / n_kv], next % n_kv);
        const struct unit_behind<T, D> behind = {
            next < n_work ? &shared->unit[i ^ 1] : NULL, &a
        };
        struct attend_state<D> state;
        attend_tiles<T, D, ATTEND_ROWS>(&state, shared->unit[i].q, &shared->ring, &half,
                                        run_of(&shared->unit[i], &a), behind);
        write_unit<T, D>(&state, &shared->unit[i].tile, &a, partials);
        __syncthreads(); /* nobody reads the unit any more */
    }
    copy_wait<0>();
}

/* A lane holds four columns, and the sum of one unit until it is that unit's turn. */
template <class T, int D>
static __global__ void __launch_bounds__(MERGE_THREADS)
    merge_kernel(const __grid_constant__ struct attention_args a, const struct attention_plan *plan,
                 float *partials)
{
    const int lane = threadIdx.x % 32, head_dim = a.pool.head_dim;
    const int i = blockIdx.x * (MERGE_THREADS / 32) + threadIdx.x / 32;
    const int r = i / a.n_heads, head = i % a.n_heads;
    grid_wait();
    if (r >= n_rows(a.rows.n, a.rows.max)) return;
    const int n_units = plan->row_units[r], slot = plan->row_partial[r];
    const int stride = plan->row_stride[r];
    if (n_units == 1) return;
    const float2 mine = lane < n_units
                            ? *partial_sum<D>(partials, slot + lane * stride, head, a.n_heads)
                            : float2{-INFINITY, 0};
    float max = mine.x;
    for (int distance = 16; distance > 0; distance /= 2)
        max = fmaxf(max, __shfl_xor_sync(~0u, max, distance));
    const float weight = max == -INFINITY ? 0 : exp2_fast(mine.x - max);
    const int column = 4 * lane < D ? 4 * lane : 0;
    float sum = 0, o[4] = {};
#pragma unroll 8
    for (int unit = 0; unit < n_units; unit++) {
        const float4 part = *(
            const float4 *)(partial_o<D>(partials, slot + unit * stride, head, a.n_heads) + column);
        const float w = __shfl_sync(~0u, weight, unit);
        sum += w * __shfl_sync(~0u, mine.y, unit);
        o[0] += w * part.x;
        o[1] += w * part.y;
        o[2] += w * part.z;
        o[3] += w * part.w;
    }
    if (4 * lane >= head_dim) return;
    const float scale = sum > 0 ? 1 / sum : sum; /* NaN stays NaN */
    T *out = (T *)a.out + ((size_t)r * a.n_heads + head) * head_dim + column;
    *(uint2 *)out = {pack_pair<T>(o[0] * scale, o[1] * scale),
                     pack_pair<T>(o[2] * scale, o[3] * scale)};
}

template <class T, int D>
static void launch_attention(struct stream *s, const struct attention_args *a)
{
    const struct cuda_stream *stream = cuda_stream_of(s);
    const struct attention_plan *plan = (const struct attention_plan *)stream->plan;
    launch(s, attention_kernel<T, D>, 2 * stream->dev->n_sms, ATTEND_THREADS,
           sizeof(struct attention_shared<T, D>), *a, plan, stream->partials);
    launch(s, merge_kernel<T, D>, ceil_div(a->rows.max * a->n_heads, MERGE_THREADS / 32),
           MERGE_THREADS, 0, *a, plan, stream->partials);
}

template <class T> void cuda_attention(struct stream *s, const struct attention_args *a)
{
    const struct kv_pool *pool = &a->pool;
    REQUIRE(a->layer >= 0 && a->layer < pool->n_layers);
    REQUIRE(pool->n_kv_heads > 0 && a->n_heads % pool->n_kv_heads == 0);
    ATTEND_FOR_HEAD_DIM(pool->head_dim, launch_attention, T, s, a);
}

/* All partial sums of a pass have a slot. */
int cuda_max_rows(int n_heads, int n_kv_heads)
{
    const int n_slots = n_partials<128>(n_heads) / (wanted_units(n_kv_heads) + 2);
    return min(n_slots, min((int)PLAN_ROWS, (int)MAX_GEMM_ROWS));
}

void cuda_plan(struct stream *s, const struct plan_args *a)
{
    const struct cuda_stream *stream = cuda_stream_of(s);
    REQUIRE(a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0);
    REQUIRE(a->n_heads / a->n_kv_heads <= MAX_HEAD_GROUP);
    REQUIRE(a->rows.max <= cuda_max_rows(a->n_heads, a->n_kv_heads));
    launch(s, plan_kernel, 1, PLAN_THREADS, sizeof(struct plan_shared), *a,
           (struct attention_plan *)stream->plan, n_partials<128>(a->n_heads));
}

FOR_BOTH_TYPES(cuda_attention, attention_args)
