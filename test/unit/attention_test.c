#include "test/test.h"

#include "test/pages.h"
#include "test/shapes.h"

enum { N_LAYERS = 2, LAYER = 1, BEHIND = 2 };

/* Runs attention on q [n][n_heads head_dim] and returns out [n + BEHIND][n_heads head_dim]. */
static float *run_attention(const struct pages *p, const struct page_row *rows, const float *q,
                            int n, int n_heads)
{
    struct kernels *k = p->k;
    const size_t width = (size_t)n_heads * p->pool.head_dim;
    const int max = n + BEHIND;
    void *device_q = kernels_empty_act(k, (size_t)max * width);
    void *out = kernels_empty_act(k, (size_t)max * width);
    kernels_write_act(k, device_q, q, n * width);
    const struct rows on_device = pages_rows(k, rows, n, max);
    k->ops->plan(k->stream, &(struct plan_args){.rows = on_device,
                                                .n_heads = n_heads,
                                                .n_kv_heads = p->pool.n_kv_heads});
    k->ops->attention(k->stream, &(struct attention_args){
                                     .q = device_q,
                                     .out = out,
                                     .rows = on_device,
                                     .pool = p->pool,
                                     .layer = LAYER,
                                     .n_heads = n_heads,
                                 });
    float *got = kernels_download_act(k, out, (size_t)max * width);
    CHECK_UNTOUCHED(got + n * width, BEHIND * width * sizeof(float));
    return got;
}

static void check_rows(const struct pages *p, const struct page_row *rows, const float *q,
                       const float *got, int n, int n_heads)
{
    const int head_dim = p->pool.head_dim;
    double want[MAX_HEAD_DIM];
    float rounded[MAX_HEAD_DIM];
    for (int i = 0; i < n * n_heads; i++) {
        int kv_head = i % n_heads / (n_heads / p->pool.n_kv_heads);
        size_t at = (size_t)i * head_dim;
        pages_attend(p, LAYER, &rows[i / n_heads], kv_head, q + at, want);
        for (int j = 0; j < head_dim; j++) rounded[j] = (float)want[j];
        /* Values are below 1; weights and the result are rounded once each. */
        CHECK_CLOSE_ACT(p->k, got + at, rounded, (size_t)head_dim, 4e-6, 0, 2);
    }
}

static struct pages new_pages(struct kernels *k, int n_kv, int head_dim, int max_seqs,
                              int max_pages)
{
    struct pages p;
    pages_init(
        &p, k,
        (struct kv_pool){
            .n_layers = N_LAYERS, .n_kv_heads = n_kv, .head_dim = head_dim, .max_pages = max_pages},
        max_seqs, false);
    return p;
}

/* Fills what a row sees. */
static void fill_seen(struct pages *p, const struct page_row *row)
{
    for (int slot = 0; slot < row->prefix + 64; slot++)
        if (slot < row->prefix || (row->mask >> (slot - row->prefix) & 1) != 0)
            pages_fill(p, LAYER, row->seat, slot, slot + 1000 * row->seat);
}

/* One row a sequence, each behind a context of its own; what a row does not see is NaN. */
static void check_contexts(int head_dim, int n_heads, int n_kv, const uint64_t *masks, int n_masks)
{
    struct kernels k;
    kernels_open(&k);
    enum { N = N_SHAPES(shape_contexts) };
    struct pages p = new_pages(&k, n_kv, head_dim, N, 7);
    struct page_row rows[N];
    for (int r = 0; r < N; r++) {
        rows[r] = (struct page_row){.seat = N - 1 - r, .prefix = shape_contexts[r]};
        rows[r].mask = masks[r % n_masks];
        if (rows[r].prefix == 0) rows[r].mask |= 1;
        fill_seen(&p, &rows[r]);
    }
    pages_upload(&p);
    float *q = kernels_random(&k, (size_t)N * n_heads * head_dim, 1, 8);
    check_rows(&p, rows, q, run_attention(&p, rows, q, N, n_heads), N, n_heads);
    kernels_close(&k);
}

TEST(attention_is_softmax_over_the_slots_that_a_row_sees)
{
    const uint64_t masks[] = {1, 0, ~0ull, 1ull << 63, 0x8000000100000401, 0xaaaaaaaaaaaaaaaa, 5};
    for (int i = 0; i < N_SHAPES(shape_head_dims); i++) {
        check_contexts(shape_head_dims[i], 2, 2, masks, 7);
        check_contexts(shape_head_dims[i], 7, 1, masks, 5);
        check_contexts(shape_head_dims[i], 6, 3, masks + 1, 6);
    }
}

