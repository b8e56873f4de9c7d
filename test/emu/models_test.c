/* Whole models on the CUDA device against the golden data: tokens and log-probabilities of
 * transformers, trees and accepted lengths of the authors' ViSpec code.
 *
 * The rules are those for activations of 16 bits (test/golden/hf/README.md): a token may differ
 * first where the two best logits are near each other, and comparing ends there. */
#include "test/kernels.h"
#include "test/roundbed.h"
#include "test/runs.h"
#include "test/test.h"

#include <stdio.h>

enum { MAX_ANSWER = 256, N_CASES = 9, N_NODES = 30 };

static const double small_margin = 0.6, mean_error = 0.15;
static const double least_common_nodes = 26, tau_tolerance = 0.1;

/* An emulated device is slow: a few tokens of a few cases.  A GPU does all. */
static int whole_or(int few, int all)
{
    return test_n_runs() > 1 ? few : all;
}

struct run {
    const struct roundbed *bed;
    const json_t *golden; /* with `rounds` where trees are compared, else NULL */
    double logprobs[MAX_ANSWER];
    int answer[MAX_ANSWER], n_answer;
    int n_rounds;          /* behind the prompt's own */
    int n_last;            /* tokens of the last one */
    int n_trees, n_common; /* compared ones, and their nodes in common */
    bool is_same;          /* the answer so far is the reference's */
};

/* ---- trees --------------------------------------------------------------------------------------
 */

/* Whether node i of one tree and node j of the other have the same tokens from the root on. */
static bool is_same_path(const int *tokens, const int *parent, int i, const json_t *other_tokens,
                         const json_t *other_parent, int j)
{
    while (i >= 0 && j >= 0 && tokens[i] == roundbed_item(other_tokens, (size_t)j)) {
        i = parent[i];
        j = roundbed_item(other_parent, (size_t)j);
    }
    return i < 0 && j < 0;
}

/* Compares the tree of the round that has just finished with the reference's for as long a context,
 * if it has one. */
static void compare_tree(struct run *run, int context)
{
    const json_t *rounds = json_object_get(run->golden, "rounds"), *golden = NULL;
    for (size_t i = 0; i < json_array_size(rounds) && !golden; i++)
        if (roundbed_field(json_array_get(rounds, i), "context_tokens") == context)
            golden = json_array_get(rounds, i);
    if (!golden) return;
    const struct tree tree = round_view(run->bed->round).tree;
    const size_t n_nodes = N_NODES;
    int tokens[N_NODES], parent[N_NODES], n;
    struct stream *s = round_stream(run->bed->round);
    stream_copy_out(s, &n, tree.n_nodes, sizeof(n));
    stream_copy_out(s, tokens, tree.token, n_nodes * sizeof(int));
    stream_copy_out(s, parent, tree.parent, n_nodes * sizeof(int));
    stream_wait(s);
    CHECK_INT(n, ==, N_NODES);
    const json_t *other_tokens = json_object_get(golden, "tree_tokens"),
                 *other_parent = json_object_get(golden, "tree_parent");
    for (int i = 0; i < N_NODES; i++) {
        int j = 0;
        while (j < N_NODES && !is_same_path(tokens, parent, i, other_tokens, other_parent, j)) j++;
        run->n_common += j < N_NODES;
    }
    run->n_trees++;
}

/* ---- answers ------------------------------------------------------------------------------------
 */

static void on_event(void *user, const struct gen_event *event)
{
    struct run *run = user;
    const json_t *want = json_object_get(run->golden, "output_tokens");
    if (event->n_tokens > 0 && run->n_answer > 0) {
        const int n_prompt = want ? roundbed_field(run->golden, "prompt_tokens") : 0;
        if (want && run->is_same) compare_tree(run, n_prompt + run->n_answer - 1);
        run->n_rounds++;
        run->n_last = event->n_tokens;
    }
    for (int i = 0; i < event->n_tokens; i++) {
        CHECK_INT(run->n_answer, <, MAX_ANSWER);
        const int id = event->tokens[i].id;
        run->is_same = run->is_same && id == roundbed_item(want, (size_t)run->n_answer);
        run->logprobs[run->n_answer] = (double)event->tokens[i].logprob;
        run->answer[run->n_answer++] = id;
    }
}

