#include "test/test.h"

#include "test/opbed.h"

#include <math.h>
#include <stdlib.h>

/* Rows of numbers and a head, of small integers and powers of two, so that all products are exact
 * in every type of activations and in any order; and what they come to. */
struct bench {
    struct kernels k;
    int32_t *n, *ids, *ids_of;
    float *w, *x;  /* [vocab][n_in], [max][n_in] */
    float *logits; /* [max][vocab] */
    float *logprobs;
    int max, n_in, vocab, top_k;
};

static void bench_open(struct bench *b, int max, int n_in, int vocab, int top_k)
{
    *b = (struct bench){.max = max, .n_in = n_in, .vocab = vocab, .top_k = top_k};
    kernels_open(&b->k);
    size_t n_best = (size_t)(max + 1) * (size_t)top_k, row = (size_t)n_in * sizeof(float);
    b->n = kernels_host(&b->k, sizeof(int32_t));
    b->ids = kernels_host(&b->k, n_best * sizeof(int32_t));
    b->logprobs = kernels_host(&b->k, n_best * sizeof(float));
    b->w = kernels_host(&b->k, (size_t)vocab * row);
    b->x = kernels_host(&b->k, (size_t)max * row);
    b->logits = kernels_host(&b->k, (size_t)max * (size_t)vocab * sizeof(float));
    memset(b->ids, 0xff, n_best * sizeof(int32_t));
    memset(b->logprobs, 0xff, n_best * sizeof(float));
}

/* Logits with steps of 1 / fineness. */
static void fill(struct bench *b, int fineness, unsigned *seed)
{
    for (int i = 0; i < b->vocab * b->n_in; i++)
        b->w[i] = (float)(kernels_random_int(seed, 17) - 8) / (float)fineness;
    for (int i = 0; i < b->max * b->n_in; i++) b->x[i] = (float)(kernels_random_int(seed, 5) - 2);
    for (int row = 0; row < b->max; row++)
        for (int id = 0; id < b->vocab; id++)
            for (int i = 0; i < b->n_in; i++)
                b->logits[row * b->vocab + id] += b->x[row * b->n_in + i] * b->w[id * b->n_in + i];
}

static void run(struct bench *b, int n)
{
    struct kernels *k = &b->k;
    const size_t n_best = (size_t)(b->max + 1) * (size_t)b->top_k * 4;
    struct packed *w = k->ops->pack(k->dev, b->w, DTYPE_F32, b->vocab, b->n_in, 0);
    const struct topk_args args = {
        .w = w,
        .x = kernels_upload_act(k, b->x, (size_t)b->max * (size_t)b->n_in),
        .ids = kernels_empty(k, n_best),
        .logprobs = kernels_empty(k, n_best),
        .n = kernels_upload(k, &(int32_t){n}, sizeof(int32_t)),
        .max = b->max,
        .ldx = b->n_in,
        .vocab = b->vocab,
        .k = b->top_k,
        .ids_of = b->ids_of,
    };
    k->ops->topk(k->stream, &args);
    b->ids = kernels_download(k, args.ids, n_best);
    b->logprobs = kernels_download(k, args.logprobs, n_best);
    k->ops->packed_free(k->dev, w);
}

static double log_sum(const float *logits, int vocab)
{
    double sum = 0;
    for (int id = 0; id < vocab; id++) sum += exp((double)logits[id]);
    return log(sum);
}

/* Rank by counting who is better. */
static void check_row(const struct bench *b, int row)
{
    const float *logits = b->logits + (size_t)row * (size_t)b->vocab;
    double normaliser = log_sum(logits, b->vocab);
    for (int id = 0; id < b->vocab; id++) {
        int rank = 0;
        for (int other = 0; other < b->vocab && rank < b->top_k; other++)
            rank += logits[other] > logits[id] || (logits[other] == logits[id] && other < id);
        if (rank >= b->top_k) continue;
        int at = row * b->top_k + rank;
        float want = (float)((double)logits[id] - normaliser);
        CHECK_INT(b->ids[at], ==, id);
        CHECK_CLOSE(&b->logprobs[at], &want, 1, 2e-6, 1e-6);
        CHECK(b->logprobs[at] <= 0);
    }
}