TEST(attention_takes_any_number_of_rows)
{
    for (int i = 0; i < N_SHAPES(shape_rows); i++) {
        struct kernels k;
        kernels_open(&k);
        struct pages p = new_pages(&k, 2, 24, 1, 7);
        for (int slot = 0; slot < 200; slot++) pages_fill(&p, LAYER, 0, slot, slot);
        pages_upload(&p);
        struct page_row rows[SHAPE_MAX_ROWS];
        for (int r = 0; r < shape_rows[i]; r++) rows[r] = (struct page_row){.prefix = r + 1};
        float *q = kernels_random(&k, (size_t)SHAPE_MAX_ROWS * 4 * 24, 1, 8);
        check_rows(&p, rows, q, run_attention(&p, rows, q, shape_rows[i], 4), shape_rows[i], 4);
        kernels_close(&k);
    }
}

/* A decode row, the end of a prompt and a tree on each of the contexts: more pages than fit any
 * device's unit of work, up to the lengths where units grow. */
TEST(attention_over_long_contexts_is_the_softmax_over_all_of_it)
{
    static const int contexts[] = {700, 1024, 2047, 2048, 2049, 4500};
    enum { N_PROMPT = 70, N_TREE = 3, N = 1 + N_PROMPT + N_TREE, N_HEADS = 3, DIM = 8 };
    for (int c = 0; c < N_SHAPES(contexts); c++) {
        struct kernels k;
        kernels_open(&k);
        struct pages p = new_pages(&k, 1, DIM, 3, 4700 / PAGE_LEN + 1);
        struct page_row rows[N] = {{.seat = 2, .prefix = contexts[c]}};
        for (int i = 0; i < N_PROMPT; i++)
            rows[1 + i] = (struct page_row){.seat = 0, .prefix = contexts[c] + 1 + i};
        for (int i = 0; i < N_TREE; i++)
            rows[1 + N_PROMPT + i] = (struct page_row){
                .seat = 1, .prefix = contexts[c], .mask = 1 | 1ull << 31 * i | 1ull << (63 - i)};
        for (int r = 0; r < N; r++)
            if (r == 0 || r >= N_PROMPT) fill_seen(&p, &rows[r]); /* the last sees all before it */
        pages_upload(&p);
        /* Large, so that a few slots anywhere have most of the weight: a mean of all would be 0. */
        float *q = kernels_random(&k, (size_t)N * N_HEADS * DIM, 6, 8);
        check_rows(&p, rows, q, run_attention(&p, rows, q, N, N_HEADS), N, N_HEADS);
        kernels_close(&k);
    }
}

/* Up to eight sequences, each with a chunk or a tree of up to 64 rows behind a context. */
static void check_ragged(unsigned seed, int group, int head_dim)
{
    enum { MAX_SEQS = 8, MAX_N = MAX_SEQS * MAX_NODES, N_KV = 2 };
    static const int contexts[] = {0, 1, PAGE_LEN - 1, PAGE_LEN, PAGE_LEN + 1, 700};
    struct kernels k;
    kernels_open(&k);
    struct pages p = new_pages(&k, N_KV, head_dim, MAX_SEQS, 840 / PAGE_LEN);
    struct page_row rows[MAX_N];
    const int n_seqs = 1 + kernels_random_int(&seed, MAX_SEQS), n_heads = N_KV * group;
    int n = 0;
    for (int i = 0; i < n_seqs; i++) {
        const int context = contexts[kernels_random_int(&seed, N_SHAPES(contexts))];
        const int n_rows = 1 + kernels_random_int(&seed, kernels_random_int(&seed, MAX_NODES) + 1);
        const bool is_tree = kernels_random_int(&seed, 2) == 1;
        for (int j = 0; j < n_rows; j++, n++) {
            rows[n] = (struct page_row){.seat = (5 * i + 3) % MAX_SEQS, .prefix = context};
            if (is_tree)
                rows[n].mask = rows[kernels_random_int(&seed, j + 1) + n - j].mask | 1ull << j;
            else
                rows[n].prefix += j + 1;
            if (is_tree || j == n_rows - 1) fill_seen(&p, &rows[n]);
        }
    }
    pages_upload(&p);
    float *q = kernels_random(&k, (size_t)n * n_heads * head_dim, 3, 8);
    check_rows(&p, rows, q, run_attention(&p, rows, q, n, n_heads), n, n_heads);
    kernels_close(&k);
}

