/* out = silu(gate) * up, where silu(x) = x / (1 + e^-x).
 *
 *   in  [n][2 width] T, gate first      out  [n][width] T
 *
 *   grid  (max rows, width / CHUNK)     block  ROW_THREADS
 *
 * Bound by memory. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/ops.cuh"

constexpr int SILU_CHUNK = 4 * ROW_THREADS; /* elements of a block: a few rows still fill the GPU */

template <class T>
static __global__ void silu_mul_kernel(const __grid_constant__ struct silu_mul_args a)
{
    grid_wait();
    const int r = blockIdx.x, first = blockIdx.y * SILU_CHUNK;
    if (r >= n_rows(a.n, a.max)) return;
    const T *gate = (const T *)a.in + (size_t)r * 2 * a.width, *up = gate + a.width;
    T *out = (T *)a.out + (size_t)r * a.width;
    const int end = min(first + SILU_CHUNK, a.width);
    for (int i = first + threadIdx.x; i < end; i += ROW_THREADS) {
        float x = to_float(gate[i]);
        from_float(&out[i], x / (1 + expf(-x)) * to_float(up[i]));
    }
}

template <class T> void cuda_silu_mul(struct stream *s, const struct silu_mul_args *a)
{
    const dim3 grid(a->max, ceil_div(a->width, SILU_CHUNK));
    launch(s, silu_mul_kernel<T>, grid, ROW_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_silu_mul, silu_mul_args)
