/* head, filter, pick: from the model's hidden states to one token a row (ops.h).
 *
 * All look at a row, its seat and its node's path only, so the token at a position is a pure
 * function of context, parameters, seed and position (docs/architecture.md, idea 4): a tree node
 * and a row of plain decoding that stand behind the same tokens pick the same. */
#include <math.h>

#include "kernels/asked.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/scan.h"
#include "kernels/philox.h"

enum { LIST_MAX = 128 }; /* a top_k up to which keeping a sorted list is faster than a heap */

static void head_run(const struct head_args *a)
{
    cpu_gemm_now(&(struct gemm_args){.w = a->w,
                                     .x = a->x,
                                     .y = a->logits,
                                     .n = a->out.n,
                                     .max = a->out.max,
                                     .ldx = a->ldx,
                                     .ldy = a->state.vocab});
}
CPU_OPERATION(head, head_args)

/* ---- penalties and bans ------------------------------------------------------------------------
 */

/* What filter needs to know about a row. */
struct context {
    const struct sampling *sampling;
    const uint16_t *counts;     /* [vocab] of the seat */
    const uint32_t *in_prompt;  /* [(vocab + 31) / 32] */
    const int32_t *node_tokens; /* [MAX_NODES] */
    uint64_t path;              /* nodes behind the root that lead to the row's, itself included */
    int vocab;
    struct asked asked;
};

static struct context context_of(const struct filter_args *a, int i)
{
    const struct round_state *st = &a->state;
    size_t seat = (size_t)a->out.seat[i], node = seat * MAX_NODES + (size_t)a->out.node[i];
    return (struct context){
        .sampling = &st->seats[seat].sampling,
        .counts = st->counts + seat * (size_t)st->vocab,
        .in_prompt = st->in_prompt + seat * (((size_t)st->vocab + 31) / 32),
        .node_tokens = a->tree.token + seat * MAX_NODES,
        .path = a->tree.mask[node] & ~1ull,
        .vocab = st->vocab,
        .asked = asked_of(&st->seats[seat], a->tree.depth[node], st->vocab),
    };
}

static float penalize(const struct sampling *s, float l, int count, bool is_in_prompt)
{
    if (count > 0 || is_in_prompt)
        l = l > 0 ? l / s->repetition_penalty : l * s->repetition_penalty;
    l -= s->frequency_penalty * (float)count;
    return count > 0 ? l - s->presence_penalty : l;
}

static bool is_in_prompt(const struct context *c, int id)
{
    return c->in_prompt[id / 32] >> (id % 32) & 1;
}

static int count_on_path(const struct context *c, int32_t token)
{
    int count = 0;
    for (uint64_t left = c->path; left; left &= left - 1)
        count += c->node_tokens[__builtin_ctzll(left)] == token;
    return count;
}

/* Tokens of neither prompt nor answer keep their logit, and most blocks of 32 have no other. */
static void apply_penalties(const struct context *c, const float *logits, float *scores)
{
    for (int begin = 0; begin < c->vocab; begin += 32) {
        int end = begin + 32 < c->vocab ? begin + 32 : c->vocab;
        unsigned any = c->in_prompt[begin / 32];
        for (int id = begin; id < end; id++) any |= c->counts[id];
        for (int id = begin; any && id < end; id++)
            scores[id] = penalize(c->sampling, logits[id], c->counts[id], is_in_prompt(c, id));
    }
    for (uint64_t left = c->path; left; left &= left - 1) {
        int32_t id = c->node_tokens[__builtin_ctzll(left)];
        int count = c->counts[id] + count_on_path(c, id);
        if (count > UINT16_MAX) count = UINT16_MAX; /* as accept counts */
        scores[id] = penalize(c->sampling, logits[id], count, is_in_prompt(c, id));
    }
}

static void ban_stop_ids(const struct context *c, float *scores)
{
    for (int j = 0; j < c->sampling->n_stop_ids; j++) {
        int32_t id = c->sampling->stop_ids[j];
        if (id >= 0 && id < c->vocab) scores[id] = -INFINITY;
    }
}

/* ---- filters -----------------------------------------------------------------------------------
 */

/* A row's tokens, taken best first.  items[0 .. n_heap) is a heap of those not yet taken, the
 * others lie behind it in order, the best last. */
struct ranking {
    struct scored *items;
    int n, n_heap;
};