TEST(attention_of_ragged_batches_is_softmax_over_what_each_row_sees)
{
    static const int groups[] = {1, 7, 8};
    for (int i = 0; i < 16; i++) check_ragged(1000u + (unsigned)i, groups[i % 3], 8 * (i + 1));
}

TEST(large_scores_do_not_overflow)
{
    struct kernels k;
    kernels_open(&k);
    struct pages p = new_pages(&k, 1, 8, 1, 7);
    for (int slot = 0; slot < 150; slot++) {
        pages_fill(&p, LAYER, 0, slot, slot);
        for (int i = 0; i < 8; i++) p.key[pages_at(&p, LAYER, 0, 0, slot) + i] = (float)slot;
    }
    pages_upload(&p);
    /* Scores rise by hundreds a slot, or fall: all weight is on the last slot, or on the first. */
    float q[2 * 8];
    for (int i = 0; i < 16; i++) q[i] = i < 8 ? 100 : -100;
    struct page_row rows[] = {{.prefix = 150}, {.prefix = 150}};
    float *got = run_attention(&p, rows, q, 2, 1);
    CHECK_CLOSE_ACT(&k, got, p.value + pages_at(&p, LAYER, 0, 0, 149), 8, 0, 1e-6, 1);
    CHECK_CLOSE_ACT(&k, got + 8, p.value + pages_at(&p, LAYER, 0, 0, 0), 8, 0, 1e-6, 1);
    kernels_close(&k);
}

/* On a GPU only company must leave no trace: its MMA adds slots where they lie, so the places of a
 * tree's nodes show in the rounding.
 *
 * The same tokens as a chain in seat 0, as nodes of a tree in seat 1 (other nodes between them),
 * and as a chunk whose last rows are in mask bits in seat 2. */
static void check_same_bits(int head_dim, int context, int n_path)
{
    struct kernels k;
    kernels_open(&k);
    enum { N_HEADS = 4, MAX_PATH = 8 };
    const int nodes[MAX_PATH] = {0, 2, 3, 7, 20, 40, 62, 63};
    struct pages p = new_pages(&k, 2, head_dim, 3, 7);
    uint64_t tree_mask = 0, chain_mask = 0;
    for (int slot = 0; slot < context + n_path; slot++) {
        int node = slot < context ? 0 : nodes[slot - context];
        pages_fill(&p, LAYER, 0, slot, slot);
        pages_fill(&p, LAYER, 1, slot < context ? slot : context + node, slot);
        pages_fill(&p, LAYER, 2, slot, slot);
        if (slot >= context) tree_mask |= 1ull << node, chain_mask |= 1ull << (slot - context);
    }
    pages_upload(&p);
    struct page_row rows[40] = {{.seat = 0, .prefix = context + n_path},
                                {.seat = 1, .prefix = context, .mask = tree_mask},
                                {.seat = 2, .prefix = context, .mask = chain_mask}};
    const size_t width = (size_t)N_HEADS * head_dim;
    float *q = kernels_random(&k, 40 * width, 1, 9);
    memcpy(q + width, q, width * sizeof(float));
    memcpy(q + 2 * width, q, width * sizeof(float));
    for (int r = 3; r < 40; r++) rows[r] = (struct page_row){.seat = 0, .prefix = 1 + r % 5};
    float *together = run_attention(&p, rows, q, 40, N_HEADS);
    float *alone = run_attention(&p, rows, q, 1, N_HEADS);
    CHECK_SAME_BITS(together, alone, width);
    for (int r = 1; r < 3; r++) CHECK_CLOSE_ACT(&k, together + r * width, alone, width, 0, 0, 2);
    kernels_close(&k);
}

TEST(a_context_gives_the_same_bits_as_chain_tree_or_chunk)
{
    for (int i = 0; i < N_SHAPES(shape_contexts); i++)
        for (int n_path = 1; n_path <= 8; n_path += 3)
            for (int j = 0; j < N_SHAPES(shape_head_dims); j += 3)
                check_same_bits(shape_head_dims[j], shape_contexts[i], n_path);
}
