/* pick: argmax of a row, or of the row with Gumbel noise (ops.h).
 *
 *   logits, scores  [n][vocab] float      partial  [n][chunks] the best of each chunk
 *
 *   grid  (chunks of a row, max rows)      block  ROW_THREADS; a thread takes four tokens that
 *                                                 share the words of one Philox counter
 *
 * A NaN is a token of id -1 that ranks before all others.  Bound by memory: a row is read once,
 * and a filtered one twice.  The noise differs from the CPU's in the last bits, as logf does. */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/philox.h"

constexpr int N_WORDS = 4; /* tokens of a Philox counter */

struct pick_shared {
    struct scored best[ROW_THREADS / 32];
    int is_last;
};

/* The place of a pick in the noise. */
struct noise {
    uint64_t seed;
    uint32_t position, choice;
    bool is_wanted;
};

__device__ static struct noise noise_of(const struct pick_args *a, int i)
{
    const size_t seat = a->out.seat[i], node = seat * MAX_NODES + a->out.node[i];
    const struct sampling *s = &a->state.seats[seat].sampling;
    const uint32_t position = (uint32_t)(a->tree.old_len[seat] + a->tree.depth[node] + 1);
    return {s->seed, position, s->choice, s->temperature > 0};
}

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

/* The better of `best` and the tokens first .. first + N_WORDS - 1. */
__device__ __forceinline__ struct scored pick_words(struct scored best, const float *logits,
                                                    const float *scores, int first, int vocab,
                                                    const struct noise *at)
{
    float x[N_WORDS];
    load_words(x, logits, first, vocab);
    for (int j = 0; j < N_WORDS; j++)
        if (x[j] != x[j]) best = {INFINITY, -1};
    if (scores != logits) load_words(x, scores, first, vocab);
    if (at->is_wanted && fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])) > -INFINITY) {
        const struct philox counter = {{(uint32_t)first / N_WORDS, at->position, at->choice, 0}};
        const struct philox words = philox4x32(counter, at->seed);
        for (int j = 0; j < N_WORDS; j++)
            if (x[j] > -INFINITY) x[j] += philox_gumbel(words.word[j]);
    }
    for (int j = 0; j < N_WORDS; j++) {
        const struct scored token = {x[j], first + j};
        if (x[j] > -INFINITY && ranks_before(token, best)) best = token;
    }
    return best;
}

static __global__ void __launch_bounds__(ROW_THREADS)
    pick_kernel(const __grid_constant__ struct pick_args a, struct scored *partial,
                int32_t *tickets)
{
    struct pick_shared *shared = (struct pick_shared *)shared_memory();
    const int i = blockIdx.y, n_chunks = gridDim.x, vocab = a.state.vocab;
    grid_wait();
    if (i >= n_rows(a.out.n, a.out.max)) return;
    const float *logits = a.logits + (size_t)i * vocab;
    const float *scores = a.has_scores[i] != 0 ? a.scores + (size_t)i * vocab : logits;
    const struct noise at = noise_of(&a, i);
    const int begin = blockIdx.x * SCAN_CHUNK, end = min(begin + SCAN_CHUNK, vocab);
    struct scored best = no_token();
    for (int first = begin + threadIdx.x * N_WORDS; first < end; first += ROW_THREADS * N_WORDS)
        best = pick_words(best, logits, scores, first, vocab, &at);
    best = block_best(best, shared->best);
    partial += (size_t)i * n_chunks;
    if (threadIdx.x == 0) partial[blockIdx.x] = best;
    if (!is_last_block(&tickets[i], n_chunks, &shared->is_last)) return;
    best = no_token();
    for (int c = threadIdx.x; c < n_chunks; c += ROW_THREADS)
        if (ranks_before(partial[c], best)) best = partial[c];
    best = block_best(best, shared->best);
    if (threadIdx.x == 0) a.pick[i] = best.id == INT32_MAX ? -1 : best.id;
}

void cuda_pick(struct stream *s, const struct pick_args *a)
{
    static_assert(SCAN_CHUNK % N_WORDS == 0, "a counter's tokens lie in one chunk");
    launch_scan(s, pick_kernel, a->state.vocab, a->out.max, sizeof(struct pick_shared), *a);
}
