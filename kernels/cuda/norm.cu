/* RMSNorm  w x / sqrt(mean(x^2) + eps)      LayerNorm  w (x - mean) / sqrt(var + eps) + bias
 *
 *   x, out  [n][width] T      w, bias  [width] float
 *
 *   grid  max rows      block  a thread for 16 elements, two eights that are a block's width apart
 *
 * Bound by latency for the few rows of a round: a row is loaded once, and the weights, which no
 * kernel writes, while the kernel in front still runs. */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/ops.cuh"

constexpr int NORM_EIGHTS = 2, NORM_MAX_THREADS = 1024;
static_assert(MAX_WIDTH == NORM_MAX_THREADS * NORM_EIGHTS * 8, "a row fits a block");
constexpr int NORM_SCRATCH = 2 * 32 * sizeof(float);

/* First element of this thread's eight number e. */
__device__ __forceinline__ int norm_at(int e)
{
    return 8 * (int)(e * blockDim.x + threadIdx.x);
}

/* This thread's elements of a row, as they lie in memory; zeros behind width. */
template <class T>
__device__ __forceinline__ void norm_load(struct eight<T> (&x)[NORM_EIGHTS], const T *row,
                                          int width)
{
#pragma unroll
    for (int e = 0; e < NORM_EIGHTS; e++) x[e] = load_eight(row + norm_at(e), width - norm_at(e));
}

template <class T>
static __global__ void __launch_bounds__(NORM_MAX_THREADS)
    rmsnorm_kernel(const __grid_constant__ struct norm_args a)
{
    struct eight<float> w[NORM_EIGHTS];
    struct eight<T> row[NORM_EIGHTS];
    norm_load(w, a.w, a.width);
    grid_wait();
    if ((int)blockIdx.x >= n_rows(a.n, a.max)) return;
    norm_load(row, (const T *)a.x + (size_t)blockIdx.x * a.width, a.width);
    float x[NORM_EIGHTS][8], squares = 0;
#pragma unroll
    for (int e = 0; e < NORM_EIGHTS; e++) {
        widen(x[e], row[e]);
        for (int i = 0; i < 8; i++) squares += x[e][i] * x[e][i];
    }
    squares = block_sum(squares, (float *)shared_memory());
    const float scale = 1 / sqrtf(squares / (float)a.width + a.eps);
    T *out = (T *)a.out + (size_t)blockIdx.x * a.width;
#pragma unroll
    for (int e = 0; e < NORM_EIGHTS; e++) {
        for (int i = 0; i < 8; i++) x[e][i] = eight_get(w[e], i) * (x[e][i] * scale);
        store_eight(out + norm_at(e), narrow<T>(x[e]), a.width - norm_at(e));
    }
}

template <class T>
static __global__ void __launch_bounds__(NORM_MAX_THREADS)
    layernorm_kernel(const __grid_constant__ struct norm_args a)
{
    struct eight<T> row[NORM_EIGHTS];
    grid_wait();
    if ((int)blockIdx.x >= n_rows(a.n, a.max)) return;
    norm_load(row, (const T *)a.x + (size_t)blockIdx.x * a.width, a.width);
    float x[NORM_EIGHTS][8], *scratch = (float *)shared_memory(), sum = 0, squares = 0;
#pragma unroll
    for (int e = 0; e < NORM_EIGHTS; e++) {
        widen(x[e], row[e]);
        for (int i = 0; i < 8; i++) sum += x[e][i];
    }
    const float mean = block_sum(sum, scratch) / (float)a.width;
#pragma unroll
    for (int e = 0; e < NORM_EIGHTS; e++)
        for (int i = 0; i < 8; i++) {
            x[e][i] = norm_at(e) + i < a.width ? x[e][i] - mean : 0;
            squares += x[e][i] * x[e][i];
        }
    squares = block_sum(squares, scratch + 32);
    const float scale = 1 / sqrtf(squares / (float)a.width + a.eps);
    T *out = (T *)a.out + (size_t)blockIdx.x * a.width;
#pragma unroll
    for (int e = 0; e < NORM_EIGHTS; e++) {
        const int at = norm_at(e), n = a.width - at;
        const struct eight<float> w = load_eight(a.w + at, n), bias = load_eight(a.bias + at, n);
        for (int i = 0; i < 8; i++)
            x[e][i] = x[e][i] * scale * eight_get(w, i) + eight_get(bias, i);
        store_eight(out + at, narrow<T>(x[e]), n);
    }
}

static int norm_threads(int width)
{
    REQUIRE(width > 0 && width <= MAX_WIDTH);
    return ceil_div(width, 32 * NORM_EIGHTS * 8) * 32;
}

template <class T> void cuda_rmsnorm(struct stream *s, const struct norm_args *a)
{
    launch(s, rmsnorm_kernel<T>, a->max, norm_threads(a->width), NORM_SCRATCH, *a);
}

template <class T> void cuda_layernorm(struct stream *s, const struct norm_args *a)
{
    REQUIRE(a->bias != NULL);
    launch(s, layernorm_kernel<T>, a->max, norm_threads(a->width), NORM_SCRATCH, *a);
}

FOR_BOTH_TYPES(cuda_rmsnorm, norm_args)
FOR_BOTH_TYPES(cuda_layernorm, norm_args)
