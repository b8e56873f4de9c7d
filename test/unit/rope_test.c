#include "test/test.h"

#include "test/pages.h"
#include "test/shapes.h"

#include <stdlib.h>

enum { N_POS = 400, N_LAYERS = 2, LAYER = 1, MAX_SEQS = 3, MAX_PAGES = 4, BEHIND = 2 };

/* [N_POS][head_dim / 2][2] */
static float *rope_table(struct kernels *k, int head_dim)
{
    const int half = head_dim / 2;
    float *table = kernels_host(k, (size_t)N_POS * half * 2 * sizeof(float));
    for (int p = 0; p < N_POS; p++)
        for (int i = 0; i < half; i++) {
            double angle = p * pow(10000, -2.0 * i / head_dim);
            table[((size_t)p * half + i) * 2] = (float)cos(angle);
            table[((size_t)p * half + i) * 2 + 1] = (float)sin(angle);
        }
    return table;
}

static int axis_of(const struct rope *rope, int i)
{
    return i < rope->section[0] ? 0 : i < rope->section[0] + rope->section[1] ? 1 : 2;
}

/* Element i of a head behind the rotation, where `head` gives the elements before it. */
static double rotated(const struct rope *rope, const double *head, int i, int head_dim,
                      const int32_t pos[3])
{
    const int half = head_dim / 2, pair = i % half;
    double angle = pos[axis_of(rope, pair)] * pow(10000, -2.0 * pair / head_dim);
    double a = head[pair], b = head[pair + half];
    return i < half ? a * cos(angle) - b * sin(angle) : b * cos(angle) + a * sin(angle);
}

/* ---- qkv ---------------------------------------------------------------------------------------
 */

struct qkv_case {
    int n, head_dim, n_heads, n_kv, n_in;
    bool has_axes, has_bias;
};

struct qkv_bed {
    struct kernels k;
    struct pages pages;
    struct page_row rows[SHAPE_MAX_ROWS];
    const float *w, *x, *bias; /* host; x [n + BEHIND][n_in] */
    void *device_x;
    struct qkv_args args;
    int width, n_q;  /* outputs, of them q's */
    size_t n_floats; /* of pages.key */
};

static void qkv_open(struct qkv_bed *b, const struct qkv_case *c)
{
    struct kernels *k = &b->k;
    kernels_open(k);
    const int max = c->n + BEHIND, head_dim = c->head_dim;
    pages_init(&b->pages, k,
               (struct kv_pool){.n_layers = N_LAYERS,
                                .n_kv_heads = c->n_kv,
                                .head_dim = head_dim,
                                .max_pages = MAX_PAGES},
               MAX_SEQS, false);
    pages_upload(&b->pages);
    b->n_floats = (size_t)N_LAYERS * b->pages.pool.n_pages * c->n_kv * PAGE_LEN * (size_t)head_dim;
    b->n_q = c->n_heads * head_dim;
    b->width = b->n_q + 2 * c->n_kv * head_dim;
    for (int r = 0; r < c->n; r++) /* no two rows share a slot */
        b->rows[r] =
            (struct page_row){.seat = r % MAX_SEQS,
                              .slot = 250 - r,
                              .pos = {r, c->has_axes ? 399 - r : -7, c->has_axes ? 2 * r : -7}};
    const size_t n_w = (size_t)b->width * c->n_in, n_x = (size_t)max * c->n_in;
    float *x = kernels_random(k, n_x, 1, 3);
    memset(x + (size_t)c->n * c->n_in, 0xff, (size_t)BEHIND * c->n_in * sizeof(float));
    b->x = x;
    b->w = kernels_random(k, n_w, 1, 4);
    b->bias = kernels_random(k, (size_t)b->width, 1, 5);
    b->device_x = kernels_upload_act(k, x, n_x);
    b->args = (struct qkv_args){
        .w = k->ops->pack(k->dev, b->w, DTYPE_F32, b->width, c->n_in, head_dim / 2),
        .bias = c->has_bias ? kernels_upload(k, b->bias, (size_t)b->width * sizeof(float)) : NULL,
        .rope = {.table = kernels_upload(k, rope_table(k, head_dim),
                                         (size_t)N_POS * head_dim * sizeof(float)),
                 .n_pos = N_POS,
                 .section = {head_dim / 2, 0, 0}},
        .pool = b->pages.pool,
        .layer = LAYER,
        .n_heads = c->n_heads};
    if (c->has_axes) b->args.rope.section[0] = head_dim / 8, b->args.rope.section[1] = head_dim / 4;
}

