#include "test/test.h"

#include "test/opbed.h"

#include <stdlib.h>

enum { N_SEATS = 2, VOCAB = 9, N_ROWS = 6 };

/* Two fused rows by hidden state, one by carried h, one of a picture's vector, one direct; a sixth
 * behind n. */
struct bench {
    struct opbed r;
    struct draft_rows in;
    float *hidden, *carried, *table;
    void *device_hidden, *device_table, *h, *x; /* activations */
};

static const int ROW_ID[5] = {4, 0, 8, ~5, ~4}, ROW_H[5] = {2, 0, ~1, 1, 0},
                 ROW_G[5] = {N_SEATS, 1, 4, 0, 0};

static void bench_open(struct bench *b, int width)
{
    struct opbed *r = &b->r;
    opbed_open(r, &(struct opbed_shape){.max_seqs = N_SEATS,
                                        .vocab = VOCAB,
                                        .width = width,
                                        .max_rows = N_ROWS,
                                        .k = 1,
                                        .depth = 1});
    size_t floats = (size_t)width * sizeof(float);
    b->in = opbed_draft_rows(r, N_ROWS);
    *b->in.rows.n = 5;
    for (int i = 0; i < 5; i++) {
        b->in.rows.id[i] = ROW_ID[i];
        b->in.h_row[i] = ROW_H[i];
        b->in.g_row[i] = ROW_G[i];
        b->in.kind[i] = i == 4 ? DRAFT_ROW_DIRECT : DRAFT_ROW_FUSED;
    }
    b->hidden = kernels_random(&r->k, (size_t)3 * (size_t)width, 1, 1);
    b->table = kernels_random(&r->k, (size_t)VOCAB * (size_t)width, 1, 2);
    b->device_table = kernels_upload_act(&r->k, b->table, (size_t)VOCAB * (size_t)width);
    memcpy(r->state.pool, kernels_random(&r->k, (size_t)6 * (size_t)width, 1, 3), 6 * floats);
    memset(r->state.pool + (size_t)N_SEATS * (size_t)width, 0, floats);
    b->carried = kernels_random(&r->k, (size_t)N_SEATS * (size_t)width, 1, 4);
    kernels_write_act(&r->k, r->state.carried_h, b->carried, (size_t)N_SEATS * (size_t)width);
    b->device_hidden = kernels_upload_act(&r->k, b->hidden, (size_t)3 * (size_t)width);
    b->h = kernels_empty_act(&r->k, (size_t)N_ROWS * (size_t)width);
    b->x = kernels_empty_act(&r->k, (size_t)N_ROWS * (size_t)width);
}

static const float *h_of(const struct bench *b, int i, int width)
{
    return ROW_H[i] < 0 ? b->carried + ~ROW_H[i] * width : b->hidden + ROW_H[i] * width;
}

static void run_draft_input(struct bench *b)
{
    b->r.k.ops->draft_input(b->r.k.stream, &(struct draft_input_args){.state = b->r.state,
                                                                      .in = b->in,
                                                                      .hidden = b->device_hidden,
                                                                      .table = b->device_table,
                                                                      .x = b->x,
                                                                      .h = b->h});
}

TEST(draft_inputs_are_a_token_s_row_and_g_beside_the_hidden_state_before_or_the_vector_alone)
{
    static const int widths[] = {1, 7, 8, 64, 129};
    for (int t = 0; t < 5; t++) {
        const int width = widths[t], n = N_ROWS * width;
        struct bench b;
        bench_open(&b, width);
        run_draft_input(&b);
        const float *pool = b.r.state.pool, *x = kernels_download_act(&b.r.k, b.x, (size_t)n);
        const float *h = kernels_download_act(&b.r.k, b.h, (size_t)n);
        for (int i = 0; i < 5 * width; i++) {
            const int r = i / width, j = i % width, id = ROW_ID[r];
            const float row = id < 0 ? pool[~id * width + j] : b.table[id * width + j];
            const float g = r == 4 ? 0 : pool[ROW_G[r] * width + j];
            CHECK(x[i] == kernels_round_act(&b.r.k, row + g));
            CHECK(h[i] == (r == 4 ? 0 : h_of(&b, r, width)[j]));
        }
        CHECK_UNTOUCHED(x + 5 * width, (size_t)width * sizeof(float));
        CHECK_UNTOUCHED(h + 5 * width, (size_t)width * sizeof(float));
        opbed_close(&b.r);
    }
}

TEST(no_rows_touch_nothing)
{
    struct bench b;
    bench_open(&b, 4);
    *b.in.rows.n = 0;
    run_draft_input(&b);
    CHECK_UNTOUCHED(kernels_download_act(&b.r.k, b.x, 4), 4 * sizeof(float));
    CHECK_UNTOUCHED(kernels_download_act(&b.r.k, b.h, 4), 4 * sizeof(float));
    opbed_close(&b.r);
}

static const float *carried_now(struct bench *b, size_t n)
{
    return kernels_download_act(&b->r.k, b->r.state.carried_h, n);
}

TEST(a_chunk_of_the_last_round_leaves_its_last_hidden_state_and_the_last_chunk_its_g)
{
    struct bench b;
    bench_open(&b, 3);
    float pool[18];
    struct carry_args args = {b.r.state, b.r.tree, b.device_hidden};
    struct round_input *in = &b.r.inputs[ROUND_RING - 1];
    in->n_chunks = 2;
    in->chunks[0] = (struct chunk){.seat = 0, .n_rows = 2, .final_g = 5};
    in->chunks[1] = (struct chunk){.seat = 1, .n_rows = 1, .is_last = 1, .final_g = 4};
    b.r.tree.first_row[0] = 0;
    b.r.tree.first_row[1] = 2;
    memcpy(pool, b.r.state.pool, sizeof(pool));

    b.r.k.ops->carry(b.r.k.stream, &args); /* round 0: nothing was before */
    opbed_wait(&b.r);
    CHECK_SAME_BITS(carried_now(&b, 6), b.carried, 6);
    CHECK_SAME_BITS(b.r.state.pool, pool, 18);

    *b.r.state.round = ROUND_RING;
    b.r.k.ops->carry(b.r.k.stream, &args);
    opbed_wait(&b.r);
    CHECK_SAME_BITS(carried_now(&b, 6), b.hidden + 3, 6); /* rows 1 and 2 */
    CHECK_SAME_BITS(b.r.state.pool, pool, 3);             /* seat 0's chunk was not the last */
    CHECK_SAME_BITS(b.r.state.pool + 3, pool + (size_t)4 * 3, 3);
    CHECK_SAME_BITS(b.r.state.pool + 6, pool + 6, 12);
    opbed_close(&b.r);
}