TEST(topk_gives_the_best_log_probabilities_in_order_with_ties_to_the_lowest_id)
{
    static const int vocabs[] = {1, 2, 31, 32, 33, 127, 128, 129, 1000, 8200}, ks[] = {1, 2, 8, 32};
    unsigned seed = 3;
    for (int i = 0; i < 10 * 4 * 2; i++) {
        struct bench b;
        int vocab = vocabs[i % 10], k = ks[i / 10 % 4];
        if (k > vocab) k = vocab;
        bench_open(&b, 5, i < 40 ? 200 : 2, vocab, k); /* many values, or many ties */
        fill(&b, 16, &seed);
        run(&b, 4);
        for (int row = 0; row < 4; row++) check_row(&b, row);
        CHECK_UNTOUCHED(b.ids + (size_t)4 * (size_t)k, (size_t)(2 * k) * sizeof(int32_t));
        CHECK_UNTOUCHED(b.logprobs + (size_t)4 * (size_t)k, (size_t)(2 * k) * sizeof(float));
        kernels_close(&b.k);
    }
}

TEST(the_best_of_many_rows_are_their_own)
{
    struct bench b;
    unsigned seed = 5;
    bench_open(&b, 70, 9, 300, 8);
    fill(&b, 4, &seed);
    run(&b, 70);
    for (int row = 0; row < 70; row++) check_row(&b, row);
    kernels_close(&b.k);
}

TEST(columns_of_a_part_of_the_vocabulary_are_named_by_their_tokens)
{
    enum { VOCAB = 301, N_BEST = 3 * 8 };
    struct bench b;
    unsigned seed = 5;
    bench_open(&b, 3, 9, VOCAB, 8);
    fill(&b, 4, &seed);
    int32_t *tokens = kernels_host(&b.k, VOCAB * sizeof(int32_t));
    for (int i = 0; i < VOCAB; i++) tokens[i] = 7 * i + 3;
    run(&b, 3);
    const int32_t *columns = b.ids;
    const float *logprobs = b.logprobs;
    b.ids_of = kernels_upload(&b.k, tokens, VOCAB * sizeof(int32_t));
    run(&b, 3);
    for (int i = 0; i < N_BEST; i++) CHECK_INT(b.ids[i], ==, tokens[columns[i]]);
    CHECK_SAME_BITS(b.logprobs, logprobs, N_BEST);
    kernels_close(&b.k);
}

TEST(no_rows_write_nothing)
{
    struct bench b;
    bench_open(&b, 2, 1, 10, 3);
    run(&b, 0);
    CHECK_UNTOUCHED(b.ids, 6 * sizeof(int32_t));
    kernels_close(&b.k);
}

/* One row whose logits are what `logit` gives. */
static void run_row(struct bench *b, int vocab, float (*logit)(int id))
{
    bench_open(b, 1, 1, vocab, 3);
    b->x[0] = 1;
    for (int id = 0; id < vocab; id++) b->logits[id] = b->w[id] = logit(id);
    run(b, 1);
}

static void check_no_softmax(const struct bench *b, int row, const int (*want)[3])
{
    for (int j = 0; j < 3; j++) {
        CHECK_INT(b->ids[3 * row + j], ==, (*want)[j]);
        CHECK(b->logprobs[3 * row + j] == -INFINITY);
    }
}

static float nan_among_others(int id)
{
    return id == 20 ? NAN : (float)(id % 30);
}
static float minus_infinity(int id)
{
    (void)id;
    return -INFINITY;
}
static float one_infinity(int id)
{
    return id == 7 ? INFINITY : 0;
}
static float nan_far_behind(int id)
{
    return id == 8199 ? NAN : (float)(id % 7);
}

TEST(a_row_without_a_softmax_gives_tokens_of_no_probability)
{
    static const struct {
        float (*logit)(int id);
        int vocab;
        int want[3];
    } rows[] = {
        {nan_among_others, 30, {29, 28, 27}}, {minus_infinity, 40, {0, 1, 2}},
        {minus_infinity, 400, {0, 1, 2}},     {one_infinity, 40, {7, 0, 1}},
        {one_infinity, 400, {7, 0, 1}},       {nan_far_behind, 8200, {6, 13, 20}},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct bench b;
        run_row(&b, rows[i].vocab, rows[i].logit);
        check_no_softmax(&b, 0, &rows[i].want);
        kernels_close(&b.k);
    }
}

