/* Ranking tokens, and rows of logits that several blocks read together: what pick, topk
 * and logprobs share.
 *
 *   grid  (chunks of a row, rows)      block  ROW_THREADS
 *
 * A row is cut into chunks by the size of the vocabulary alone, so its result does not depend on
 * the rows beside it.  Each block leaves what it found in the workspace, and the block of a row
 * that comes last puts that together in the order of the chunks. */
#ifndef KERNELS_CUDA_SCAN_CUH
#define KERNELS_CUDA_SCAN_CUH

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/cuda.cuh"

constexpr int SCAN_CHUNK = 4096; /* 38 blocks for a row of 152k: 4 rows fill a GPU of 132 SMs */

/* Queues kernel(args, partial, tickets): a Partial of each chunk of each row in the workspace, and
 * a ticket of each row. */
template <class Partial, class Args>
static void launch_scan(struct stream *s, void (*kernel)(Args, Partial *, int32_t *), int vocab,
                        int max_rows, size_t shared_bytes, const Args &args)
{
    const struct cuda_stream *stream = cuda_stream_of(s);
    REQUIRE(vocab > 0 && max_rows <= N_TICKETS);
    const dim3 grid(ceil_div(vocab, SCAN_CHUNK), max_rows);
    REQUIRE((size_t)grid.x * grid.y * sizeof(Partial) <= WORKSPACE_FLOATS * sizeof(float));
    launch(s, kernel, grid, ROW_THREADS, shared_bytes, args, (Partial *)stream->workspace,
           stream->tickets);
}

/* A token and its score; `a` ranks before `b` if its score is higher, or equal and its id lower. */
struct scored {
    float score;
    int32_t id;
};

__device__ __forceinline__ bool ranks_before(struct scored a, struct scored b)
{
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}

/* Ranks behind every token. */
__device__ __forceinline__ struct scored no_token(void)
{
    return {-INFINITY, INT32_MAX};
}

/* The best of the warp, for all lanes.  -0 becomes 0. */
__device__ __forceinline__ struct scored warp_best(struct scored mine)
{
    const uint32_t key = ordered_bits(mine.score), best = __reduce_max_sync(~0u, key);
    return {from_ordered_bits(best), __reduce_min_sync(~0u, key == best ? mine.id : INT32_MAX)};
}

/* The best of the block, for all threads.  `scratch` is shared memory, free again when the next
 * barrier has passed. */
__device__ __forceinline__ struct scored block_best(struct scored best,
                                                    struct scored (&scratch)[ROW_THREADS / 32])
{
    best = warp_best(best);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
    __syncthreads();
    for (int i = 0; i < ROW_THREADS / 32; i++)
        if (ranks_before(scratch[i], best)) best = scratch[i];
    return best;
}

/* Shared memory of a block that ranks. */
struct ranking {
    struct scored of_warp[ROW_THREADS / 32], best[MAX_TOP_K];
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
__device__ static void find_best(struct ranking *shared, Tokens tokens, int begin, int end, int k)
{
    struct scored mine = next_of_thread(tokens, begin, end, {INFINITY, -1});
    for (int j = 0; j < k; j++) {
        const struct scored best = block_best(mine, shared->of_warp);
        if (threadIdx.x == 0) shared->best[j] = best;
        if (best.id == mine.id) mine = next_of_thread(tokens, begin, end, mine);
        __syncthreads(); /* before of_warp is written again */
    }
}

/* -inf where the row has no softmax. */
__device__ __forceinline__ float log_probability(float logit, float max, float log_sum)
{
    const float logprob = logit - max - log_sum;
    return logprob == logprob ? logprob : -INFINITY;
}

#endif
