/* Whole rounds against the authors' ViSpec code: trees, accepted paths and tokens of
 * test/golden/vispec. */
#include "runtime/engine/round.h"
#include "runtime/engine/scheduler.h"
#include "runtime/mem.h"
#include "test/golden.h"
#include "test/test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_LEN = 512, N_CASES = 9, MAX_ANSWER = 256 };

/* A target and its draft, opened without a tower: the golden features stand for pictures. */
struct bench {
    struct model model;
    struct draft *draft;
    struct round *round;
    struct scheduler *scheduler;
};

/* One golden case while it runs. */
struct run {
    struct bench *bench;
    json_t *json;
    int answer[MAX_ANSWER], n_answer;
    int n_rounds; /* verify passes seen */
    bool checks_trees, is_plain, is_done;
};

static const char *case_path(int i, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof(name), "golden/vispec/cases_llava/case_%02d.%s", i, suffix);
    return test_path(name);
}

static void open_bench(struct bench *b, int max_seqs, int max_rows, int prefill_chunk,
                       int max_in_flight)
{
    struct error err = {0};
    *b = (struct bench){0};
    struct model *m = &b->model;
    m->dev = device_open("cpu", 1);
    const char *dir = test_path("golden/vispec/llava-next-tiny");
    char tokenizer[512];
    snprintf(tokenizer, sizeof(tokenizer), "%s/tokenizer.json", dir);
    if (tokenizer_open(&m->tokenizer, tokenizer, &err) != 0 ||
        config_load(dir, &m->cfg, &err) != 0 || safetensors_open(&m->tensors, dir, &err) != 0 ||
        lm_open(&m->lm, m->dev, m->tensors, &m->cfg.lm, MAX_LEN + PAGE_LEN, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    struct round_limits limits = {.max_seqs = max_seqs,
                                  .max_rows = max_rows,
                                  .max_pages = (MAX_LEN + 2 * PAGE_LEN) / PAGE_LEN,
                                  .n_image_rows = max_seqs * MAX_LEN,
                                  .depth = 3,
                                  .k = 8,
                                  .n_nodes = 30};
    limits.n_pages = max_seqs * limits.max_pages;
    const struct draft_limits draft_limits = {.max_seqs = max_seqs,
                                              .max_extend = max_rows + max_seqs,
                                              .k = limits.k,
                                              .n_positions = MAX_LEN + PAGE_LEN,
                                              .max_image_tokens = MAX_LEN};
    if (draft_open(&b->draft, m->dev, test_path("golden/vispec/llava-next-tiny-vispec"), m->lm,
                   &draft_limits, &err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err.text);
    b->round = round_open(m->dev, m->lm, b->draft, &limits);
    const struct scheduler_config cfg = {.model = m,
                                         .draft = b->draft,
                                         .round = b->round,
                                         .limits = limits,
                                         .prefill_chunk = prefill_chunk,
                                         .draft_max_seqs = max_seqs,
                                         .max_in_flight = max_in_flight};
    b->scheduler = scheduler_new(&cfg);
}

static void close_bench(struct bench *b)
{
    scheduler_free(b->scheduler);
    round_close(b->round);
    draft_close(b->draft);
    lm_close(b->model.lm);
    safetensors_close(b->model.tensors);
    tokenizer_close(b->model.tokenizer);
    device_close(b->model.dev);
}

static int field(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) test_fail(__FILE__, __LINE__, "no integer %s", key);
    return (int)json_integer_value(value);
}

static int item(const json_t *array, size_t i)
{
    return (int)json_integer_value(json_array_get(array, i));
}

/* The tree of the round that has just finished is the reference's, node by node. */
static void check_tree(const struct run *run, const json_t *golden, int seat)
{
    struct round_view view = round_view(run->bench->round);
    const json_t *tokens = json_object_get(golden, "tree_tokens");
    const json_t *parents = json_object_get(golden, "tree_parent");
    CHECK_INT(view.tree.n_nodes[seat], ==, json_array_size(tokens));
    for (size_t j = 0; j < json_array_size(tokens); j++) {
        size_t at = (size_t)seat * MAX_NODES + j;
        if (view.tree.token[at] != item(tokens, j) || view.tree.parent[at] != item(parents, j))
            test_fail(__FILE__, __LINE__, "round %d node %zu is %d below %d, not %d below %d",
                      run->n_rounds, j, view.tree.token[at], view.tree.parent[at], item(tokens, j),
                      item(parents, j));
    }
}

static void on_event(void *user, const struct gen_event *event)
{
    struct run *run = user;
    bool is_first = run->n_answer == 0;
    for (int i = 0; i < event->n_tokens; i++) run->answer[run->n_answer++] = event->tokens[i].id;
    run->is_done = event->is_last;
    if (event->n_tokens == 0 || is_first) return; /* the prefill has no tree */
    if (run->is_plain) {
        CHECK_INT(event->n_tokens, ==, 1);
        return;
    }
    const json_t *golden =
        json_array_get(json_object_get(run->json, "rounds"), (size_t)run->n_rounds);
    if (!golden) test_fail(__FILE__, __LINE__, "the reference has no round %d", run->n_rounds);
    if (run->checks_trees) check_tree(run, golden, 0);
    if (!event->is_last && event->n_tokens == field(golden, "accepted") + 1)
        CHECK_INT(event->tokens[event->n_tokens - 1].id, ==, field(golden, "bonus_token"));
    run->n_rounds++;
}

/* The prompt of a case; the run of image tokens is one picture with the stored features. */
static struct prompt *golden_prompt(int i)
{
    struct golden *g =
        golden_open(case_path(i == 5 ? 2 : i, "safetensors")); /* 5: same prompt as 2 */
    struct prompt *p = xcalloc(1, sizeof(*p));
    size_t n, n_features;
    const int32_t *ids = golden_i32(g, "input_ids", &n);
    token_list_append(&p->tokens, ids, n);
    const uint8_t *mask = golden_u8(g, "image_mask", NULL);
    struct prompt_image *im = &p->images[0];
    for (size_t t = 0; t < n; t++) {
        if (mask[t] && im->n++ == 0) im->first = (int)t;
    }
    p->n_images = im->n > 0;
    if (im->n > 0) {
        const float *features = golden_f32(g, "vision_features", &n_features);
        im->features = xcalloc(n_features, sizeof(float));
        memcpy(im->features, features, n_features * sizeof(float));
    }
    golden_close(g);
    return p;
}

static struct job *golden_job(struct run *run, struct bench *b, int i, bool use_draft)
{
    json_error_t json_err;
    *run = (struct run){.bench = b, .is_plain = !use_draft};
    run->json = json_load_file(case_path(i, "json"), 0, &json_err);
    CHECK(run->json);
    struct job *job = xcalloc(1, sizeof(*job));
    job->id = (uint64_t)i + 1;
    job->gen = (struct generation){.prompt = golden_prompt(i), .on_event = on_event, .user = run};
    job->gen.sampling = (struct sampling){.top_p = 1,
                                          .repetition_penalty = 1,
                                          .max_tokens = field(run->json, "max_new_tokens"),
                                          .n_logprobs = -1,
                                          .use_draft = use_draft,
                                          .n_stop_ids = 1,
                                          .stop_ids = {field(run->json, "eos_token_id")}};
    output_init(&job->output, b->model.tokenizer, &job->gen);
    return job;
}

static void check_answer(struct run *run)
{
    const json_t *want = json_object_get(run->json, "output_tokens");
    CHECK(run->is_done);
    CHECK_INT(run->n_answer, ==, json_array_size(want));
    for (int t = 0; t < run->n_answer; t++) CHECK_INT(run->answer[t], ==, item(want, (size_t)t));
    json_decref(run->json);
}

static void check_case(int i, int prefill_chunk)
{
    struct bench b;
    struct run run;
    open_bench(&b, 1, 256, prefill_chunk, 1);
    struct job *job = golden_job(&run, &b, i, true);
    run.checks_trees = true;
    CHECK(scheduler_admit(b.scheduler, job));
    while (scheduler_step(b.scheduler)) continue;
    int n_rounds = run.n_rounds, want = field(run.json, "num_rounds");
    /* The reference runs one round more where the end token was a bonus, or at exactly
     * max_new_tokens. */
    CHECK(n_rounds == want || n_rounds == want - 1);
    check_answer(&run);
    close_bench(&b);
}

TEST(every_round_of_text_cases_has_the_authors_tree_path_and_tokens)
{
    check_case(0, 256);
    check_case(6, 256);
}

TEST(every_round_of_picture_cases_has_the_authors_tree_path_and_tokens)
{
    const int cases[] = {1, 2, 3, 4, 5, 7, 8};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) check_case(cases[i], 256);
}

TEST(trees_do_not_depend_on_how_a_prompt_is_cut_into_chunks)
{
    const int chunks[] = {1, 7, 63, 64, 65};
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) check_case(7, chunks[i]);
}

