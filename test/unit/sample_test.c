#include "test/test.h"

#include "kernels/asked.h"
#include "kernels/philox.h"
#include "test/opbed.h"
#include "test/runs.h"

#include <math.h>
#include <stdlib.h>

TEST(philox_gives_the_known_answers_of_random123)
{
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        struct philox counter;
        memcpy(counter.word, known[i].counter, sizeof(counter.word));
        struct philox got = philox4x32(counter, (uint64_t)known[i].key[1] << 32 | known[i].key[0]);
        for (int j = 0; j < 4; j++) CHECK_INT(got.word[j], ==, known[i].want[j]);
    }
}

/* ---- head, filter and pick against the plain definition
 * -------------------------------------------------- */

enum { N_SEATS = 4, N_ROWS = 12, MAX_ANSWER = 64, N_PROMPT = 20 };

/* Seats with random parameters, answers and prompts, and a chain of nodes at each: row i belongs to
 * seat i / 3, node i % 3. */
struct bench {
    struct opbed r;
    float *wanted;          /* [N_ROWS][vocab] what head's products shall be */
    float *logits, *scores; /* [N_ROWS + 1][vocab] */
    int32_t *pick;
    int32_t prompt[N_SEATS][N_PROMPT], answer[N_SEATS][MAX_ANSWER];
    int n_answer[N_SEATS]; /* the root included */
};

static float one_of(unsigned *seed, int n, const float *values)
{
    return values[kernels_random_int(seed, n)];
}

static struct sampling random_sampling(unsigned *seed, int vocab)
{
    struct sampling s = opbed_greedy();
    s.seed = (uint64_t)kernels_random_int(seed, 1 << 30) << 32 | 12345u;
    s.choice = (uint32_t)kernels_random_int(seed, 3);
    s.temperature = one_of(seed, 5, (float[]){0, 1, 0.3f, 0.9f, 2.5f});
    s.n_logprobs = kernels_random_int(seed, 2) - 1;
    if (kernels_random_int(seed, 2) == 0) return s; /* few requests ask for more */
    s.top_k = (int)one_of(seed, 7, (float[]){0, 1, 3, 32, 128, 129, 100000});
    s.top_p = one_of(seed, 5, (float[]){1, 1, 0.9f, 0.4f, 1e-6f});
    s.min_p = one_of(seed, 4, (float[]){0, 0, 0.05f, 1});
    s.repetition_penalty = one_of(seed, 3, (float[]){1, 1.3f, 0.7f});
    s.frequency_penalty = one_of(seed, 3, (float[]){0, 0.5f, -1});
    s.presence_penalty = one_of(seed, 3, (float[]){0, 0.7f, -2});
    s.min_tokens = kernels_random_int(seed, 2) * kernels_random_int(seed, MAX_ANSWER);
    s.n_stop_ids = kernels_random_int(seed, 4);
    for (int i = 0; i < s.n_stop_ids; i++) s.stop_ids[i] = kernels_random_int(seed, vocab);
    return s;
}

static void bench_open(struct bench *b, int vocab, unsigned *seed)
{
    struct opbed *r = &b->r;
    opbed_open(r, &(struct opbed_shape){.max_seqs = N_SEATS,
                                        .vocab = vocab,
                                        .width = 1,
                                        .max_rows = N_ROWS + 1,
                                        .k = 1,
                                        .depth = 1});
    size_t n = (size_t)(N_ROWS + 1) * (size_t)vocab;
    b->wanted = kernels_host(&r->k, n * sizeof(float));
    b->logits = opbed_array(r, n * sizeof(float));
    b->scores = opbed_array(r, n * sizeof(float));
    b->pick = opbed_array(r, (N_ROWS + 1) * sizeof(int32_t));
    for (size_t i = 0; i < (size_t)N_ROWS * (size_t)vocab; i++) /* steps: ties happen */
        b->wanted[i] = 0.125f * (float)(kernels_random_int(seed, 160) - 80);
    for (int seat = 0; seat < N_SEATS; seat++) {
        struct sampling s = random_sampling(seed, vocab);
        opbed_seat(r, seat, 30, -1, &s);
        b->n_answer[seat] = 1 + kernels_random_int(seed, MAX_ANSWER - 8);
        r->state.seats[seat].n_generated = b->n_answer[seat];
        r->tree.old_len[seat] = 30 + seat;
        for (int j = 0; j < b->n_answer[seat] + 2; j++) {
            int32_t id = b->answer[seat][j] = kernels_random_int(seed, vocab);
            if (j < b->n_answer[seat]) r->state.counts[seat * vocab + id]++;
        }
        for (int j = 0; j < N_PROMPT; j++) {
            int32_t id = b->prompt[seat][j] = kernels_random_int(seed, vocab);
            r->state.in_prompt[seat * ((vocab + 31) / 32) + id / 32] |= 1u << id % 32;
        }
        for (int node = 0; node < 3; node++) {
            int base = seat * MAX_NODES;
            r->tree.token[base + node] = b->answer[seat][b->n_answer[seat] - 1 + node];
            r->tree.depth[base + node] = node;
            r->tree.mask[base + node] = (2ull << node) - 1;
            r->out.seat[seat * 3 + node] = seat;
            r->out.node[seat * 3 + node] = node;
        }
    }
    *r->out.n = N_ROWS;
}

