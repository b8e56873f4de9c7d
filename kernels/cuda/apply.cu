/* apply: what the host changed since the last round (ops.h).
 *
 *   grid  1      block  APPLY_THREADS      shared  the round's input, its chunks
 *
 * The ring lies in host memory, where a read takes a microsecond; so it is read once, by one thread
 * or by all side by side, and mostly its lists are empty.  What a later step must see of an earlier
 * one is behind a barrier: leaves, joins, then the rest. */
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/ops.cuh"

constexpr int APPLY_THREADS = 512;

/* All threads: row[0..n) = 0. */
template <class T> __device__ __forceinline__ void clear_row(T *row, int n)
{
    for (int i = 8 * (int)threadIdx.x; i < n; i += 8 * APPLY_THREADS)
        store_eight(row + i, eight<T>{}, n - i);
}

/* All threads: one seat starts anew. */
__device__ static void join_seat(const struct round_state *st, const struct join *j)
{
    const int seat = j->seat, n_words = (st->vocab + 31) / 32;
    DEVICE_REQUIRE(seat >= 0 && seat < st->max_seqs && st->seats[seat].state == SEAT_FREE);
    clear_row(st->counts + (size_t)seat * st->vocab, st->vocab);
    clear_row(st->in_prompt + (size_t)seat * n_words, n_words);
    clear_row(st->pool + (size_t)seat * st->width, st->width);
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

/* Marks a prompt row's token for the seat of its chunk. */
__device__ static void mark_token(const struct round_state *st, const struct round_input *in,
                                  const struct chunk *chunks, int r)
{
    const int32_t token = in->prompt_rows[r].token;
    const size_t n_words = ((size_t)st->vocab + 31) / 32;
    for (int i = 0; i < in->n_chunks; i++) {
        const struct chunk *c = &chunks[i];
        if (r < c->first_row || r >= c->first_row + c->n_rows) continue;
        DEVICE_REQUIRE(token >= 0 && token < st->vocab);
        atomicOr(&st->in_prompt[c->seat * n_words + token / 32], 1u << (token % 32));
    }
}

static __global__ void __launch_bounds__(APPLY_THREADS)
    apply_kernel(const __grid_constant__ struct apply_args a)
{
    const struct round_state *st = &a.state;
    struct round_input *in = (struct round_input *)shared_memory();
    struct chunk *chunks = (struct chunk *)(in + 1); /* [max_seqs] */
    grid_wait();
    if (threadIdx.x == 0) *in = st->inputs[(uint32_t)*st->round % ROUND_RING];
    __syncthreads();
    DEVICE_REQUIRE(in->n_chunks <= st->max_seqs);
    for (int i = threadIdx.x; i < in->n_leaves; i += APPLY_THREADS) {
        DEVICE_REQUIRE(in->leaves[i] >= 0 && in->leaves[i] < st->max_seqs);
        st->seats[in->leaves[i]].state = SEAT_FREE;
    }
    for (int i = threadIdx.x; i < in->n_chunks; i += APPLY_THREADS) {
        const struct chunk c = chunks[i] = in->chunks[i];
        DEVICE_REQUIRE(c.seat >= 0 && c.seat < st->max_seqs);
        DEVICE_REQUIRE(c.first_row >= 0 && c.n_rows > 0);
        DEVICE_REQUIRE(c.first_row <= in->n_prompt_rows - c.n_rows);
    }
    __syncthreads();
    for (int i = 0; i < in->n_joins; i++) join_seat(st, &in->joins[i]);
    for (int i = threadIdx.x; i < in->n_pages; i += APPLY_THREADS) set_page(&a, &in->pages[i]);
    __syncthreads();
    for (int r = threadIdx.x; r < in->n_prompt_rows; r += APPLY_THREADS)
        mark_token(st, in, chunks, r);
}

void cuda_apply(struct stream *s, const struct apply_args *a)
{
    const size_t shared_bytes =
        sizeof(struct round_input) + (size_t)a->state.max_seqs * sizeof(struct chunk);
    launch(s, apply_kernel, 1, APPLY_THREADS, shared_bytes, *a);
}
