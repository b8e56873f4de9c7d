#include "test/test.h"

#include "test/pages.h"
#include "test/shapes.h"

enum { N_POS = 500, N_HEADS = 2, MAX_PAGES = 7, BEHIND = 2, MAX_N = 150 };

/* A draft's cache, and one call on it. */
struct fixture {
    struct kernels k;
    struct pages pages;
    struct rope rope;
    int head_dim, width;
    struct page_row rows[MAX_N];
    int n;
    float *qkv;      /* [MAX_N][width] what goes in */
    float *after;    /* [n][width] and what is left of it */
    float *out;      /* [n][width / 3] */
    uint64_t *valid; /* [n_pages] after the call */
};

static void setup(struct fixture *f, int head_dim, int max_seqs)
{
    *f = (struct fixture){.head_dim = head_dim, .width = 3 * N_HEADS * head_dim};
    kernels_open(&f->k);
    pages_init(
        &f->pages, &f->k,
        (struct kv_pool){
            .n_layers = 1, .n_kv_heads = N_HEADS, .head_dim = head_dim, .max_pages = MAX_PAGES},
        max_seqs, true);
    float *table = kernels_host(&f->k, (size_t)N_POS * head_dim * sizeof(float));
    for (int i = 0; i < N_POS * head_dim / 2; i++) {
        int pos = i / (head_dim / 2), pair = i % (head_dim / 2);
        table[2 * i] = cosf((float)pos / (float)(1 + pair));
        table[2 * i + 1] = sinf((float)pos / (float)(1 + pair));
    }
    f->rope = (struct rope){
        .table = kernels_upload(&f->k, table, (size_t)N_POS * head_dim * sizeof(float)),
        .n_pos = N_POS,
        .section = {head_dim / 2, 0, 0}};
    f->qkv = kernels_random(&f->k, (size_t)MAX_N * f->width, 1, 4);
}

static void fill_valid(struct fixture *f, int seat, int slot)
{
    pages_fill(&f->pages, 0, seat, slot, slot);
    pages_set_valid(&f->pages, seat, slot);
}

/* Uploads the pages, runs, and downloads everything. */
static void run(struct fixture *f, bool is_scratch)
{
    struct kernels *k = &f->k;
    const int max = f->n + BEHIND;
    const size_t n_in = (size_t)f->n * f->width, n_behind = (size_t)BEHIND * f->width;
    pages_upload(&f->pages);
    void *qkv = kernels_empty_act(k, n_in + n_behind);
    void *out = kernels_empty_act(k, (n_in + n_behind) / 3);
    kernels_write_act(k, qkv, f->qkv, n_in);
    k->ops->draft_attention(
        k->stream, &(struct draft_attention_args){.qkv = qkv,
                                                  .out = out,
                                                  .rope = f->rope,
                                                  .rows = pages_rows(k, f->rows, f->n, max),
                                                  .pool = f->pages.pool,
                                                  .is_scratch = is_scratch});
    f->after = kernels_download_act(k, qkv, n_in + n_behind);
    f->out = kernels_download_act(k, out, (n_in + n_behind) / 3);
    CHECK_UNTOUCHED(f->after + n_in, n_behind * sizeof(float));
    CHECK_UNTOUCHED(f->out + n_in / 3, n_behind / 3 * sizeof(float));
    f->valid = f->pages.valid;
    pages_download(&f->pages);
    uint64_t *before = f->valid;
    f->valid = f->pages.valid;
    f->pages.valid = before;
}

/* Checks the outputs against attention over the pages as they are now, with the validity given. */
static void check_outputs(struct fixture *f, uint64_t *valid)
{
    f->pages.valid = valid;
    double want[MAX_HEAD_DIM];
    float rounded[MAX_HEAD_DIM];
    for (int i = 0; i < f->n * N_HEADS; i++) {
        int r = i / N_HEADS, h = i % N_HEADS;
        const float *q = f->after + (size_t)r * f->width + h * f->head_dim;
        pages_attend(&f->pages, 0, &f->rows[r], h, q, want);
        for (int j = 0; j < f->head_dim; j++) rounded[j] = (float)want[j];
        CHECK_CLOSE_ACT(&f->k, f->out + (size_t)i * f->head_dim, rounded, (size_t)f->head_dim, 4e-6,
                        0, 2);
    }
}

