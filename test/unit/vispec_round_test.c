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

struct family {
    const char *cases, *target, *draft; /* folders of test/golden/vispec */
};

static const struct family llava = {"cases_llava", "llava-next-tiny", "llava-next-tiny-vispec"};
static const struct family qwen = {"cases_qwen", "qwen2_5_vl-tiny", "qwen2_5_vl-tiny-vispec"};

/* A target and its draft, opened without a tower: the golden features stand for pictures. */
struct bench {
    const struct family *family;
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
    bool has_no_rounds; /* the golden data knows the answer only */
};

static const char *folder_path(const char *folder)
{
    char name[160];
    snprintf(name, sizeof(name), "golden/vispec/%s", folder);
    return test_path(name);
}

static const char *case_path(const struct family *family, int i, const char *suffix)
{
    char name[128];
    snprintf(name, sizeof(name), "%s/case_%02d.%s", family->cases, i, suffix);
    return folder_path(name);
}

static void open_bench(struct bench *b, const struct family *family, int max_seqs, int max_rows,
                       int prefill_chunk, int max_in_flight)
{
    struct error err = {0};
    *b = (struct bench){.family = family};
    struct model *m = &b->model;
    m->dev = device_open("cpu", 1);
    const char *dir = folder_path(family->target);
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
    if (draft_open(&b->draft, m->dev, folder_path(family->draft), m->lm, &draft_limits, &err) != 0)
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
    if (run->has_no_rounds) {
        run->n_rounds++;
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

/* The prompt of a case; each run of image tokens is one picture with the stored features. */
static struct prompt *golden_prompt(const struct golden *g, const json_t *json)
{
    struct prompt *p = xcalloc(1, sizeof(*p));
    size_t n, n_features, n_used = 0;
    const int32_t *ids = golden_i32(g, "input_ids", &n);
    token_list_append(&p->tokens, ids, n);
    const uint8_t *mask = golden_u8(g, "image_mask", NULL);
    const json_t *grids =
        json_object_get(json, "image_grid_thw"); /* Qwen: before the 2 x 2 merge */
    for (size_t t = 0; t < n; t++) {
        if (!mask[t]) continue;
        struct prompt_image *im = &p->images[p->n_images];
        im->first = (int)t;
        while (t < n && mask[t]) im->n++, t++;
        im->n_columns = item(json_array_get(grids, (size_t)p->n_images), 2) / 2;
        p->n_images++;
    }
    prompt_set_rope_deltas(p);
    if (grids) {
        int delta = p->n_images > 0 ? p->images[p->n_images - 1].rope_delta : 0;
        CHECK_INT(delta, ==, field(json, "rope_delta"));
    }
    for (int i = 0; i < p->n_images; i++) {
        const float *features = golden_f32(g, "vision_features", &n_features);
        int64_t shape[8];
        golden_shape(g, "vision_features", shape);
        size_t len = (size_t)p->images[i].n * (size_t)shape[1];
        p->images[i].features = xcalloc(len, sizeof(float));
        CHECK_INT(n_used + len, <=, n_features);
        memcpy(p->images[i].features, features + n_used, len * sizeof(float));
        n_used += len;
    }
    return p;
}

static struct job *new_job(struct run *run, struct bench *b, struct prompt *prompt, bool use_draft)
{
    struct job *job = xcalloc(1, sizeof(*job));
    job->gen = (struct generation){.prompt = prompt, .on_event = on_event, .user = run};
    job->gen.sampling = (struct sampling){
        .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .use_draft = use_draft};
    output_init(&job->output, b->model.tokenizer, &job->gen);
    return job;
}

static struct job *golden_job(struct run *run, struct bench *b, int i, bool use_draft)
{
    *run = (struct run){.bench = b, .is_plain = !use_draft};
    run->json = json_load_file(case_path(b->family, i, "json"), 0, NULL);
    CHECK(run->json);
    struct golden *g = /* case 5 has the prompt of case 2 */
        golden_open(case_path(b->family, i == 5 ? 2 : i, "safetensors"));
    struct job *job = new_job(run, b, golden_prompt(g, run->json), use_draft);
    golden_close(g);
    job->id = (uint64_t)i + 1;
    job->gen.sampling.max_tokens = field(run->json, "max_new_tokens");
    job->gen.sampling.n_stop_ids = 1;
    job->gen.sampling.stop_ids[0] = field(run->json, "eos_token_id");
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

static void check_case(const struct family *family, int i, int prefill_chunk)
{
    struct bench b;
    struct run run;
    open_bench(&b, family, 1, 256, prefill_chunk, 1);
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
    const int cases[] = {0, 4, 6};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check_case(&llava, cases[i], 256);
        check_case(&qwen, cases[i], 256);
    }
}

static void check_picture_cases(const struct family *family)
{
    const int cases[] = {1, 2, 3, 5, 7, 8};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) check_case(family, cases[i], 256);
}

TEST(every_round_of_llava_s_picture_cases_has_the_authors_tree_path_and_tokens)
{
    check_picture_cases(&llava);
}

TEST(every_round_of_qwen_s_picture_cases_has_the_authors_tree_path_and_tokens)
{
    check_picture_cases(&qwen);
}

TEST(trees_do_not_depend_on_how_a_prompt_is_cut_into_chunks)
{
    const int chunks[] = {1, 7, 63, 64, 65};
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
        check_case(&llava, 7, chunks[i]);
        check_case(&qwen, 7, chunks[i]);
    }
}

