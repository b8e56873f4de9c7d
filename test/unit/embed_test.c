#include "test/test.h"

#include "test/kernels.h"
#include "test/shapes.h"

static void check_embed(enum dtype type, int n, int width)
{
    struct kernels k;
    kernels_open(&k);
    enum { VOCAB = 50, N_POOL = 9 };
    const int max = n + 2, ld = width + 3;
    unsigned state = 77;
    float *values = kernels_random(&k, (size_t)VOCAB * width, 1, 1);
    void *table = kernels_to_dtype(&k, values, (size_t)VOCAB * width, type);
    float *pool = kernels_random(&k, (size_t)N_POOL * width, 1, 2);
    int32_t *id = kernels_host(&k, (size_t)max * sizeof(*id));
    for (int r = 0; r < max; r++)
        id[r] =
            r % 3 == 2 ? ~kernels_random_int(&state, N_POOL) : kernels_random_int(&state, VOCAB);
    for (int r = n; r < max; r++) id[r] = 1 << 30; /* must not be looked at */
    void *out = kernels_empty_act(&k, (size_t)max * ld);
    k.ops->embed(k.stream,
                 &(struct embed_args){
                     .table = kernels_upload(&k, table, (size_t)VOCAB * width * dtype_size(type)),
                     .table_type = type,
                     .pool = kernels_upload(&k, pool, (size_t)N_POOL * width * sizeof(float)),
                     .id = kernels_upload(&k, id, (size_t)max * sizeof(*id)),
                     .n = kernels_upload(&k, &(int32_t){n}, sizeof(int32_t)),
                     .out = out,
                     .max = max,
                     .width = width,
                     .ld = ld,
                 });
    float *got = kernels_download_act(&k, out, (size_t)max * ld);
    for (int r = 0; r < max; r++) {
        float *row = got + (size_t)r * ld;
        for (int i = 0; r < n && i < width; i++) {
            float want = id[r] < 0 ? pool[(size_t)~id[r] * width + i]
                                   : kernels_from_dtype(table, (size_t)id[r] * width + i, type);
            CHECK_CLOSE_ACT(&k, row + i, &want, 1, 0, 0, 1);
        }
        int n_written = r < n ? width : 0;
        CHECK_UNTOUCHED(row + n_written, (size_t)(ld - n_written) * sizeof(float));
    }
    kernels_close(&k);
}

TEST(embed_takes_rows_of_the_table_or_of_the_pool)
{
    const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < N_SHAPES(shape_rows); i++)
            for (int j = 0; j < N_SHAPES(shape_widths); j++)
                check_embed(types[t], shape_rows[i], shape_widths[j]);
}

TEST(gather_rows_gathers)
{
    for (int i = 0; i < N_SHAPES(shape_rows); i++) {
        struct kernels k;
        kernels_open(&k);
        enum { N_IN = 40, WIDTH = 100 };
        const int n = shape_rows[i], max = n + 2;
        unsigned state = 5;
        float *in = kernels_random(&k, (size_t)N_IN * WIDTH, 1, 1);
        int32_t *row = kernels_host(&k, (size_t)max * sizeof(*row));
        for (int r = 0; r < max; r++) row[r] = r < n ? kernels_random_int(&state, N_IN) : 1 << 30;
        void *out = kernels_empty_act(&k, (size_t)max * WIDTH);
        k.ops->gather_rows(k.stream, &(struct gather_rows_args){
                                         .in = kernels_upload_act(&k, in, N_IN * WIDTH),
                                         .out = out,
                                         .row = kernels_upload(&k, row, (size_t)max * sizeof(*row)),
                                         .n = kernels_upload(&k, &(int32_t){n}, sizeof(int32_t)),
                                         .max = max,
                                         .width = WIDTH,
                                     });
        float *got = kernels_download_act(&k, out, (size_t)max * WIDTH);
        for (int r = 0; r < n; r++)
            CHECK_SAME_BITS(got + (size_t)r * WIDTH, in + (size_t)row[r] * WIDTH, WIDTH);
        CHECK_UNTOUCHED(got + (size_t)n * WIDTH, 2 * WIDTH * sizeof(float));
        kernels_close(&k);
    }
}

