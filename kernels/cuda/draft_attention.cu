/* The draft's attention: rotation, append and attention over valid slots in one launch (ops.h).
 *
 *   qkv  [n][3 n_heads head_dim] T      out  [n][n_heads head_dim] T      one layer of pages
 *
 * A block owns one head of one sequence: it rotates and appends the head's rows, and then attends,
 * 16 rows at a time, each warp over its quarter of every page (attend.cuh): a round's rows of a
 * sequence are few.  So all appends come before all reads without a second launch, and nothing has
 * to be merged between blocks; the draft's context is short, since an image has one or two slots.
 *
 *   grid  (n_heads, runs of rows; a block takes every gridDim.y-th)      block  128 threads
 *
 * The bits of valid slots are set by head 0 alone.  The other heads cannot tell whether it has been
 * there, so each block adds the bits of its own rows to those it reads, in shared memory.
 *
 * Bound by latency, with many sequences by memory.  Loads that do not need each other are issued
 * together: rows by lanes, pages by threads, heads in eights. */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/rope.cuh"

constexpr int DRAFT_ROWS = 16, DRAFT_BLOCKS = 3; /* of an SM, by shared memory */

/* The rows of one sequence, and the pages that they see. */
struct draft_run {
    int first, end, n_pages;
    /* In shared memory, [max_pages]: */
    int32_t *page;             /* -1 for none */
    unsigned long long *valid; /* zeros while no run is in work */
};

/* Each warp: the run that begins `skip` runs behind run->end; first = n if there is none. */
__device__ static void find_run(struct draft_run *run, const struct rows *rows, int n, int skip)
{
    const int lane = threadIdx.x % 32;
    int base = run->end, n_runs = 0;
    run->first = run->end = n;
    do {
        bool begins[4]; /* loaded first, and before n is known */
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = base + 32 * i + lane;
            begins[i] = r < rows->max && (r == 0 || rows->seat[r] != rows->seat[r - 1]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++, base += 32) {
            const bool is_first = begins[i] && base + lane < n;
            const uint32_t runs = __ballot_sync(~0u, is_first);
            const int number = n_runs + __popc(runs & ((1u << lane) - 1));
            const uint32_t wanted = __ballot_sync(~0u, is_first && number == skip);
            const uint32_t behind = __ballot_sync(~0u, is_first && number == skip + 1);
            if (wanted != 0) run->first = base + __ffsll(wanted) - 1;
            if (behind != 0) run->end = base + __ffsll(behind) - 1;
            n_runs += __popc(runs);
        }
    } while (base < n && n_runs <= skip + 1);
}

/* Notes the pages that the run's rows see.  The last threads begin, since append_run keeps the
 * first ones busy. */
__device__ static void note_pages(struct draft_run *run, const struct rows *rows,
                                  const struct kv_pool *pool)
{
    int end = 0;
    for (int r = run->first + (int)threadIdx.x % 32; r < run->end; r += 32)
        end = max(end, row_end(rows, r));
    for (int distance = 16; distance > 0; distance /= 2)
        end = max(end, __shfl_xor_sync(~0u, end, distance));
    run->n_pages = (end + PAGE_LEN - 1) / PAGE_LEN;
    DEVICE_REQUIRE(run->n_pages <= pool->max_pages);
    const int32_t *table = pool->table + (size_t)rows->seat[run->first] * pool->max_pages;
    for (int i = ATTEND_THREADS - 1 - (int)threadIdx.x; i < run->n_pages; i += ATTEND_THREADS) {
        const int page = table[i];
        run->page[i] = page;
        if (page >= 0) atomicOr(&run->valid[i], (unsigned long long)pool->valid[page]);
    }
}

