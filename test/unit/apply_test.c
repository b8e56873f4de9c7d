#include "test/test.h"

#include "test/opbed.h"

#include <stdlib.h>

enum { N_SEATS = 3, VOCAB = 70, WIDTH = 2, N_WORDS = 3, N_PAGES = 6, MAX_PAGES = 2 };

struct bench {
    struct opbed r;
    struct kv_pool target, draft;
};

static void bench_open(struct bench *b)
{
    opbed_open(&b->r, &(struct opbed_shape){.max_seqs = N_SEATS,
                                            .vocab = VOCAB,
                                            .width = WIDTH,
                                            .max_rows = 16,
                                            .k = 1,
                                            .depth = 1});
    struct kv_pool pool = {.n_pages = N_PAGES, .max_pages = MAX_PAGES};
    b->target = b->draft = pool;
    b->target.table = opbed_array(&b->r, N_SEATS * MAX_PAGES * sizeof(int32_t));
    b->draft.table = opbed_array(&b->r, N_SEATS * MAX_PAGES * sizeof(int32_t));
    b->draft.valid = opbed_array(&b->r, N_PAGES * sizeof(uint64_t));
}

static void run(struct bench *b)
{
    b->r.k.ops->apply(b->r.k.stream, &(struct apply_args){b->r.state, b->target, b->draft});
    opbed_wait(&b->r);
}

TEST(a_join_clears_what_the_seat_held_and_no_other_seat)
{
    struct bench b;
    bench_open(&b);
    struct round_input *in = opbed_input(&b.r);
    struct sampling s = opbed_greedy();
    s.seed = 99;
    in->n_joins = 1;
    in->joins[0] = (struct join){.seat = 1, .rope_delta = -4, .sampling = s};
    run(&b);
    const struct round_state *st = &b.r.state;
    CHECK_INT(st->seats[0].state, ==, SEAT_FREE);
    CHECK_INT(st->seats[1].state, ==, SEAT_PREFILL);
    CHECK_INT(st->seats[1].n_generated, ==, 0);
    CHECK_INT(st->seats[1].rope_delta, ==, -4);
    CHECK_INT(st->seats[1].sampling.seed, ==, 99);
    for (int id = 0; id < VOCAB; id++) CHECK_INT(st->counts[VOCAB + id], ==, 0);
    for (int i = 0; i < N_WORDS; i++) CHECK_INT(st->in_prompt[N_WORDS + i], ==, 0);
    for (int i = 0; i < WIDTH; i++) CHECK(st->pool[WIDTH + i] == 0);
    CHECK_UNTOUCHED(st->counts, VOCAB * sizeof(uint16_t));
    CHECK_UNTOUCHED(st->counts + 2 * VOCAB, VOCAB * sizeof(uint16_t));
    CHECK_UNTOUCHED(st->in_prompt, N_WORDS * sizeof(uint32_t));
    CHECK_UNTOUCHED(st->in_prompt + 2 * N_WORDS, N_WORDS * sizeof(uint32_t));
    CHECK_UNTOUCHED(st->pool, WIDTH * sizeof(float));
    CHECK_UNTOUCHED(st->pool + 2 * WIDTH, WIDTH * sizeof(float));
    opbed_close(&b.r);
}

TEST(a_leave_frees_the_seat)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    for (int seat = 0; seat < N_SEATS; seat++) opbed_seat(&b.r, seat, 5, 1, &s);
    struct round_input *in = opbed_input(&b.r);
    in->n_leaves = 2;
    in->leaves[0] = 2;
    in->leaves[1] = 0;
    run(&b);
    CHECK_INT(b.r.state.seats[0].state, ==, SEAT_FREE);
    CHECK_INT(b.r.state.seats[1].state, ==, SEAT_DECODE);
    CHECK_INT(b.r.state.seats[2].state, ==, SEAT_FREE);
    opbed_close(&b.r);
}

