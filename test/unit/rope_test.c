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

/* Element i of a head behind the rotation. */
static double rotated(const struct rope *rope, const float *head, int i, int head_dim,
                      const int32_t pos[3])
{
    const int half = head_dim / 2, pair = i % half;
    double angle = pos[axis_of(rope, pair)] * pow(10000, -2.0 * pair / head_dim);
    double a = (double)head[pair], b = (double)head[pair + half];
    return i < half ? a * cos(angle) - b * sin(angle) : b * cos(angle) + a * sin(angle);
}

static void check_rope(int n, int head_dim, int n_heads, int n_kv, bool has_axes)
{
    struct kernels k;
    kernels_open(&k);
    struct pages pages;
    pages_init(
        &pages, &k,
        (struct kv_pool){
            .n_layers = N_LAYERS, .n_kv_heads = n_kv, .head_dim = head_dim, .max_pages = MAX_PAGES},
        MAX_SEQS, false);
    pages_upload(&pages);
    struct rope rope = {.table = kernels_upload(&k, rope_table(&k, head_dim),
                                                (size_t)N_POS * head_dim * sizeof(float)),
                        .n_pos = N_POS,
                        .section = {head_dim / 2, 0, 0}};
    if (has_axes) rope.section[0] = head_dim / 8, rope.section[1] = head_dim / 4;

    struct page_row rows[SHAPE_MAX_ROWS];
    for (int r = 0; r < n; r++) /* no two rows share a slot */
        rows[r] = (struct page_row){.seat = r % MAX_SEQS,
                                    .slot = 250 - r,
                                    .pos = {r, has_axes ? 399 - r : -7, has_axes ? 2 * r : -7}};
    const int width = (n_heads + 2 * n_kv) * head_dim, max = n + BEHIND;
    float *qkv = kernels_random(&k, (size_t)max * width, 1, 3);
    memset(qkv + (size_t)n * width, 0xff, (size_t)BEHIND * width * sizeof(float));
    void *device = kernels_upload_act(&k, qkv, (size_t)max * width);
    k.ops->rope_append(k.stream, &(struct rope_append_args){.qkv = device,
                                                            .rope = rope,
                                                            .rows = pages_rows(&k, rows, n, max),
                                                            .pool = pages.pool,
                                                            .layer = LAYER,
                                                            .n_heads = n_heads});
    float *got = kernels_download_act(&k, device, (size_t)max * width);
    pages_download(&pages);
    const size_t n_floats =
        (size_t)N_LAYERS * pages.pool.n_pages * n_kv * PAGE_LEN * (size_t)head_dim;
    for (int r = 0; r < n; r++) {
        const float *in = qkv + (size_t)r * width, *out = got + (size_t)r * width;
        for (int i = 0; i < (n_heads + n_kv) * head_dim; i++) {
            const float *head = in + i / head_dim * head_dim;
            float want = (float)rotated(&rope, head, i % head_dim, head_dim, rows[r].pos);
            CHECK_CLOSE_ACT(&k, out + i, &want, 1, 5e-7, 0, 1.01); /* inputs are below 1 */
        }
        const float *key = out + n_heads * head_dim, *value = key + n_kv * head_dim;
        CHECK_SAME_BITS(value, in + (n_heads + n_kv) * head_dim, n_kv * (size_t)head_dim);
        for (int h = 0; h < n_kv; h++) {
            size_t at = pages_at(&pages, LAYER, rows[r].seat, h, rows[r].slot);
            CHECK_SAME_BITS(pages.key + at, key + h * head_dim, (size_t)head_dim);
            CHECK_SAME_BITS(pages.value + at, value + h * head_dim, (size_t)head_dim);
            memset(pages.key + at, 0xff, (size_t)head_dim * sizeof(float));
            memset(pages.value + at, 0xff, (size_t)head_dim * sizeof(float));
        }
    }
    CHECK_UNTOUCHED(got + (size_t)n * width, (size_t)BEHIND * width * sizeof(float));
    CHECK_UNTOUCHED(pages.key, n_floats * sizeof(float));
    CHECK_UNTOUCHED(pages.value, n_floats * sizeof(float));
    kernels_close(&k);
}

TEST(rope_append_rotates_by_halves_and_stores_in_the_rows_slots_only)
{
    for (int i = 0; i < N_SHAPES(shape_head_dims); i++) {
        check_rope(5, shape_head_dims[i], 2, 2, false);
        check_rope(5, shape_head_dims[i], 7, 1, false);
    }
    for (int i = 0; i < N_SHAPES(shape_rows); i++) check_rope(shape_rows[i], 24, 4, 2, false);
}

TEST(pairs_take_their_positions_from_three_axes)
{
    for (int i = 0; i < N_SHAPES(shape_head_dims); i++)
        check_rope(5, shape_head_dims[i], 4, 2, true);
}

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
