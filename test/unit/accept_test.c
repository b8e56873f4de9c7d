#include "test/test.h"

#include "test/opbed.h"

#include <math.h>
#include <stdlib.h>

enum { N_SEATS = 4, VOCAB = 50, MAX_ROWS = 80 };

struct bench {
    struct opbed r;
    float *logits;
    int32_t *pick;
    struct token_logprobs *top;
};

static void bench_open(struct bench *b)
{
    opbed_open(&b->r, &(struct opbed_shape){.max_seqs = N_SEATS,
                                            .vocab = VOCAB,
                                            .width = 1,
                                            .max_rows = MAX_ROWS,
                                            .k = 1,
                                            .depth = 1});
    b->logits = kernels_random(&b->r.k, MAX_ROWS * VOCAB, 3, 1);
    b->pick = opbed_array(&b->r, MAX_ROWS * sizeof(int32_t));
    b->top = opbed_array(&b->r, MAX_ROWS * sizeof(*b->top));
    memset(b->r.tree.n_nodes, 0, N_SEATS * sizeof(int32_t));
    opbed_input(&b->r);
}

/* Gives a seat a tree as select would, and the picks of its nodes. */
static void plant(struct bench *b, int seat, int n_nodes, const int *parent, const int *token,
                  const int *pick)
{
    const struct tree *t = &b->r.tree;
    t->n_nodes[seat] = n_nodes;
    t->first_row[seat] = *b->r.rows.n;
    t->old_len[seat] = b->r.state.seats[seat].len;
    for (int node = 0; node < n_nodes; node++) {
        int i = (*b->r.out.n)++;
        t->parent[seat * MAX_NODES + node] = parent[node];
        t->token[seat * MAX_NODES + node] = token[node];
        b->r.out.row[i] = (*b->r.rows.n)++;
        b->r.out.seat[i] = seat;
        b->r.out.node[i] = node;
        b->pick[i] = pick[node];
    }
}

static void run(struct bench *b)
{
    b->r.k.ops->accept(b->r.k.stream,
                       &(struct accept_args){b->r.state, b->r.tree, b->r.rows, b->r.out, b->pick,
                                             b->top, b->logits, b->r.next, b->r.beam});
    opbed_wait(&b->r);
}

static void check_ints(const int32_t *got, int n, const int *want)
{
    for (int i = 0; i < n; i++) CHECK_INT(got[i], ==, want[i]);
}

/* root 9 - 1:{20} - 3:{21} - 4:{22}
 *        \ 2:{21}                     */
static const int PARENT[5] = {-1, 0, 0, 1, 3}, TOKEN[5] = {9, 20, 21, 21, 22};