TEST(to_float_copies_rows)
{
    struct kernels k;
    kernels_open(&k);
    float *in = kernels_random(&k, 21, 1, 1), *out = kernels_empty(&k, 22 * sizeof(float));
    const void *src = kernels_upload_act(&k, in, 21);
    k.ops->to_float(k.stream, &(struct to_float_args){.src = src, .dst = out, .n = 3, .width = 7});
    k.ops->to_float(k.stream, &(struct to_float_args){.src = src, .dst = out, .n = 0, .width = 7});
    float *got = kernels_download(&k, out, 22 * sizeof(float));
    CHECK_SAME_BITS(got, in, 21);
    CHECK_UNTOUCHED(got + 21, sizeof(float));
    kernels_close(&k);
}

TEST(patches_hold_their_pixels_by_channel_and_line)
{
    const int sizes[][3] = {{14, 14, 14}, {28, 42, 14}, {336, 336, 14}, {6, 4, 2}, {3, 5, 1}};
    for (int i = 0; i < 5; i++) {
        struct kernels k;
        kernels_open(&k);
        const int height = sizes[i][0], width = sizes[i][1], p = sizes[i][2];
        const size_t n = (size_t)3 * height * width;
        float *pixels = kernels_random(&k, n, 1, 1);
        void *out = kernels_empty_act(&k, n + 1);
        k.ops->patches(k.stream, &(struct patches_args){.pixels = kernels_upload(&k, pixels, 4 * n),
                                                        .out = out,
                                                        .height = height,
                                                        .width = width,
                                                        .patch = p});
        float *got = kernels_download_act(&k, out, n + 1);
        const int n_x = width / p;
        for (int channel = 0; channel < 3; channel++)
            for (int y = 0; y < height; y++)
                for (int x = 0; x < width; x++) {
                    size_t patch = (size_t)(y / p) * n_x + x / p;
                    size_t inside = ((size_t)channel * p + y % p) * p + x % p;
                    float want = pixels[((size_t)channel * height + y) * width + x];
                    CHECK(got[patch * 3 * p * p + inside] == want);
                }
        CHECK_UNTOUCHED(got + n, sizeof(float));
        kernels_close(&k);
    }
}

TEST(add_positions_puts_the_class_row_first)
{
    for (int has_class = 0; has_class < 2; has_class++)
        for (int n = 0; n < 5; n++) {
            struct kernels k;
            kernels_open(&k);
            enum { WIDTH = 11 };
            const int n_out = n + has_class;
            float *patches = kernels_random(&k, 5 * WIDTH, 1, 1);
            float *cls = kernels_random(&k, WIDTH, 1, 2);
            float *pos = kernels_random(&k, 6 * WIDTH, 1, 3);
            const size_t n_values = (size_t)(n_out + 1) * WIDTH;
            void *out = kernels_empty_act(&k, n_values);
            k.ops->add_positions(
                k.stream,
                &(struct add_positions_args){
                    .patches = kernels_upload_act(&k, patches, (size_t)n * WIDTH),
                    .cls = has_class ? kernels_upload(&k, cls, WIDTH * sizeof(float)) : NULL,
                    .pos = kernels_upload(&k, pos, (size_t)n_out * WIDTH * sizeof(float)),
                    .out = out,
                    .n = n,
                    .width = WIDTH,
                });
            float *got = kernels_download_act(&k, out, n_values);
            for (int r = 0; r < n_out; r++)
                for (int i = 0; i < WIDTH; i++) {
                    const float *row = r < has_class ? cls : patches + (r - has_class) * WIDTH;
                    float want = kernels_round_act(&k, row[i] + pos[r * WIDTH + i]);
                    CHECK(got[r * WIDTH + i] == want);
                }
            CHECK_UNTOUCHED(got + (size_t)n_out * WIDTH, WIDTH * sizeof(float));
            kernels_close(&k);
        }
}
