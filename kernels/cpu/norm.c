/* RMSNorm  w x / sqrt(mean(x^2) + eps)      LayerNorm  w (x - mean) / sqrt(var + eps) + bias
 *
 * A row is one task; its sums run in one vector of eight partial sums, in order. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/vector.h"

static int lanes(int width, int i)
{
    return width - i < VEC ? width - i : VEC;
}

static void rmsnorm_row(const struct norm_args *a, const float *x, float *out)
{
    vec squares = {0};
    for (int i = 0; i < a->width; i += VEC) {
        vec value = vec_load_n(x + i, lanes(a->width, i));
        squares = vec_fma(value, value, squares);
    }
    vec scale = vec_set(1 / sqrtf(vec_sum(squares) / (float)a->width + a->eps));
    for (int i = 0; i < a->width; i += VEC) {
        int n = lanes(a->width, i);
        vec_store_n(out + i, vec_load_n(a->w + i, n) * (vec_load_n(x + i, n) * scale), n);
    }
}

static void rmsnorm_run(const struct norm_args *a)
{
    const int n = cpu_n_rows(a->n, a->max);
    REQUIRE(a->width > 0);
#pragma omp parallel for if ((size_t)n * a->width > PARALLEL_WORK)
    for (int r = 0; r < n; r++) {
        size_t row = (size_t)r * a->width;
        rmsnorm_row(a, (const float *)a->x + row, (float *)a->out + row);
    }
}

static void layernorm_row(const struct norm_args *a, const float *x, float *out)
{
    vec sum = {0}, squares = {0};
    for (int i = 0; i < a->width; i += VEC) sum += vec_load_n(x + i, lanes(a->width, i));
    const vec mean = vec_set(vec_sum(sum) / (float)a->width);
    for (int i = 0; i < a->width; i += VEC) {
        int n = lanes(a->width, i);
        /* Lanes behind the end hold 0 and not -mean. */
        vec rest = vec_load_n(x + i, n) - mean;
        if (n < VEC) rest = vec_load_n((const float *)&rest, n);
        squares = vec_fma(rest, rest, squares);
    }
    const vec scale = vec_set(1 / sqrtf(vec_sum(squares) / (float)a->width + a->eps));
    for (int i = 0; i < a->width; i += VEC) {
        int n = lanes(a->width, i);
        vec value = (vec_load_n(x + i, n) - mean) * scale * vec_load_n(a->w + i, n);
        vec_store_n(out + i, value + vec_load_n(a->bias + i, n), n);
    }
}

static void layernorm_run(const struct norm_args *a)
{
    const int n = cpu_n_rows(a->n, a->max);
    REQUIRE(a->width > 0 && a->bias != NULL);
#pragma omp parallel for if ((size_t)n * a->width > PARALLEL_WORK)
    for (int r = 0; r < n; r++) {
        size_t row = (size_t)r * a->width;
        layernorm_row(a, (const float *)a->x + row, (float *)a->out + row);
    }
}

CPU_OPERATION(rmsnorm, norm_args)
CPU_OPERATION(layernorm, norm_args)