TEST(a_walk_follows_the_picks_and_ends_with_a_token_that_no_child_carries)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    opbed_seat(&b.r, 0, 3, 8, &s);
    opbed_seat(&b.r, 2, 30, 9, &s);
    b.r.state.seats[0].state = SEAT_FREE;
    plant(&b, 2, 5, PARENT, TOKEN, (int[]){20, 21, 40, 33, 41});
    run(&b);

    const struct seat_output *o = opbed_output(&b.r)->seats;
    CHECK_INT(o[2].n_tokens, ==, 3);
    check_ints(o[2].tokens, 3, (int[]){20, 21, 33});
    CHECK_INT(o[2].finish, ==, FINISH_NONE);
    CHECK_INT(o[2].n_drafted, ==, 4);
    CHECK_INT(o[0].n_tokens, ==, 0);
    CHECK_INT(o[3].n_tokens, ==, 0);
    const struct seat *seat = &b.r.state.seats[2];
    CHECK_INT(seat->len, ==, 33);
    CHECK_INT(seat->root, ==, 33);
    CHECK_INT(seat->n_generated, ==, 4);
    CHECK_INT(seat->state, ==, SEAT_DECODE);
    CHECK_INT(b.r.tree.n_path[2], ==, 3);
    check_ints(b.r.tree.path + 2 * MAX_NODES, 3, (int[]){0, 1, 3});
    CHECK_INT(b.r.tree.n_path[0], ==, 0);
    for (int id = 0; id < VOCAB; id++)
        CHECK_INT(b.r.state.counts[2 * VOCAB + id], ==,
                  id == 9 || id == 20 || id == 21 || id == 33);

    const struct draft_rows *next = &b.r.next;
    CHECK_INT(*next->rows.n, ==, 3);
    check_ints(next->rows.id, 3, (int[]){20, 21, 33});
    check_ints(next->rows.slot, 3, (int[]){31, 32, 33});
    check_ints(next->rows.prefix, 3, (int[]){32, 33, 34});
    check_ints(next->rows.pos, 9, (int[]){30, 30, 30, 31, 31, 31, 32, 32, 32});
    check_ints(next->h_row, 3, (int[]){0, 1, 3});
    check_ints(next->g_row, 3, (int[]){2, 2, 2});
    check_ints(next->kind, 3, (int[]){DRAFT_ROW_FUSED, DRAFT_ROW_FUSED, DRAFT_ROW_FUSED});
    CHECK_INT(*b.r.beam.n_heads, ==, 1);
    CHECK_INT(b.r.beam.seat[0], ==, 2);
    CHECK_INT(b.r.beam.head_row[0], ==, 2);
    CHECK_INT(*b.r.state.round, ==, 1);
    opbed_close(&b.r);
}

/* Runs one seat's tree and says what came out. */
static struct seat_output walk(struct bench *b, struct sampling s, const int *pick)
{
    bench_open(b);
    opbed_seat(&b->r, 1, 30, 9, &s);
    plant(b, 1, 5, PARENT, TOKEN, pick);
    run(b);
    return opbed_output(&b->r)->seats[1];
}

TEST(a_walk_ends_at_a_stop_id_at_max_tokens_and_at_a_nan)
{
    static const int pick[5] = {20, 21, 40, 22, 41};
    struct bench b;
    struct sampling s = opbed_greedy();
    s.n_stop_ids = 2;
    s.stop_ids[0] = 7;
    s.stop_ids[1] = 21;
    struct seat_output o = walk(&b, s, pick);
    CHECK_INT(o.n_tokens, ==, 2);
    CHECK_INT(o.finish, ==, FINISH_STOP);
    CHECK_INT(b.r.state.seats[1].state, ==, SEAT_FINISHED);
    CHECK_INT(b.r.state.seats[1].len, ==, 32); /* root and 20 are in the cache, 21 is not */
    CHECK_INT(b.r.tree.n_path[1], ==, 2);
    CHECK_INT(*b.r.next.rows.n, ==, 0);
    CHECK_INT(*b.r.beam.n_heads, ==, 0);
    opbed_close(&b.r);

    s = opbed_greedy();
    s.max_tokens = 4; /* the root was the first */
    o = walk(&b, s, pick);
    CHECK_INT(o.n_tokens, ==, 3);
    CHECK_INT(o.finish, ==, FINISH_LENGTH);
    CHECK_INT(b.r.state.seats[1].n_generated, ==, 4);
    opbed_close(&b.r);

    o = walk(&b, opbed_greedy(), (int[]){20, 21, 40, -1, 41});
    CHECK_INT(o.n_tokens, ==, 2);
    CHECK_INT(o.finish, ==, FINISH_NAN);
    CHECK_INT(b.r.state.seats[1].state, ==, SEAT_FINISHED);
    CHECK_INT(*b.r.next.rows.n, ==, 0);
    opbed_close(&b.r);

    o = walk(&b, opbed_greedy(), (int[]){-1, 21, 40, 22, 41});
    CHECK_INT(o.n_tokens, ==, 0);
    CHECK_INT(o.finish, ==, FINISH_NAN);
    opbed_close(&b.r);
}