/* What a round does with out's rows x [n][n_in] and the head w [vocab][n_in]. */
static void run_head(struct bench *b, const float *w, const float *x, int n_in)
{
    struct opbed *r = &b->r;
    struct kernels *k = &r->k;
    struct packed *packed = k->ops->pack(k->dev, w, DTYPE_F32, r->shape.vocab, n_in, 0);
    const struct head_args head = {
        .state = r->state,
        .out = r->out,
        .tree = r->tree,
        .w = packed,
        .x = kernels_upload_act(k, x, (size_t)*r->out.n * (size_t)n_in),
        .logits = b->logits,
        .ldx = n_in,
    };
    k->ops->head(k->stream, &head);
    k->ops->filter(k->stream,
                   &(struct filter_args){r->state, r->out, r->tree, b->logits, b->scores});
    k->ops->pick(k->stream,
                 &(struct pick_args){r->state, r->out, r->tree, b->logits, b->scores, b->pick});
    opbed_wait(r);
    k->ops->packed_free(k->dev, packed);
}

/* Rows first .. first + n - 1 of b->wanted, as products with unit vectors.  Numbers that are not
 * finite stand alone (n = 1): 0 times them is NaN. */
static void run_rows(struct bench *b, int first, int n)
{
    const int vocab = b->r.shape.vocab;
    float *w = calloc((size_t)vocab * (size_t)n, sizeof(float)), x[N_ROWS * N_ROWS] = {0};
    CHECK(w != NULL);
    for (int i = 0; i < n; i++) {
        x[i * n + i] = 1;
        for (int id = 0; id < vocab; id++) w[id * n + i] = b->wanted[(first + i) * vocab + id];
        b->r.out.seat[i] = (first + i) / 3;
        b->r.out.node[i] = (first + i) % 3;
    }
    *b->r.out.n = n;
    run_head(b, w, x, n);
    free(w);
}

static struct naive_context naive_of(const struct bench *b, int row)
{
    int seat = row / 3, node = row % 3;
    return (struct naive_context){.sampling = &b->r.state.seats[seat].sampling,
                                  .prompt = b->prompt[seat],
                                  .answer = b->answer[seat],
                                  .n_prompt = N_PROMPT,
                                  .n_answer = b->n_answer[seat] + node,
                                  .position = 30 + seat + node + 1};
}

/* The token of a row by the plain rules; scores [vocab]. */
static int naive_row(const struct bench *b, int row, float *scores)
{
    const int vocab = b->r.shape.vocab;
    const struct naive_context c = naive_of(b, row);
    const float *logits = b->wanted + (size_t)row * (size_t)vocab;
    naive_filter(&c, logits, vocab, scores);
    return naive_pick(&c, logits, scores, vocab);
}

static void check_against_naive(struct bench *b)
{
    const size_t vocab = (size_t)b->r.shape.vocab;
    float *scores = kernels_host(&b->r.k, vocab * sizeof(float));
    for (int row = 0; row < N_ROWS; row++) {
        const struct asked asked = asked_of(&b->r.state.seats[row / 3], row % 3, (int)vocab);
        const size_t at = (size_t)row * vocab;
        CHECK_INT(b->pick[row], ==, naive_row(b, row, scores));
        if (asked.logits) CHECK_SAME_BITS(b->logits + at, b->wanted + at, vocab);
        if (asked.scores)
            CHECK_SAME_BITS(b->scores + at, scores, vocab);
        else
            CHECK_UNTOUCHED(b->scores + at, vocab * 4);
    }
    CHECK_UNTOUCHED(b->logits + N_ROWS * vocab, vocab * 4);
    CHECK_UNTOUCHED(b->scores + N_ROWS * vocab, vocab * 4);
    CHECK_UNTOUCHED(b->pick + N_ROWS, 4);
}

TEST(filters_and_picks_are_those_of_the_plain_definition)
{
    static const int vocabs[] = {1, 2, 5, 31, 64, 129, 1000, 5003};
    unsigned seed = 4711;
    for (int i = 0, step; i < 8 * 25; i += step) {
        static struct bench b;
        int vocab = vocabs[i % 8];
        bench_open(&b, vocab, &seed);
        step = b.r.k.ops->act == DTYPE_F32 ? 1 : 5; /* an emulated device is slow */
        run_rows(&b, 0, N_ROWS);
        check_against_naive(&b);
        opbed_close(&b.r);
    }
}

