/* topk, logprobs: the best of log_softmax(row) = row - max - log(sum of e^(row - max)) (ops.h).
 *
 *   logits  [n][vocab] float
 *
 *   grid  max rows      block  ROW_THREADS; thread t holds elements t, t + ROW_THREADS, ...
 *
 * Each thread knows the best of its elements that has not been taken.  The block takes the best of
 * those, and only the thread that held it looks through its elements again; so a row is read twice
 * from memory, whatever k is.  Bound by memory for a large vocabulary, by latency for a small one.
 */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ops.cuh"

/* A token and its score; `a` ranks before `b` if its score is higher, or equal and its id lower. */
struct scored {
    float score;
    int32_t id;
};

struct topk_shared {
    struct scored of_warp[ROW_THREADS / 32], best[MAX_TOP_K];
    float sums[32], maxima[32];
};
static_assert((int)MAX_LOGPROBS <= (int)MAX_TOP_K, "best has room for both operations");

__device__ __forceinline__ bool ranks_before(struct scored a, struct scored b)
{
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}

/* The best of this thread's elements behind `last` in rank; NaN ranks as -inf. */
__device__ static struct scored next_of_thread(const float *x, int n, struct scored last)
{
    struct scored best = {-INFINITY, INT32_MAX};
    for (int i = threadIdx.x; i < n; i += ROW_THREADS) {
        const struct scored s = {x[i] == x[i] ? x[i] : -INFINITY, i};
        if (ranks_before(last, s) && ranks_before(s, best)) best = s;
    }
    return best;
}

/* shared->best = the first k <= n of x[0..n) in rank; all threads, behind a barrier at the end. */
__device__ static void find_best(struct topk_shared *shared, const float *x, int n, int k)
{
    struct scored mine = next_of_thread(x, n, {INFINITY, -1});
    for (int j = 0; j < k; j++) {
        struct scored best = mine;
        for (int distance = 16; distance > 0; distance /= 2) {
            const struct scored other = {__shfl_xor_sync(~0u, best.score, distance),
                                         __shfl_xor_sync(~0u, best.id, distance)};
            if (ranks_before(other, best)) best = other;
        }
        if (threadIdx.x % 32 == 0) shared->of_warp[threadIdx.x / 32] = best;
        __syncthreads();
        for (int i = 0; i < ROW_THREADS / 32; i++)
            if (ranks_before(shared->of_warp[i], best)) best = shared->of_warp[i];
        if (threadIdx.x == 0) shared->best[j] = best;
        if (best.id == mine.id) mine = next_of_thread(x, n, mine);
        __syncthreads(); /* before the next round writes of_warp */
    }
}

/* log(sum of e^x) in two parts, *max + the result, which is >= 0; NaN if there is none. */
__device__ static float log_normaliser(struct topk_shared *shared, const float *x, int n,
                                       float *max)
{
    float largest = -INFINITY, sum = 0;
    bool has_nan = false;
    for (int i = threadIdx.x; i < n; i += ROW_THREADS) {
        largest = fmaxf(largest, x[i]); /* takes the number where the other is NaN */
        has_nan |= x[i] != x[i];
    }
    for (int distance = 16; distance > 0; distance /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, distance));
    if (__ballot_sync(~0u, has_nan) != 0) largest = INFINITY;
    if (threadIdx.x % 32 == 0) shared->maxima[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int i = 0; i < ROW_THREADS / 32; i++) largest = fmaxf(largest, shared->maxima[i]);
    *max = largest;
    if (isinf(largest)) return NAN; /* for the whole block */
    for (int i = threadIdx.x; i < n; i += ROW_THREADS) sum += expf(x[i] - largest);
    return logf(block_sum(sum, shared->sums));
}

__device__ __forceinline__ float log_probability(float logit, float max, float log_sum)
{
    const float logprob = logit - max - log_sum;
    return logprob == logprob ? logprob : -INFINITY;
}

static __global__ void __launch_bounds__(ROW_THREADS)
    topk_kernel(const __grid_constant__ struct topk_args a)
{
    struct topk_shared *shared = (struct topk_shared *)shared_memory();
    const int r = blockIdx.x, j = threadIdx.x;
    grid_wait();
    if (r >= n_rows(a.n, a.max)) return;
    const float *logits = a.logits + (size_t)r * a.vocab;
    float max;
    const float log_sum = log_normaliser(shared, logits, a.vocab, &max);
    find_best(shared, logits, a.vocab, a.k);
    if (j >= a.k) return;
    a.ids[(size_t)r * a.k + j] = shared->best[j].id;
    a.logprobs[(size_t)r * a.k + j] = log_probability(shared->best[j].score, max, log_sum);
}

/* Entries behind the wanted ones, or behind the vocabulary, have id -1. */
static __global__ void __launch_bounds__(ROW_THREADS)
    logprobs_kernel(const __grid_constant__ struct logprobs_args a)
{
    struct topk_shared *shared = (struct topk_shared *)shared_memory();
    const int i = blockIdx.x, j = threadIdx.x, vocab = a.state.vocab;
    grid_wait();
    if (i >= n_rows(a.out.n, a.out.max)) return;
    const int n_wanted = a.state.seats[a.out.seat[i]].sampling.n_logprobs;
    if (n_wanted < 0) return;
    DEVICE_REQUIRE(n_wanted <= MAX_LOGPROBS);
    const float *logits = a.logits + (size_t)i * vocab;
    const int n_best = min(n_wanted, vocab);
    float max;
    const float log_sum = log_normaliser(shared, logits, vocab, &max);
    find_best(shared, logits, vocab, n_best);
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
    launch(s, topk_kernel, a->max, ROW_THREADS, sizeof(struct topk_shared), *a);
}

void cuda_logprobs(struct stream *s, const struct logprobs_args *a)
{
    launch(s, logprobs_kernel, a->out.max, ROW_THREADS, sizeof(struct topk_shared), *a);
}