TEST(a_row_of_nan_spoils_no_other)
{
    struct bench b;
    unsigned seed = 7;
    bench_open(&b, 5, 4, 200, 3);
    fill(&b, 8, &seed);
    b.x[2 * 4] = NAN;
    run(&b, 5);
    for (int row = 0; row < 5; row++)
        if (row != 2) check_row(&b, row);
    check_no_softmax(&b, 2, &(const int[3]){0, 1, 2});
    kernels_close(&b.k);
}

static float half_minus_infinity(int id)
{
    return id < 4100 ? -INFINITY : (float)(id % 7);
}

TEST(a_row_half_of_which_is_minus_infinity_has_a_softmax)
{
    struct bench b;
    run_row(&b, 8200, half_minus_infinity);
    check_row(&b, 0);
    kernels_close(&b.k);
}

TEST(a_row_has_the_same_bits_alone_and_in_a_batch)
{
    enum { MAX = 70, N_IN = 300, VOCAB = 1000, K = 8 };
    struct bench b;
    bench_open(&b, MAX, N_IN, VOCAB, K);
    float *x = b.x = kernels_random(&b.k, MAX * N_IN, 0.5f, 5);
    b.w = kernels_random(&b.k, VOCAB * N_IN, 0.5f, 4);
    run(&b, MAX);
    const int32_t *ids = b.ids;
    const float *batch = b.logprobs;
    for (b.max = 1; b.max <= 3; b.max++)
        for (int first = 0; first + b.max <= MAX; first += 23) {
            b.x = x + first * N_IN;
            run(&b, b.max);
            CHECK_SAME_BITS(b.logprobs, batch + first * K, (size_t)(b.max * K));
            for (int j = 0; j < b.max * K; j++) CHECK_INT(b.ids[j], ==, ids[first * K + j]);
        }
    kernels_close(&b.k);
}

TEST(logprobs_are_written_for_seats_that_want_them)
{
    enum { VOCAB = 19 };
    static const int n_wanted[4] = {-1, 0, 3, MAX_LOGPROBS}; /* the last: more than there are */
    struct opbed r;
    opbed_open(&r,
               &(struct opbed_shape){
                   .max_seqs = 4, .vocab = VOCAB, .width = 1, .max_rows = 8, .k = 1, .depth = 1});
    float *logits = kernels_random(&r.k, 4 * VOCAB, 5, 9);
    struct token_logprobs *top = opbed_array(&r, 5 * sizeof(*top));
    *r.out.n = 4;
    for (int i = 0; i < 4; i++) {
        struct sampling s = opbed_greedy();
        s.n_logprobs = n_wanted[i];
        opbed_seat(&r, i, 0, 0, &s);
        r.out.seat[i] = i;
    }
    r.k.ops->logprobs(r.k.stream, &(struct logprobs_args){r.state, r.out, logits, top});
    opbed_wait(&r);
    CHECK_UNTOUCHED(&top[0], sizeof(*top));
    CHECK_UNTOUCHED(&top[4], sizeof(*top));
    for (int i = 1; i < 4; i++) {
        float want = (float)log_sum(logits + i * VOCAB, VOCAB);
        CHECK_CLOSE(&top[i].logprob, &want, 1, 2e-6, 1e-6);
        for (int j = 0; j < MAX_LOGPROBS; j++) {
            int id = top[i].ids[j];
            CHECK_INT(id >= 0, ==, j < n_wanted[i] && j < VOCAB);
            if (id < 0) continue;
            float logprob = logits[i * VOCAB + id] - want;
            CHECK_CLOSE(&top[i].logprobs[j], &logprob, 1, 4e-6, 0);
            CHECK(j == 0 || top[i].logprobs[j] <= top[i].logprobs[j - 1]);
        }
    }
    opbed_close(&r);
}