TEST(a_chain_of_64_nodes_is_accepted_whole)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    opbed_seat(&b.r, 3, 100, 0, &s);
    int parent[MAX_NODES], token[MAX_NODES], pick[MAX_NODES];
    for (int i = 0; i < MAX_NODES; i++) {
        parent[i] = i - 1;
        token[i] = i % VOCAB;
        pick[i] = (i + 1) % VOCAB;
    }
    plant(&b, 3, MAX_NODES, parent, token, pick);
    run(&b);
    CHECK_INT(opbed_output(&b.r)->seats[3].n_tokens, ==, MAX_NODES);
    CHECK_INT(b.r.state.seats[3].len, ==, 164);
    CHECK_INT(*b.r.next.rows.n, ==, MAX_NODES);
    CHECK_INT(b.r.tree.path[3 * MAX_NODES + 63], ==, 63);
    opbed_close(&b.r);
}

TEST(a_seat_without_draft_gets_no_rows_and_counts_saturate)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    s.use_draft = 0;
    opbed_seat(&b.r, 0, 10, 5, &s);
    b.r.state.counts[6] = 65535;
    plant(&b, 0, 1, PARENT, TOKEN, (int[]){6});
    run(&b);
    CHECK_INT(opbed_output(&b.r)->seats[0].n_tokens, ==, 1);
    CHECK_INT(b.r.state.seats[0].len, ==, 11);
    CHECK_INT(b.r.state.counts[6], ==, 65535);
    CHECK_INT(*b.r.next.rows.n, ==, 0);
    CHECK_INT(*b.r.beam.n_heads, ==, 0);
    opbed_close(&b.r);
}

TEST(chosen_tokens_carry_their_logprob_where_it_is_wanted)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    s.n_logprobs = 2;
    opbed_seat(&b.r, 0, 10, 9, &s);
    s.n_logprobs = -1;
    opbed_seat(&b.r, 1, 10, 9, &s);
    for (int i = 0; i < 10; i++) {
        b.top[i] =
            (struct token_logprobs){.logprob = 4.5f, .ids = {i, i + 1}, .logprobs = {-1, -2}};
    }
    plant(&b, 0, 5, PARENT, TOKEN, (int[]){20, 44, 0, 0, 0});
    plant(&b, 1, 5, PARENT, TOKEN, (int[]){20, 44, 0, 0, 0});
    run(&b);
    const struct token_logprobs *got = opbed_output(&b.r)->logprobs;
    CHECK(got[0].logprob == b.logits[20] - 4.5f);
    CHECK(got[1].logprob == b.logits[VOCAB + 44] - 4.5f);
    CHECK_INT(got[1].ids[1], ==, 2);
    CHECK(got[1].logprobs[1] == -2);
    CHECK_UNTOUCHED(got + 2, sizeof(*got));
    CHECK_UNTOUCHED(got + MAX_NODES, sizeof(*got));
    opbed_close(&b.r);
}

/* A prompt of rows first_slot..first_slot+4: text, text, a picture's three slots of which the
 * second has a draft row. */
