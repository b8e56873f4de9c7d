/* logprobs: the best of log_softmax(row) = row - max - log(sum of e^(row - max)) (ops.h).
 *
 *   logits  [n][vocab] float      partial  [n][chunks] struct chunk_best
 *
 *   grid  (chunks of a row, max rows)      block  ROW_THREADS; scan.cuh
 *
 * Each thread knows the best of its elements that has not been taken.  The block takes the best of
 * those, and only the thread that held it looks through its elements again; so a chunk is read once
 * from memory, whatever k is.  The last block of a row does the same with the bests of the chunks,
 * and adds their sums.  Bound by memory for many rows, by latency for few. */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/scan.cuh"

/* What a chunk leaves for the last block. */
struct chunk_best {
    float sum; /* of e^(x - best[0].score); NaN if there is a NaN, or the best is infinite */
    struct scored best[MAX_LOGPROBS]; /* no_token behind the chunk's last */
};

struct logprobs_shared {
    struct ranking ranking;
    alignas(16) float sums[32];
    int is_last;
};
static_assert((int)MAX_LOGPROBS <= (int)MAX_TOP_K, "a ranking has room for them");

/* What is ranked: tokens of a row, or the bests of its chunks, k of each. */
struct row_tokens {
    const float *x;

    __device__ __forceinline__ struct scored at(int id) const
    {
        return {x[id] == x[id] ? x[id] : -INFINITY, id}; /* NaN ranks as -inf */
    }
};
struct chunk_tokens {
    const struct chunk_best *chunks;
    int k;

    __device__ __forceinline__ struct scored at(int i) const
    {
        return chunks[i / k].best[i % k];
    }
};

/* The k >= 1 best of a row in shared->ranking.best, and in *log_sum the log of the sum of e^(x -
 * best), NaN if there is none; all threads.  False in all blocks of the row but the last, which
 * have no more to do. */
__device__ static bool rank_row(struct logprobs_shared *shared, const float *x, int vocab, int k,
                                struct chunk_best *partial, int32_t *ticket, float *log_sum)
{
    const int begin = blockIdx.x * SCAN_CHUNK, end = min(begin + SCAN_CHUNK, vocab);
    const int n_chunks = gridDim.x, j = threadIdx.x;
    const struct row_tokens row = {x};
    find_best(&shared->ranking, row, begin, end, k);
    float sum = 0;
    for (int id = begin + j; id < end; id += ROW_THREADS)
        sum += x[id] == -INFINITY ? 0 : expf(x[id] - shared->ranking.best[0].score);
    sum = block_sum(sum, shared->sums);
    if (j == 0) partial[blockIdx.x].sum = sum;
    if (j < k) partial[blockIdx.x].best[j] = shared->ranking.best[j];
    if (!is_last_block(ticket, n_chunks, &shared->is_last)) return false;
    const struct chunk_tokens chunks = {partial, k};
    find_best(&shared->ranking, chunks, 0, n_chunks * k, k);
    sum = 0;
    for (int c = j; c < n_chunks; c += ROW_THREADS)
        sum += partial[c].sum * expf(partial[c].best[0].score - shared->ranking.best[0].score);
    *log_sum = logf(block_sum(sum, shared->sums));
    return true;
}

/* Entries behind the wanted ones, or behind the vocabulary, have id -1. */
static __global__ void __launch_bounds__(ROW_THREADS)
    logprobs_kernel(const __grid_constant__ struct logprobs_args a, struct chunk_best *partial,
                    int32_t *tickets)
{
    struct logprobs_shared *shared = (struct logprobs_shared *)shared_memory();
    const int i = blockIdx.y, j = threadIdx.x, vocab = a.state.vocab;
    grid_wait();
    if (i >= n_rows(a.out.n, a.out.max)) return;
    const int n_wanted = a.state.seats[a.out.seat[i]].sampling.n_logprobs;
    if (n_wanted < 0) return;
    DEVICE_REQUIRE(n_wanted <= MAX_LOGPROBS);
    const int n_best = min(n_wanted, vocab);
    float log_sum;
    if (!rank_row(shared, a.logits + (size_t)i * vocab, vocab, max(n_best, 1),
                  partial + (size_t)i * gridDim.x, &tickets[i], &log_sum))
        return;
    const float max = shared->ranking.best[0].score;
    if (j == 0) a.top[i].logprob = max + log_sum;
    if (j >= MAX_LOGPROBS) return;
    const bool is_there = j < n_best;
    a.top[i].ids[j] = is_there ? shared->ranking.best[j].id : -1;
    a.top[i].logprobs[j] =
        is_there ? log_probability(shared->ranking.best[j].score, max, log_sum) : -INFINITY;
}

void cuda_logprobs(struct stream *s, const struct logprobs_args *a)
{
    launch_scan(s, logprobs_kernel, a->state.vocab, a->out.max, sizeof(struct logprobs_shared), *a);
}
