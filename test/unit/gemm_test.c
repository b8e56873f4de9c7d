#include "test/test.h"

#include "test/kernels.h"
#include "test/shapes.h"

#include <stdio.h>

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

/* ---- the obvious computation -------------------------------------------------------------------
 */

struct product {
    const float *x, *bias, *y; /* y: what is added to, or NULL */
    const void *w;
    enum dtype type;
    int n, n_out, n_in, ldx, ldy;
    enum activation activation;
    double rounding; /* of the result */
};

static double activate(double x, enum activation activation)
{
    if (activation == ACT_GELU) return 0.5 * x * (1 + erf(x / sqrt(2)));
    if (activation == ACT_QUICK_GELU) return x / (1 + exp(-1.702 * x));
    return x;
}

/* Checks got[n][ldy] against the product in double, and that nothing beside it was written.  The
 * tolerance is rounding of n_in steps: each at most 2^-24 of the sum of magnitudes. */
static void check_product(const struct product *p, const float *got)
{
    for (int r = 0; r < p->n; r++) {
        const float *x = p->x + (size_t)r * p->ldx;
        for (int i = 0; i < p->n_out; i++) {
            double sum = 0, magnitude = 0;
            for (int k = 0; k < p->n_in; k++) {
                size_t at = (size_t)i * p->n_in + k;
                double term = (double)x[k] * (double)kernels_from_dtype(p->w, at, p->type);
                sum += term;
                magnitude += fabs(term);
            }
            if (p->bias != NULL) sum += (double)p->bias[i];
            size_t at = (size_t)r * p->ldy + i;
            float want = (float)(activate(sum, p->activation) + (p->y ? (double)p->y[at] : 0));
            double chain = (magnitude * p->n_in + 8) * 0x1p-24;
            CHECK_CLOSE(&got[at], &want, 1, chain + p->rounding, p->rounding);
        }
        CHECK_UNTOUCHED(got + (size_t)r * p->ldy + p->n_out,
                        (size_t)(p->ldy - p->n_out) * sizeof(float));
    }
}

/* Rows [n_rows][ld] of random numbers in [n_rows][width], NaN in the rest. */
static float *random_rows(struct kernels *k, int n_rows, int width, int ld, unsigned seed)
{
    float *x = kernels_random(k, (size_t)n_rows * ld, 1, seed);
    for (int r = 0; r < n_rows; r++)
        memset(x + (size_t)r * ld + width, 0xff, (size_t)(ld - width) * sizeof(float));
    return x;
}

/* ---- gemm
 * ---------------------------------------------------------------------------------------- */

struct case_ {
    int n, n_out, n_in;
    enum dtype type;
    enum activation activation;
    bool has_bias, add;
};

static void check_gemm(struct kernels *k, const struct case_ *c)
{
    const int max = c->n + 3, ldx = c->n_in + 5, ldy = c->n_out + 3;
    const size_t n_y = (size_t)max * ldy;
    float *w = kernels_random(k, (size_t)c->n_out * c->n_in, 1, 1);
    void *weights = kernels_to_dtype(k, w, (size_t)c->n_out * c->n_in, c->type);
    float *x = random_rows(k, max, c->n_in, ldx, 2);
    float *bias = kernels_random(k, (size_t)c->n_out, 1, 3);
    float *y = random_rows(k, max, c->n_out, ldy, 4);
    memset(x + (size_t)c->n * ldx, 0xff, (size_t)3 * ldx * sizeof(float)); /* behind n */
    memset(y + (size_t)c->n * ldy, 0xff, (size_t)3 * ldy * sizeof(float));

    struct packed *packed = k->ops->pack(k->dev, weights, c->type, c->n_out, c->n_in);
    void *device_y = c->add ? kernels_upload_act(k, y, n_y) : kernels_empty_act(k, n_y);
    int32_t n = c->n;
    k->ops->gemm(k->stream, &(struct gemm_args){
                                .w = packed,
                                .bias = c->has_bias ? kernels_upload(k, bias, 4 * c->n_out) : NULL,
                                .x = kernels_upload_act(k, x, (size_t)max * ldx),
                                .y = device_y,
                                .n = kernels_upload(k, &n, sizeof(n)),
                                .max = max,
                                .ldx = ldx,
                                .ldy = ldy,
                                .add = c->add,
                            });
    float *got = kernels_download_act(k, device_y, n_y);
    check_product(&(struct product){x, c->has_bias ? bias : NULL, c->add ? y : NULL, weights,
                                    c->type, c->n, c->n_out, c->n_in, ldx, ldy, ACT_NONE,
                                    kernels_rounding(k)},
                  got);
    CHECK_UNTOUCHED(got + (size_t)c->n * ldy, (size_t)3 * ldy * sizeof(float));
    k->ops->packed_free(k->dev, packed);
}