/* Runs rows first .. first + n - 1, downloads the pages and returns q [n + BEHIND][n_q]. */
static float *qkv_run(struct qkv_bed *b, const struct qkv_case *c, int first, int n)
{
    struct kernels *k = &b->k;
    const size_t n_got = (size_t)n * b->n_q, n_behind = (size_t)BEHIND * b->n_q;
    b->args.x = kernels_at_act(k, b->device_x, (size_t)first * c->n_in);
    b->args.q = kernels_empty_act(k, n_got + n_behind);
    b->args.rows = pages_rows(k, b->rows + first, n, n + BEHIND);
    k->ops->qkv(k->stream, &b->args);
    float *got = kernels_download_act(k, b->args.q, n_got + n_behind);
    CHECK_UNTOUCHED(got + n_got, n_behind * sizeof(float));
    pages_download(&b->pages);
    return got;
}

/* Checks q of a row and what it has in the pages, which becomes 0xff again.  Sums may be off by
 * n_in roundings of their terms' magnitudes, and a rotation adds two of them. */
static void check_row(struct qkv_bed *b, const struct qkv_case *c, int r, const float *q)
{
    const int head_dim = c->head_dim, n_in = c->n_in;
    const struct page_row *row = &b->rows[r];
    for (int h = 0; h < c->n_heads + 2 * c->n_kv; h++) {
        double head[256], magnitude = 1;
        for (int i = 0; i < head_dim; i++) {
            head[i] = c->has_bias ? (double)b->bias[h * head_dim + i] : 0;
            double sum = 0;
            for (int j = 0; j < n_in; j++) {
                double term = (double)b->w[((size_t)h * head_dim + i) * n_in + j] *
                              (double)b->x[(size_t)r * n_in + j];
                head[i] += term;
                sum += fabs(term);
            }
            magnitude = fmax(magnitude, sum);
        }
        const int kv_head = (h - c->n_heads) % c->n_kv;
        const bool is_q = h < c->n_heads, is_value = h >= c->n_heads + c->n_kv;
        float *cached = (is_value ? b->pages.value : b->pages.key) +
                        (is_q ? 0 : pages_at(&b->pages, LAYER, row->seat, kv_head, row->slot));
        const float *got = is_q ? q + h * head_dim : cached;
        for (int i = 0; i < head_dim; i++) {
            float want =
                (float)(is_value ? head[i] : rotated(&b->args.rope, head, i, head_dim, row->pos));
            CHECK_CLOSE_ACT(&b->k, got + i, &want, 1, 2 * magnitude * (n_in + 3) * 0x1p-24, 0,
                            1.01);
        }
        if (!is_q) memset(cached, 0xff, (size_t)head_dim * sizeof(float));
    }
}

static void check_qkv(const struct qkv_case *c)
{
    struct qkv_bed b;
    qkv_open(&b, c);
    const float *q = qkv_run(&b, c, 0, c->n);
    const size_t bytes = b.n_floats * sizeof(float);
    float *key = memcpy(kernels_host(&b.k, bytes), b.pages.key, bytes);
    float *value = memcpy(kernels_host(&b.k, bytes), b.pages.value, bytes);
    for (int r = 0; r < c->n; r += c->n - 1 + (c->n == 1)) { /* first and last once more, alone */
        const float *alone = qkv_run(&b, c, r, 1);
        CHECK_SAME_BITS(alone, q + (size_t)r * b.n_q, (size_t)b.n_q);
        CHECK_SAME_BITS(b.pages.key, key, b.n_floats);
        CHECK_SAME_BITS(b.pages.value, value, b.n_floats);
    }
    for (int r = 0; r < c->n; r++) check_row(&b, c, r, q + (size_t)r * b.n_q);
    CHECK_UNTOUCHED(b.pages.key, bytes);
    CHECK_UNTOUCHED(b.pages.value, bytes);
    b.k.ops->packed_free(b.k.dev, (struct packed *)b.args.w);
    kernels_close(&b.k);
}

