#include "test/test.h"

#include "test/opbed.h"

#include <stdlib.h>

enum { N_SEATS = 2, VOCAB = 9, N_ROWS = 6 };

/* Two fused rows by hidden state, one by carried h, one of a picture's vector, one direct; a sixth
 * behind n. */
struct bench {
    struct opbed r;
    struct draft_rows in;
    float *hidden, *carried, *embeddings;
    void *device_hidden, *a, *b, *x; /* activations */
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
    b->embeddings = kernels_random(&r->k, (size_t)VOCAB * (size_t)width, 1, 2);
    memcpy(r->state.pool, kernels_random(&r->k, (size_t)6 * (size_t)width, 1, 3), 6 * floats);
    memset(r->state.pool + (size_t)N_SEATS * (size_t)width, 0, floats);
    b->carried = kernels_random(&r->k, (size_t)N_SEATS * (size_t)width, 1, 4);
    kernels_write_act(&r->k, r->state.carried_h, b->carried, (size_t)N_SEATS * (size_t)width);
    b->device_hidden = kernels_upload_act(&r->k, b->hidden, (size_t)3 * (size_t)width);
    b->a = kernels_empty_act(&r->k, (size_t)2 * N_ROWS * (size_t)width);
    b->b = kernels_empty_act(&r->k, (size_t)2 * N_ROWS * (size_t)width);
    b->x = kernels_empty_act(&r->k, (size_t)N_ROWS * (size_t)width);
}

static const float *h_of(const struct bench *b, int i, int width)
{
    return ROW_H[i] < 0 ? b->carried + ~ROW_H[i] * width : b->hidden + ROW_H[i] * width;
}

static void check_inputs(struct bench *b, int width, enum dtype t, bool has_img_fc)
{
    void *table = kernels_to_dtype(&b->r.k, b->embeddings, (size_t)VOCAB * (size_t)width, t);
    b->r.k.ops->draft_input(b->r.k.stream, &(struct draft_input_args){.state = b->r.state,
                                                                      .in = b->in,
                                                                      .hidden = b->device_hidden,
                                                                      .embeddings = table,
                                                                      .embeddings_type = t,
                                                                      .a = b->a,
                                                                      .b = b->b,
                                                                      .has_img_fc = has_img_fc});
    const size_t n = (size_t)2 * N_ROWS * (size_t)width;
    const float *pool = b->r.state.pool, *all_a = kernels_download_act(&b->r.k, b->a, n);
    const float *all_b = kernels_download_act(&b->r.k, b->b, n);
    for (int i = 0; i < 5; i++) {
        const float *a = all_a + 2 * i * width, *fc = all_b + 2 * i * width;
        for (int j = 0; j < width; j++) {
            float h = h_of(b, i, width)[j], g = pool[ROW_G[i] * width + j];
            float e =
                ROW_ID[i] < 0
                    ? pool[~ROW_ID[i] * width + j]
                    : kernels_from_dtype(table, (size_t)ROW_ID[i] * (size_t)width + (size_t)j, t);
            if (i == 4) h = g = e = 0;
            e = kernels_round_act(&b->r.k, e);
            CHECK(fc[j] == e);
            if (i == 4 || !has_img_fc) CHECK(fc[width + j] == h);
            if (has_img_fc) CHECK(a[j] == h && a[width + j] == g);
        }
        if (!has_img_fc) CHECK_UNTOUCHED(a, (size_t)(2 * width) * sizeof(float));
    }
    CHECK_UNTOUCHED(all_a + 10 * width, (size_t)(2 * width) * sizeof(float));
    CHECK_UNTOUCHED(all_b + 10 * width, (size_t)(2 * width) * sizeof(float));
}

TEST(draft_inputs_pair_an_embedding_with_the_hidden_state_before_it_and_g)
{
    static const int widths[] = {1, 7, 8, 64, 129};
    for (int i = 0; i < 5 * 3 * 2; i++) {
        struct bench b;
        static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
        bench_open(&b, widths[i % 5]);
        check_inputs(&b, widths[i % 5], types[i / 5 % 3], i < 15);
        opbed_close(&b.r);
    }
}

TEST(a_direct_row_is_its_vector_and_the_others_stay)
{
    struct bench b;
    bench_open(&b, 5);
    b.r.k.ops->draft_direct(b.r.k.stream, &(struct draft_direct_args){b.r.state, b.in, b.x});
    const float *x = kernels_download_act(&b.r.k, b.x, 30);
    CHECK_UNTOUCHED(x, 4 * 5 * sizeof(float));
    CHECK_SAME_BITS(x + 20, b.r.state.pool + (size_t)4 * 5, 5);
    CHECK_UNTOUCHED(x + 25, 5 * sizeof(float));
    opbed_close(&b.r);
}

TEST(no_rows_touch_nothing)
{
    struct bench b;
    bench_open(&b, 4);
    *b.in.rows.n = 0;
    b.r.k.ops->draft_direct(b.r.k.stream, &(struct draft_direct_args){b.r.state, b.in, b.x});
    b.r.k.ops->draft_input(b.r.k.stream, &(struct draft_input_args){.state = b.r.state,
                                                                    .in = b.in,
                                                                    .hidden = b.device_hidden,
                                                                    .embeddings = b.embeddings,
                                                                    .a = b.a,
                                                                    .b = b.b,
                                                                    .has_img_fc = true});
    CHECK_UNTOUCHED(kernels_download_act(&b.r.k, b.x, 4), 4 * sizeof(float));
    CHECK_UNTOUCHED(kernels_download_act(&b.r.k, b.a, 8), 8 * sizeof(float));
    CHECK_UNTOUCHED(kernels_download_act(&b.r.k, b.b, 8), 8 * sizeof(float));
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