TEST(gemm_is_the_product_for_all_widths_and_types)
{
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < N_SHAPES(shape_widths); i++)
            for (int j = 0; j < N_SHAPES(shape_widths); j += 2) {
                struct kernels k;
                kernels_open(&k);
                int n_out = shape_widths[i], n_in = shape_widths[(i + j) % N_SHAPES(shape_widths)];
                check_gemm(&k, &(struct case_){1, n_out, n_in, dtypes[t], ACT_NONE, false, false});
                check_gemm(&k, &(struct case_){9, n_out, n_in, dtypes[t], ACT_NONE, true, false});
                kernels_close(&k);
            }
}

TEST(gemm_is_the_product_for_all_row_counts)
{
    for (int i = 0; i < N_SHAPES(shape_rows); i++)
        for (int t = 0; t < 3; t++) {
            struct kernels k;
            kernels_open(&k);
            check_gemm(&k,
                       &(struct case_){shape_rows[i], 72, 600, dtypes[t], ACT_NONE, true, true});
            kernels_close(&k);
        }
}

TEST(gemm_without_a_row_count_takes_max_rows)
{
    struct kernels k;
    kernels_open(&k);
    const float w[2] = {2, 3}, x[4] = {1, 2, 3, 4}, want[2] = {8, 18};
    struct packed *packed = k.ops->pack(k.dev, w, DTYPE_F32, 1, 2);
    void *y = kernels_empty_act(&k, 2);
    k.ops->gemm(
        k.stream,
        &(struct gemm_args){
            .w = packed, .x = kernels_upload_act(&k, x, 4), .y = y, .max = 2, .ldx = 2, .ldy = 1});
    CHECK_SAME_BITS(kernels_download_act(&k, y, 2), want, 2);
    k.ops->packed_free(k.dev, packed);
    k.ops->packed_free(k.dev, NULL);
    kernels_close(&k);
}

/* All numbers of rows; on an emulated device, which is slow, those of shapes.h. */
static bool is_tried(const struct kernels *k, int n)
{
    bool is_shape = false;
    for (int i = 0; i < N_SHAPES(shape_rows); i++) is_shape |= shape_rows[i] == n;
    return k->ops->act == DTYPE_F32 || is_shape;
}

/* The rows one by one, then 1 .. 130 of them at once.  A device of 16 bits makes its own type of
 * all weights. */