TEST(committed_rows_become_valid_and_see_each_other_and_the_valid_slots_before)
{
    for (int i = 0; i < N_SHAPES(shape_head_dims); i++)
        for (int c = 0; c < N_SHAPES(shape_contexts); c++) {
            struct fixture f;
            setup(&f, shape_head_dims[i], 2);
            const int context = shape_contexts[c];
            /* Two slots of three hold a row; the others are NaN. */
            for (int slot = 0; slot < context; slot++)
                if (slot % 3 != 1) fill_valid(&f, 0, slot), fill_valid(&f, 1, slot);
            for (f.n = 0; f.n < 10; f.n++) {
                int slot = context + f.n % 5;
                f.rows[f.n] = (struct page_row){
                    .seat = f.n / 5, .slot = slot, .prefix = slot + 1, .pos = {slot, -1, -1}};
            }
            run(&f, false);
            check_outputs(&f, f.valid);
            for (int slot = 0; slot < context + 64; slot++) {
                bool want = slot < context ? slot % 3 != 1 : slot < context + 5;
                CHECK_INT(pages_is_valid(&f.pages, 0, slot), ==, want);
                CHECK_INT(pages_is_valid(&f.pages, 1, slot), ==, want);
            }
            kernels_close(&f.k);
        }
}

TEST(scratch_rows_see_their_bits_and_leave_validity_alone)
{
    for (int c = 0; c < N_SHAPES(shape_contexts); c++) {
        struct fixture f;
        setup(&f, 32, 1);
        const int context = shape_contexts[c] + 1;
        for (int slot = 0; slot < context; slot += 2) fill_valid(&f, 0, slot);
        /* Eight beam rows of level 2: each sees itself and one of level 1, which lies in scratch.
         */
        for (int node = 0; node < 8; node += 3) pages_fill(&f.pages, 0, 0, context + node, node);
        for (f.n = 0; f.n < 8; f.n++)
            f.rows[f.n] = (struct page_row){.slot = context + 8 + f.n,
                                            .prefix = context,
                                            .pos = {context + 1, 0, 0},
                                            .mask = 1ull << (8 + f.n) | 1ull << (f.n % 3 * 3)};
        run(&f, true);
        check_outputs(&f, f.pages.valid);
        CHECK_INT(memcmp(f.valid, f.pages.valid, sizeof(*f.valid) * f.pages.pool.n_pages), ==, 0);
        kernels_close(&f.k);
    }
}

TEST(pages_of_pure_image_have_no_draft_page_and_are_skipped)
{
    struct fixture f;
    setup(&f, 16, 1);
    for (int slot = 0; slot < 300; slot++)
        if (slot < 50 || slot >= 260) fill_valid(&f, 0, slot);
    for (int page = 1; page < 4; page++) f.pages.table[page] = -1;
    f.rows[f.n++] = (struct page_row){.slot = 300, .prefix = 301, .pos = {299, 0, 0}};
    run(&f, false);
    check_outputs(&f, f.valid);
    kernels_close(&f.k);
}