TEST(page_entries_go_to_their_table_and_a_new_draft_page_holds_nothing)
{
    struct bench b;
    bench_open(&b);
    struct round_input *in = opbed_input(&b.r);
    in->n_pages = 4;
    in->pages[0] = (struct page_entry){.seat = 2, .index = 1, .page = 5};
    in->pages[1] = (struct page_entry){.seat = 0, .index = 0, .page = 3, .is_draft = 1};
    in->pages[2] = (struct page_entry){.seat = 0, .index = 1, .page = 4, .is_draft = 1};
    in->pages[3] = (struct page_entry){.seat = 1, .index = 0, .page = -1, .is_draft = 1};
    run(&b);
    for (int i = 0; i < N_SEATS * MAX_PAGES; i++) {
        CHECK_INT(b.target.table[i], ==, i == 5 ? 5 : -1);
        CHECK_INT(b.draft.table[i], ==, i == 0 ? 3 : i == 1 ? 4 : -1);
    }
    for (int i = 0; i < N_PAGES; i++) CHECK(b.draft.valid[i] == (i == 3 || i == 4 ? 0 : ~0ull));
    opbed_close(&b.r);
}

TEST(prompt_rows_set_the_bit_of_their_token_and_pictures_that_of_the_placeholder)
{
    struct bench b;
    bench_open(&b);
    b.draft = (struct kv_pool){0}; /* no draft at all */
    *b.r.state.round = 6;
    struct round_input *in = opbed_input(&b.r);
    CHECK(in == &b.r.inputs[6 % ROUND_RING]);
    in->n_joins = 2;
    in->joins[0] = (struct join){.seat = 0, .sampling = opbed_greedy()};
    in->joins[1] = (struct join){.seat = 2, .sampling = opbed_greedy()};
    in->n_prompt_rows = 4;
    static const int ids[4] = {31, ~2, 0, 32}, tokens[4] = {31, 7, 0, 32};
    for (int i = 0; i < 4; i++)
        in->prompt_rows[i] = (struct prompt_row){.id = ids[i], .token = tokens[i]};
    in->n_chunks = 2;
    in->chunks[0] = (struct chunk){.seat = 0, .first_row = 2, .n_rows = 2};
    in->chunks[1] = (struct chunk){.seat = 2, .first_row = 0, .n_rows = 2};
    run(&b);
    static const uint32_t want[2][N_WORDS] = {{1, 1, 0}, {1u << 31 | 1u << 7, 0, 0}};
    for (int i = 0; i < N_WORDS; i++) {
        CHECK_INT(b.r.state.in_prompt[i], ==, want[0][i]);
        CHECK_INT(b.r.state.in_prompt[2 * N_WORDS + i], ==, want[1][i]);
    }
    CHECK_INT(*b.r.state.round, ==, 6);
    opbed_close(&b.r);
}

TEST(an_empty_input_changes_nothing)
{
    struct bench b;
    bench_open(&b);
    struct sampling s = opbed_greedy();
    opbed_seat(&b.r, 0, 5, 1, &s);
    struct seat before = b.r.state.seats[0];
    opbed_input(&b.r);
    run(&b);
    CHECK_INT(b.r.state.seats[0].state, ==, before.state);
    CHECK_INT(b.r.state.seats[0].len, ==, before.len);
    CHECK_INT(b.r.state.seats[0].root, ==, before.root);
    CHECK_UNTOUCHED(b.target.table, N_SEATS * MAX_PAGES * sizeof(int32_t));
    opbed_close(&b.r);
}

TEST(stamps_go_to_the_round_that_they_belong_to_and_rise)
{
    struct bench b;
    bench_open(&b);
    *b.r.state.round = ROUND_RING + 1;
    b.r.k.ops->stamp(b.r.k.stream, &(struct stamp_args){b.r.state, 1, false});
    b.r.k.ops->stamp(b.r.k.stream, &(struct stamp_args){b.r.state, 3, true});
    opbed_wait(&b.r);
    const struct round_output *outputs = b.r.state.outputs;
    CHECK(outputs[1].stamps[1] > 0 && outputs[0].stamps[3] >= outputs[1].stamps[1]);
    CHECK_INT(outputs[0].stamps[1] + outputs[1].stamps[3], ==, 0);
    opbed_close(&b.r);
}
