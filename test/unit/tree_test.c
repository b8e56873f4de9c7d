#include "test/test.h"

#include "test/opbed.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- an independent tree builder: paths of candidates, sorted
 * -------------------------------------- */

/* A candidate of a seat, and what becomes of it. */
struct leaf {
    float score;
    int seat, number, token, parent; /* parent: candidate number, -1 for the root's children */
    int is_kept, node;
};

struct forest {
    struct leaf leaves[16384];
    int n;
};

/* The children's tokens and log-probabilities that expand is given; the test invents them. */
static float random_logprob(unsigned *seed, int n_values)
{
    return -0.25f * (float)kernels_random_int(seed, n_values);
}

static int leaf_before(const struct leaf *a, const struct leaf *b)
{
    if (a->score != b->score) return a->score > b->score;
    if (a->number != b->number) return a->number < b->number;
    return a->seat < b->seat;
}

static struct leaf *find_leaf(struct forest *f, int seat, int number)
{
    for (int i = 0; i < f->n; i++)
        if (f->leaves[i].seat == seat && f->leaves[i].number == number) return &f->leaves[i];
    test_fail(__FILE__, __LINE__, "no candidate %d of seat %d", number, seat);
}

/* Grows one seat's candidates from a table of log-probabilities: rows of `k` for the root, then k
 * rows a level. */
static void grow(struct forest *f, int seat, int k, int depth, const int32_t *ids,
                 const float *logprobs)
{
    int beam[MAX_TOP_K] = {-1};
    int n_beam = 1, number = 0, row = 0;
    for (int level = 0; level <= depth; level++) {
        int first = f->n;
        for (int b = 0; b < n_beam; b++, row++)
            for (int j = 0; j < k; j++)
                f->leaves[f->n++] =
                    (struct leaf){.score = (beam[b] < 0 ? 0 : find_leaf(f, seat, beam[b])->score) +
                                           logprobs[row * k + j],
                                  .seat = seat,
                                  .number = number++,
                                  .token = ids[row * k + j],
                                  .parent = beam[b]};
        n_beam = k;
        for (int b = 0; b < k; b++) {
            struct leaf *best = NULL;
            for (int i = first; i < f->n; i++)
                if (!f->leaves[i].is_kept && (!best || leaf_before(&f->leaves[i], best)))
                    best = &f->leaves[i];
            CHECK(best != NULL);
            best->is_kept = 1; /* for now: is in the beam */
            beam[b] = best->number;
        }
        for (int i = first; i < f->n; i++) f->leaves[i].is_kept = 0;
    }
}

/* Keeps the best n_nodes - 1 of each seat, then the best `budget` of all. */
static void cut(struct forest *f, int n_seats, int n_nodes, int budget)
{
    int n_kept = 0;
    for (int i = 0; i < f->n; i++) {
        int n_before = 0;
        for (int j = 0; j < f->n; j++)
            n_before +=
                f->leaves[j].seat == f->leaves[i].seat && leaf_before(&f->leaves[j], &f->leaves[i]);
        f->leaves[i].is_kept = n_before < n_nodes - 1;
        n_kept += f->leaves[i].is_kept;
    }
    for (; n_kept > budget; n_kept--) {
        struct leaf *worst = NULL;
        for (int i = 0; i < f->n; i++)
            if (f->leaves[i].is_kept && (!worst || leaf_before(worst, &f->leaves[i])))
                worst = &f->leaves[i];
        CHECK(worst != NULL);
        worst->is_kept = 0;
    }
    for (int seat = 0; seat < n_seats; seat++)
        for (int i = 0, node = 1; i < f->n; i++)
            if (f->leaves[i].seat == seat && f->leaves[i].is_kept) f->leaves[i].node = node++;
}

