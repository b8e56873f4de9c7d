#include "test/opbed.h"

#include "kernels/philox.h"
#include "test/test.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_RECORDS = 512 }; /* page entries a round */

void *opbed_array(struct opbed *r, size_t bytes)
{
    void *p = kernels_host(&r->k, bytes);
    memset(p, 0xff, bytes);
    return p;
}

static int32_t *zero(struct opbed *r)
{
    return kernels_host(&r->k, sizeof(int32_t));
}

static struct rows new_rows(struct opbed *r, int max)
{
    size_t ints = (size_t)max * sizeof(int32_t);
    return (struct rows){.n = zero(r),
                         .max = max,
                         .seat = opbed_array(r, ints),
                         .id = opbed_array(r, ints),
                         .pos = opbed_array(r, 3 * ints),
                         .slot = opbed_array(r, ints),
                         .prefix = opbed_array(r, ints),
                         .mask = opbed_array(r, 2 * ints)};
}

struct draft_rows opbed_draft_rows(struct opbed *r, int max)
{
    size_t ints = (size_t)max * sizeof(int32_t);
    return (struct draft_rows){.rows = new_rows(r, max),
                               .kind = opbed_array(r, ints),
                               .h_row = opbed_array(r, ints),
                               .g_row = opbed_array(r, ints)};
}

int opbed_n_candidates(const struct opbed *r)
{
    return r->shape.k + r->shape.depth * r->shape.k * r->shape.k;
}

static void open_state(struct opbed *r)
{
    size_t n = (size_t)r->shape.max_seqs, vocab = (size_t)r->shape.vocab;
    size_t width = (size_t)r->shape.width;
    r->inputs = kernels_host(&r->k, ROUND_RING * sizeof(*r->inputs));
    struct round_output *outputs = kernels_host(&r->k, ROUND_RING * sizeof(*outputs));
    for (int i = 0; i < ROUND_RING; i++) {
        r->inputs[i].leaves = opbed_array(r, n * sizeof(int32_t));
        r->inputs[i].joins = opbed_array(r, n * sizeof(struct join));
        r->inputs[i].pages = opbed_array(r, MAX_RECORDS * sizeof(struct page_entry));
        r->inputs[i].chunks = opbed_array(r, n * sizeof(struct chunk));
        r->inputs[i].prompt_rows =
            opbed_array(r, (size_t)r->shape.max_rows * sizeof(struct prompt_row));
        outputs[i].seats = opbed_array(r, n * sizeof(struct seat_output));
        outputs[i].logprobs = opbed_array(r, n * MAX_NODES * sizeof(struct token_logprobs));
    }
    r->state = (struct round_state){
        .round = zero(r),
        .inputs = r->inputs,
        .outputs = outputs,
        .seats = kernels_host(&r->k, n * sizeof(struct seat)),
        .counts = opbed_array(r, n * vocab * sizeof(uint16_t)),
        .in_prompt = opbed_array(r, n * ((vocab + 31) / 32) * sizeof(uint32_t)),
        .pool = opbed_array(r, (n + 1 + 64) * width * sizeof(float)),
        .carried_h = opbed_array(r, n * width * sizeof(float)),
        .max_seqs = r->shape.max_seqs,
        .vocab = r->shape.vocab,
        .width = r->shape.width,
    };
    memset(r->state.pool + n * width, 0, width * sizeof(float));
}

void opbed_open(struct opbed *r, const struct opbed_shape *shape)
{
    *r = (struct opbed){.shape = *shape};
    kernels_open(&r->k);
    open_state(r);
    size_t ints = (size_t)shape->max_seqs * sizeof(int32_t), nodes = MAX_NODES * ints;
    size_t n_candidates = (size_t)opbed_n_candidates(r), max_rows = (size_t)shape->max_rows;
    r->beam = (struct beam){
        .k = shape->k,
        .depth = shape->depth,
        .n_heads = zero(r),
        .seat = opbed_array(r, ints),
        .head_row = opbed_array(r, ints),
        .token = opbed_array(r, n_candidates * ints),
        .score = opbed_array(r, n_candidates * ints),
        .node = opbed_array(r, (size_t)shape->depth * (size_t)shape->k * ints + 1),
        .mask = opbed_array(r, 2 * (size_t)shape->k * ints),
    };
    r->tree = (struct tree){
        .n_nodes = opbed_array(r, ints),
        .first_row = opbed_array(r, ints),
        .token = opbed_array(r, nodes),
        .parent = opbed_array(r, nodes),
        .depth = opbed_array(r, nodes),
        .mask = opbed_array(r, 2 * nodes),
        .path = opbed_array(r, nodes),
        .n_path = opbed_array(r, ints),
        .old_len = opbed_array(r, ints),
    };
    r->rows = new_rows(r, shape->max_rows);
    r->out = (struct out_rows){.n = zero(r),
                               .max = shape->max_rows,
                               .row = opbed_array(r, max_rows * sizeof(int32_t)),
                               .seat = opbed_array(r, max_rows * sizeof(int32_t)),
                               .node = opbed_array(r, max_rows * sizeof(int32_t))};
    r->next = opbed_draft_rows(r, shape->max_rows);
}

