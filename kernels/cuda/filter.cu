/* filter: penalties, bans, temperature, top-k, top-p and min-p of a row (ops.h).
 *
 *   logits, scores  [n][vocab] float
 *
 *   grid  max rows      block  FILTER_THREADS; thread t takes tokens t, t + FILTER_THREADS, ...
 *
 * Only rows whose seat asks for something are read.  A token's rank is one number, its key (score,
 * then ~id), so what top-k and top-p keep is all keys from some key on.  That key is found bit by
 * bit: how much lies in the upper half of what is still open?  The whole block asks the row until
 * few keys are open, which takes a handful of passes since none lies above the best; then one warp
 * asks a list of them.  Probabilities are relative to the best token's and are added as integers,
 * which is exact, so neither order nor threads matter.
 *
 * Penalties and temperature have the CPU's bits; e^x differs in the last, which matters only where
 * a sum of probabilities comes that near to top_p.  Bound by one block's reading of the row, so
 * loops over it have eight loads on their way. */
#include "kernels/asked.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ops.cuh"

constexpr int FILTER_THREADS = 1024;
constexpr int LIST_MAX = 1024; /* keys that a warp searches: 32 a lane */
constexpr int ID_BITS = 20;
constexpr float MASS_OF_BEST = 0x1p43f; /* 2^20 tokens as good as the best fit in 64 bits */

/* A token that is still open, and what it counts: 1, or its probability. */
struct open_token {
    uint64_t key, value;
};

struct filter_shared {
    alignas(32) uint64_t values[32];
    float maxima[32];
    alignas(16) int counts[32];
    int n_list;
    uint64_t least;
    struct open_token list[LIST_MAX];
};

/* ---- penalties and bans
 * ---------------------------------------------------------------------------------- */

/* What a row asks for. */
struct context {
    const struct sampling *sampling;
    const uint16_t *counts;     /* [vocab] of the seat */
    const uint32_t *in_prompt;  /* [(vocab + 31) / 32] */
    const int32_t *node_tokens; /* [MAX_NODES] */
    uint64_t path;              /* nodes behind the root that lead to the row's, itself included */
    int vocab;
    struct asked asked;
};

__device__ static struct context context_of(const struct filter_args *a, int i)
{
    const struct round_state *st = &a->state;
    const size_t seat = a->out.seat[i], node = seat * MAX_NODES + a->out.node[i];
    const int vocab = st->vocab;
    struct context c;
    c.sampling = &st->seats[seat].sampling;
    c.counts = st->counts + seat * vocab;
    c.in_prompt = st->in_prompt + seat * ((vocab + 31) / 32);
    c.node_tokens = a->tree.token + seat * MAX_NODES;
    c.path = a->tree.mask[node] & ~1ull;
    c.vocab = vocab;
    c.asked = asked_of(&st->seats[seat], a->tree.depth[node], vocab);
    return c;
}

/* A logit after penalties and temperature.  Products are rounded, as on the CPU. */
__device__ __forceinline__ float score_of(const struct context *c, float l, int id, int count)
{
    const struct sampling *s = c->sampling;
    if (c->asked.penalties) {
        if (count > 0 || (c->in_prompt[id / 32] >> (id % 32) & 1) != 0)
            l = l > 0 ? l / s->repetition_penalty : __fmul_rn(l, s->repetition_penalty);
        l -= __fmul_rn(s->frequency_penalty, (float)count);
        if (count > 0) l -= s->presence_penalty;
    }
    return s->temperature > 0 ? l / s->temperature : l;
}