static void check_row_invariance(enum dtype type, int n_out, int n_in)
{
    struct kernels k;
    kernels_open(&k);
    if (k.ops->act != DTYPE_F32 && k.ops->act != type) {
        kernels_close(&k);
        return;
    }
    const int max = SHAPE_MAX_ROWS;
    const size_t n_y = (size_t)max * n_out;
    float *w = kernels_random(&k, (size_t)n_out * n_in, 1, 5);
    float *bias = kernels_random(&k, (size_t)n_out, 1, 6);
    float *x = kernels_random(&k, (size_t)max * n_in, 1, 7);
    struct packed *packed =
        k.ops->pack(k.dev, kernels_to_dtype(&k, w, (size_t)n_out * n_in, type), type, n_out, n_in);
    float *alone = kernels_empty(&k, n_y * sizeof(float));
    float *together = kernels_empty(&k, n_y * sizeof(float));
    struct gemm_args args = {.w = packed,
                             .bias = kernels_upload(&k, bias, (size_t)n_out * sizeof(float)),
                             .ldx = n_in,
                             .ldy = n_out,
                             .y_is_float = true};
    void *device_x = kernels_upload_act(&k, x, (size_t)max * n_in);
    for (int r = 0; r < max; r++) {
        args.x = kernels_at_act(&k, device_x, (size_t)r * n_in);
        args.y = alone + (size_t)r * n_out;
        args.max = 1;
        k.ops->gemm(k.stream, &args);
    }
    args.x = device_x;
    args.y = together;
    const float *want = kernels_download(&k, alone, n_y * sizeof(float));
    for (args.max = 1; args.max < max; args.max++) {
        if (!is_tried(&k, args.max)) continue;
        k.ops->gemm(k.stream, &args);
        const size_t n = (size_t)args.max * n_out;
        CHECK_SAME_BITS(kernels_download(&k, together, n * sizeof(float)), want, n);
    }
    k.ops->packed_free(k.dev, packed);
    kernels_close(&k);
}

TEST(a_row_of_gemm_has_the_same_bits_beside_any_number_of_rows)
{
    for (int t = 0; t < 3; t++) {
        check_row_invariance(dtypes[t], 100, 300);
        check_row_invariance(dtypes[t], 12, 1100); /* k in several parts */
        check_row_invariance(dtypes[t], 16, 17);
        check_row_invariance(dtypes[t], 33, 64);
    }
}

TEST(weights_of_16_bits_are_widened_exactly)
{
    struct kernels k;
    kernels_open(&k);
    for (int t = 1; t < 3; t++) {
        if (k.ops->act != DTYPE_F32 && k.ops->act != dtypes[t]) continue; /* rounded to it */
        /* Every finite value, as a product of 1 x 1 with 1. */
        const int exponent = dtypes[t] == DTYPE_F16 ? 0x7c00 : 0x7f80;
        uint16_t *bits = kernels_host(&k, sizeof(*bits) << 16);
        int n = 0;
        for (int i = 0; i < 1 << 16; i++)
            if ((i & exponent) != exponent) bits[n++] = (uint16_t)i;
        CHECK_INT(n, >, 60000);
        struct packed *packed = k.ops->pack(k.dev, bits, dtypes[t], n, 1);
        float one = 1, *y = kernels_empty(&k, (size_t)n * sizeof(float));
        struct gemm_args args = {.w = packed,
                                 .x = kernels_upload_act(&k, &one, 1),
                                 .y = y,
                                 .max = 1,
                                 .ldx = 1,
                                 .ldy = n,
                                 .y_is_float = true};
        k.ops->gemm(k.stream, &args);
        const float *got = kernels_download(&k, y, (size_t)n * sizeof(float));
        for (int i = 0; i < n; i++) CHECK(got[i] == kernels_from_dtype(bits, (size_t)i, dtypes[t]));
        k.ops->packed_free(k.dev, packed);
    }
    kernels_close(&k);
}

/* ---- matmul
 * --------------------------------------------------------------------------------------- */

/* Where things lie: columns between the rows of x and of y, elements in front of w, x and y. */
struct place {
    int gap_x, gap_y, offset;
};