static void check_all_at_once(const struct family *family)
{
    struct bench b;
    struct run runs[N_CASES];
    open_bench(&b, family, N_CASES, 512, 50, ROUNDS_IN_FLIGHT);
    for (int i = 0; i < N_CASES; i++)
        CHECK(scheduler_admit(b.scheduler, golden_job(&runs[i], &b, i, true)));
    while (scheduler_step(b.scheduler)) continue;
    for (int i = 0; i < N_CASES; i++) check_answer(&runs[i]);
    close_bench(&b);
}

TEST(all_cases_at_once_and_rounds_ahead_give_the_same_tokens_on_llava)
{
    check_all_at_once(&llava);
}

TEST(all_cases_at_once_and_rounds_ahead_give_the_same_tokens_on_qwen)
{
    check_all_at_once(&qwen);
}

static void check_plain(const struct family *family)
{
    struct bench b;
    struct run runs[3];
    const int cases[] = {0, 3, 8};
    open_bench(&b, family, 2, 128, 128, ROUNDS_IN_FLIGHT);
    for (int i = 0; i < 3; i++) {
        struct job *job = golden_job(&runs[i], &b, cases[i], false);
        while (!scheduler_admit(b.scheduler, job)) CHECK(scheduler_step(b.scheduler));
    }
    while (scheduler_step(b.scheduler)) continue;
    for (int i = 0; i < 3; i++) check_answer(&runs[i]);
    close_bench(&b);
}

TEST(plain_decoding_gives_the_same_tokens_with_one_round_a_token)
{
    check_plain(&llava);
    check_plain(&qwen);
}

/* The authors' draft cannot take several pictures; the target's own tokens are the truth. */
static void check_two_images(const struct family *family, bool use_draft, int prefill_chunk)
{
    struct bench b;
    char name[64];
    snprintf(name, sizeof(name), "%s/two_images.json", family->cases);
    struct run run = {.bench = &b, .is_plain = !use_draft, .has_no_rounds = true};
    run.json = json_load_file(folder_path(name), 0, NULL);
    CHECK(run.json);
    snprintf(name, sizeof(name), "%s/two_images.safetensors", family->cases);
    struct golden *g = golden_open(folder_path(name));
    const json_t *want = json_object_get(run.json, "greedy_tokens");
    int n = (int)json_array_size(want);
    open_bench(&b, family, 1, 256, prefill_chunk, ROUNDS_IN_FLIGHT);
    struct job *job = new_job(&run, &b, golden_prompt(g, run.json), use_draft);
    CHECK_INT(job->gen.prompt->n_images, ==, 2);
    job->gen.sampling.max_tokens = n;
    CHECK(scheduler_admit(b.scheduler, job));
    while (scheduler_step(b.scheduler)) continue;
    CHECK(run.is_done);
    CHECK_INT(run.n_answer, ==, n);
    for (int t = 0; t < n; t++) CHECK_INT(run.answer[t], ==, item(want, (size_t)t));
    if (use_draft) CHECK_INT(run.n_rounds, <, n - 1);
    golden_close(g);
    json_decref(run.json);
    close_bench(&b);
}

TEST(two_pictures_give_the_target_s_own_tokens_in_fewer_rounds_with_the_draft)
{
    check_two_images(&llava, false, 256);
    check_two_images(&llava, true, 256);
    check_two_images(&llava, true, 7);
    check_two_images(&qwen, false, 256);
    check_two_images(&qwen, true, 256);
    check_two_images(&qwen, true, 7);
}

TEST(the_operations_of_a_round_do_not_grow_with_the_sequences)
{
    struct bench one, many;
    open_bench(&one, &llava, 1, 64, 64, 1);
    open_bench(&many, &llava, 12, 512, 64, 1);
    CHECK_INT(round_n_ops(one.round), >, 50);
    CHECK_INT(round_n_ops(one.round), ==, round_n_ops(many.round));
    close_bench(&one);
    close_bench(&many);
}