/* The row's scores before filters; all threads, behind a barrier at the end. */
__device__ static void penalize_row(const struct context *c, const float *logits, float *scores)
{
    for (int id = threadIdx.x; id < c->vocab; id += FILTER_THREADS)
        scores[id] = score_of(c, logits[id], id, c->asked.penalties ? c->counts[id] : 0);
    __syncthreads();
    const int node = threadIdx.x;
    if (c->asked.penalties && node < MAX_NODES && (c->path >> node & 1) != 0) {
        const int32_t id = c->node_tokens[node];
        int count = c->counts[id];
        for (uint64_t left = c->path; left != 0; left &= left - 1)
            count += c->node_tokens[__ffsll((long long)left) - 1] == id;
        scores[id] = score_of(c, logits[id], id, min(count, UINT16_MAX)); /* as accept counts */
    }
    __syncthreads();
    for (int j = threadIdx.x; c->asked.bans && j < c->sampling->n_stop_ids; j += FILTER_THREADS) {
        const int32_t id = c->sampling->stop_ids[j];
        if (id >= 0 && id < c->vocab) scores[id] = -INFINITY;
    }
    __syncthreads();
}

/* ---- filters
 * --------------------------------------------------------------------------------------------- */

/* The largest score, for all threads; infinity if there is a NaN. */
__device__ static float largest_score(const float *scores, int vocab, float *scratch)
{
    float largest = -INFINITY;
#pragma unroll 8
    for (int id = threadIdx.x; id < vocab; id += FILTER_THREADS)
        largest = scores[id] == scores[id] ? fmaxf(largest, scores[id]) : INFINITY;
    for (int distance = 16; distance > 0; distance /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, distance));
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int i = 0; i < FILTER_THREADS / 32; i++) largest = fmaxf(largest, scratch[i]);
    return largest;
}

__device__ __forceinline__ uint64_t key_of(float score, int id)
{
    return (uint64_t)ordered_bits(score) << ID_BITS | (uint64_t)((1 << ID_BITS) - 1 - id);
}

/* What a search adds up: tokens, or their probabilities relative to the best token's. */
struct measure {
    bool is_mass;
    float best;

    __device__ __forceinline__ uint64_t of(float score) const
    {
        return is_mass ? (uint64_t)(expf(score - best) * MASS_OF_BEST) : 1;
    }
};

/* The tokens of a row and those of a list; both as open tokens. */
struct row_tokens {
    const float *scores;
    struct measure measure;

    __device__ __forceinline__ struct open_token at(int id, uint64_t low, uint64_t high) const
    {
        const float score = scores[id];
        const uint64_t key = key_of(score, id);
        return {key, key >= low && key < high ? measure.of(score) : 0};
    }
};
struct list_tokens {
    const struct open_token *list;

    __device__ __forceinline__ struct open_token at(int i, uint64_t, uint64_t) const
    {
        return list[i];
    }
};

struct sums {
    uint64_t value;
    int n;
};

/* Of the tokens first, first + step, ... with keys in [low, high). */
template <class Tokens>
__device__ __forceinline__ struct sums sum_between(Tokens tokens, int n, int first, int step,
                                                   uint64_t low, uint64_t high)
{
    struct sums sum = {0, 0};
#pragma unroll 8
    for (int i = first; i < n; i += step) {
        const struct open_token token = tokens.at(i, low, high);
        if (token.key < low || token.key >= high) continue;
        sum.value += token.value;
        sum.n++;
    }
    return sum;
}

/* A search for the largest key such that the tokens from it on come to `need`.  It lies in [low,
 * high), as the keys of n tokens do; those from high on come to `above`. */
struct search {
    uint64_t low, high, above, need;
    int n, bit; /* bits above it are decided */
};

__device__ __forceinline__ uint64_t middle_of(const struct search *s)
{
    return s->low | 1ull << s->bit;
}

/* `upper` is what lies in [middle, high). */
__device__ __forceinline__ void decide(struct search *s, struct sums upper)
{
    if (s->above + upper.value >= s->need) {
        s->low = middle_of(s);
        s->n = upper.n;
    } else {
        s->high = middle_of(s);
        s->n -= upper.n;
        s->above += upper.value;
    }
}

/* From where on the best tokens of a row come to `need`; all threads, behind a barrier at the end.
 * No key is below the result of a search in which nothing has to be left out. */