static void send_chunk(struct bench *b, int seat, int first_slot, bool is_last, int pick)
{
    struct round_input *in = &b->r.inputs[0];
    in->n_chunks = 1;
    in->chunks[0] = (struct chunk){.seat = seat,
                                   .first_row = 2,
                                   .n_rows = 5,
                                   .first_slot = first_slot,
                                   .is_last = is_last,
                                   .final_g = 37};
    in->n_prompt_rows = 7;
    static const int kind[5] = {DRAFT_ROW_FUSED, DRAFT_ROW_FUSED, DRAFT_ROW_NONE, DRAFT_ROW_DIRECT,
                                DRAFT_ROW_NONE};
    for (int i = 0; i < 5; i++)
        in->prompt_rows[2 + i] = (struct prompt_row){.id = 10 + i,
                                                     .pos = {90, 91, 92},
                                                     .draft_kind = kind[i],
                                                     .draft_id = i == 3 ? ~30 : 10 + i,
                                                     .g_row = 20 + i};
    b->r.state.seats[seat].state = SEAT_PREFILL;
    b->r.state.seats[seat].n_generated = 0;
    b->r.tree.first_row[seat] = *b->r.rows.n;
    b->r.tree.old_len[seat] = first_slot + 4;
    *b->r.rows.n += 5;
    if (!is_last) return;
    int i = (*b->r.out.n)++;
    b->r.out.row[i] = *b->r.rows.n - 1;
    b->r.out.seat[i] = seat;
    b->r.out.node[i] = 0;
    b->pick[i] = pick;
}

TEST(a_chunk_gives_draft_rows_and_no_token)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    opbed_seat(&b.r, 0, 30, 9, &s);
    opbed_seat(&b.r, 1, 0, -1, &s);
    plant(&b, 0, 1, PARENT, TOKEN, (int[]){3});
    send_chunk(&b, 1, 70, false, 0);
    run(&b);
    CHECK_INT(opbed_output(&b.r)->seats[1].n_tokens, ==, 0);
    CHECK_INT(b.r.state.seats[1].state, ==, SEAT_PREFILL);
    CHECK_INT(b.r.state.seats[1].len, ==, 75);
    const struct draft_rows *next = &b.r.next;
    CHECK_INT(*next->rows.n, ==, 4); /* the first is seat 0's */
    check_ints(next->rows.seat, 4, (int[]){0, 1, 1, 1});
    check_ints(next->rows.id + 1, 3, (int[]){10, 11, ~30});
    check_ints(next->rows.slot + 1, 3, (int[]){70, 71, 73});
    check_ints(next->rows.prefix + 1, 3, (int[]){71, 72, 74});
    check_ints(next->rows.pos + 3, 9, (int[]){69, 69, 69, 70, 70, 70, 72, 72, 72});
    check_ints(next->kind + 1, 3, (int[]){DRAFT_ROW_FUSED, DRAFT_ROW_FUSED, DRAFT_ROW_DIRECT});
    check_ints(next->h_row + 1, 3, (int[]){~1, 1, 3});
    check_ints(next->g_row + 1, 3, (int[]){20, 21, 23});
    for (int i = 0; i < 4; i++) CHECK_INT(next->rows.mask[i], ==, 0);
    CHECK_INT(*b.r.beam.n_heads, ==, 1);
    CHECK_INT(b.r.tree.n_path[1], ==, 0);
    opbed_close(&b.r);
}

TEST(the_last_chunk_gives_the_first_token_and_slot_0_has_no_draft_row)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    opbed_seat(&b.r, 2, 0, -1, &s);
    send_chunk(&b, 2, 0, true, 44);
    run(&b);
    const struct seat_output *o = &opbed_output(&b.r)->seats[2];
    CHECK_INT(o->n_tokens, ==, 1);
    CHECK_INT(o->tokens[0], ==, 44);
    CHECK_INT(o->n_drafted, ==, 0);
    const struct seat *seat = &b.r.state.seats[2];
    CHECK_INT(seat->state, ==, SEAT_DECODE);
    CHECK_INT(seat->len, ==, 5);
    CHECK_INT(seat->root, ==, 44);
    CHECK_INT(seat->n_generated, ==, 1);
    const struct draft_rows *next = &b.r.next;
    CHECK_INT(*next->rows.n, ==, 3);
    check_ints(next->rows.slot, 3, (int[]){1, 3, 5});
    check_ints(next->rows.id, 3, (int[]){11, ~30, 44});
    check_ints(next->h_row, 3, (int[]){0, 2, 4});
    check_ints(next->g_row, 3, (int[]){21, 23, 37});
    CHECK_INT(*b.r.beam.n_heads, ==, 1);
    CHECK_INT(b.r.beam.seat[0], ==, 2);
    CHECK_INT(b.r.beam.head_row[0], ==, 2);
    opbed_close(&b.r);
}