/* Rotates and appends one head of the run's rows, and sets their valid bits. */
template <class T>
__device__ static void append_run(const struct draft_attention_args *a, const struct draft_run *run,
                                  int head)
{
    const struct kv_pool *pool = &a->pool;
    const int head_dim = pool->head_dim, half = head_dim / 2, n_eights = (half + 7) / 8;
    const size_t head_width = (size_t)pool->n_kv_heads * head_dim;
    struct rope rope = a->rope;
    rope.section[0] = half; /* one axis */
    for (int i = threadIdx.x; i < (run->end - run->first) * n_eights; i += ATTEND_THREADS) {
        const int r = run->first + i / n_eights, pair = i % n_eights * 8, slot = a->rows.slot[r];
        T *q = (T *)a->qkv + r * 3 * head_width + (size_t)head * head_dim, *k = q + head_width;
        float2 angle[8];
        rope_angles(angle, &rope, a->rows.pos + 3 * (size_t)r, pair, half);
        const struct rope_pairs<T> query = load_pairs(q, pair, half);
        struct rope_pairs<T> key = load_pairs(k, pair, half);
        const struct rope_pairs<T> value = load_pairs(k + head_width, pair, half);
        const int page = page_of_slot(pool, a->rows.seat[r], slot);
        const size_t to = page_offset(pool, 0, page, head) + (size_t)(slot % PAGE_LEN) * head_dim;
        store_pairs(q, rotate_pairs(query, angle), pair, half);
        key = rotate_pairs(key, angle);
        store_pairs(k, key, pair, half);
        store_pairs((T *)pool->k + to, key, pair, half);
        store_pairs((T *)pool->v + to, value, pair, half);
        if (pair > 0 || a->is_scratch) continue;
        const unsigned long long bit = 1ull << (slot % PAGE_LEN);
        if (slot / PAGE_LEN < run->n_pages) atomicOr(&run->valid[slot / PAGE_LEN], bit);
        if (head == 0) atomicOr((unsigned long long *)&pool->valid[page], bit);
    }
}

/* The keys of attend_tiles, for up to 16 rows of a run. */
template <class T> struct draft_keys {
    const struct draft_run *run;
    const struct kv_pool *pool;
    int head, n_pages, min_prefix; /* pages that any row sees; slots that all see */
    int32_t prefix[2];             /* of this thread's rows */
    uint64_t mask[2];
    int stride;

    __device__ __forceinline__ draft_keys(const struct draft_run *of_run,
                                          const struct draft_attention_args *a, int of_head,
                                          int row0, int n_rows)
        : run(of_run), pool(&a->pool), head(of_head), stride(a->pool.head_dim)
    {
        for (int row = 0; row < 2; row++) {
            const int r = row0 + attend_seeing_row<DRAFT_ROWS>(row, n_rows);
            prefix[row] = a->rows.prefix[r];
            mask[row] = a->rows.mask[r];
        }
        int end = max(slots_end(prefix[0], mask[0]), slots_end(prefix[1], mask[1]));
        min_prefix = min(prefix[0], prefix[1]);
        for (int distance = 16; distance >= 4; distance /= 2) { /* four lanes have the same rows */
            end = max(end, __shfl_xor_sync(~0u, end, distance));
            min_prefix = min(min_prefix, __shfl_xor_sync(~0u, min_prefix, distance));
        }
        n_pages = (end + PAGE_LEN - 1) / PAGE_LEN;
    }
    __device__ __forceinline__ uint64_t seen(int index, int row) const
    {
        return (bits_between(0, prefix[row] - index * PAGE_LEN) & run->valid[index]) |
               mask_in_page(mask[row], prefix[row], index);
    }
    __device__ __forceinline__ uint64_t all(int index) const
    {
        if ((index + 1) * PAGE_LEN <= min_prefix) return run->valid[index];
        return warp_or(seen(index, 0) | seen(index, 1));
    }
    __device__ __forceinline__ int next(int index) const
    {
        while (index < n_pages && run->page[index] < 0) index++;
        return index; /* pages of pure image are skipped */
    }
    __device__ __forceinline__ size_t place(int index) const
    {
        const int page = run->page[index];
        DEVICE_REQUIRE(page >= 0 && page < pool->n_pages);
        return page_offset(pool, 0, page, head);
    }
    __device__ __forceinline__ const T *key(int index) const
    {
        return (const T *)pool->k + place(index);
    }
    __device__ __forceinline__ const T *value(int index) const
    {
        return (const T *)pool->v + place(index);
    }
};

