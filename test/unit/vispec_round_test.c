/* Whole rounds against the authors' ViSpec code: trees, accepted paths and tokens of
 * test/golden/vispec. */
#include "test/roundbed.h"
#include "test/test.h"

#include <stdio.h>

enum { MAX_ANSWER = 256 };

/* One golden case while it runs. */
struct run {
    struct roundbed *bench;
    json_t *json;
    int answer[MAX_ANSWER], n_answer;
    int n_rounds; /* verify passes seen */
    bool checks_trees, is_plain, is_done;
    bool has_no_rounds; /* the golden data knows the answer only */
};

/* The tree of the round that has just finished is the reference's, node by node. */
static void check_tree(const struct run *run, const json_t *golden, int seat)
{
    struct round_view view = round_view(run->bench->round);
    const json_t *tokens = json_object_get(golden, "tree_tokens");
    const json_t *parents = json_object_get(golden, "tree_parent");
    CHECK_INT(view.tree.n_nodes[seat], ==, json_array_size(tokens));
    for (size_t j = 0; j < json_array_size(tokens); j++) {
        size_t at = (size_t)seat * MAX_NODES + j;
        if (view.tree.token[at] != roundbed_item(tokens, j) ||
            view.tree.parent[at] != roundbed_item(parents, j))
            test_fail(__FILE__, __LINE__, "round %d node %zu is %d below %d, not %d below %d",
                      run->n_rounds, j, view.tree.token[at], view.tree.parent[at],
                      roundbed_item(tokens, j), roundbed_item(parents, j));
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
    if (!event->is_last && event->n_tokens == roundbed_int(golden, "accepted") + 1)
        CHECK_INT(event->tokens[event->n_tokens - 1].id, ==, roundbed_int(golden, "bonus_token"));
    run->n_rounds++;
}

static struct job *golden_job(struct run *run, struct roundbed *b, int i, bool use_draft)
{
    *run = (struct run){.bench = b, .is_plain = !use_draft};
    return roundbed_case(b, i, use_draft, on_event, run, &run->json);
}

static void check_answer(struct run *run)
{
    const json_t *want = json_object_get(run->json, "output_tokens");
    CHECK(run->is_done);
    CHECK_INT(run->n_answer, ==, json_array_size(want));
    for (int t = 0; t < run->n_answer; t++)
        CHECK_INT(run->answer[t], ==, roundbed_item(want, (size_t)t));
    json_decref(run->json);
}

static void check_case(const struct roundbed_family *family, int i, int prefill_chunk)
{
    struct roundbed b;
    struct run run;
    roundbed_open(&b, family, 1, 256, prefill_chunk, 1);
    struct job *job = golden_job(&run, &b, i, true);
    run.checks_trees = true;
    CHECK(scheduler_admit(b.scheduler, job));
    while (scheduler_step(b.scheduler)) continue;
    int n_rounds = run.n_rounds, want = roundbed_int(run.json, "num_rounds");
    /* The reference runs one round more where the end token was a bonus, or at exactly
     * max_new_tokens. */
    CHECK(n_rounds == want || n_rounds == want - 1);
    check_answer(&run);
    roundbed_close(&b);
}

TEST(every_round_of_text_cases_has_the_authors_tree_path_and_tokens)
{
    const int cases[] = {0, 4, 6};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check_case(&roundbed_llava, cases[i], 256);
        check_case(&roundbed_qwen, cases[i], 256);
    }
}

static void check_picture_cases(const struct roundbed_family *family)
{
    const int cases[] = {1, 2, 3, 5, 7, 8};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) check_case(family, cases[i], 256);
}

TEST(every_round_of_llava_s_picture_cases_has_the_authors_tree_path_and_tokens)
{
    check_picture_cases(&roundbed_llava);
}

TEST(every_round_of_qwen_s_picture_cases_has_the_authors_tree_path_and_tokens)
{
    check_picture_cases(&roundbed_qwen);
}

TEST(trees_do_not_depend_on_how_a_prompt_is_cut_into_chunks)
{
    const int chunks[] = {1, 7, 63, 64, 65};
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
        check_case(&roundbed_llava, 7, chunks[i]);
        check_case(&roundbed_qwen, 7, chunks[i]);
    }
}

