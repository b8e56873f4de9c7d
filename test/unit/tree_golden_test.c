/* Trees of the authors' code, candidate by candidate (test/golden/vispec). */
#include "test/opbed.h"
#include "test/test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int at(const json_t *array, size_t i)
{
    return (int)json_integer_value(json_array_get(array, i));
}

/* Log-probabilities of a level's children: the file has cumulative ones, six decimals. */
static void read_level(const json_t *level, bool is_first, int k, int32_t *ids, float *cumulative)
{
    const json_t *tokens = json_object_get(level, is_first ? "tokens" : "child_tokens");
    const json_t *scores = json_object_get(level, is_first ? "logp" : "child_cum_logp");
    for (int i = 0; i < (is_first ? 1 : k) * k; i++) {
        const json_t *row = is_first ? tokens : json_array_get(tokens, (size_t)(i / k));
        const json_t *score_row = is_first ? scores : json_array_get(scores, (size_t)(i / k));
        ids[i] = at(row, (size_t)(i % k));
        cumulative[i] = (float)json_number_value(json_array_get(score_row, (size_t)(i % k)));
    }
}

static void check_golden_round(const json_t *golden, int k, int depth, int n_nodes)
{
    struct opbed r;
    opbed_open(
        &r, &(struct opbed_shape){
                .max_seqs = 1, .vocab = 1000, .width = 1, .max_rows = 64, .k = k, .depth = depth});
    const json_t *tree = json_object_get(golden, "tree"), *levels = json_object_get(tree, "levels");
    struct sampling greedy = opbed_greedy();
    int len = (int)json_integer_value(json_object_get(golden, "context_tokens"));
    opbed_seat(&r, 0, len, (int)json_integer_value(json_object_get(golden, "root_token")), &greedy);
    *r.beam.n_heads = 1;
    r.beam.seat[0] = 0;
    int32_t ids[64];
    float logprobs[64];
    struct draft_rows next = opbed_draft_rows(&r, k);
    for (int level = 0; level <= depth; level++) {
        const json_t *golden_level = json_array_get(levels, (size_t)level);
        read_level(golden_level, level == 0, k, ids, logprobs);
        for (int i = 0; level > 0 && i < k * k; i++) {
            int fed = r.beam.node[(level - 1) * k + i / k];
            logprobs[i] -= r.beam.score[fed];
        }
        r.k.ops->expand(r.k.stream,
                        &(struct expand_args){r.state, r.beam, next, ids, logprobs, level});
        opbed_wait(&r);
        if (level == depth) break;
        const json_t *beam = json_array_get(levels, (size_t)level + 1);
        for (int b = 0; b < k; b++) {
            CHECK_INT(next.rows.id[b], ==, at(json_object_get(beam, "beam_tokens"), (size_t)b));
            if (level > 0)
                CHECK_INT(next.h_row[b], ==,
                          at(json_object_get(beam, "beam_parent_rank"), (size_t)b));
            CHECK_INT(next.rows.pos[3 * b], ==,
                      (int)json_integer_value(json_object_get(golden, "draft_next_position")) +
                          level);
        }
    }
    opbed_input(&r);
    r.k.ops->select(r.k.stream,
                    &(struct select_args){r.state, r.beam, r.tree, r.rows, r.out, n_nodes});
    opbed_wait(&r);
    CHECK_INT(r.tree.n_nodes[0], ==, n_nodes);
    const json_t *index = json_object_get(tree, "candidate_index");
    for (size_t i = 0; i < (size_t)n_nodes; i++) {
        CHECK_INT(r.tree.token[i], ==, at(json_object_get(tree, "tokens"), i));
        CHECK_INT(r.tree.parent[i], ==, at(json_object_get(tree, "parent"), i));
        CHECK_INT(r.tree.depth[i], ==, at(json_object_get(tree, "depth"), i));
        if (i > 0) CHECK_INT(r.tree.token[i], ==, r.beam.token[at(index, i - 1)]);
    }
    opbed_close(&r);
}

TEST(trees_are_those_of_the_reference)
{
    static const char *const families[] = {"llava", "qwen"};
    int n_rounds = 0;
    for (int i = 0; i < 2 * 9; i++) {
        char name[64];
        snprintf(name, sizeof(name), "golden/vispec/cases_%s/case_%02d.json", families[i / 9],
                 i % 9);
        json_error_t error;
        json_t *golden = json_load_file(test_path(name), 0, &error);
        if (!golden) test_fail(__FILE__, __LINE__, "%s: %s", name, error.text);
        const json_t *rounds = json_object_get(golden, "rounds");
        for (size_t j = 0; j < json_array_size(rounds); j++) {
            const json_t *golden_round = json_array_get(rounds, j);
            if (!json_object_get(golden_round, "tree")) continue;
            check_golden_round(golden_round,
                               (int)json_integer_value(json_object_get(golden, "top_k")),
                               (int)json_integer_value(json_object_get(golden, "depth")),
                               (int)json_integer_value(json_object_get(golden, "total_token")));
            n_rounds++;
        }
        json_decref(golden);
    }
    CHECK_INT(n_rounds, ==, 53);
}