template <class T, int D>
static __global__ void __launch_bounds__(ATTEND_THREADS, DRAFT_BLOCKS)
    draft_attention_kernel(const __grid_constant__ struct draft_attention_args a)
{
    auto *shared = (struct attend_shared<T, D, DRAFT_ROWS> *)shared_memory();
    const int head = blockIdx.x, head_dim = a.pool.head_dim, max_pages = a.pool.max_pages;
    const size_t out_width = (size_t)a.pool.n_kv_heads * head_dim, width = 3 * out_width;
    struct draft_run run = {};
    run.valid = (unsigned long long *)(shared + 1);
    run.page = (int32_t *)(run.valid + max_pages);
    for (int i = threadIdx.x; i < max_pages; i += ATTEND_THREADS) run.valid[i] = 0;
    __syncthreads();
    grid_wait();
    const int n = n_rows(a.rows.n, a.rows.max);
    find_run(&run, &a.rows, n, blockIdx.y);
    while (run.first < n) {
        note_pages(&run, &a.rows, &a.pool);
        append_run<T>(&a, &run, head);
        __syncthreads();
        for (int row0 = run.first; row0 < run.end; row0 += DRAFT_ROWS) {
            const int n_tile = min(DRAFT_ROWS, run.end - row0);
            const T *q = (const T *)a.qkv + row0 * width + (size_t)head * head_dim;
            T *out = (T *)a.out + row0 * out_width + (size_t)head * head_dim;
            const struct draft_keys<T> keys(&run, &a, head, row0, n_tile);
            const struct attend_run<T, D, struct draft_keys<T>> tiles = {
                keys, 0, keys.n_pages, head_dim
            };
            struct attend_state<D> state;
            attend_load<T, D, DRAFT_ROWS>(shared->q, q, width, bits_between(0, n_tile), head_dim);
            attend_alone(&state, shared, tiles);
            attend_merge<T, D>(&state, shared, out, out_width, n_tile, head_dim);
            __syncthreads(); /* before the next tile comes into shared memory */
        }
        for (int i = threadIdx.x; i < run.n_pages; i += ATTEND_THREADS) run.valid[i] = 0;
        __syncthreads();
        find_run(&run, &a.rows, n, (int)gridDim.y - 1);
    }
}

template <class T, int D>
static void launch_draft_attention(struct stream *s, const struct draft_attention_args *a)
{
    const int n_heads = a->pool.n_kv_heads;
    const int n_blocks = DRAFT_BLOCKS * cuda_stream_of(s)->dev->n_sms;
    const dim3 grid(n_heads, min(a->rows.max, ceil_div(n_blocks, n_heads)));
    constexpr size_t FIXED = sizeof(struct attend_shared<T, D, DRAFT_ROWS>);
    constexpr size_t A_PAGE = sizeof(unsigned long long) + sizeof(int32_t);
    static_assert(FIXED + MAX_SEQ_PAGES * A_PAGE <= 163 << 10, "an A100 has that, too");
    const size_t shared_bytes = FIXED + (size_t)a->pool.max_pages * A_PAGE;
    launch(s, draft_attention_kernel<T, D>, grid, ATTEND_THREADS, shared_bytes, *a);
}

template <class T> void cuda_draft_attention(struct stream *s, const struct draft_attention_args *a)
{
    REQUIRE(a->pool.n_layers > 0 && a->pool.n_kv_heads > 0 && a->pool.valid != NULL);
    ATTEND_FOR_HEAD_DIM(a->pool.head_dim, launch_draft_attention, T, s, a);
}

FOR_BOTH_TYPES(cuda_draft_attention, draft_attention_args)
