#include "test/test.h"

#include "test/kernels.h"
#include "test/shapes.h"

enum { BEHIND = 2 }; /* rows behind n: NaN in, untouched out */

struct norm_case {
    struct kernels *k;
    int n, width;
    float *x, *w, *bias, *out; /* host; out is what came back */
};

static void run_norm(struct norm_case *c, bool is_layernorm, bool in_place)
{
    struct kernels *k = c->k;
    const int max = c->n + BEHIND;
    const size_t n = (size_t)c->n * c->width, behind = (size_t)BEHIND * c->width;
    c->x = kernels_random(k, n + behind, 3, 1);
    c->w = kernels_random(k, (size_t)c->width, 1, 2);
    c->bias = kernels_random(k, (size_t)c->width, 1, 3);
    memset(c->x + n, 0xff, behind * sizeof(float));
    void *x = kernels_upload_act(k, c->x, n + behind);
    void *out = in_place ? x : kernels_empty_act(k, n + behind);
    void (*norm)(struct stream *, const struct norm_args *) =
        is_layernorm ? k->ops->layernorm : k->ops->rmsnorm;
    norm(k->stream, &(struct norm_args){
                        .x = x,
                        .w = kernels_upload(k, c->w, (size_t)c->width * sizeof(float)),
                        .bias = kernels_upload(k, c->bias, (size_t)c->width * sizeof(float)),
                        .out = out,
                        .n = kernels_upload(k, &(int32_t){c->n}, sizeof(int32_t)),
                        .max = max,
                        .width = c->width,
                        .eps = 1e-5f,
                    });
    c->out = kernels_download_act(k, out, n + behind);
    CHECK_UNTOUCHED(c->out + n, behind * sizeof(float));
}

/* With bias NULL an RMSNorm, else a LayerNorm.  Rounding: a few units of the largest term. */
static void check_row(const struct norm_case *c, int r, bool is_layernorm)
{
    const float *x = c->x + (size_t)r * c->width, *out = c->out + (size_t)r * c->width;
    double mean = 0, squares = 0;
    for (int i = 0; is_layernorm && i < c->width; i++) mean += (double)x[i] / c->width;
    for (int i = 0; i < c->width; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    double scale = 1 / sqrt(squares / c->width + 1e-5);
    for (int i = 0; i < c->width; i++) {
        double want = (double)c->w[i] * ((double)x[i] - mean) * scale;
        float rounded = (float)(want + (is_layernorm ? (double)c->bias[i] : 0));
        CHECK_CLOSE_ACT(c->k, out + i, &rounded, 1, 1e-6 * (1 + scale), 2e-6, 1.01);
    }
}

static void check_norm(bool is_layernorm)
{
    for (int i = 0; i < N_SHAPES(shape_rows); i++)
        for (int j = 0; j < N_SHAPES(shape_widths); j++) {
            struct kernels k;
            kernels_open(&k);
            struct norm_case c = {.k = &k, .n = shape_rows[i], .width = shape_widths[j]};
            run_norm(&c, is_layernorm, false);
            for (int r = 0; r < c.n; r++) check_row(&c, r, is_layernorm);
            kernels_close(&k);
        }
}

static void check_in_place(bool is_layernorm)
{
    struct kernels k;
    kernels_open(&k);
    struct norm_case beside = {.k = &k, .n = 5, .width = 100}, in_place = beside, alone = beside;
    run_norm(&beside, is_layernorm, false);
    run_norm(&in_place, is_layernorm, true);
    CHECK_SAME_BITS(in_place.out, beside.out, 5 * 100);
    alone.n = 1;
    run_norm(&alone, is_layernorm, false);
    CHECK_SAME_BITS(alone.out, beside.out, 100);
    kernels_close(&k);
}

TEST(rmsnorm_is_its_formula)
{
    check_norm(false);
}

TEST(layernorm_is_its_formula)
{
    check_norm(true);
}

TEST(norms_work_in_place_and_row_by_row_with_the_same_bits)
{
    check_in_place(false);
    check_in_place(true);
}

TEST(silu_mul_is_its_formula)
{
    for (int i = 0; i < N_SHAPES(shape_rows); i++)
        for (int j = 0; j < N_SHAPES(shape_widths); j++) {
            struct kernels k;
            kernels_open(&k);
            const int n = shape_rows[i], width = shape_widths[j];
            const size_t n_out = (size_t)(n + BEHIND) * width;
            float *in = kernels_random(&k, 2 * n_out, 20, 1);
            memset(in + (size_t)n * 2 * width, 0xff, (size_t)BEHIND * 2 * width * sizeof(float));
            void *out = kernels_empty_act(&k, n_out);
            k.ops->silu_mul(k.stream, &(struct silu_mul_args){
                                          .in = kernels_upload_act(&k, in, 2 * n_out),
                                          .out = out,
                                          .n = n,
                                          .width = width,
                                      });
            float *got = kernels_download_act(&k, out, n_out);
            for (int r = 0; r < n; r++)
                for (int c = 0; c < width; c++) {
                    double gate = (double)in[(size_t)r * 2 * width + c];
                    double up = (double)in[(size_t)r * 2 * width + width + c];
                    float want = (float)(gate / (1 + exp(-gate)) * up);
                    CHECK_CLOSE_ACT(&k, got + (size_t)r * width + c, &want, 1, 1e-30, 5e-7, 1.01);
                }
            CHECK_UNTOUCHED(got + (size_t)n * width, (size_t)BEHIND * width * sizeof(float));
            kernels_close(&k);
        }
}
