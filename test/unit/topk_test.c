#include "test/test.h"

#include "test/opbed.h"

#include <math.h>
#include <stdlib.h>

struct bench {
    struct kernels k;
    int32_t *n, *ids, *ids_of;
    float *logits, *logprobs;
    int max, vocab, top_k;
};

static void bench_open(struct bench *b, int max, int vocab, int top_k)
{
    *b = (struct bench){.max = max, .vocab = vocab, .top_k = top_k};
    kernels_open(&b->k);
    size_t n_best = (size_t)(max + 1) * (size_t)top_k, n = (size_t)max * (size_t)vocab;
    b->n = kernels_host(&b->k, sizeof(int32_t));
    b->ids = kernels_host(&b->k, n_best * sizeof(int32_t));
    b->logprobs = kernels_host(&b->k, n_best * sizeof(float));
    b->logits = kernels_host(&b->k, n * sizeof(float));
    memset(b->ids, 0xff, n_best * sizeof(int32_t));
    memset(b->logprobs, 0xff, n_best * sizeof(float));
}

static void run(struct bench *b, int n)
{
    *b->n = n;
    b->k.ops->topk(b->k.stream, &(struct topk_args){b->logits, b->ids, b->logprobs, b->n, b->max,
                                                    b->vocab, b->top_k, b->ids_of});
    stream_wait(b->k.stream);
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
    static const int vocabs[] = {1, 2, 31, 32, 33, 64, 97, 1000, 2049, 8200}, ks[] = {1, 2, 8, 32};
    unsigned seed = 3;
    for (int i = 0; i < 10 * 4 * 2; i++) {
        struct bench b;
        int vocab = vocabs[i % 10], k = ks[i / 10 % 4], n_values = i < 40 ? 1 << 20 : 7;
        if (k > vocab) k = vocab;
        bench_open(&b, 5, vocab, k);
        for (int j = 0; j < 5 * vocab; j++)
            b.logits[j] = 16.0f * (float)kernels_random_int(&seed, n_values) / (float)n_values - 8;
        run(&b, 4);
        for (int row = 0; row < 4; row++) check_row(&b, row);
        CHECK_UNTOUCHED(b.ids + (size_t)4 * (size_t)k, (size_t)(2 * k) * sizeof(int32_t));
        CHECK_UNTOUCHED(b.logprobs + (size_t)4 * (size_t)k, (size_t)(2 * k) * sizeof(float));
        kernels_close(&b.k);
    }
}

TEST(columns_of_a_part_of_the_vocabulary_are_named_by_their_tokens)
{
    enum { VOCAB = 3001 };
    struct bench b;
    unsigned seed = 5;
    bench_open(&b, 3, VOCAB, 8);
    int32_t *tokens = kernels_host(&b.k, VOCAB * sizeof(int32_t)), plain[24];
    float logprobs[24];
    for (int i = 0; i < VOCAB; i++) tokens[i] = 7 * i + 3;
    for (int i = 0; i < 3 * VOCAB; i++) b.logits[i] = (float)kernels_random_int(&seed, 50);
    run(&b, 3);
    memcpy(plain, b.ids, sizeof(plain));
    memcpy(logprobs, b.logprobs, sizeof(logprobs));
    b.ids_of = kernels_upload(&b.k, tokens, VOCAB * sizeof(int32_t));
    run(&b, 3);
    for (int i = 0; i < 24; i++) CHECK_INT(b.ids[i], ==, tokens[plain[i]]);
    CHECK_SAME_BITS(b.logprobs, logprobs, 24);
    kernels_close(&b.k);
}

TEST(no_rows_write_nothing)
{
    struct bench b;
    bench_open(&b, 2, 10, 3);
    run(&b, 0);
    CHECK_UNTOUCHED(b.ids, 6 * sizeof(int32_t));
    kernels_close(&b.k);
}

TEST(a_row_without_a_softmax_gives_tokens_of_no_probability_and_spoils_no_other)
{
    struct bench b;
    bench_open(&b, 5, 40, 3);
    for (int id = 0; id < 40; id++) {
        b.logits[id] = b.logits[160 + id] = (float)id;
        b.logits[40 + id] = id == 20 ? NAN : (float)id;
        b.logits[80 + id] = -INFINITY;
        b.logits[120 + id] = id == 7 ? INFINITY : 0;
    }
    run(&b, 5);
    check_row(&b, 0);
    check_row(&b, 4);
    static const int want[3][3] = {{39, 38, 37}, {0, 1, 2}, {7, 0, 1}};
    for (int row = 1; row < 4; row++) {
        for (int j = 0; j < 3; j++) {
            CHECK_INT(b.ids[row * 3 + j], ==, want[row - 1][j]);
            CHECK(b.logprobs[row * 3 + j] == -INFINITY);
        }
    }
    kernels_close(&b.k);
}

TEST(a_row_half_of_which_is_minus_infinity_has_a_softmax_and_a_nan_far_behind_takes_it_away)
{
    enum { VOCAB = 8200 };
    struct bench b;
    bench_open(&b, 2, VOCAB, 3);
    for (int id = 0; id < VOCAB; id++) {
        b.logits[id] = id < VOCAB / 2 ? -INFINITY : (float)(id % 7);
        b.logits[VOCAB + id] = id == VOCAB - 1 ? NAN : (float)(id % 7);
    }
    run(&b, 2);
    check_row(&b, 0);
    for (int j = 0; j < 3; j++) {
        CHECK_INT(b.ids[3 + j], ==, 6 + 7 * j);
        CHECK(b.logprobs[3 + j] == -INFINITY);
    }
    kernels_close(&b.k);
}

TEST(a_row_has_the_same_bits_alone_and_in_a_batch)
{
    struct bench b;
    bench_open(&b, 7, 5003, 8);
    unsigned seed = 4;
    for (int i = 0; i < 7 * 5003; i++)
        b.logits[i] = 0.001f * (float)kernels_random_int(&seed, 20000);
    run(&b, 7);
    float *batch = kernels_host(&b.k, 56 * sizeof(float));
    memcpy(batch, b.logprobs, 56 * sizeof(float));
    for (int row = 0; row < 7; row++) {
        memmove(b.logits, b.logits + (size_t)row * 5003, 5003 * sizeof(float));
        run(&b, 1);
        CHECK_SAME_BITS(b.logprobs, batch + (size_t)row * 8, 8);
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
