/* out = silu(gate) * up, where silu(x) = x / (1 + e^-x).
 *
 *   in  [n][2 width] T, gate first      out  [n][width] T
 *
 *   grid  (n, width / 8 / ROW_THREADS)     block  ROW_THREADS, eight elements a thread
 *
 * Bound by memory. */
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/ops.cuh"

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    silu_mul_kernel(const __grid_constant__ struct silu_mul_args a)
{
    grid_wait();
    const int r = blockIdx.x, i = eight_of_thread(), n = a.width - i;
    if (n <= 0) return;
    const T *in = (const T *)a.in + (size_t)r * 2 * a.width + i;
    const struct eight<T> gate = load_eight(in, n), up = load_eight(in + a.width, n);
    float x[8], y[8];
    widen(x, gate);
    widen(y, up);
#pragma unroll
    for (int j = 0; j < 8; j++) y[j] *= x[j] / (1 + expf(-x[j]));
    store_eight((T *)a.out + (size_t)r * a.width + i, narrow<T>(y), n);
}

template <class T> void cuda_silu_mul(struct stream *s, const struct silu_mul_args *a)
{
    launch(s, silu_mul_kernel<T>, grid_of_eights(a->n, a->width), ROW_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_silu_mul, silu_mul_args)
