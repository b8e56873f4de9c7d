/* The row-invariant GEMM against OpenBLAS, on the CPU device.
 *
 *   bench/gemm [n_threads]
 *
 * One CSV row a case.  Both run on the same stream, taking turns, so that `ratio` (our time /
 * OpenBLAS's) means something on a busy machine; times are medians of SAMPLES, each of as many
 * calls as fill about a millisecond, with L2 flushed before.  `percent` is of this machine's
 * multiply-adds for more than 8 rows, and of its reading speed below; both are measured in the same
 * run. */
#include "bench/spread.h"
#include "kernels/cpu/vector.h"
#include "kernels/device.h"
#include "kernels/ops.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    SAMPLES = 21,
    FLUSH_BYTES = 4 << 20,
    READ_BYTES = 256 << 20,
    MAX_ROWS = 256,
};

/* ---- the machine's limits -------------------------------------------------------------------- */

static volatile float sink; /* keeps results alive */

/* Twelve independent chains of vector multiply-adds on every thread; GFLOP/s. */
static double peak_gflops(int n_threads)
{
    enum { N_CHAINS = 12, N_STEPS = 2000000 };
    double best = 0;
    for (int sample = 0; sample < 5; sample++) {
        double start = now_us();
#pragma omp parallel num_threads(n_threads)
        {
            wide sum[N_CHAINS];
            for (int i = 0; i < N_CHAINS; i++) sum[i] = wide_set((float)i);
            for (int step = 0; step < N_STEPS; step++)
#pragma GCC unroll 12
                for (int i = 0; i < N_CHAINS; i++)
                    sum[i] = wide_fma(sum[i], wide_set(0.999f), wide_set(0.001f));
            for (int i = 1; i < N_CHAINS; i++) sum[0] += sum[i];
            sink = sum[0][0];
        }
        double rate = 2.0 * WIDE * N_CHAINS * N_STEPS * n_threads / (now_us() - start) * 1e-3;
        if (rate > best) best = rate;
    }
    return best;
}

static double peak_gbs(int n_threads, const float *memory)
{
    double best = 0;
    for (int sample = 0; sample < 5; sample++) {
        double start = now_us();
#pragma omp parallel num_threads(n_threads)
        {
            vec sum[8] = {{0}};
#pragma omp for
            for (size_t i = 0; i < READ_BYTES / sizeof(float); i += (size_t)8 * VEC)
                for (size_t j = 0; j < 8; j++) sum[j] += vec_load(memory + i + j * VEC);
            for (int j = 1; j < 8; j++) sum[0] += sum[j];
            sink = sum[0][0];
        }
        double rate = READ_BYTES / (now_us() - start) * 1e-3;
        if (rate > best) best = rate;
    }
    return best;
}

/* ---- one case ----------------------------------------------------------------------------------
 */

struct bench {
    struct device *dev;
    struct stream *stream;
    const struct ops *ops;
    const float *plain;  /* weights, in float */
    const void *weights; /* the same number of elements, in any type */
    const float *x;
    float *y;
    void *flush; /* [FLUSH_BYTES] */
    double gflops, gbs;
};

static double time_calls(struct bench *b, const struct gemm_args *gemm,
                         const struct matmul_args *matmul, int n_calls)
{
    stream_fill(b->stream, b->flush, 0, FLUSH_BYTES);
    stream_wait(b->stream);
    double start = now_us();
    for (int i = 0; i < n_calls; i++)
        if (gemm != NULL)
            b->ops->gemm(b->stream, gemm);
        else
            b->ops->matmul(b->stream, matmul);
    stream_wait(b->stream);
    return (now_us() - start) / n_calls;
}

static void run_case(struct bench *b, enum dtype type, int n_out, int n_in, int n_rows)
{
    static const char *const names[] = {"f32", "f16", "bf16"};
    struct packed *w = b->ops->pack(b->dev, b->weights, type, n_out, n_in, 0);
    struct gemm_args gemm = {
        .w = w, .x = b->x, .y = b->y, .max = n_rows, .ldx = n_in, .ldy = n_out};
    struct matmul_args matmul = {.w = b->plain,
                                 .x = b->x,
                                 .y = b->y,
                                 .n = n_rows,
                                 .n_out = n_out,
                                 .n_in = n_in,
                                 .ldx = n_in,
                                 .ldy = n_out};
    double flops = 2.0 * n_rows * n_out * n_in;
    int n_calls = (int)(2e7 / flops) + 1;
    double ours[SAMPLES], theirs[SAMPLES], ratios[SAMPLES];
    time_calls(b, &gemm, NULL, n_calls);
    time_calls(b, NULL, &matmul, n_calls);
    for (int i = 0; i < SAMPLES; i++) {
        ours[i] = time_calls(b, &gemm, NULL, n_calls);
        theirs[i] = time_calls(b, NULL, &matmul, n_calls);
        ratios[i] = ours[i] / theirs[i];
    }
    double us = spread_of(ours, SAMPLES).median,
           bytes = (double)n_out * n_in * (double)dtype_size(type);
    double gflops = flops / us * 1e-3, gbs = bytes / us * 1e-3;
    printf("gemm_%s_%dx%dx%d,%.1f,%.1f,%.1f,%.0f,%.1f,%.2f,%s,cpu\n", names[type], n_rows, n_out,
           n_in, us, gflops, gbs, n_rows > 8 ? 100 * gflops / b->gflops : 100 * gbs / b->gbs,
           spread_of(theirs, SAMPLES).median, spread_of(ratios, SAMPLES).median, VERSION);
    fflush(stdout);
    b->ops->packed_free(b->dev, w);
}

int main(int argc, char **argv)
{
    static const int shapes[][2] = {{192, 192}, {1024, 192}, {4096, 4096}};
    static const int rows[] = {1, 4, 8, 30, 64, 256};
    int n_threads = argc > 1 ? atoi(argv[1]) : 2;
    struct bench b = {.dev = device_open("cpu", n_threads)};
    if (b.dev == NULL) return 1;
    b.stream = stream_open(b.dev);
    b.ops = device_ops(b.dev);
    float *memory = device_alloc(b.dev, READ_BYTES, "weights");
    float *x = device_alloc(b.dev, sizeof(float) * MAX_ROWS * 4096, "x");
    for (size_t i = 0; i < READ_BYTES / sizeof(float); i++) memory[i] = (float)(i % 97) * 0.01f;
    for (size_t i = 0; i < (size_t)MAX_ROWS * 4096; i++) x[i] = (float)(i % 89) * 0.01f;
    b.plain = memory;
    b.weights = memory;
    b.x = x;
    b.y = device_alloc(b.dev, sizeof(float) * MAX_ROWS * 4096, "y");
    b.flush = device_alloc(b.dev, FLUSH_BYTES, "flush");
    b.gflops = peak_gflops(n_threads);
    b.gbs = peak_gbs(n_threads, memory);
    fprintf(stderr, "%d threads: %.0f GFLOP/s, %.1f GB/s\n", n_threads, b.gflops, b.gbs);

    printf("case,us,gflops,gbs,percent,us_openblas,ratio,commit,device\n");
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 6; j++)
            for (enum dtype t = DTYPE_F32; t <= DTYPE_BF16; t++)
                run_case(&b, t, shapes[i][0], shapes[i][1], rows[j]);
    stream_close(b.stream);
    device_free(b.dev, b.flush);
    device_free(b.dev, b.y);
    device_free(b.dev, x);
    device_free(b.dev, memory);
    device_close(b.dev);
    return 0;
}