static void check_matmul(struct kernels *k, const struct case_ *c, const struct place *place)
{
    const int ldx = c->n_in + place->gap_x, ldy = c->n_out + place->gap_y;
    const size_t n_w = (size_t)c->n_out * c->n_in, n_x = (size_t)c->n * ldx,
                 n_y = (size_t)c->n * ldy, offset = (size_t)place->offset;
    float *w = kernels_random(k, n_w + offset, 1, 1) + offset;
    float *x = random_rows(k, c->n, c->n_in, ldx, 2);
    float *bias = kernels_random(k, (size_t)c->n_out, 1, 3);
    float *y = random_rows(k, c->n, c->n_out, ldy, 4);
    void *device_x = kernels_at_act(k, kernels_empty_act(k, n_x + offset), offset);
    void *device_y = kernels_at_act(k, kernels_empty_act(k, n_y + offset), offset);
    kernels_write_act(k, device_x, x, n_x);
    if (c->add) kernels_write_act(k, device_y, y, n_y);
    k->ops->matmul(
        k->stream,
        &(struct matmul_args){
            .w = kernels_at_act(k, kernels_upload_act(k, w - offset, n_w + offset), offset),
            .x = device_x,
            .bias = c->has_bias ? kernels_upload_act(k, bias, (size_t)c->n_out) : NULL,
            .y = device_y,
            .n = c->n,
            .n_out = c->n_out,
            .n_in = c->n_in,
            .ldx = ldx,
            .ldy = ldy,
            .activation = c->activation,
            .add = c->add,
        });
    /* The library may round the sum before it adds to it, and so may we before the activation,
     * whose slope is below 1.2. */
    const double rounding = kernels_rounding(k) * 2.2;
    check_product(&(struct product){x, c->has_bias ? bias : NULL, c->add ? y : NULL, w, DTYPE_F32,
                                    c->n, c->n_out, c->n_in, ldx, ldy, c->activation, rounding},
                  kernels_download_act(k, device_y, n_y));
}

TEST(matmul_is_the_product)
{
    struct kernels k;
    kernels_open(&k);
    const struct place dense = {0, 0, 0}, ragged = {5, 3, 0};
    for (int i = 0; i < N_SHAPES(shape_rows); i++) {
        int n = shape_rows[i];
        check_matmul(&k, &(struct case_){n, 20, 33, DTYPE_F32, ACT_NONE, false, false}, &ragged);
        check_matmul(&k, &(struct case_){n, 20, 33, DTYPE_F32, ACT_NONE, true, true}, &ragged);
        check_matmul(&k, &(struct case_){n, 65, 128, DTYPE_F32, ACT_GELU, true, false}, &ragged);
        check_matmul(&k, &(struct case_){n, 65, 128, DTYPE_F32, ACT_QUICK_GELU, false, false},
                     &ragged);
        check_matmul(&k, &(struct case_){n, 1032, 64, DTYPE_F32, ACT_QUICK_GELU, true, false},
                     &dense);
        check_matmul(&k, &(struct case_){n, 64, 136, DTYPE_F32, ACT_NONE, true, true}, &dense);
    }
    kernels_close(&k);
}

TEST(products_that_differ_in_one_thing_do_not_get_each_others_plan)
{
    static const struct case_ cases[] = {
        {9, 24, 40, DTYPE_F32, ACT_NONE, false, false},
        {9, 24, 40, DTYPE_F32, ACT_NONE, true, false},
        {9, 24, 40, DTYPE_F32, ACT_NONE, false, true},
        {9, 24, 40, DTYPE_F32, ACT_GELU, true, false},
        {8, 24, 40, DTYPE_F32, ACT_NONE, false, false},
        {9, 32, 40, DTYPE_F32, ACT_NONE, false, false},
        {9, 24, 48, DTYPE_F32, ACT_NONE, false, false},
    };
    static const struct place places[] = {{0, 0, 0}, {8, 0, 0}, {0, 8, 0}, {0, 0, 8}, {0, 0, 1}};
    struct kernels k;
    kernels_open(&k);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < N_SHAPES(cases); i++)
            for (int j = 0; j < N_SHAPES(places); j++) check_matmul(&k, &cases[i], &places[j]);
    /* More shapes than any table holds. */
    for (int n = 1; n <= 300; n++)
        check_matmul(&k, &(struct case_){n % 150, 8, 8, DTYPE_F32, ACT_NONE, false, false},
                     &places[0]);
    kernels_close(&k);
}