static void sift_down(struct scored *heap, int n, int i)
{
    struct scored moved = heap[i];
    for (;;) {
        int child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && scored_before(heap[child + 1], heap[child])) child++;
        if (!scored_before(heap[child], moved)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
}

/* The m-th best, m < n. */
static struct scored ranking_at(struct ranking *r, int m)
{
    while (r->n - r->n_heap <= m) {
        struct scored best = r->items[0];
        int last = --r->n_heap;
        r->items[0] = r->items[last];
        sift_down(r->items, last, 0);
        r->items[last] = best;
    }
    return r->items[r->n - 1 - m];
}

/* Ranks all tokens that are not banned, or at least the first top_k of them. */
static struct ranking rank_tokens(const float *scores, int vocab, int top_k)
{
    struct ranking r = {cpu_scratch((size_t)vocab * sizeof(*r.items)), 0, 0};
    if (top_k <= LIST_MAX) {
        struct scored best[LIST_MAX];
        int n = scan_best(scores, vocab, top_k, best);
        while (n > 0 && best[n - 1].score == -INFINITY) n--;
        for (int j = 0; j < n; j++) r.items[n - 1 - j] = best[j];
        r.n = n;
        return r;
    }
    for (int id = 0; id < vocab; id++)
        if (scores[id] > -INFINITY) r.items[r.n++] = (struct scored){scores[id], id};
    r.n_heap = r.n;
    for (int i = r.n / 2 - 1; i >= 0; i--) sift_down(r.items, r.n, i);
    return r;
}

/* A token's probability over the best one's; also where both are infinite. */
static float weight(float score, float best)
{
    return score == best ? 1 : scan_exp(score - best);
}

/* How many of the first n ranked tokens top_p and min_p keep, at least one. */
static int count_kept(struct ranking *r, int n, const struct sampling *s, double total)
{
    float best = ranking_at(r, 0).score;
    double sum = 1;
    int kept = 1;
    while (kept < n && !(s->top_p < 1 && sum >= s->top_p * total)) {
        float w = weight(ranking_at(r, kept).score, best);
        if (w < s->min_p) break;
        sum += w;
        kept++;
    }
    return kept;
}

/* Sets what top_k, top_p and min_p drop to -inf.  `best` is the row's largest score, finite. */
static void apply_filters(const struct sampling *s, float *scores, int vocab, float best)
{
    int top_k = s->top_k > 0 && s->top_k < vocab ? s->top_k : vocab;
    if (top_k == vocab && !(s->top_p < 1)) {
        for (int id = 0; s->min_p > 0 && id < vocab; id++)
            if (weight(scores[id], best) < s->min_p) scores[id] = -INFINITY;
        return;
    }
    struct ranking r = rank_tokens(scores, vocab, top_k);
    int n = r.n < top_k ? r.n : top_k;
    double total = 0;
    if (s->top_p < 1 && top_k == vocab)
        total = scan_exp_sum(scores, vocab, best);
    else if (s->top_p < 1)
        for (int m = 0; m < n; m++) total += weight(ranking_at(&r, m).score, best);
    int kept = count_kept(&r, n, s, total);
    for (int id = 0; id < vocab; id++) scores[id] = -INFINITY;
    for (int m = 0; m < kept; m++) {
        struct scored token = ranking_at(&r, m);
        scores[token.id] = token.score;
    }
}

static void filter_row(const struct filter_args *a, int i)
{
    struct context c = context_of(a, i);
    const struct sampling *s = c.sampling;
    if (!c.asked.scores) return;

    const float *logits = a->logits + (size_t)i * c.vocab;
    float *scores = a->scores + (size_t)i * c.vocab;
    for (int id = 0; id < c.vocab; id++) scores[id] = logits[id];
    if (c.asked.penalties) apply_penalties(&c, logits, scores);
    if (c.asked.bans) ban_stop_ids(&c, scores);
    for (int id = 0; s->temperature > 0 && id < c.vocab; id++) scores[id] /= s->temperature;
    if (!c.asked.filters) return;
    bool has_nan;
    float best = scan_max(scores, c.vocab, &has_nan);
    if (has_nan || isinf(best)) return; /* pick refuses the row, or the best wins without filters */
    apply_filters(s, scores, c.vocab, best);
}

static void filter_run(const struct filter_args *a)
{
    int n = cpu_n_rows(a->out.n, a->out.max);
#pragma omp parallel for schedule(dynamic) if (n > 1 && (long)n * a->state.vocab > SCAN_SERIAL_MAX)
    for (int i = 0; i < n; i++) filter_row(a, i);
}
CPU_OPERATION(filter, filter_args)

/* ---- pick --------------------------------------------------------------------------------------
 */

/* The place of a pick in the noise. */
struct noise {
    uint64_t seed;
    uint32_t position, choice;
    float temperature; /* that the scores still are to be divided by */
};

static float score_at(const float *scores, int id, const struct noise *at)
{
    return at->temperature == 1 ? scores[id] : scores[id] / at->temperature;
}

static struct philox noise_words(const struct noise *at, int group)
{
    struct philox counter = {{(uint32_t)group, at->position, at->choice, 0}};
    return philox4x32(counter, at->seed);
}

/* No noise is above it: that of word 0 is 22.9. */
static const float MAX_NOISE = 23;

/* At least philox_gumbel(word), without a logarithm: -log(-log1p(-u)) < -log(u), and
 * u >= 2^-(zeros + 1).  The hundredth covers all rounding. */
static float noise_bound(uint32_t word)
{
    int zeros = word ? __builtin_clz(word) : 32;
    return (float)(zeros + 1) * 0.693147181f + 0.01f;
}

/* The best token so far, and its score with noise. */
struct winner {
    int32_t id;
    float value;
};

static void try_token(struct winner *w, float score, int32_t id, uint32_t word)
{
    /* Rounding is monotonic: what the bound cannot reach, the noise cannot. */
    if (score == -INFINITY || score + noise_bound(word) < w->value) return;
    float value = score + philox_gumbel(word);
    if (w->id < 0 || value > w->value || (value == w->value && id < w->id))
        *w = (struct winner){id, value};
}

/* Starts with the best score, which is rarely beaten, so that nearly all others are rejected by a
 * comparison, most of them before their noise is made. */
static int pick_sampled(const float *scores, int vocab, int32_t best_id, const struct noise *at)
{
    struct winner w = {-1, -INFINITY};
    try_token(&w, score_at(scores, best_id, at), best_id,
              noise_words(at, best_id / 4).word[best_id % 4]);
    for (int begin = 0; begin < vocab; begin += 4) {
        int n = vocab - begin < 4 ? vocab - begin : 4;
        float score[4];
        bool is_open = false;
        for (int j = 0; j < n; j++) {
            score[j] = score_at(scores, begin + j, at);
            is_open |= score[j] > -INFINITY && score[j] + MAX_NOISE >= w.value;
        }
        if (!is_open) continue;
        struct philox words = noise_words(at, begin / 4);
        for (int j = 0; j < n; j++) try_token(&w, score[j], begin + j, words.word[j]);
    }
    return w.id;
}

static int32_t pick_row(const struct pick_args *a, int i)
{
    const struct round_state *st = &a->state;
    size_t seat = (size_t)a->out.seat[i], node = seat * MAX_NODES + (size_t)a->out.node[i];
    const struct sampling *s = &st->seats[seat].sampling;
    const int depth = a->tree.depth[node];
    const bool has_scores = asked_of(&st->seats[seat], depth, st->vocab).scores;
    const float *logits = a->logits + (size_t)i * st->vocab;
    const float *scores = has_scores ? a->scores + (size_t)i * st->vocab : logits;
    bool has_nan, ignored;
    float best = scan_max(logits, st->vocab, &has_nan);
    if (has_nan) return -1;
    if (has_scores) best = scan_max(scores, st->vocab, &ignored);
    if (best == -INFINITY) return -1;
    int32_t best_id = 0;
    while (scores[best_id] != best) best_id++;
    if (!(s->temperature > 0)) return best_id;
    struct noise at = {s->seed, (uint32_t)(a->tree.old_len[seat] + depth + 1), s->choice,
                       has_scores ? 1 : s->temperature};
    return pick_sampled(scores, st->vocab, best_id, &at);
}

static void pick_run(const struct pick_args *a)
{
    int n = cpu_n_rows(a->out.n, a->out.max);
#pragma omp parallel for schedule(dynamic) if (n > 1 && (long)n * a->state.vocab > SCAN_SERIAL_MAX)
    for (int i = 0; i < n; i++) a->pick[i] = pick_row(a, i);
}
CPU_OPERATION(pick, pick_args)