void opbed_close(struct opbed *r)
{
    kernels_close(&r->k);
}

void opbed_wait(struct opbed *r)
{
    stream_wait(r->k.stream);
}

struct round_input *opbed_input(struct opbed *r)
{
    struct round_input *in = &r->inputs[*r->state.round % ROUND_RING];
    in->n_leaves = in->n_joins = in->n_pages = in->n_chunks = in->n_prompt_rows = 0;
    return in;
}

const struct round_output *opbed_output(const struct opbed *r)
{
    return &r->state.outputs[(*r->state.round - 1) % ROUND_RING];
}

struct sampling opbed_greedy(void)
{
    return (struct sampling){
        .top_p = 1, .repetition_penalty = 1, .max_tokens = 1000, .n_logprobs = -1, .use_draft = 1};
}

void opbed_seat(struct opbed *r, int seat, int len, int root, const struct sampling *s)
{
    size_t vocab = (size_t)r->shape.vocab, n_words = (vocab + 31) / 32;
    r->state.seats[seat] = (struct seat){
        .state = SEAT_DECODE, .len = len, .n_generated = 1, .root = root, .sampling = *s};
    memset(r->state.counts + (size_t)seat * vocab, 0, vocab * sizeof(uint16_t));
    memset(r->state.in_prompt + (size_t)seat * n_words, 0, n_words * sizeof(uint32_t));
    if (root >= 0) r->state.counts[(size_t)seat * vocab + (size_t)root] = 1;
}

/* ---- the sampling rules, token by token
 * ----------------------------------------------------------- */

static int count(const int32_t *ids, int n, int32_t id)
{
    int found = 0;
    for (int i = 0; i < n; i++) found += ids[i] == id;
    return found;
}

struct candidate {
    float score;
    int id;
};

static int by_rank(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id - y->id;
}

/* Drops all but the first n_kept of the ranking. */
static void keep_first(const struct candidate *ranking, int vocab, int n_kept, float *scores)
{
    for (int i = n_kept; i < vocab; i++) scores[ranking[i].id] = -INFINITY;
}

static void filter_sorted(const struct sampling *s, int vocab, float *scores)
{
    struct candidate *ranking = malloc((size_t)vocab * sizeof(*ranking));
    CHECK(ranking != NULL);
    for (int id = 0; id < vocab; id++) ranking[id] = (struct candidate){scores[id], id};
    qsort(ranking, (size_t)vocab, sizeof(*ranking), by_rank);

    int n = s->top_k > 0 && s->top_k < vocab ? s->top_k : vocab;
    double total = 0, best = (double)ranking[0].score, sum = 0;
    for (int i = 0; i < n; i++) total += exp((double)ranking[i].score - best);
    int n_kept = 0;
    while (n_kept < n && (s->top_p >= 1 || n_kept == 0 || sum < (double)s->top_p * total))
        sum += exp((double)ranking[n_kept++].score - best);
    while (exp((double)ranking[n_kept - 1].score - best) < (double)s->min_p) n_kept--;
    keep_first(ranking, vocab, n_kept, scores);
    free(ranking);
}

void naive_filter(const struct naive_context *c, const float *logits, int vocab, float *scores)
{
    const struct sampling *s = c->sampling;
    bool has_nan = false;
    for (int id = 0; id < vocab; id++) {
        int n = count(c->answer, c->n_answer, id);
        float l = logits[id];
        if (n > 0 || count(c->prompt, c->n_prompt, id) > 0)
            l = l > 0 ? l / s->repetition_penalty : l * s->repetition_penalty;
        l -= s->frequency_penalty * (float)n;
        if (n > 0) l -= s->presence_penalty;
        if (c->n_answer < s->min_tokens && count(s->stop_ids, s->n_stop_ids, id) > 0) l = -INFINITY;
        scores[id] = s->temperature > 0 ? l / s->temperature : l;
        has_nan |= isnan(logits[id]);
    }
    if (s->temperature > 0 && !has_nan) filter_sorted(s, vocab, scores);
}

static float noise(const struct naive_context *c, int id)
{
    struct philox counter = {{(uint32_t)id / 4, (uint32_t)c->position, c->sampling->choice, 0}};
    uint32_t word = philox4x32(counter, c->sampling->seed).word[id % 4];
    float u = ((float)word + 0.5f) * 0x1p-32f;
    float e = -log1pf(-u);
    return -logf(e);
}

int naive_pick(const struct naive_context *c, const float *logits, const float *scores, int vocab)
{
    int best = -1;
    float best_value = 0;
    for (int id = 0; id < vocab; id++) {
        if (isnan(logits[id])) return -1;
        if (scores[id] == -INFINITY) continue;
        float value = c->sampling->temperature > 0 ? scores[id] + noise(c, id) : scores[id];
        if (best >= 0 && !(value > best_value)) continue;
        best = id;
        best_value = value;
    }
    return best;
}
