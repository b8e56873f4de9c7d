/* The draft's attention: rotation, append and attention over valid slots in one launch (ops.h).
 *
 *   qkv  [n][3 n_heads head_dim] T      out  [n][n_heads head_dim] T      one layer of pages
 *
 * A block owns one head of one sequence: it rotates and appends the head's rows, and then attends,
 * 64 rows at a time.  So all appends come before all reads without a second launch, and nothing has
 * to be merged; the draft's context is short, since an image has one or two slots.
 *
 *   grid  (n_heads, runs of rows; a block takes every gridDim.y-th)      block  128 threads
 *
 * The bits of valid slots are set by head 0 alone.  The other heads cannot tell whether it has been
 * there, so each block keeps the bits of its own rows beside those it reads.
 *
 * Bound by latency. */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/rope.cuh"

constexpr int MAX_OWN = 128; /* pages that a sequence's rows of one step may span */

struct draft_run {
    unsigned long long own[MAX_OWN]; /* valid bits of the run's rows, from page own_first on */
    int first, end, own_first, n_own;
    struct page_tile queries;
};

/* The first warp: finds run number `wanted`; first = n if there is none. */
__device__ static void find_run(struct draft_run *run, const struct rows *rows, int n, int wanted)
{
    const int lane = threadIdx.x % 32;
    int n_runs = 0, first = n, end = n;
    for (int base = 0; base < n && n_runs <= wanted + 1; base += 32) {
        const int r = base + lane;
        const bool begins = r < n && (r == 0 || rows->seat[r] != rows->seat[r - 1]);
        uint32_t runs = __ballot_sync(~0u, begins);
        for (; runs != 0; runs &= runs - 1, n_runs++) {
            const int row = base + __ffsll(runs) - 1;
            if (n_runs == wanted) first = row;
            if (n_runs == wanted + 1) end = row;
        }
    }
    if (lane > 0) return;
    run->first = first;
    run->end = end;
    if (first == n) return;
    int low = rows->slot[first], high = low;
    for (int r = first; r < end; r++) {
        low = min(low, rows->slot[r]);
        high = max(high, rows->slot[r]);
    }
    run->own_first = low / PAGE_LEN;
    run->n_own = high / PAGE_LEN - run->own_first + 1;
    DEVICE_REQUIRE(run->n_own <= MAX_OWN);
}

/* Rotates and appends one head of the run's rows, and notes or sets their valid bits.  A function
 * of its own, so that its registers are free again in attend_tiles, which needs all there are. */
template <class T>
__device__ __noinline__ static void append_run(const struct draft_attention_args *a,
                                               struct draft_run *run, int head)
{
    const struct kv_pool *pool = &a->pool;
    const int head_dim = pool->head_dim, half = head_dim / 2;
    const size_t head_width = (size_t)pool->n_kv_heads * head_dim;
    struct rope rope = a->rope;
    rope.section[0] = half; /* one axis */
    for (int i = threadIdx.x; i < MAX_OWN; i += ATTEND_THREADS) run->own[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < (run->end - run->first) * half; i += ATTEND_THREADS) {
        const int r = run->first + i / half, pair = i % half, slot = a->rows.slot[r];
        const int page = page_of_slot(pool, a->rows.seat[r], slot);
        const size_t to = page_offset(pool, 0, page, head) + (size_t)(slot % PAGE_LEN) * head_dim;
        T *q = (T *)a->qkv + r * 3 * head_width + (size_t)head * head_dim;
        const T *value = q + 2 * head_width;
        const float2 angle = rope_angle(&rope, a->rows.pos + 3 * (size_t)r, pair, half);
        rope_rotate(q, pair, half, angle, (T *)NULL);
        rope_rotate(q + head_width, pair, half, angle, (T *)pool->k + to);
        ((T *)pool->v)[to + pair] = value[pair];
        ((T *)pool->v)[to + pair + half] = value[pair + half];
        if (pair > 0 || a->is_scratch) continue;
        const unsigned long long bit = 1ull << (slot % PAGE_LEN);
        atomicOr(&run->own[slot / PAGE_LEN - run->own_first], bit);
        if (head == 0) atomicOr((unsigned long long *)&pool->valid[page], bit);
    }
    __threadfence(); /* the copies below read what other threads wrote here */
    __syncthreads();
}

template <class T, int D>
static __global__ void __launch_bounds__(ATTEND_THREADS, 2)
    draft_attention_kernel(const __grid_constant__ struct draft_attention_args a)
{
    struct attend_shared<T, D> *shared = (struct attend_shared<T, D> *)shared_memory();
    struct draft_run *run = (struct draft_run *)(shared + 1);
    const int head = blockIdx.x, n_heads = a.pool.n_kv_heads, head_dim = a.pool.head_dim;
    const size_t width = (size_t)3 * n_heads * head_dim;
    grid_wait();
    const int n = n_rows(a.rows.n, a.rows.max);
    for (int wanted = blockIdx.y;; wanted += gridDim.y) {
        if (threadIdx.x < 32) find_run(run, &a.rows, n, wanted);
        __syncthreads();
        const int end = run->end; /* the first warp may be at the next run when others ask again */
        if (run->first == n) break;
        append_run<T>(&a, run, head);
        for (int row0 = run->first; row0 < end; row0 += ATTEND_ROWS) {
            const int n_tile = min(ATTEND_ROWS, end - row0);
            if (threadIdx.x < 32)
                set_page_tile(&run->queries, &a.rows, &a.pool, 0, head, row0, n_tile, 1);
            if (threadIdx.x == 0) { /* the lane that has set the rest */
                run->queries.own_valid = run->own;
                run->queries.own_first = run->own_first;
                run->queries.n_own = run->n_own;
            }
            __syncthreads();
            const struct page_keys<T> keys = {
                &run->queries, &a.pool, (size_t)head_dim
            };
            struct attend_state<D> state;
            load_queries<T, D>(shared->q, &run->queries, (const T *)a.qkv, width, head, head_dim);
            attend_tiles<T, D>(&state, shared, keys, 0, run->queries.n_pages, head_dim);
            for (int row = 0; row < 2; row++) {
                const int i = attend_row(row);
                if (i >= n_tile) continue;
                attend_write<T, D>(&state, row,
                                   (T *)a.out + ((size_t)(row0 + i) * n_heads + head) * head_dim,
                                   head_dim);
            }
            __syncthreads(); /* before the next tile comes into shared memory */
        }
    }
}

template <class T, int D>
static void launch_draft_attention(struct stream *s, const struct draft_attention_args *a)
{
    const int n_heads = a->pool.n_kv_heads, n_blocks = 2 * cuda_stream_of(s)->dev->n_sms;
    const dim3 grid(n_heads, min(a->rows.max, ceil_div(n_blocks, n_heads)));
    const size_t shared_bytes = sizeof(struct attend_shared<T, D>) + sizeof(struct draft_run);
    launch(s, draft_attention_kernel<T, D>, grid, ATTEND_THREADS, shared_bytes, *a);
}

template <class T> void cuda_draft_attention(struct stream *s, const struct draft_attention_args *a)
{
    REQUIRE(a->pool.n_layers > 0 && a->pool.n_kv_heads > 0 && a->pool.valid != NULL);
    ATTEND_FOR_HEAD_DIM(a->pool.head_dim, launch_draft_attention, T, s, a);
}

FOR_BOTH_TYPES(cuda_draft_attention, draft_attention_args)
