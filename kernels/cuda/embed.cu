/* Operations that only move rows: embeddings, gathered rows, rows of the vector pool, patches of a
 * picture, positions.
 *
 *   grid  max rows      block  ROW_THREADS; thread t takes elements t, t + ROW_THREADS, ...
 *
 * Bound by memory. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/load.cuh"
#include "kernels/cuda/ops.cuh"

template <class T> static __global__ void embed_kernel(const __grid_constant__ struct embed_args a)
{
    grid_wait();
    const int r = blockIdx.x;
    if (r >= n_rows(a.n, a.max)) return;
    const int32_t id = a.id[r];
    T *out = (T *)a.out + (size_t)r * a.ld;
    for (int i = threadIdx.x; i < a.width; i += ROW_THREADS)
        from_float(&out[i], embedding(a.table, a.table_type, a.pool, id, a.width, i));
}

template <class T>
static __global__ void gather_rows_kernel(const __grid_constant__ struct gather_rows_args a)
{
    grid_wait();
    const int r = blockIdx.x;
    if (r >= n_rows(a.n, a.max)) return;
    DEVICE_REQUIRE(a.row[r] >= 0);
    const T *in = (const T *)a.in + (size_t)a.row[r] * a.width;
    T *out = (T *)a.out + (size_t)r * a.width;
    for (int i = threadIdx.x; i < a.width; i += ROW_THREADS) out[i] = in[i];
}

template <class T>
static __global__ void to_float_kernel(const __grid_constant__ struct to_float_args a)
{
    grid_wait();
    const size_t row = (size_t)blockIdx.x * a.width;
    for (int i = threadIdx.x; i < a.width; i += ROW_THREADS)
        a.dst[row + i] = to_float(((const T *)a.src)[row + i]);
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
static __global__ void add_positions_kernel(const __grid_constant__ struct add_positions_args a)
{
    grid_wait();
    const int first = a.cls != NULL ? 1 : 0, r = blockIdx.x;
    const size_t to = (size_t)r * a.width, from = (size_t)(r - first) * a.width;
    for (int i = threadIdx.x; i < a.width; i += ROW_THREADS) {
        float x = r < first ? a.cls[i] : to_float(((const T *)a.patches)[from + i]);
        from_float(&((T *)a.out)[to + i], x + a.pos[to + i]);
    }
}

template <class T> void cuda_embed(struct stream *s, const struct embed_args *a)
{
    REQUIRE(a->ld >= a->width);
    launch(s, embed_kernel<T>, a->max, ROW_THREADS, 0, *a);
}

template <class T> void cuda_gather_rows(struct stream *s, const struct gather_rows_args *a)
{
    launch(s, gather_rows_kernel<T>, a->max, ROW_THREADS, 0, *a);
}

template <class T> void cuda_to_float(struct stream *s, const struct to_float_args *a)
{
    launch(s, to_float_kernel<T>, a->n, ROW_THREADS, 0, *a);
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
    launch(s, add_positions_kernel<T>, n, ROW_THREADS, 0, *a);
}

FOR_BOTH_TYPES(cuda_embed, embed_args)
FOR_BOTH_TYPES(cuda_gather_rows, gather_rows_args)
FOR_BOTH_TYPES(cuda_to_float, to_float_args)
FOR_BOTH_TYPES(cuda_patches, patches_args)
FOR_BOTH_TYPES(cuda_add_positions, add_positions_args)