/* The wanted tokens, up to a step that may differ; their log-probabilities, unless NULL. */
static void check_answer(const struct run *run, const json_t *want, const json_t *margins,
                         const json_t *logprobs)
{
    double error = 0;
    int t = 0;
    CHECK_INT(run->n_answer, >, 0);
    for (; t < run->n_answer; t++) {
        if (run->answer[t] != roundbed_item(want, (size_t)t)) break;
        if (!logprobs) continue;
        error += fabs(run->logprobs[t] - json_number_value(json_array_get(logprobs, (size_t)t)));
    }
    if (t < run->n_answer && t < (int)json_array_size(want)) {
        const double margin = json_number_value(json_array_get(margins, (size_t)t));
        if (margin >= small_margin)
            test_fail(__FILE__, __LINE__, "token %d is %d, not %d, and the margin is %g", t,
                      run->answer[t], roundbed_item(want, (size_t)t), margin);
    }
    if (error > mean_error * t)
        test_fail(__FILE__, __LINE__, "%d log-probabilities are off by %g in the mean", t,
                  error / t);
}

static void run_to_end(struct roundbed *b)
{
    while (scheduler_step(b->scheduler)) continue;
}

/* ---- transformers -------------------------------------------------------------------------------
 */

static struct prompt *hf_prompt(const struct roundbed *b, const struct golden *g,
                                const json_t *golden)
{
    const json_t *want = json_object_get(golden, "input_ids");
    const size_t n = json_array_size(want), width = (size_t)b->model.cfg.lm.hidden;
    int32_t ids[ROUNDBED_MAX_LEN];
    uint8_t is_image[ROUNDBED_MAX_LEN];
    CHECK_INT(n, <, ROUNDBED_MAX_LEN);
    for (size_t t = 0; t < n; t++) {
        ids[t] = roundbed_item(want, t);
        is_image[t] = ids[t] == b->model.cfg.image_token;
    }
    struct prompt *p = roundbed_prompt(ids, is_image, n, json_object_get(golden, "image_grid_thw"));
    for (int i = 0; i < p->n_images; i++) {
        char name[32];
        size_t n_features;
        snprintf(name, sizeof(name), "image_features.%d", i);
        const float *features = golden_f32(g, name, &n_features);
        CHECK_INT(roundbed_set_features(p, i, features, width), ==, n_features);
    }
    return p;
}

/* Cases of a folder, each alone; the draft is none. */
static void check_folder(const char *folder, const char *const *cases, int n_cases)
{
    const struct roundbed_limits limits = {1, 256, 256, ROUNDS_IN_FLIGHT};
    char path[160];
    struct roundbed b;
    snprintf(path, sizeof(path), "golden/hf/models/%s", folder);
    roundbed_open(&b, kernels_device(), path, "none", &limits);
    for (int i = 0; i < n_cases; i++) {
        struct run run = {.bed = &b};
        snprintf(path, sizeof(path), "golden/hf/goldens/%s/%s.json", folder, cases[i]);
        json_t *golden = roundbed_json(path);
        snprintf(path, sizeof(path), "golden/hf/goldens/%s/%s.safetensors", folder, cases[i]);
        struct golden *g = golden_open(test_path(path));
        struct job *job = roundbed_job(&b, hf_prompt(&b, g, golden), false, on_event, &run);
        job->gen.sampling.max_tokens = whole_or(3, 48);
        job->gen.sampling.n_logprobs = 0;
        CHECK(scheduler_admit(b.scheduler, job));
        run_to_end(&b);
        CHECK_INT(run.n_answer, ==, whole_or(3, 48));
        check_answer(&run, json_object_get(golden, "greedy_ids"),
                     json_object_get(golden, "margin_top1_top2"),
                     json_object_get(golden, "greedy_logprobs"));
        golden_close(g);
        json_decref(golden);
    }
    roundbed_close(&b);
}

static const char *const picture_cases[] = {"c3_one_image", "c4_two_images", "c5_image_second_turn",
                                            "c6_two_sizes", "c7_unicode",    "c1_text"};
static const char *const text_cases[] = {"c1_text", "c3_unicode", "c4_code", "c5_long"};

TEST(llava_answers_as_transformers_does)
{
    check_folder("llava15-tiny", picture_cases, whole_or(2, 6));
}

TEST(llava_next_answers_as_transformers_does)
{
    check_folder("llavanext-tiny", picture_cases, whole_or(1, 6));
}

TEST(qwen_answers_as_transformers_does)
{
    check_folder("qwen25vl-tiny", picture_cases, whole_or(2, 6));
}

TEST(llama_answers_as_transformers_does)
{
    check_folder("llama-tiny-f16", text_cases, whole_or(1, 4));
}

/* ---- ViSpec -------------------------------------------------------------------------------------
 */

static struct job *vispec_job(struct run *run, struct roundbed *b,
                              const struct roundbed_family *family, int i, bool use_draft,
                              int max_tokens)
{
    *run = (struct run){.bed = b, .golden = roundbed_case(family, i), .is_same = true};
    struct job *job = roundbed_case_job(b, family, i, run->golden, use_draft, on_event, run);
    if (job->gen.sampling.max_tokens > max_tokens) job->gen.sampling.max_tokens = max_tokens;
    return job;
}

