/* pick: argmax of a row, or of the row with Gumbel noise (ops.h).
 *
 *   logits, scores  [n][vocab] float      partials  [max][tiles] the best of each tile, from head
 *                                         partial   [n][chunks] the best of each chunk
 *
 *   grid  (chunks of a row, max rows)      block  ROW_THREADS; a thread takes four tokens that
 *                                                 share the words of one Philox counter
 *
 * A row that has scores is read once, and its logits, for NaNs.  Of the others head has picked from
 * each tile, and the first block of the row puts that together. */
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/pick.cuh"

struct pick_shared {
    struct scored best[ROW_THREADS / 32];
    int is_last;
};

/* x[0 .. N_WORDS) = row[first ..]; nothing behind the row. */
__device__ __forceinline__ void load_words(float (&x)[N_WORDS], const float *row, int first, int n)
{
    if (first + N_WORDS <= n && (size_t)(row + first) % sizeof(float4) == 0) {
        const float4 four = *(const float4 *)(row + first);
        x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    } else {
        for (int j = 0; j < N_WORDS; j++) x[j] = first + j < n ? row[first + j] : -INFINITY;
    }
}

/* The best of this block's chunk of a row, for all threads. */
__device__ static struct scored pick_from_chunk(struct pick_shared *shared, const float *logits,
                                                const float *scores, int vocab,
                                                const struct pick_row *row)
{
    const int begin = blockIdx.x * SCAN_CHUNK, end = min(begin + SCAN_CHUNK, vocab);
    struct scored best = no_token();
    for (int first = begin + threadIdx.x * N_WORDS; first < end; first += ROW_THREADS * N_WORDS) {
        float x[N_WORDS];
        load_words(x, logits, first, vocab);
        best = pick_nan(best, x);
        load_words(x, scores, first, vocab);
        best = pick_words(best, x, first, row);
    }
    return block_best(best, shared->best);
}

/* Puts the bests of a row's n parts together; all threads. */
__device__ static void put_pick(struct pick_shared *shared, const struct scored *parts, int n,
                                int32_t *pick)
{
    struct scored best = no_token();
    for (int i = threadIdx.x; i < n; i += ROW_THREADS)
        if (ranks_before(parts[i], best)) best = parts[i];
    best = block_best(best, shared->best);
    if (threadIdx.x == 0) *pick = best.id == INT32_MAX ? -1 : best.id;
}

struct pick_job {
    struct pick_args a;
    const struct scored *tiles; /* [max][n_tiles] */
    int n_tiles;
};

static __global__ void __launch_bounds__(ROW_THREADS)
    pick_kernel(const __grid_constant__ struct pick_job job, struct scored *partial,
                int32_t *tickets)
{
    struct pick_shared *shared = (struct pick_shared *)shared_memory();
    const struct pick_args &a = job.a;
    const int i = blockIdx.y, n_chunks = gridDim.x, vocab = a.state.vocab;
    grid_wait();
    if (i >= n_rows(a.out.n, a.out.max)) return;
    const struct pick_row row = pick_row_of(&a.state, &a.out, &a.tree, i);
    if (!row.asked.scores) {
        if (blockIdx.x == 0)
            put_pick(shared, job.tiles + (size_t)i * job.n_tiles, job.n_tiles, &a.pick[i]);
        return;
    }
    const size_t at = (size_t)i * vocab;
    const struct scored best = pick_from_chunk(shared, a.logits + at, a.scores + at, vocab, &row);
    partial += (size_t)i * n_chunks;
    if (threadIdx.x == 0) partial[blockIdx.x] = best;
    if (is_last_block(&tickets[i], n_chunks, &shared->is_last))
        put_pick(shared, partial, n_chunks, &a.pick[i]);
}

void cuda_pick(struct stream *s, const struct pick_args *a)
{
    static_assert(SCAN_CHUNK % N_WORDS == 0, "a counter's tokens lie in one chunk");
    const struct scored *tiles = (const struct scored *)cuda_stream_of(s)->partials;
    const struct pick_job job = {*a, tiles, ceil_div(a->state.vocab, GEMM_OUT)};
    launch_scan(s, pick_kernel, a->state.vocab, a->out.max, sizeof(struct pick_shared), job);
}
