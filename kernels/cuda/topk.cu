/* topk, logprobs: the best of log_softmax(row) = row - max - log(sum of e^(row - max)) (ops.h).
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
    struct scored best[MAX_TOP_K]; /* no_token behind the chunk's last */
};

struct topk_shared {
    struct scored of_warp[ROW_THREADS / 32], best[MAX_TOP_K];
    alignas(16) float sums[32];
    int is_last;
};
static_assert((int)MAX_LOGPROBS <= (int)MAX_TOP_K, "best has room for both operations");

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

/* The best of this thread's tokens in [begin, end) behind `last` in rank. */
template <class Tokens>
__device__ __forceinline__ struct scored next_of_thread(Tokens tokens, int begin, int end,
                                                        struct scored last)
{
    struct scored best = no_token();
    for (int i = begin + threadIdx.x; i < end; i += ROW_THREADS) {
        const struct scored s = tokens.at(i);
        if (ranks_before(last, s) && ranks_before(s, best)) best = s;
    }
    return best;
}

/* shared->best = the first k tokens of [begin, end) in rank; all threads, behind a barrier. */
template <class Tokens>
__device__ static void find_best(struct topk_shared *shared, Tokens tokens, int begin, int end,
                                 int k)
{
    struct scored mine = next_of_thread(tokens, begin, end, {INFINITY, -1});
    for (int j = 0; j < k; j++) {
        const struct scored best = block_best(mine, shared->of_warp);
        if (threadIdx.x == 0) shared->best[j] = best;
        if (best.id == mine.id) mine = next_of_thread(tokens, begin, end, mine);
        __syncthreads(); /* before of_warp is written again */
    }
}

/* The k >= 1 best of a row in shared->best, and in *log_sum the log of the sum of e^(x - best), NaN
 * if there is none; all threads.  False in all blocks of the row but the last, which have no more
 * to do. */
__device__ static bool rank_row(struct topk_shared *shared, const float *x, int vocab, int k,
                                struct chunk_best *partial, int32_t *ticket, float *log_sum)
{
    const int begin = blockIdx.x * SCAN_CHUNK, end = min(begin + SCAN_CHUNK, vocab);
    const int n_chunks = gridDim.x, j = threadIdx.x;
    const struct row_tokens row = {x};
    find_best(shared, row, begin, end, k);
    float sum = 0;
    for (int id = begin + j; id < end; id += ROW_THREADS)
        sum += x[id] == -INFINITY ? 0 : expf(x[id] - shared->best[0].score);
    sum = block_sum(sum, shared->sums);
    if (j == 0) partial[blockIdx.x].sum = sum;
    if (j < k) partial[blockIdx.x].best[j] = shared->best[j];
    if (!is_last_block(ticket, n_chunks, &shared->is_last)) return false;
    const struct chunk_tokens chunks = {partial, k};
    find_best(shared, chunks, 0, n_chunks * k, k);
    sum = 0;
    for (int c = j; c < n_chunks; c += ROW_THREADS)
        sum += partial[c].sum * expf(partial[c].best[0].score - shared->best[0].score);
    *log_sum = logf(block_sum(sum, shared->sums));
    return true;
}

__device__ __forceinline__ float log_probability(float logit, float max, float log_sum)
{
    const float logprob = logit - max - log_sum;
    return logprob == logprob ? logprob : -INFINITY;
}

static __global__ void __launch_bounds__(ROW_THREADS)
    topk_kernel(const __grid_constant__ struct topk_args a, struct chunk_best *partial,
                int32_t *tickets)
{
    struct topk_shared *shared = (struct topk_shared *)shared_memory();
    const int r = blockIdx.y, j = threadIdx.x;
    grid_wait();
    if (r >= n_rows(a.n, a.max)) return;
    float log_sum;
    if (!rank_row(shared, a.logits + (size_t)r * a.vocab, a.vocab, a.k,
                  partial + (size_t)r * gridDim.x, &tickets[r], &log_sum))
        return;
    if (j >= a.k) return;
    const struct scored best = shared->best[j];
    a.ids[(size_t)r * a.k + j] = a.ids_of != NULL ? a.ids_of[best.id] : best.id;
    a.logprobs[(size_t)r * a.k + j] = log_probability(best.score, shared->best[0].score, log_sum);
}

/* Entries behind the wanted ones, or behind the vocabulary, have id -1. */
static __global__ void __launch_bounds__(ROW_THREADS)
    logprobs_kernel(const __grid_constant__ struct logprobs_args a, struct chunk_best *partial,
                    int32_t *tickets)
{
    struct topk_shared *shared = (struct topk_shared *)shared_memory();
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
    const float max = shared->best[0].score;
    if (j == 0) a.top[i].logprob = max + log_sum;
    if (j >= MAX_LOGPROBS) return;
    const bool is_there = j < n_best;
    a.top[i].ids[j] = is_there ? shared->best[j].id : -1;
    a.top[i].logprobs[j] =
        is_there ? log_probability(shared->best[j].score, max, log_sum) : -INFINITY;
}

void cuda_topk(struct stream *s, const struct topk_args *a)
{
    REQUIRE(a->k >= 1 && a->k <= MAX_TOP_K && a->k <= a->vocab);
    launch_scan(s, topk_kernel, a->vocab, a->max, sizeof(struct topk_shared), *a);
}

void cuda_logprobs(struct stream *s, const struct logprobs_args *a)
{
    launch_scan(s, logprobs_kernel, a->state.vocab, a->out.max, sizeof(struct topk_shared), *a);
}