static void check_all_at_once(const struct roundbed_family *family)
{
    struct roundbed b;
    struct run runs[ROUNDBED_N_CASES];
    roundbed_open(&b, family, ROUNDBED_N_CASES, 512, 50, ROUNDS_IN_FLIGHT);
    for (int i = 0; i < ROUNDBED_N_CASES; i++)
        CHECK(scheduler_admit(b.scheduler, golden_job(&runs[i], &b, i, true)));
    while (scheduler_step(b.scheduler)) continue;
    for (int i = 0; i < ROUNDBED_N_CASES; i++) check_answer(&runs[i]);
    roundbed_close(&b);
}

TEST(all_cases_at_once_and_rounds_ahead_give_the_same_tokens_on_llava)
{
    check_all_at_once(&roundbed_llava);
}

TEST(all_cases_at_once_and_rounds_ahead_give_the_same_tokens_on_qwen)
{
    check_all_at_once(&roundbed_qwen);
}

static void check_plain(const struct roundbed_family *family)
{
    struct roundbed b;
    struct run runs[3];
    const int cases[] = {0, 3, 8};
    roundbed_open(&b, family, 2, 128, 128, ROUNDS_IN_FLIGHT);
    for (int i = 0; i < 3; i++) {
        struct job *job = golden_job(&runs[i], &b, cases[i], false);
        while (!scheduler_admit(b.scheduler, job)) CHECK(scheduler_step(b.scheduler));
    }
    while (scheduler_step(b.scheduler)) continue;
    for (int i = 0; i < 3; i++) check_answer(&runs[i]);
    roundbed_close(&b);
}

TEST(plain_decoding_gives_the_same_tokens_with_one_round_a_token)
{
    check_plain(&roundbed_llava);
    check_plain(&roundbed_qwen);
}

/* The authors' draft cannot take several pictures; the target's own tokens are the truth. */
static void check_two_images(const struct roundbed_family *family, bool use_draft,
                             int prefill_chunk)
{
    struct roundbed b;
    struct run run = {.bench = &b, .is_plain = !use_draft, .has_no_rounds = true};
    run.json = roundbed_json(family, "two_images.json");
    const json_t *want = json_object_get(run.json, "greedy_tokens");
    int n = (int)json_array_size(want);
    roundbed_open(&b, family, 1, 256, prefill_chunk, ROUNDS_IN_FLIGHT);
    struct job *job =
        roundbed_job(&b, run.json, "two_images.safetensors", use_draft, on_event, &run);
    CHECK_INT(job->gen.prompt->n_images, ==, 2);
    job->gen.sampling.max_tokens = n;
    CHECK(scheduler_admit(b.scheduler, job));
    while (scheduler_step(b.scheduler)) continue;
    CHECK(run.is_done);
    CHECK_INT(run.n_answer, ==, n);
    for (int t = 0; t < n; t++) CHECK_INT(run.answer[t], ==, roundbed_item(want, (size_t)t));
    if (use_draft) CHECK_INT(run.n_rounds, <, n - 1);
    json_decref(run.json);
    roundbed_close(&b);
}

TEST(two_pictures_give_the_target_s_own_tokens_in_fewer_rounds_with_the_draft)
{
    check_two_images(&roundbed_llava, false, 256);
    check_two_images(&roundbed_llava, true, 256);
    check_two_images(&roundbed_llava, true, 7);
    check_two_images(&roundbed_qwen, false, 256);
    check_two_images(&roundbed_qwen, true, 256);
    check_two_images(&roundbed_qwen, true, 7);
}

TEST(the_operations_of_a_round_do_not_grow_with_the_sequences)
{
    struct roundbed one, many;
    roundbed_open(&one, &roundbed_llava, 1, 64, 64, 1);
    roundbed_open(&many, &roundbed_llava, 12, 512, 64, 1);
    CHECK_INT(round_n_ops(one.round), >, 50);
    CHECK_INT(round_n_ops(one.round), ==, round_n_ops(many.round));
    roundbed_close(&one);
    roundbed_close(&many);
}
