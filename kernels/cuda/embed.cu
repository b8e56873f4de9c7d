/* Operations that only move rows: embeddings, gathered rows, rows of the vector pool, patches of a
 * picture, positions.
 *
 *   grid  (max rows, width / 8 / ROW_THREADS)      block  ROW_THREADS, eight elements a thread
 *   patches: grid n, thread t takes elements t, t + ROW_THREADS, ...
 *
 * Bound by memory. */
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/ops.cuh"

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    embed_kernel(const __grid_constant__ struct embed_args a)
{
    grid_wait();
    const int r = blockIdx.x, i = eight_of_thread();
    if (r >= n_rows(a.n, a.max) || i >= a.width) return;
    float x[8];
    load_embedding(x, a.table, a.table_type, a.pool, a.id[r], a.width, i);
    store_eight((T *)a.out + (size_t)r * a.ld + i, narrow<T>(x), a.width - i);
}

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    gather_rows_kernel(const __grid_constant__ struct gather_rows_args a)
{
    grid_wait();
    const int r = blockIdx.x, i = eight_of_thread(), n = a.width - i;
    if (r >= n_rows(a.n, a.max) || n <= 0) return;
    DEVICE_REQUIRE(a.row[r] >= 0);
    const T *in = (const T *)a.in + (size_t)a.row[r] * a.width;
    store_eight((T *)a.out + (size_t)r * a.width + i, load_eight(in + i, n), n);
}

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    to_float_kernel(const __grid_constant__ struct to_float_args a)
{
    grid_wait();
    const int i = eight_of_thread(), n = a.width - i;
    if (n <= 0) return;
    const size_t at = (size_t)blockIdx.x * a.width + i;
    float x[8];
    widen(x, load_eight((const T *)a.src + at, n));
    store_eight(a.dst + at, narrow<float>(x), n);
}

template <class T>
static __global__ void patches_kernel(const __grid_constant__ struct patches_args a)
{
    grid_wait();
    const int p = a.patch, n_x = a.width / p, n = 3 * p * p;
    const int left = blockIdx.x % n_x * p, top = blockIdx.x / n_x * p;
    T *out = (T *)a.out + (size_t)blockIdx.x * n;
    for (int i = threadIdx.x; i < n; i += ROW_THREADS) {
        int channel = i / (p * p), y = top + i / p % p, x = left + i % p;
        from_float(&out[i], a.pixels[((size_t)channel * a.height + y) * a.width + x]);
    }
}

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    add_positions_kernel(const __grid_constant__ struct add_positions_args a)
{
    grid_wait();
    const int first = a.cls != NULL ? 1 : 0, r = blockIdx.x, i = eight_of_thread();
    const int n = a.width - i;
    if (n <= 0) return;
    const size_t to = (size_t)r * a.width + i;
    const struct eight<float> pos = load_eight(a.pos + to, n);
    float x[8];
    if (r < first)
        widen(x, load_eight(a.cls + i, n));
    else
        widen(x, load_eight((const T *)a.patches + to - (size_t)first * a.width, n));
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] += eight_get(pos, j);
    store_eight((T *)a.out + to, narrow<T>(x), n);
}

template <class T> void cuda_embed(struct stream *s, const struct embed_args *a)
{
    REQUIRE(a->ld >= a->width);
    launch(s, embed_kernel<T>, grid_of_eights(a->max, a->width), ROW_THREADS, 0, *a);
}

template <class T> void cuda_gather_rows(struct stream *s, const struct gather_rows_args *a)
{
    launch(s, gather_rows_kernel<T>, grid_of_eights(a->max, a->width), ROW_THREADS, 0, *a);
}

template <class T> void cuda_to_float(struct stream *s, const struct to_float_args *a)
{
    launch(s, to_float_kernel<T>, grid_of_eights(a->n, a->width), ROW_THREADS, 0, *a);
}

template <class T> void cuda_patches(struct stream *s, const struct patches_args *a)
{
    REQUIRE(a->patch > 0 && a->width % a->patch == 0 && a->height % a->patch == 0);
    const int n = (a->height / a->patch) * (a->width / a->patch);
    launch(s, patches_kernel<T>, n, ROW_THREADS, 0, *a);
}

template <class T> void cuda_add_positions(struct stream *s, const struct add_positions_args *a)
{
    const int n = a->n + (a->cls != NULL ? 1 : 0);
    launch(s, add_positions_kernel<T>, grid_of_eights(n, a->width), ROW_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_embed, embed_args)
FOR_BOTH_TYPES(cuda_gather_rows, gather_rows_args)
FOR_BOTH_TYPES(cuda_to_float, to_float_args)
FOR_BOTH_TYPES(cuda_patches, patches_args)
FOR_BOTH_TYPES(cuda_add_positions, add_positions_args)
