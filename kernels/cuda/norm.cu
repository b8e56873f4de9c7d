/* RMSNorm  w x / sqrt(mean(x^2) + eps)      LayerNorm  w (x - mean) / sqrt(var + eps) + bias
 *
 *   x, out  [n][width] T      w, bias  [width] float
 *
 *   grid  max rows      block  ROW_THREADS; thread t takes elements t, t + ROW_THREADS, ...
 *
 * Bound by memory and, for the few rows of a round, by latency.  Elements are read again from the
 * first cache for each pass, so that a row of any width fits. */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/ops.cuh"

constexpr int NORM_SCRATCH = 2 * 32 * sizeof(float);

template <class T> static __global__ void rmsnorm_kernel(const __grid_constant__ struct norm_args a)
{
    grid_wait();
    if ((int)blockIdx.x >= n_rows(a.n, a.max)) return;
    const T *x = (const T *)a.x + (size_t)blockIdx.x * a.width;
    T *out = (T *)a.out + (size_t)blockIdx.x * a.width;
    float squares = 0;
    for (int i = threadIdx.x; i < a.width; i += ROW_THREADS)
        squares += to_float(x[i]) * to_float(x[i]);
    squares = block_sum(squares, (float *)shared_memory());
    const float scale = 1 / sqrtf(squares / (float)a.width + a.eps);
    for (int i = threadIdx.x; i < a.width; i += ROW_THREADS)
        from_float(&out[i], a.w[i] * (to_float(x[i]) * scale));
}

template <class T>
static __global__ void layernorm_kernel(const __grid_constant__ struct norm_args a)
{
    grid_wait();
    if ((int)blockIdx.x >= n_rows(a.n, a.max)) return;
    const T *x = (const T *)a.x + (size_t)blockIdx.x * a.width;
    T *out = (T *)a.out + (size_t)blockIdx.x * a.width;
    float *scratch = (float *)shared_memory(), sum = 0, squares = 0;
    for (int i = threadIdx.x; i < a.width; i += ROW_THREADS) sum += to_float(x[i]);
    const float mean = block_sum(sum, scratch) / (float)a.width;
    for (int i = threadIdx.x; i < a.width; i += ROW_THREADS) {
        float rest = to_float(x[i]) - mean;
        squares += rest * rest;
    }
    squares = block_sum(squares, scratch + 32);
    const float scale = 1 / sqrtf(squares / (float)a.width + a.eps);
    for (int i = threadIdx.x; i < a.width; i += ROW_THREADS)
        from_float(&out[i], (to_float(x[i]) - mean) * scale * a.w[i] + a.bias[i]);
}

template <class T> void cuda_rmsnorm(struct stream *s, const struct norm_args *a)
{
    REQUIRE(a->width > 0);
    launch(s, rmsnorm_kernel<T>, a->max, ROW_THREADS, NORM_SCRATCH, *a);
}

template <class T> void cuda_layernorm(struct stream *s, const struct norm_args *a)
{
    REQUIRE(a->width > 0 && a->bias != NULL);
    launch(s, layernorm_kernel<T>, a->max, ROW_THREADS, NORM_SCRATCH, *a);
}

FOR_BOTH_TYPES(cuda_rmsnorm, norm_args)
FOR_BOTH_TYPES(cuda_layernorm, norm_args)