TEST(qkv_rotates_by_halves_and_stores_k_and_v_in_the_rows_slots_only)
{
    for (int i = 0; i < N_SHAPES(shape_head_dims); i++) {
        check_qkv(&(struct qkv_case){5, shape_head_dims[i], 2, 2, 24, false, false});
        check_qkv(&(struct qkv_case){5, shape_head_dims[i], 7, 1, 17, false, true});
    }
}

TEST(a_row_of_qkv_has_the_same_bits_beside_any_number_of_rows)
{
    for (int i = 0; i < N_SHAPES(shape_rows); i++)
        check_qkv(&(struct qkv_case){shape_rows[i], 24, 4, 2, 600, false, true});
}

TEST(pairs_take_their_positions_from_three_axes)
{
    for (int i = 0; i < N_SHAPES(shape_head_dims); i++)
        check_qkv(&(struct qkv_case){5, shape_head_dims[i], 4, 2, 24, true, false});
}

/* ---- the vision tower
 * ----------------------------------------------------------------------------
 */

/* Two axes, the second with the frequencies of the first: column and row of a patch. */
static void check_vision_rope(int n, int head_dim, int n_heads)
{
    struct kernels k;
    kernels_open(&k);
    const int half = head_dim / 2, n_pairs = half / 2, width = 3 * n_heads * head_dim;
    float *table = kernels_host(&k, (size_t)N_POS * half * 2 * sizeof(float));
    for (int p = 0; p < N_POS; p++)
        for (int i = 0; i < half; i++) {
            double angle = p * pow(10000, -(double)(i % n_pairs) / n_pairs);
            table[((size_t)p * half + i) * 2] = (float)cos(angle);
            table[((size_t)p * half + i) * 2 + 1] = (float)sin(angle);
        }
    int32_t pos[SHAPE_MAX_ROWS][3];
    for (int r = 0; r < n; r++) pos[r][0] = r, pos[r][1] = 399 - r, pos[r][2] = -7;
    const float *in = kernels_random(&k, (size_t)n * width, 1, 3);
    void *device = kernels_upload_act(&k, in, (size_t)n * width);
    const struct vision_rope_args args = {
        .qkv = device,
        .pos = kernels_upload(&k, pos, (size_t)n * sizeof(pos[0])),
        .rope = {.table = kernels_upload(&k, table, (size_t)N_POS * half * 2 * sizeof(float)),
                 .n_pos = N_POS,
                 .section = {n_pairs, half - n_pairs, 0}},
        .n = n,
        .n_heads = n_heads,
        .head_dim = head_dim};
    k.ops->vision_rope(k.stream, &args);
    const float *got = kernels_download_act(&k, device, (size_t)n * width);
    for (int r = 0; r < n; r++) {
        const float *row = in + (size_t)r * width, *out = got + (size_t)r * width;
        for (int i = 0; i < 2 * n_heads * head_dim; i++) {
            const int at = i % head_dim, pair = at % half, axis = pair / n_pairs;
            double angle = pos[r][axis] * pow(10000, -(double)(pair % n_pairs) / n_pairs);
            double a = (double)row[i - at + pair], b = (double)row[i - at + pair + half];
            float want = (float)(at < half ? a * cos(angle) - b * sin(angle)
                                           : b * cos(angle) + a * sin(angle));
            CHECK_CLOSE_ACT(&k, out + i, &want, 1, 5e-7, 0, 1.01);
        }
        CHECK_SAME_BITS(out + 2 * n_heads * head_dim, row + 2 * n_heads * head_dim,
                        (size_t)n_heads * head_dim);
    }
    kernels_close(&k);
}

TEST(vision_rope_rotates_q_and_k_by_row_and_column_and_leaves_v)
{
    check_vision_rope(0, 16, 2);
    check_vision_rope(1, 16, 1);
    check_vision_rope(5, 40, 2);
    check_vision_rope(64, 80, 3);
}