static void check_tree(struct opbed *r, struct forest *f, int seat)
{
    const struct tree *t = &r->tree;
    const struct seat *s = &r->state.seats[seat];
    size_t base = (size_t)seat * MAX_NODES;
    int n = 1;
    CHECK_INT(t->token[base], ==, s->root);
    CHECK_INT(t->parent[base], ==, -1);
    CHECK_INT(t->depth[base], ==, 0);
    CHECK_INT(t->mask[base], ==, 1);
    for (int i = 0; i < f->n; i++) {
        struct leaf *leaf = &f->leaves[i];
        if (leaf->seat != seat || !leaf->is_kept) continue;
        struct leaf *parent = leaf->parent < 0 ? NULL : find_leaf(f, seat, leaf->parent);
        CHECK(!parent || parent->is_kept);
        int parent_node = parent ? parent->node : 0;
        CHECK_INT(leaf->node, ==, n);
        CHECK_INT(t->token[base + n], ==, leaf->token);
        CHECK_INT(t->parent[base + n], ==, parent_node);
        CHECK_INT(t->depth[base + n], ==, t->depth[base + parent_node] + 1);
        CHECK(t->mask[base + n] == (t->mask[base + parent_node] | 1ull << n));
        n++;
    }
    CHECK_INT(t->n_nodes[seat], ==, n);
    CHECK_INT(t->old_len[seat], ==, s->len);
    for (int node = 0; node < n; node++) {
        int row = t->first_row[seat] + node;
        CHECK_INT(r->rows.seat[row], ==, seat);
        CHECK_INT(r->rows.id[row], ==, t->token[base + node]);
        CHECK_INT(r->rows.slot[row], ==, s->len + node);
        CHECK_INT(r->rows.prefix[row], ==, s->len);
        CHECK(r->rows.mask[row] == t->mask[base + node]);
        for (int axis = 0; axis < 3; axis++)
            CHECK_INT(r->rows.pos[3 * row + axis], ==,
                      s->len + t->depth[base + node] + s->rope_delta);
    }
}

/* ---- random trees
 * ---------------------------------------------------------------------------------- */

struct forest_case {
    int k, depth, n_nodes, max_rows, n_values; /* n_values: distinct log-probs; few make ties */
};

/* One level's inputs of all heads from the per-seat tables, and the call. */
static void expand_level(struct opbed *r, struct draft_rows next, int level, int32_t *const *ids,
                         float *const *logprobs)
{
    int k = r->shape.k, n_parents = level == 0 ? 1 : k, n_heads = *r->beam.n_heads;
    int first = level == 0 ? 0 : 1 + (level - 1) * k;
    size_t n = (size_t)n_parents * (size_t)k;
    int32_t *level_ids = opbed_array(r, ((size_t)n_heads * n + 1) * sizeof(int32_t));
    float *level_logprobs = opbed_array(r, ((size_t)n_heads * n + 1) * sizeof(float));
    for (int head = 0; head < n_heads; head++) {
        memcpy(level_ids + (size_t)head * n, ids[head] + first * k, n * sizeof(int32_t));
        memcpy(level_logprobs + (size_t)head * n, logprobs[head] + first * k, n * sizeof(float));
    }
    r->k.ops->expand(r->k.stream, &(struct expand_args){r->state, r->beam, next, level_ids,
                                                        level_logprobs, level});
    opbed_wait(r);
}

/* The rows of the next beam against the forest: what each descends from, and which scratch slots it
 * sees. */
static void check_beam_rows(struct opbed *r, struct draft_rows next, int level, struct forest *f,
                            int bit_of[][2048])
{
    int k = r->shape.k;
    CHECK_INT(*next.rows.n, ==, *r->beam.n_heads * k);
    for (int row = 0; row < *next.rows.n; row++) {
        int head = row / k, rank = row % k, seat = r->beam.seat[head];
        int len = r->state.seats[seat].len, bit = level * k + rank;
        int number = r->beam.node[(head * r->shape.depth + level) * k + rank];
        struct leaf *leaf = find_leaf(f, seat, number);
        uint64_t mask = 1ull << bit;
        for (int up = leaf->parent; up >= 0; up = find_leaf(f, seat, up)->parent)
            mask |= 1ull << bit_of[head][up];
        bit_of[head][number] = bit;
        CHECK_INT(next.rows.seat[row], ==, seat);
        CHECK_INT(next.rows.id[row], ==, leaf->token);
        CHECK_INT(next.rows.slot[row], ==, len + 1 + bit);
        CHECK_INT(next.rows.prefix[row], ==, len + 1);
        CHECK(next.rows.mask[row] == mask);
        CHECK_INT(next.kind[row], ==, DRAFT_ROW_FUSED);
        CHECK_INT(next.g_row[row], ==, seat);
        int h_row = level == 0 ? head : head * k + bit_of[head][leaf->parent] % k;
        CHECK_INT(next.h_row[row], ==, h_row);
        for (int axis = 0; axis < 3; axis++)
            CHECK_INT(next.rows.pos[3 * row + axis], ==, len + level);
    }
}

