/* draft_input, carry: what goes into the draft's rows, and what a prompt's chunk
 * leaves behind for the next one (ops.h).
 *
 *   grid  (max rows, width / 8 / ROW_THREADS), of carry max_seqs chunks
 *   block  ROW_THREADS, eight elements a thread
 *
 * Bound by memory, and for a few rows by latency. */
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/ops.cuh"

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    draft_input_kernel(const __grid_constant__ struct draft_input_args a)
{
    grid_wait();
    const int r = blockIdx.x, width = a.state.width, i = eight_of_thread(), n = width - i;
    if (r >= n_rows(a.in.rows.n, a.in.rows.max) || n <= 0) return;
    const int32_t id = a.in.rows.id[r], h_row = a.in.h_row[r], g_row = a.in.g_row[r];
    const bool is_direct = a.in.kind[r] == DRAFT_ROW_DIRECT;
    const size_t to = (size_t)r * width + i;
    float x[8], g[8];
    struct eight<T> h = {};
    DEVICE_REQUIRE(id < (is_direct ? 0 : a.state.vocab));
    if (id < 0)
        widen(x, load_eight(a.state.pool + (size_t)~id * width + i, n));
    else
        widen(x, load_eight((const T *)a.table + (size_t)id * width + i, n));
    if (!is_direct) {
        DEVICE_REQUIRE(h_row >= -a.state.max_seqs && g_row >= 0);
        const T *from = h_row >= 0 ? (const T *)a.hidden + (size_t)h_row * width
                                   : (const T *)a.state.carried_h + (size_t)~h_row * width;
        h = load_eight(from + i, n);
        widen(g, load_eight(a.state.pool + (size_t)g_row * width + i, n));
#pragma unroll
        for (int j = 0; j < 8; j++) x[j] += g[j];
    }
    store_eight((T *)a.x + to, narrow<T>(x), n);
    store_eight((T *)a.h + to, h, n);
}

/* The ring lies in host memory, where a read takes a microsecond: one thread reads, once. */
template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    carry_kernel(const __grid_constant__ struct carry_args a)
{
    const struct round_state *st = &a.state;
    struct chunk *mine = (struct chunk *)shared_memory();
    grid_wait();
    if (threadIdx.x == 0) {
        const uint32_t round = (uint32_t)*st->round;
        const struct round_input *previous = &st->inputs[(round - 1) % ROUND_RING];
        mine->n_rows = 0;
        if (round > 0 && (int)blockIdx.x < previous->n_chunks) *mine = previous->chunks[blockIdx.x];
    }
    __syncthreads();
    const struct chunk c = *mine;
    if (c.n_rows == 0) return;
    const size_t to = (size_t)c.seat * st->width;
    const T *h =
        (const T *)a.hidden + (size_t)(a.tree.first_row[c.seat] + c.n_rows - 1) * st->width;
    const float *g = st->pool + (size_t)c.final_g * st->width;
    for (int i = 8 * (int)threadIdx.x; i < st->width; i += 8 * ROW_THREADS) {
        const int n = st->width - i;
        store_eight((T *)st->carried_h + to + i, load_eight(h + i, n), n);
        if (c.is_last) store_eight(st->pool + to + i, load_eight(g + i, n), n);
    }
}

template <class T> void cuda_draft_input(struct stream *s, const struct draft_input_args *a)
{
    launch(s, draft_input_kernel<T>, grid_of_eights(a->in.rows.max, a->state.width), ROW_THREADS, 0,
           *a);
}

template <class T> void cuda_carry(struct stream *s, const struct carry_args *a)
{
    launch(s, carry_kernel<T>, a->state.max_seqs, ROW_THREADS, sizeof(struct chunk), *a);
}

FOR_BOTH_TYPES(cuda_draft_input, draft_input_args)
FOR_BOTH_TYPES(cuda_carry, carry_args)
