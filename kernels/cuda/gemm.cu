/* gemm: y = x W^T + bias (+ y) (ops.h), and the order of weights.  The kernel is gemm.cuh's.
 *
 *   x  [n][ldx] T      y  [n][ldy] T or float      bias  [n_out] float */
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/ops.cuh"

#include <stdlib.h>

/* y (+)= sum + bias; Y is T or float. */
template <class Y> struct store_rows {
    Y *y;
    const float *bias;
    int n_out, ldy;
    bool add;

    struct shared {};

    template <int N>
    __device__ __forceinline__ void take(struct shared *, float (&sum)[N][4], int tile, int row0,
                                         int n_rows) const
    {
        const int out0 = gemm_out(tile);
        Y *to = y + (size_t)(row0 + gemm_row(0, 0)) * ldy + out0;
        const auto is_there = [=, this](int j, int e) {
            return gemm_row(j, e) < n_rows && out0 + e / 2 * 8 < n_out;
        };
        const auto place = [=, this](int j, int e) {
            return (size_t)(8 * j + e % 2) * ldy + e / 2 * 8;
        };
        float b[2] = {};
        for (int i = 0; i < 2; i++)
            if (bias != NULL && out0 + 8 * i < n_out) b[i] = bias[out0 + 8 * i];
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                sum[j][e] += b[e / 2];
                if (add && is_there(j, e)) sum[j][e] += to_float(to[place(j, e)]);
            }
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (is_there(j, e)) from_float(&to[place(j, e)], sum[j][e]);
    }
};

template <class T, class Y> static void launch_store(struct stream *s, const struct gemm_args *a)
{
    const struct store_rows<Y> epilogue = {
        (Y *)a->y, a->bias, a->w->n_out, a->ldy, a->add
    };
    launch_gemm<T>(s, a->w, a->x, a->ldx, a->n, a->max, epilogue);
}

template <class T> void cuda_gemm(struct stream *s, const struct gemm_args *a)
{
    REQUIRE(a->ldy >= a->w->n_out);
    if (a->y_is_float)
        launch_store<T, float>(s, a);
    else
        launch_store<T, T>(s, a);
}

/* ---- weights -----------------------------------------------------------------------------------
 */

/* out: units of w [n_out][n_in], which is of type t; a block writes a row of GEMM_OUT rows' tile.
 */
template <class T>
static __global__ void pack_kernel(T *out, const void *w, enum dtype t, int n_out, int n_in)
{
    const int o = blockIdx.x, r = o % GEMM_OUT, n_k = (n_in + GEMM_K - 1) / GEMM_K;
    grid_wait();
    for (int i = threadIdx.x; i < n_k * GEMM_K; i += ROW_THREADS) {
        const size_t from = (size_t)o * n_in + i;
        float x = 0;
        if (o < n_out && i < n_in) {
            if (t == DTYPE_F32) x = ((const float *)w)[from];
            if (t == DTYPE_F16) x = to_float(((const f16 *)w)[from]);
            if (t == DTYPE_BF16) x = to_float(((const bf16 *)w)[from]);
        }
        const size_t unit = (size_t)(o / GEMM_OUT) * n_k + i / GEMM_K;
        const int c = i % GEMM_K / 8 ^ r % 8;
        from_float(&out[unit * UNIT + r * GEMM_K + c * 8 + i % 8], x);
    }
}

template <class T>
struct packed *cuda_pack(struct device *dev, const void *w, enum dtype t, int n_out, int n_in)
{
    REQUIRE(n_out > 0 && n_in > 0);
    struct packed *p = (struct packed *)calloc(1, sizeof(*p));
    REQUIRE(p != NULL);
    const size_t bytes = (size_t)n_out * n_in * dtype_size(t);
    const int n_tiles = ceil_div(n_out, GEMM_OUT), n_units = n_tiles * ceil_div(n_in, GEMM_K);
    p->n_out = n_out;
    p->n_in = n_in;
    p->w = dev->type->alloc(dev, (size_t)n_units * UNIT * sizeof(T), "weights");
    void *staged = dev->type->alloc(dev, bytes, "a weight as it is in the file");
    dev->type->write(dev, staged, w, bytes);
    struct cuda_stream loading = {};
    loading.dev = (const struct cuda_device *)dev;
    loading.stream = loading.dev->loading;
    launch(&loading.base, pack_kernel<T>, n_tiles * GEMM_OUT, ROW_THREADS, 0, (T *)p->w,
           (const void *)staged, t, n_out, n_in);
    CUDA_CHECK(cudaStreamSynchronize(loading.stream));
    dev->type->free(dev, staged);
    return p;
}

void cuda_packed_free(struct device *dev, struct packed *w)
{
    if (w == NULL) return;
    dev->type->free(dev, w->w);
    free(w);
}

FOR_BOTH_TYPES(cuda_gemm, gemm_args)
template struct packed *cuda_pack<f16>(struct device *, const void *, enum dtype, int, int);
template struct packed *cuda_pack<bf16>(struct device *, const void *, enum dtype, int, int);