static void check_rows_of_all(struct opbed *r)
{
    int n_rows = 0;
    for (int seat = 0; seat < r->shape.max_seqs; seat++) {
        if (r->tree.n_nodes[seat] == 0) continue;
        CHECK_INT(r->tree.first_row[seat], ==, n_rows);
        for (int node = 0; node < r->tree.n_nodes[seat]; node++, n_rows++) {
            CHECK_INT(r->out.row[n_rows], ==, n_rows);
            CHECK_INT(r->out.seat[n_rows], ==, seat);
            CHECK_INT(r->out.node[n_rows], ==, node);
        }
    }
    CHECK_INT(*r->rows.n, ==, n_rows);
    CHECK_INT(*r->out.n, ==, n_rows);
}

/* Seats 0..6: two draft, one has left, one drafts too, one decodes plainly, one is free, one is
 * done. */
static void check_forest(const struct forest_case *c, unsigned seed)
{
    static const int states[7] = {SEAT_DECODE, SEAT_DECODE, SEAT_FREE,    SEAT_DECODE,
                                  SEAT_DECODE, SEAT_FREE,   SEAT_FINISHED};
    static const int heads[] = {0, 1, 2, 3};
    struct opbed r;
    opbed_open(&r, &(struct opbed_shape){.max_seqs = 7,
                                         .vocab = 1000,
                                         .width = 1,
                                         .max_rows = c->max_rows,
                                         .k = c->k,
                                         .depth = c->depth});
    struct sampling greedy = opbed_greedy();
    for (int seat = 0; seat < 7; seat++) {
        opbed_seat(&r, seat, 10 * seat + kernels_random_int(&seed, 5), 900 + seat, &greedy);
        r.state.seats[seat].state = states[seat];
        r.state.seats[seat].rope_delta = -3 * (seat & 1);
    }
    struct forest *f = calloc(1, sizeof(*f));
    int32_t *ids[4];
    float *logprobs[4];
    static int bit_of[4][2048];
    size_t n_rows = 1 + (size_t)c->depth * (size_t)c->k, n = n_rows * (size_t)c->k;
    for (int head = 0; head < 4; head++) {
        ids[head] = opbed_array(&r, n * sizeof(int32_t));
        logprobs[head] = opbed_array(&r, n * sizeof(float));
        for (size_t i = 0; i < n; i++) ids[head][i] = kernels_random_int(&seed, 900);
        for (size_t i = 0; i < n; i++) logprobs[head][i] = random_logprob(&seed, c->n_values);
        grow(f, heads[head], c->k, c->depth, ids[head], logprobs[head]);
        r.beam.seat[head] = heads[head];
    }
    *r.beam.n_heads = 4;
    for (int level = 0; level <= c->depth; level++) {
        struct draft_rows next = opbed_draft_rows(&r, 4 * c->k);
        expand_level(&r, next, level, ids, logprobs);
        if (level < c->depth) check_beam_rows(&r, next, level, f, bit_of);
    }
    opbed_input(&r);
    r.k.ops->select(r.k.stream,
                    &(struct select_args){r.state, r.beam, r.tree, r.rows, r.out, c->n_nodes});
    opbed_wait(&r);

    for (int i = 0; i < f->n; i++) /* the seat that left has no candidates */
        if (f->leaves[i].seat == 2) f->leaves[i--] = f->leaves[--f->n];
    /* The swaps above changed the order; cut numbers nodes in the order of numbers. */
    for (int i = 1; i < f->n; i++)
        for (int j = i; j > 0 && f->leaves[j].number < f->leaves[j - 1].number; j--) {
            struct leaf swap = f->leaves[j];
            f->leaves[j] = f->leaves[j - 1];
            f->leaves[j - 1] = swap;
        }
    cut(f, 7, c->n_nodes, c->max_rows - 4);
    for (int seat = 0; seat < 7; seat++) {
        if (states[seat] == SEAT_DECODE)
            check_tree(&r, f, seat);
        else
            CHECK_INT(r.tree.n_nodes[seat], ==, 0);
    }
    check_rows_of_all(&r);
    free(f);
    opbed_close(&r);
}