static void clear_sampling(struct bench *b)
{
    for (int seat = 0; seat < N_SEATS; seat++) b->r.state.seats[seat].sampling = opbed_greedy();
}

TEST(a_row_with_a_nan_is_not_picked_from_and_the_others_are)
{
    enum { VOCAB = 177 };
    unsigned seed = 5;
    for (int i = 0; i < 40; i++) {
        static struct bench b;
        bench_open(&b, VOCAB, &seed);
        float w[VOCAB * N_ROWS], x[N_ROWS * N_ROWS] = {0}, scores[VOCAB];
        for (int row = 0; row < N_ROWS; row++) {
            x[row * N_ROWS + row] = row == 4 ? NAN : 1;
            for (int id = 0; id < VOCAB; id++) w[id * N_ROWS + row] = b.wanted[row * VOCAB + id];
        }
        run_head(&b, w, x, N_ROWS);
        for (int row = 0; row < N_ROWS; row++)
            CHECK_INT(b.pick[row], ==, row == 4 ? -1 : naive_row(&b, row, scores));
        b.wanted[4 * VOCAB + kernels_random_int(&seed, VOCAB)] = NAN;
        run_rows(&b, 4, 1);
        CHECK_INT(b.pick[0], ==, -1);
        opbed_close(&b.r);
    }
}

TEST(rows_of_minus_infinity_give_no_token_and_one_of_plus_infinity_wins)
{
    static struct bench b;
    unsigned seed = 6;
    bench_open(&b, 40, &seed);
    clear_sampling(&b);
    b.r.state.seats[1].sampling.temperature = 1;
    b.r.state.seats[2].sampling.temperature = 0.5f;
    b.r.state.seats[2].sampling.top_p = 0.5f;
    for (int i = 0; i < N_ROWS * 40; i++) b.wanted[i] = -INFINITY;
    for (int seat = 0; seat < N_SEATS; seat++) {
        b.wanted[(3 * seat + 1) * 40 + 17] = -3e4f;
        b.wanted[(3 * seat + 2) * 40 + 23] = INFINITY;
    }
    static const int want[3] = {-1, 17, 23};
    for (int row = 0; row < N_ROWS; row++) {
        run_rows(&b, row, 1);
        CHECK_INT(b.pick[0], ==, want[row % 3]);
    }
    opbed_close(&b.r);
}

TEST(no_rows_touch_nothing)
{
    static struct bench b;
    unsigned seed = 7;
    bench_open(&b, 33, &seed);
    *b.r.out.n = 0;
    b.pick[0] = 7;
    run_head(&b, b.wanted, b.wanted, 1);
    CHECK_UNTOUCHED(b.logits, 33 * 4);
    CHECK_UNTOUCHED(b.scores, 33 * 4);
    CHECK_INT(b.pick[0], ==, 7);
    opbed_close(&b.r);
}

/* Alone in the smallest pass, and beside others in one that has room for more. */
TEST(a_row_has_the_same_logits_and_pick_alone_and_in_a_batch)
{
    enum { VOCAB = 700, N_IN = 1100 };
    static struct bench b;
    unsigned seed = 8;
    bench_open(&b, VOCAB, &seed);
    /* Some without scores, with noise and without. */
    for (int seat = 0; seat < N_SEATS; seat += 2) {
        b.r.state.seats[seat].sampling = opbed_greedy();
        b.r.state.seats[seat].sampling.temperature = 0.35f * (float)seat;
        b.r.state.seats[seat].sampling.n_logprobs = 0;
    }
    const float *w = kernels_random(&b.r.k, (size_t)VOCAB * N_IN, 0.3f, 9);
    const float *x = kernels_random(&b.r.k, (size_t)N_ROWS * N_IN, 0.3f, 10);
    b.r.out.max = 70;
    run_head(&b, w, x, N_IN);
    int32_t batch[N_ROWS];
    memcpy(batch, b.pick, sizeof(batch));
    float *logits = kernels_host(&b.r.k, (size_t)N_ROWS * VOCAB * sizeof(float));
    memcpy(logits, b.logits, (size_t)N_ROWS * VOCAB * sizeof(float));
    b.r.out.max = *b.r.out.n = 1;
    for (int row = 0; row < N_ROWS; row++) {
        b.r.out.seat[0] = row / 3;
        b.r.out.node[0] = row % 3;
        run_head(&b, w, x + (size_t)row * N_IN, N_IN);
        CHECK_INT(b.pick[0], ==, batch[row]);
        if (asked_of(&b.r.state.seats[row / 3], row % 3, VOCAB).logits)
            CHECK_SAME_BITS(b.logits, logits + (size_t)row * VOCAB, VOCAB);
    }
    opbed_close(&b.r);
}

