/* apply: what the host changed since the last round (ops.h).
 *
 *   grid  1      block  APPLY_THREADS
 *
 * The ring lies in host memory, so its counts and records are read once, and mostly there are none.
 * What a later step must see of an earlier one is behind a barrier: leaves, joins, then the rest.
 */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/ops.cuh"

constexpr int APPLY_THREADS = 512;

/* All threads: one seat starts anew. */
__device__ static void join_seat(const struct round_state *st, const struct join *j)
{
    const int seat = j->seat;
    const size_t vocab = (size_t)st->vocab, n_words = (vocab + 31) / 32;
    DEVICE_REQUIRE(seat >= 0 && seat < st->max_seqs && st->seats[seat].state == SEAT_FREE);
    for (size_t i = threadIdx.x; i < vocab; i += APPLY_THREADS) st->counts[seat * vocab + i] = 0;
    for (size_t i = threadIdx.x; i < n_words; i += APPLY_THREADS)
        st->in_prompt[seat * n_words + i] = 0;
    for (size_t i = threadIdx.x; i < (size_t)st->width; i += APPLY_THREADS)
        st->pool[seat * (size_t)st->width + i] = 0;
    __syncthreads(); /* everybody has seen that the seat was free */
    if (threadIdx.x > 0) return;
    struct seat *s = &st->seats[seat];
    s->state = SEAT_PREFILL;
    s->len = s->n_generated = 0;
    s->root = -1;
    s->rope_delta = j->rope_delta;
    s->sampling = j->sampling;
}

__device__ static void set_page(const struct apply_args *a, const struct page_entry *e)
{
    const struct kv_pool *pool = e->is_draft ? &a->draft : &a->target;
    DEVICE_REQUIRE(pool->table != NULL && e->seat >= 0 && e->seat < a->state.max_seqs);
    DEVICE_REQUIRE(e->index >= 0 && e->index < pool->max_pages);
    DEVICE_REQUIRE(e->page >= -1 && e->page < pool->n_pages);
    pool->table[(size_t)e->seat * pool->max_pages + e->index] = e->page;
    if (e->is_draft && e->page >= 0) pool->valid[e->page] = 0;
}

static __global__ void __launch_bounds__(APPLY_THREADS)
    apply_kernel(const __grid_constant__ struct apply_args a)
{
    grid_wait();
    const struct round_state *st = &a.state;
    const struct round_input *in = &st->inputs[(uint32_t)*st->round % ROUND_RING];
    for (int i = threadIdx.x; i < in->n_leaves; i += APPLY_THREADS) {
        DEVICE_REQUIRE(in->leaves[i] >= 0 && in->leaves[i] < st->max_seqs);
        st->seats[in->leaves[i]].state = SEAT_FREE;
    }
    __syncthreads();
    for (int i = 0; i < in->n_joins; i++) join_seat(st, &in->joins[i]);
    for (int i = threadIdx.x; i < in->n_pages; i += APPLY_THREADS) set_page(&a, &in->pages[i]);
    __syncthreads();
    const size_t n_words = ((size_t)st->vocab + 31) / 32;
    for (int i = 0; i < in->n_chunks; i++) {
        const struct chunk c = in->chunks[i];
        DEVICE_REQUIRE(c.seat >= 0 && c.seat < st->max_seqs);
        DEVICE_REQUIRE(c.first_row >= 0 && c.n_rows > 0);
        DEVICE_REQUIRE(c.first_row <= in->n_prompt_rows - c.n_rows);
        for (int r = threadIdx.x; r < c.n_rows; r += APPLY_THREADS) {
            const int32_t token = in->prompt_rows[c.first_row + r].token;
            DEVICE_REQUIRE(token >= 0 && token < st->vocab);
            atomicOr(&st->in_prompt[c.seat * n_words + token / 32], 1u << (token % 32));
        }
    }
}

void cuda_apply(struct stream *s, const struct apply_args *a)
{
    launch(s, apply_kernel, 1, APPLY_THREADS, 0, *a);
}