TEST(trees_hold_the_best_candidates_with_their_parents_masks_and_rows)
{
    static const struct forest_case cases[] = {
        {1, 1, 2, 64, 100},   {1, 8, 64, 256, 100}, {8, 3, 30, 256, 1000000}, {8, 3, 30, 256, 3},
        {8, 3, 30, 40, 1000}, {8, 3, 30, 40, 2},    {8, 3, 30, 4, 100},       {8, 3, 30, 5, 1},
        {8, 8, 64, 256, 20},  {32, 2, 64, 256, 50}, {4, 3, 1, 64, 10},        {3, 2, 64, 33, 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_forest(&cases[i], 77 + (unsigned)i);
}

TEST(a_tree_from_a_failed_draft_is_its_first_candidates)
{
    struct opbed r;
    opbed_open(&r, &(struct opbed_shape){
                       .max_seqs = 1, .vocab = 50, .width = 1, .max_rows = 8, .k = 2, .depth = 1});
    struct sampling greedy = opbed_greedy();
    opbed_seat(&r, 0, 5, 7, &greedy);
    *r.beam.n_heads = 1;
    r.beam.seat[0] = 0;
    int32_t ids[6] = {1, 2, 3, 4, 5, 6};
    float logprobs[6] = {NAN, -INFINITY, NAN, NAN, -1, -2};
    int32_t *all_ids[4] = {ids, ids, ids, ids}; /* as many as expand_level can read */
    float *all_logprobs[4] = {logprobs, logprobs, logprobs, logprobs};
    struct draft_rows next = opbed_draft_rows(&r, 2);
    expand_level(&r, next, 0, all_ids, all_logprobs);
    expand_level(&r, next, 1, all_ids, all_logprobs);
    opbed_input(&r);
    r.k.ops->select(r.k.stream, &(struct select_args){r.state, r.beam, r.tree, r.rows, r.out, 4});
    opbed_wait(&r);
    CHECK_INT(r.tree.n_nodes[0], ==, 4);
    int want[4] = {7, 1, 2, 3};
    for (int i = 0; i < 4; i++) CHECK_INT(r.tree.token[i], ==, want[i]);
    CHECK_INT(r.tree.parent[3], ==, 1);
    opbed_close(&r);
}

/* ---- prompt chunks
 * ----------------------------------------------------------------------------------- */

TEST(chunks_and_roots_share_the_rows_in_order_of_seat)
{
    struct opbed r;
    opbed_open(&r, &(struct opbed_shape){
                       .max_seqs = 5, .vocab = 50, .width = 1, .max_rows = 10, .k = 1, .depth = 1});
    struct sampling greedy = opbed_greedy();
    opbed_seat(&r, 0, 20, 3, &greedy);
    opbed_seat(&r, 1, 0, -1, &greedy);
    opbed_seat(&r, 3, 9, 4, &greedy);
    opbed_seat(&r, 4, 64, -1, &greedy);
    r.state.seats[1].state = r.state.seats[4].state = SEAT_PREFILL;
    struct round_input *in = opbed_input(&r);
    in->n_chunks = 2;
    in->chunks[0] = (struct chunk){.seat = 1, .first_row = 2, .n_rows = 3, .first_slot = 0};
    in->chunks[1] =
        (struct chunk){.seat = 4, .first_row = 0, .n_rows = 2, .first_slot = 64, .is_last = 1};
    in->n_prompt_rows = 5;
    for (int i = 0; i < 5; i++)
        in->prompt_rows[i] =
            (struct prompt_row){.id = i == 3 ? ~8 : 10 + i, .pos = {i, 10 * i, 100 * i}};
    r.beam.n_heads = NULL; /* no draft at all */
    r.k.ops->select(r.k.stream, &(struct select_args){r.state, r.beam, r.tree, r.rows, r.out, 30});
    opbed_wait(&r);

    static const int seat[] = {0, 1, 1, 1, 3, 4, 4}, id[] = {3, 12, ~8, 14, 4, 10, 11},
                     slot[] = {20, 0, 1, 2, 9, 64, 65}, prefix[] = {20, 1, 2, 3, 9, 65, 66},
                     axis_2[] = {20, 200, 300, 400, 9, 0, 100};
    CHECK_INT(*r.rows.n, ==, 7);
    for (int i = 0; i < 7; i++) {
        CHECK_INT(r.rows.seat[i], ==, seat[i]);
        CHECK_INT(r.rows.id[i], ==, id[i]);
        CHECK_INT(r.rows.slot[i], ==, slot[i]);
        CHECK_INT(r.rows.prefix[i], ==, prefix[i]);
        CHECK_INT(r.rows.mask[i], ==, i == 0 || i == 4);
        CHECK_INT(r.rows.pos[3 * i + 2], ==, axis_2[i]);
    }
    static const int out_row[] = {0, 4, 6}, out_seat[] = {0, 3, 4};
    CHECK_INT(*r.out.n, ==, 3);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(r.out.row[i], ==, out_row[i]);
        CHECK_INT(r.out.seat[i], ==, out_seat[i]);
        CHECK_INT(r.out.node[i], ==, 0);
    }
    static const int n_nodes[] = {1, 0, 0, 1, 0};
    for (int i = 0; i < 5; i++) CHECK_INT(r.tree.n_nodes[i], ==, n_nodes[i]);
    CHECK_INT(r.tree.first_row[1], ==, 1);
    CHECK_INT(r.tree.first_row[4], ==, 5);
    CHECK_INT(r.tree.old_len[4], ==, 65);
    CHECK_INT(r.tree.depth[4 * MAX_NODES], ==, 0);
    CHECK_INT(r.tree.mask[4 * MAX_NODES], ==, 1);
    CHECK_UNTOUCHED(r.rows.id + 7, 3 * sizeof(int32_t));
    CHECK_UNTOUCHED(r.out.row + 3, 7 * sizeof(int32_t));
    opbed_close(&r);
}

TEST(roots_of_many_seats_lie_in_order_of_seat)
{
    enum { MANY = 71 };
    struct opbed r;
    opbed_open(&r,
               &(struct opbed_shape){
                   .max_seqs = MANY, .vocab = 5, .width = 1, .max_rows = MANY, .k = 1, .depth = 1});
    struct sampling greedy = opbed_greedy();
    for (int seat = 0; seat < MANY; seat++) opbed_seat(&r, seat, 3 * seat, seat % 5, &greedy);
    r.state.seats[33].state = SEAT_FREE;
    opbed_input(&r);
    r.k.ops->select(r.k.stream, &(struct select_args){r.state, r.beam, r.tree, r.rows, r.out, 30});
    opbed_wait(&r);
    CHECK_INT(*r.rows.n, ==, MANY - 1);
    CHECK_INT(*r.out.n, ==, MANY - 1);
    for (int row = 0; row < MANY - 1; row++) {
        int seat = row < 33 ? row : row + 1;
        CHECK_INT(r.rows.seat[row], ==, seat);
        CHECK_INT(r.rows.slot[row], ==, 3 * seat);
        CHECK_INT(r.out.row[row], ==, row);
        CHECK_INT(r.tree.first_row[seat], ==, row);
    }
    CHECK_INT(r.tree.n_nodes[33], ==, 0);
    opbed_close(&r);
}

TEST(a_round_without_work_has_no_rows)
{
    struct opbed r;
    opbed_open(&r, &(struct opbed_shape){
                       .max_seqs = 2, .vocab = 5, .width = 1, .max_rows = 4, .k = 2, .depth = 1});
    opbed_input(&r);
    r.k.ops->select(r.k.stream, &(struct select_args){r.state, r.beam, r.tree, r.rows, r.out, 30});
    opbed_wait(&r);
    CHECK_INT(*r.rows.n, ==, 0);
    CHECK_INT(*r.out.n, ==, 0);
    CHECK_INT(r.tree.n_nodes[0], ==, 0);
    opbed_close(&r);
}