/* ---- picks are drawn from the distribution that the filters leave -------------------------------
 */

enum { DRAW_VOCAB = 12, DRAW_ROWS = 250 };

/* Which activations of 16 bits hold. */
static float draw_logit(int id)
{
    return 0.375f * (float)(id % 7) - 1;
}

/* The chi-square that a right sampler exceeds once in 10,000 seeds (3.719 standard deviations of a
 * normal number, by Wilson and Hilferty); the seeds are fixed. */
static double chi_square_limit(int n_freedoms)
{
    const double variance = 2.0 / (9 * n_freedoms);
    return n_freedoms * pow(1 - variance + 3.719 * sqrt(variance), 3);
}

/* How often each token was picked, against its probability; a token without one is never picked. */
static void check_draws(const int *n_picked, int n_draws, const struct sampling *s)
{
    const struct naive_context c = {.sampling = s};
    float logits[DRAW_VOCAB], scores[DRAW_VOCAB];
    double total = 0, chi_square = 0;
    int n_kept = 0;
    for (int id = 0; id < DRAW_VOCAB; id++) logits[id] = draw_logit(id);
    naive_filter(&c, logits, DRAW_VOCAB, scores);
    for (int id = 0; id < DRAW_VOCAB; id++) {
        total += exp((double)scores[id]);
        n_kept += scores[id] > -INFINITY;
    }
    for (int id = 0; id < DRAW_VOCAB; id++) {
        const double want = n_draws * exp((double)scores[id]) / total;
        if (want == 0)
            CHECK_INT(n_picked[id], ==, 0);
        else
            chi_square += (n_picked[id] - want) * (n_picked[id] - want) / want;
    }
    CHECK_INT(n_kept, >, 1);
    if (chi_square >= chi_square_limit(n_kept - 1))
        test_fail(__FILE__, __LINE__, "temperature %g, top-k %d, top-p %g: chi-square %.1f of %d",
                  (double)s->temperature, s->top_k, (double)s->top_p, chi_square, n_kept - 1);
}

/* Draws at every position once, from the same logits. */
static void draw(const struct sampling *s, int n_draws, int *n_picked)
{
    static struct bench b;
    struct opbed *r = &b.r;
    float w[DRAW_VOCAB], x[DRAW_ROWS];
    opbed_open(r, &(struct opbed_shape){.max_seqs = DRAW_ROWS,
                                        .vocab = DRAW_VOCAB,
                                        .width = 1,
                                        .max_rows = DRAW_ROWS,
                                        .k = 1,
                                        .depth = 1});
    b.logits = opbed_array(r, DRAW_ROWS * DRAW_VOCAB * sizeof(float));
    b.scores = opbed_array(r, DRAW_ROWS * DRAW_VOCAB * sizeof(float));
    b.pick = opbed_array(r, DRAW_ROWS * sizeof(int32_t));
    *r->out.n = DRAW_ROWS;
    for (int row = 0; row < DRAW_ROWS; row++) {
        opbed_seat(r, row, 0, 0, s);
        r->out.seat[row] = row;
        r->out.node[row] = r->tree.depth[row * MAX_NODES] = 0;
        r->tree.mask[row * MAX_NODES] = 1;
        x[row] = 1;
    }
    for (int id = 0; id < DRAW_VOCAB; id++) w[id] = draw_logit(id);
    for (int first = 0; first < n_draws; first += DRAW_ROWS) {
        for (int row = 0; row < DRAW_ROWS; row++) r->tree.old_len[row] = first + row;
        run_head(&b, w, x, 1);
        for (int row = 0; row < DRAW_ROWS; row++) n_picked[b.pick[row]]++;
    }
    opbed_close(r);
}

TEST(picks_are_drawn_from_the_distribution_that_the_filters_leave)
{
    static const struct {
        float temperature, top_p, min_p;
        int top_k;
    } cases[] = {{1, 1, 0, 0}, {0.7f, 1, 0, 5}, {1.5f, 0.8f, 0, 0}, {0.9f, 0.9f, 0.2f, 9}};
    const int n_draws = test_n_runs() > 1 ? 250 : 20000; /* an emulated device is slow */
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct sampling s = opbed_greedy();
        s.temperature = cases[i].temperature;
        s.top_p = cases[i].top_p;
        s.min_p = cases[i].min_p;
        s.top_k = cases[i].top_k;
        s.seed = 20261124 + i;
        int n_picked[DRAW_VOCAB] = {0};
        draw(&s, n_draws, n_picked);
        check_draws(n_picked, n_draws, &s);
    }
}