__device__ static uint64_t find_least(struct filter_shared *shared, const float *scores, int vocab,
                                      struct measure measure, uint64_t need)
{
    const struct row_tokens row = {scores, measure};
    struct search s = {0, key_of(measure.best, 0) + 1, 0, need, vocab, 32 + ID_BITS - 1};
    if (threadIdx.x == 0) shared->n_list = 0;
    for (; s.n > LIST_MAX; s.bit--) {
        if (middle_of(&s) >= s.high) continue; /* above the best token */
        struct sums upper =
            sum_between(row, vocab, threadIdx.x, FILTER_THREADS, middle_of(&s), s.high);
        upper.value = block_sum(upper.value, shared->values); /* read before the next barrier, */
        upper.n = block_sum(upper.n, shared->counts);         /* which is this one's */
        decide(&s, upper);
    }
    __syncthreads();
    for (int id = threadIdx.x; id < vocab; id += FILTER_THREADS) {
        const struct open_token token = row.at(id, s.low, s.high);
        if (token.key >= s.low && token.key < s.high)
            shared->list[atomicAdd(&shared->n_list, 1)] = token;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        const struct list_tokens list = {shared->list};
        for (const int n_list = s.n; s.n > 1; s.bit--) {
            if (middle_of(&s) >= s.high) continue;
            struct sums upper = sum_between(list, n_list, threadIdx.x, 32, middle_of(&s), s.high);
            upper.value = warp_sum(upper.value);
            upper.n = warp_sum(upper.n);
            decide(&s, upper);
        }
        if (threadIdx.x == 0) shared->least = s.low;
    }
    __syncthreads();
    return shared->least;
}

/* Sets what top_k, top_p and min_p drop to -inf.  `best` is the row's largest score, finite. */
__device__ static void drop_tokens(struct filter_shared *shared, const struct sampling *s,
                                   float *scores, int vocab, float best)
{
    const struct measure count = {false, best}, mass = {true, best};
    uint64_t least = 0;
    if (s->top_k > 0 && s->top_k < vocab)
        least = find_least(shared, scores, vocab, count, (uint64_t)s->top_k);
    if (s->top_p < 1) {
        const struct row_tokens row = {scores, mass};
        const struct sums all = sum_between(row, vocab, threadIdx.x, FILTER_THREADS, least, ~0ull);
        const double total = (double)block_sum(all.value, shared->values);
        const double need = ceil((double)s->top_p * total);
        __syncthreads(); /* before values is used again */
        least = find_least(shared, scores, vocab, mass, need >= 1 ? (uint64_t)need : 1);
    }
    for (int id = threadIdx.x; id < vocab; id += FILTER_THREADS) {
        const float score = scores[id];
        if (key_of(score, id) < least || expf(score - best) < s->min_p) scores[id] = -INFINITY;
    }
}

static __global__ void __launch_bounds__(FILTER_THREADS)
    filter_kernel(const __grid_constant__ struct filter_args a)
{
    struct filter_shared *shared = (struct filter_shared *)shared_memory();
    const int i = blockIdx.x;
    grid_wait();
    if (i >= n_rows(a.out.n, a.out.max)) return;
    const struct context c = context_of(&a, i);
    if (!c.asked.scores) return;
    float *scores = a.scores + (size_t)i * c.vocab;
    penalize_row(&c, a.logits + (size_t)i * c.vocab, scores);
    if (!c.asked.filters) return;
    const float best = largest_score(scores, c.vocab, shared->maxima);
    if (isinf(best)) return; /* pick refuses the row, or the best wins without filters */
    drop_tokens(shared, c.sampling, scores, c.vocab, best);
}

void cuda_filter(struct stream *s, const struct filter_args *a)
{
    static_assert(MAX_VOCAB <= 1 << ID_BITS, "a key holds an id");
    REQUIRE(a->state.vocab > 0 && a->state.vocab <= MAX_VOCAB);
    launch(s, filter_kernel, a->out.max, FILTER_THREADS, sizeof(struct filter_shared), *a);
}