TEST(an_answer_of_one_token_ends_with_the_prompt_and_leaves_the_prompts_draft_rows)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    s.max_tokens = 1;
    opbed_seat(&b.r, 2, 0, -1, &s);
    send_chunk(&b, 2, 0, true, 44);
    run(&b);
    CHECK_INT(opbed_output(&b.r)->seats[2].finish, ==, FINISH_LENGTH);
    CHECK_INT(b.r.state.seats[2].state, ==, SEAT_FINISHED);
    CHECK_INT(*b.r.next.rows.n, ==, 2);
    CHECK_INT(*b.r.beam.n_heads, ==, 0);
    opbed_close(&b.r);
}

TEST(without_a_draft_accept_makes_no_rows)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    opbed_seat(&b.r, 0, 30, 9, &s);
    plant(&b, 0, 1, PARENT, TOKEN, (int[]){3});
    b.r.beam.n_heads = NULL;
    b.r.next = (struct draft_rows){0};
    run(&b);
    CHECK_INT(b.r.state.seats[0].root, ==, 3);
    opbed_close(&b.r);
}

/* Every third seat is free, every third has a tree of a root and three children. */
TEST(rows_of_many_seats_lie_in_order_of_seat)
{
    enum { MANY = 71 };
    struct opbed r;
    opbed_open(&r, &(struct opbed_shape){.max_seqs = MANY,
                                         .vocab = VOCAB,
                                         .width = 1,
                                         .max_rows = 4 * MANY,
                                         .k = 1,
                                         .depth = 1});
    struct bench b = {.r = r};
    b.logits = kernels_random(&b.r.k, 4 * MANY * VOCAB, 3, 1);
    b.pick = opbed_array(&b.r, 4 * MANY * sizeof(int32_t));
    memset(b.r.tree.n_nodes, 0, MANY * sizeof(int32_t));
    opbed_input(&b.r);
    struct sampling s = opbed_greedy();
    for (int seat = 0; seat < MANY; seat++) {
        if (seat % 3 == 0) continue;
        opbed_seat(&b.r, seat, 10 + seat, 9, &s);
        int pick = seat % 2 ? 30 : 49, then = seat % 10; /* 30 is the second child */
        plant(&b, seat, seat % 3 == 1 ? 1 : 4, (int[]){-1, 0, 0, 0}, (int[]){9, 29, 30, 31},
              (int[]){pick, 1, then, 3});
    }
    run(&b);
    int n_rows = 0, n_heads = 0;
    for (int seat = 0; seat < MANY; seat++) {
        if (seat % 3 == 0) continue;
        int n = seat % 3 == 2 && seat % 2 ? 2 : 1;
        CHECK_INT(b.r.tree.n_path[seat], ==, n);
        for (int j = 0; j < n; j++, n_rows++) {
            CHECK_INT(b.r.next.rows.seat[n_rows], ==, seat);
            CHECK_INT(b.r.next.rows.slot[n_rows], ==, 10 + seat + 1 + j);
            CHECK_INT(b.r.next.h_row[n_rows], ==, b.r.tree.first_row[seat] + 2 * j);
        }
        CHECK_INT(b.r.next.rows.id[n_rows - 1], ==, n == 2 ? seat % 10 : seat % 2 ? 30 : 49);
        CHECK_INT(b.r.beam.seat[n_heads], ==, seat);
        CHECK_INT(b.r.beam.head_row[n_heads++], ==, n_rows - 1);
    }
    CHECK_INT(*b.r.next.rows.n, ==, n_rows);
    CHECK_INT(*b.r.beam.n_heads, ==, n_heads);
    opbed_close(&b.r);
}
