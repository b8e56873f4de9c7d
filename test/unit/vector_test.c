#include "test/test.h"

#include "kernels/cpu/vector.h"

/* Distance from the exact value in units of the result's last place. */
static double ulps(float got, double want)
{
    double spacing = ldexp(1, (int)floor(log2(want)) - 23);
    if (spacing < 0x1p-149) spacing = 0x1p-149;
    return fabs((double)got - want) / spacing;
}

TEST(exp_is_within_1_1_units_of_the_last_place)
{
    enum { N = 4000000 };
    double worst = 0;
    for (int i = 0; i < N; i++) {
        float x = -103.9f + 192.6f * (float)i / N;
        vec got = vec_exp((vec){x, x / 8, x / 64, x / 1024});
        for (int j = 0; j < 4; j++) {
            float scaled = ldexpf(x, j == 0 ? 0 : j == 1 ? -3 : j == 2 ? -6 : -10);
            double error = ulps(got[j], exp((double)scaled));
            if (error > worst) worst = error;
        }
    }
    CHECK(worst < 1.1);
}

TEST(exp_of_the_extremes)
{
    vec got = vec_exp((vec){0, -0.0f, -INFINITY, INFINITY, NAN, 89, -104, 1});
    const float want[] = {1, 1, 0, INFINITY};
    CHECK_CLOSE((float *)&got, want, 4, 0, 0);
    CHECK(isnan(got[4]));
    CHECK(isinf(got[5]) && got[6] == 0);
}

TEST(sums_of_eight_vectors_are_the_sums_of_each)
{
    vec x[VEC];
    for (int i = 0; i < VEC; i++)
        for (int j = 0; j < VEC; j++) x[i][j] = sinf((float)(i * VEC + j)) * expf((float)j);
    vec sums = vec_sum8(x);
    for (int i = 0; i < VEC; i++) {
        float want = vec_sum(x[i]);
        CHECK_CLOSE((float *)&sums + i, &want, 1, 0, 0);
    }
}

TEST(widening_a_row_writes_nothing_behind_it)
{
    const uint16_t in[] = {0x3f80, 0x4000, 0xc040, 0x3f80, 0, 0x8000, 0x7f80, 1, 0x3f80, 0x4040};
    const float want[] = {1, 2, -3, 1, 0, 0, INFINITY, 0x1p-133f, 1, 3};
    for (int n = 0; n <= 10; n++) {
        float out[12];
        for (int i = 0; i < 12; i++) out[i] = 7;
        widen(out, in, DTYPE_BF16, n);
        CHECK_CLOSE(out, want, (size_t)n, 0, 0);
        for (int i = n; i < 12; i++) CHECK(out[i] == 7);
    }
    const uint16_t halves[] = {0x3c00, 0xc000, 1, 0x7c00, 0xfbff};
    const float want_halves[] = {1, -2, 0x1p-24f, INFINITY, -65504};
    float out[5];
    widen(out, halves, DTYPE_F16, 5);
    CHECK_CLOSE(out, want_halves, 5, 0, 0);
}