static void vispec_done(struct run *run)
{
    json_decref((json_t *)run->golden);
}

/* Accepted tokens of the reference's first rounds, up to n but without its last. */
static int wanted_accepted(const json_t *golden, int n, int *n_rounds)
{
    const json_t *lengths = json_object_get(golden, "accept_lengths");
    const int n_there = (int)json_array_size(lengths) - 1;
    int accepted = 0;
    if (n > n_there) n = n_there;
    for (int i = 0; i < n; i++) accepted += roundbed_item(lengths, (size_t)i);
    *n_rounds += n;
    return accepted;
}

/* Cases one after the other: tokens, trees, and tau, the accepted tokens of a round.  The last
 * round of an answer is left out: its end cuts it. */
static void check_trees(const struct roundbed_family *family)
{
    const struct roundbed_limits limits = {1, 256, 256, 1};
    struct roundbed b;
    int n_rounds = 0, n_accepted = 0, n_trees = 0, n_common = 0, n_wanted = 0, wanted = 0;
    roundbed_open(&b, kernels_device(), family->target, family->draft, &limits);
    for (int i = 0; i < whole_or(2, N_CASES); i++) {
        struct run run;
        struct job *job = vispec_job(&run, &b, family, i, true, whole_or(12, MAX_ANSWER));
        CHECK(scheduler_admit(b.scheduler, job));
        run_to_end(&b);
        check_answer(&run, json_object_get(run.golden, "output_tokens"),
                     json_object_get(run.golden, "argmax_margins"), NULL);
        wanted += wanted_accepted(run.golden, run.n_rounds - 1, &n_wanted);
        n_rounds += run.n_rounds - 1;
        n_accepted += run.n_answer - 1 - run.n_last - (run.n_rounds - 1);
        n_trees += run.n_trees;
        n_common += run.n_common;
        vispec_done(&run);
    }
    roundbed_close(&b);
    CHECK_INT(n_trees, >, 0);
    CHECK_INT(n_rounds, >, 0);
    const double common = (double)n_common / n_trees, tau = (double)n_accepted / n_rounds;
    const double wanted_tau = (double)wanted / n_wanted;
    printf("# %d trees, %.2f of %d paths in common; tau %.3f, the reference's %.3f\n", n_trees,
           common, N_NODES, tau, wanted_tau);
    CHECK(common >= least_common_nodes);
    CHECK(fabs(tau - wanted_tau) <= tau_tolerance);
}

TEST(trees_and_tokens_of_llava_are_the_authors)
{
    check_trees(&roundbed_llava);
}

TEST(trees_and_tokens_of_qwen_are_the_authors)
{
    check_trees(&roundbed_qwen);
}

/* Runs the first n cases with no more than so many sequences at once. */
static void answer_all(const struct roundbed_family *family, struct run *runs, int n, int max_seqs,
                       bool use_draft)
{
    const struct roundbed_limits limits = {max_seqs, 512, 100, ROUNDS_IN_FLIGHT};
    struct roundbed b;
    roundbed_open(&b, kernels_device(), family->target, family->draft, &limits);
    for (int i = 0; i < n; i++) {
        struct job *job = vispec_job(&runs[i], &b, family, i, use_draft, whole_or(3, MAX_ANSWER));
        runs[i].is_same = false; /* other tests compare trees */
        while (!scheduler_admit(b.scheduler, job)) CHECK(scheduler_step(b.scheduler));
    }
    run_to_end(&b);
    roundbed_close(&b);
    for (int i = 0; i < n; i++) vispec_done(&runs[i]);
}

static void check_same(const struct run *a, const struct run *b, int n)
{
    for (int i = 0; i < n; i++) {
        CHECK_INT(a[i].n_answer, ==, b[i].n_answer);
        for (int t = 0; t < a[i].n_answer; t++) CHECK_INT(a[i].answer[t], ==, b[i].answer[t]);
    }
}

static void check_lossless(const struct roundbed_family *family)
{
    static struct run plain[N_CASES], drafted[N_CASES], together[N_CASES];
    const int n = whole_or(2, N_CASES);
    answer_all(family, plain, n, 1, false);
    answer_all(family, drafted, n, 1, true);
    check_same(plain, drafted, n);
    answer_all(family, together, n, n, true);
    check_same(plain, together, n);
    for (int i = 0; i < n; i++) CHECK_INT(drafted[i].n_rounds, <=, plain[i].n_rounds);
}

TEST(llava_s_answers_are_the_same_with_and_without_a_draft_alone_and_together)
{
    check_lossless(&roundbed_llava);
}

TEST(qwen_s_answers_are_the_same_with_and_without_a_draft_alone_and_together)
{
    check_lossless(&roundbed_qwen);
}