/* q, k and v as they are, by a product with the identity. */
TEST(the_draft_rotates_and_attends_like_qkv_and_attention)
{
    struct fixture f;
    setup(&f, 40, 1);
    for (int slot = 0; slot < 130; slot++) fill_valid(&f, 0, slot);
    for (f.n = 0; f.n < 70; f.n++)
        f.rows[f.n] =
            (struct page_row){.slot = 130 + f.n, .prefix = 131 + f.n, .pos = {f.n, f.n, f.n}};
    pages_upload(&f.pages);
    struct kernels *k = &f.k;
    const size_t n_in = (size_t)f.n * f.width, width = (size_t)f.width;
    void *q = kernels_empty_act(k, n_in / 3), *out = kernels_empty_act(k, n_in / 3);
    float *identity = kernels_host(k, width * width * sizeof(float));
    for (size_t i = 0; i < width; i++) identity[i * width + i] = 1;
    struct packed *w = k->ops->pack(k->dev, identity, DTYPE_F32, f.width, f.width, f.head_dim / 2);
    struct kv_pool target = f.pages.pool;
    target.valid = NULL;
    struct rows rows = pages_rows(k, f.rows, f.n, f.n);
    k->ops->qkv(k->stream, &(struct qkv_args){.w = w,
                                              .x = kernels_upload_act(k, f.qkv, n_in),
                                              .q = q,
                                              .rope = f.rope,
                                              .rows = rows,
                                              .pool = target,
                                              .n_heads = N_HEADS});
    k->ops->plan(k->stream, &(struct plan_args){rows, N_HEADS, N_HEADS});
    k->ops->attention(k->stream,
                      &(struct attention_args){
                          .q = q, .out = out, .rows = rows, .pool = target, .n_heads = N_HEADS});
    const float *want_q = kernels_download_act(k, q, n_in / 3);
    const float *want = kernels_download_act(k, out, n_in / 3);
    pages_download(&f.pages);
    const size_t n_floats = (size_t)target.n_pages * N_HEADS * PAGE_LEN * (size_t)f.head_dim;
    const size_t bytes = n_floats * sizeof(float);
    const float *key = memcpy(kernels_host(k, bytes), f.pages.key, bytes);
    const float *value = memcpy(kernels_host(k, bytes), f.pages.value, bytes);
    for (int r = 0; r < f.n; r++)
        for (int h = 0; h < N_HEADS; h++) { /* the draft is to write them again */
            const size_t at = pages_at(&f.pages, 0, 0, h, f.rows[r].slot);
            memset(f.pages.key + at, 0xff, (size_t)f.head_dim * sizeof(float));
            memset(f.pages.value + at, 0xff, (size_t)f.head_dim * sizeof(float));
        }
    run(&f, false);
    for (int r = 0; r < f.n; r++)
        CHECK_SAME_BITS(f.after + (size_t)r * width, want_q + (size_t)r * width / 3, width / 3);
    CHECK_SAME_BITS(f.pages.key, key, n_floats);
    CHECK_SAME_BITS(f.pages.value, value, n_floats);
    k->ops->packed_free(k->dev, w);
    CHECK_CLOSE_ACT(k, f.out, want, n_in / 3, 0, 0, 2); /* float: the same bits */
    kernels_close(k);
}

TEST(rows_that_see_nothing_give_zeros_and_no_rows_nothing)
{
    struct fixture f;
    setup(&f, 8, 1);
    f.rows[f.n++] = (struct page_row){.slot = 70, .prefix = 70, .pos = {1, 1, 1}};
    run(&f, true);
    for (int i = 0; i < f.width / 3; i++) CHECK(f.out[i] == 0);
    f.n = 0;
    run(&f, false);
    kernels_close(&f.k);
}

/* Scratch rows of 30 sequences, 1 to 9 each, which see every other slot before them and themselves.
 */
static void set_scratch_rows(struct fixture *f)
{
    for (int seat = 0; seat < 30; seat++) {
        const int context = seat * 7;
        for (int slot = 0; slot < context; slot += 2) fill_valid(f, seat, slot);
        for (int j = 0; j <= seat % 9; j++)
            f->rows[f->n++] = (struct page_row){.seat = seat,
                                                .slot = context + j,
                                                .prefix = context,
                                                .pos = {context + j, 0, 0},
                                                .mask = 1ull << j};
    }
}

TEST(each_of_many_sequences_finds_its_rows)
{
    struct fixture f;
    setup(&f, 16, 30);
    set_scratch_rows(&f);
    run(&f, true);
    check_outputs(&f, f.pages.valid);
    kernels_close(&f.k);
}

TEST(a_rows_bits_do_not_depend_on_the_rows_beside_it)
{
    struct fixture all;
    setup(&all, 128, 30);
    set_scratch_rows(&all);
    run(&all, true);
    const int width = N_HEADS * all.head_dim;
    for (int r = 0; r < all.n; r += 3) {
        struct fixture alone;
        setup(&alone, 128, 30);
        set_scratch_rows(&alone);
        alone.n = 1;
        alone.rows[0] = all.rows[r];
        memcpy(alone.qkv, all.qkv + (size_t)r * all.width, (size_t)all.width * sizeof(float));
        run(&alone, true);
        CHECK_SAME_BITS(alone.out, all.out + (size_t)r * width, (size_t)width);
        kernels_close(&alone.k);
    }
    kernels_close(&all.k);
}
