/* draft_input, draft_direct, carry: what goes into the draft's rows, and what a prompt's chunk
 * leaves behind for the next one (ops.h).
 *
 *   grid  max rows (carry: max_seqs chunks)      block  ROW_THREADS
 *
 * Bound by memory. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/ops.cuh"

template <class T>
static __global__ void draft_input_kernel(const __grid_constant__ struct draft_input_args a)
{
    grid_wait();
    const int r = blockIdx.x, width = a.state.width;
    if (r >= n_rows(a.in.rows.n, a.in.rows.max)) return;
    const int32_t id = a.in.rows.id[r], h_row = a.in.h_row[r], g_row = a.in.g_row[r];
    const bool is_direct = a.in.kind[r] == DRAFT_ROW_DIRECT;
    T *img_fc_in = (T *)a.a + (size_t)r * 2 * width, *fc_in = (T *)a.b + (size_t)r * 2 * width;
    T *h_to = a.has_img_fc ? img_fc_in : fc_in + width;
    DEVICE_REQUIRE(is_direct || (id < a.state.vocab && h_row >= -a.state.max_seqs));
    DEVICE_REQUIRE(is_direct || !a.has_img_fc || g_row >= 0);
    const T *h = h_row >= 0 ? (const T *)a.hidden + (size_t)h_row * width
                            : (const T *)a.state.carried_h + (size_t)~h_row * width;
    const T zero = {0};
    for (int i = threadIdx.x; i < width; i += ROW_THREADS) {
        float e =
            is_direct ? 0 : embedding(a.embeddings, a.embeddings_type, a.state.pool, id, width, i);
        from_float(&fc_in[i], e);
        h_to[i] = is_direct ? zero : h[i];
        if (!a.has_img_fc) continue;
        from_float(&img_fc_in[width + i], is_direct ? 0 : a.state.pool[(size_t)g_row * width + i]);
        if (is_direct) fc_in[width + i] = zero; /* else img_fc writes it */
    }
}

template <class T>
static __global__ void draft_direct_kernel(const __grid_constant__ struct draft_direct_args a)
{
    grid_wait();
    const int r = blockIdx.x, width = a.state.width;
    if (r >= n_rows(a.in.rows.n, a.in.rows.max)) return;
    if (a.in.kind[r] != DRAFT_ROW_DIRECT) return;
    const int32_t id = a.in.rows.id[r];
    DEVICE_REQUIRE(id < 0);
    for (int i = threadIdx.x; i < width; i += ROW_THREADS)
        from_float(&((T *)a.x)[(size_t)r * width + i], a.state.pool[(size_t)~id * width + i]);
}

template <class T> static __global__ void carry_kernel(const __grid_constant__ struct carry_args a)
{
    grid_wait();
    const struct round_state *st = &a.state;
    const uint32_t round = (uint32_t)*st->round;
    if (round == 0) return;
    const struct round_input *previous = &st->inputs[(round - 1) % ROUND_RING];
    if ((int)blockIdx.x >= previous->n_chunks) return;
    const struct chunk c = previous->chunks[blockIdx.x];
    const size_t to = (size_t)c.seat * st->width;
    const size_t from = (size_t)(a.tree.first_row[c.seat] + c.n_rows - 1) * st->width;
    for (int i = threadIdx.x; i < st->width; i += ROW_THREADS) {
        ((T *)st->carried_h)[to + i] = ((const T *)a.hidden)[from + i];
        if (c.is_last) st->pool[to + i] = st->pool[(size_t)c.final_g * st->width + i];
    }
}

template <class T> void cuda_draft_input(struct stream *s, const struct draft_input_args *a)
{
    launch(s, draft_input_kernel<T>, a->in.rows.max, ROW_THREADS, 0, *a);
}

template <class T> void cuda_draft_direct(struct stream *s, const struct draft_direct_args *a)
{
    launch(s, draft_direct_kernel<T>, a->in.rows.max, ROW_THREADS, 0, *a);
}

template <class T> void cuda_carry(struct stream *s, const struct carry_args *a)
{
    launch(s, carry_kernel<T>, a->state.max_seqs, ROW_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_draft_input, draft_input_args)
FOR_BOTH_TYPES(cuda_draft_direct, draft_direct_args)
FOR_BOTH_TYPES(cuda_carry, carry_args)