TEST(all_cases_at_once_and_rounds_ahead_give_the_same_tokens)
{
    struct bench b;
    struct run runs[N_CASES];
    open_bench(&b, N_CASES, 512, 50, ROUNDS_IN_FLIGHT);
    for (int i = 0; i < N_CASES; i++)
        CHECK(scheduler_admit(b.scheduler, golden_job(&runs[i], &b, i, true)));
    while (scheduler_step(b.scheduler)) continue;
    for (int i = 0; i < N_CASES; i++) check_answer(&runs[i]);
    close_bench(&b);
}

TEST(plain_decoding_gives_the_same_tokens_with_one_round_a_token)
{
    struct bench b;
    struct run runs[3];
    const int cases[] = {0, 3, 8};
    open_bench(&b, 2, 128, 128, ROUNDS_IN_FLIGHT);
    for (int i = 0; i < 3; i++) {
        struct job *job = golden_job(&runs[i], &b, cases[i], false);
        while (!scheduler_admit(b.scheduler, job)) CHECK(scheduler_step(b.scheduler));
    }
    while (scheduler_step(b.scheduler)) continue;
    for (int i = 0; i < 3; i++) check_answer(&runs[i]);
    close_bench(&b);
}

TEST(the_operations_of_a_round_do_not_grow_with_the_sequences)
{
    struct bench one, many;
    open_bench(&one, 1, 64, 64, 1);
    open_bench(&many, 12, 512, 64, 1);
    CHECK_INT(round_n_ops(one.round), >, 50);
    CHECK_INT(round_n_ops(one.round), ==, round_n_ops(many.round));
    close_bench(&one);
    close_bench(&many);
}
