/* y = act(x W^T + bias) (+ y), row-invariant: the bits of a row do not depend on the rows beside
 * it.
 *
 *   W  [n_out][ldw] T      x  [n][ldx] T      y  [n][ldy] T or float      bias  [n_out] float
 *
 * The weights are nearly all of the bytes of a small pass, so they stream through shared memory
 * once, by N_WORKERS persistent blocks that share the work evenly whatever the shape:
 *
 *   unit    64 columns of k of a tile of GEMM_OUT outputs, for all rows of a row tile
 *   worker  a run of units, tile by tile along k; first and last tile may be cut
 *
 * Whoever computes a part of a cut tile leaves its sums in the workspace, and the worker that comes
 * last adds them in order.  How units are shared depends on the shape of W alone.
 *
 *   grid    (workers, row tiles)      block  2 warpgroups of 64 outputs
 *   shared  a ring of STAGES units: W [128][64], x [row tile][64] of T, in the swizzle of tiles
 *   sums    in registers, and in the workspace [worker][first or last tile] as the threads hold
 * them
 *
 * The weights do not depend on the kernel before, so the first of them are on their way before
 * grid_wait.  Two blocks of up to 64 rows fit an SM: this kernel's and the next product's.
 *
 * Bound by memory up to about 180 rows, by the matrix units above. */
#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ops.cuh"

#include <stdlib.h>

constexpr int GEMM_OUT = 128, GEMM_K = 64, GEMM_THREADS = 256;
constexpr int STAGES = 4;      /* 48 KB of weights on their way in an SM */
constexpr int N_WORKERS = 132; /* SMs of a Hopper; a constant, since the cut of k must be the same
                                * everywhere */
constexpr int MIN_UNITS = 4;   /* of a worker: less would not fill the ring */
constexpr int FEW_ROWS = 64, MANY_ROWS = 256; /* row tiles; which, the host chooses by capacity */

struct packed {
    int n_out, n_in, ld; /* ld: rows start on 16 bytes */
    void *w;             /* [n_out][ld] of the device's type, zeros behind n_in */
};

struct gemm_problem {
    const void *w, *x;
    const float *bias;
    void *y;
    const int32_t *n;
    float *workspace; /* [row tile][worker][2][row tile][GEMM_OUT] */
    int32_t *tickets; /* [row tile][tile] */
    int max, n_out, n_in, ldw, ldx, ldy;
    int n_k, n_units; /* units of a tile, of all tiles */
    enum activation activation;
    bool add, y_is_float;
};

template <class T, int ROWS> struct alignas(1024) gemm_shared {
    T w[STAGES][GEMM_OUT * GEMM_K], x[STAGES][ROWS * GEMM_K];
    int is_last;
};

/* Begins to copy columns k .. k + 63 of n_rows <= ROWS rows; what lies behind n_in becomes 0.  Rows
 * that do not start on 16 bytes are copied by the thread itself. */
template <int ROWS, class T>
__device__ __forceinline__ void gemm_load(T *tile, const T *from, size_t ld, int n_rows, int k,
                                          int n_in)
{
    const int c = threadIdx.x % 8, left = n_in - k - 8 * c;
#pragma unroll
    for (int r = threadIdx.x / 8; r < ROWS; r += GEMM_THREADS / 8) {
        if (r >= n_rows) break;
        const T *src = from + r * ld + k + 8 * c;
        T *dst = tile + r * GEMM_K + (c ^ r % 8) * 8;
        if (left <= 0 || (size_t)src % 16 == 0) {
            copy_async(dst, left > 0 ? src : from, left > 0 ? 2 * min(left, 8) : 0);
        } else {
            const T zero = {0};
            for (int j = 0; j < 8; j++) dst[j] = j < left ? src[j] : zero;
        }
    }
}

template <class T>
__device__ __forceinline__ void gemm_load_w(T *tile, const struct gemm_problem *p, int unit)
{
    const int out0 = unit / p->n_k * GEMM_OUT;
    gemm_load<GEMM_OUT>(tile, (const T *)p->w + (size_t)out0 * p->ldw, p->ldw, p->n_out - out0,
                        unit % p->n_k * GEMM_K, p->n_in);
}

/* The last step, for output `out` of row r. */
template <class T>
__device__ __forceinline__ void gemm_finish(const struct gemm_problem *p, int r, int out, float sum)
{
    const size_t at = (size_t)r * p->ldy + out;
    if (p->bias != NULL) sum += p->bias[out];
    sum = activate(sum, p->activation);
    if (p->y_is_float) {
        float *y = (float *)p->y + at;
        *y = p->add ? sum + *y : sum;
    } else {
        T *y = (T *)p->y + at;
        from_float(y, p->add ? sum + to_float(*y) : sum);
    }
}

/* First unit of a worker; and the worker of a unit. */
__device__ __forceinline__ int first_unit(const struct gemm_problem *p, int worker)
{
    return (int)((long long)worker * p->n_units / gridDim.x);
}
__device__ __forceinline__ int worker_of(const struct gemm_problem *p, int unit)
{
    return (int)(((unit + 1ll) * gridDim.x - 1) / p->n_units);
}

/* Where a worker leaves the sums of a tile, this thread's first; the others follow at a distance of
 * GEMM_THREADS. */
template <int ROWS>
__device__ __forceinline__ float *partial_of(const struct gemm_problem *p, int worker, int tile)
{
    const bool is_behind_first = tile != first_unit(p, worker) / p->n_k;
    const size_t place = ((size_t)blockIdx.y * gridDim.x + worker) * 2 + is_behind_first;
    return p->workspace + place * (ROWS * GEMM_OUT) + threadIdx.x;
}

/* Leaves this worker's sums of a cut tile; whether it came last, and so has to add them all. */
template <int ROWS, int N>
__device__ __forceinline__ bool gemm_leave(const struct gemm_problem *p,
                                           const float (&sum)[ROWS / N][N / 8][4], int *is_last,
                                           int tile, int n_parts, int n_tile)
{
    float *to = partial_of<ROWS>(p, blockIdx.x, tile);
#pragma unroll
    for (int j = 0; j < ROWS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (8 * j < n_tile)
                to[(size_t)(4 * j + e) * GEMM_THREADS] = sum[j / (N / 8)][j % (N / 8)][e];
    int32_t *ticket = &p->tickets[blockIdx.y * (p->n_units / p->n_k) + tile];
    return is_last_block(ticket, n_parts, is_last);
}

/* Sums of a tile, or of this worker's part of it, to y. */
template <class T, int ROWS, int N>
__device__ __forceinline__ void gemm_write(const struct gemm_problem *p,
                                           const float (&sum)[ROWS / N][N / 8][4], int *is_last,
                                           int tile, int row0, int n_tile)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = worker_of(p, tile * p->n_k), end = worker_of(p, (tile + 1) * p->n_k - 1) + 1;
    if (end - first > 1 && !gemm_leave<ROWS, N>(p, sum, is_last, tile, end - first, n_tile)) return;
#pragma unroll
    for (int j = 0; j < ROWS / 8; j++) {
        if (8 * j >= n_tile) break;
        float value[4] = {};
        if (end - first == 1)
            for (int e = 0; e < 4; e++) value[e] = sum[j / (N / 8)][j % (N / 8)][e];
        else
#pragma unroll 4
            for (int worker = first; worker < end; worker++) {
                const float *part = partial_of<ROWS>(p, worker, tile) + 4 * j * GEMM_THREADS;
#pragma unroll
                for (int e = 0; e < 4; e++) value[e] += part[e * GEMM_THREADS];
            }
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = 8 * j + 2 * (lane % 4) + e % 2;
            const int out = tile * GEMM_OUT + 16 * warp + lane / 4 + e / 2 * 8;
            if (r < n_tile && out < p->n_out) gemm_finish<T>(p, row0 + r, out, value[e]);
        }
    }
}

/* This worker's units, for up to ROWS rows.  The weights of the first n_early units are on their
 * way. */
template <class T, int ROWS>
__device__ __forceinline__ void gemm_work(const struct gemm_problem *p,
                                          struct gemm_shared<T, ROWS> *shared, int row0, int n_tile,
                                          int n_early)
{
    constexpr int N = ROWS < 128 ? ROWS : 128;
    const int first = first_unit(p, blockIdx.x), end = first_unit(p, blockIdx.x + 1);
    const int warpgroup = threadIdx.x / 128;
    const T *x = (const T *)p->x + (size_t)row0 * p->ldx;
    float sum[ROWS / N][N / 8][4];
    for (int i = 0; i < STAGES - 1; i++) {
        if (first + i < end) {
            if (i >= n_early) gemm_load_w(shared->w[i], p, first + i);
            gemm_load<ROWS>(shared->x[i], x, p->ldx, n_tile, (first + i) % p->n_k * GEMM_K,
                            p->n_in);
        }
        copy_commit();
    }
    for (int unit = first; unit < end; unit++) {
        const int stage = (unit - first) % STAGES, ahead = unit + STAGES - 1;
        copy_wait<STAGES - 2>();
        tiles_written();
        __syncthreads(); /* the unit is here, and nobody reads the one before any more */
#pragma unroll
        for (int i = 0; i < ROWS / N; i++)
            if (i * N < n_tile)
                tiles_multiply<N>(sum[i], shared->w[stage] + warpgroup * 64 * GEMM_K,
                                  shared->x[stage] + i * N * GEMM_K, n_tile - i * N,
                                  unit > first && unit % p->n_k > 0);
        if (ahead < end) {
            const int to = (ahead - first) % STAGES;
            gemm_load_w(shared->w[to], p, ahead);
            gemm_load<ROWS>(shared->x[to], x, p->ldx, n_tile, ahead % p->n_k * GEMM_K, p->n_in);
        }
        copy_commit();
#pragma unroll
        for (int i = 0; i < ROWS / N; i++) tiles_wait(sum[i]);
        if (unit + 1 == end || (unit + 1) % p->n_k == 0)
            gemm_write<T, ROWS, N>(p, sum, &shared->is_last, unit / p->n_k, row0, n_tile);
    }
}

template <class T, int ROWS>
static __global__ void __launch_bounds__(GEMM_THREADS, ROWS == FEW_ROWS ? 2 : 1)
    gemm_kernel(const __grid_constant__ struct gemm_problem p)
{
    struct gemm_shared<T, ROWS> *shared = (struct gemm_shared<T, ROWS> *)shared_memory();
    const int row0 = blockIdx.y * ROWS, first = first_unit(&p, blockIdx.x);
    /* Later row tiles may be empty. */
    const int n_early = row0 == 0 ? min(STAGES - 1, first_unit(&p, blockIdx.x + 1) - first) : 0;
    for (int i = 0; i < n_early; i++) gemm_load_w(shared->w[i], &p, first + i);
    grid_wait();
    const int n_tile = min(ROWS, n_rows(p.n, p.max) - row0);
    if (n_tile > 0) gemm_work<T, ROWS>(&p, shared, row0, n_tile, n_early);
    copy_commit();
    copy_wait<0>(); /* of an empty tile */
}

template <class T, int ROWS>
static void launch_gemm_rows(struct stream *s, const struct gemm_problem *p)
{
    const int n_workers = min(N_WORKERS, max(1, p->n_units / MIN_UNITS));
    const dim3 grid(n_workers, ceil_div(p->max, ROWS));
    REQUIRE((size_t)grid.y * (p->n_units / p->n_k) <= N_TICKETS);
    REQUIRE((size_t)grid.x * grid.y * 2 * ROWS * GEMM_OUT <= WORKSPACE_FLOATS);
    launch(s, gemm_kernel<T, ROWS>, grid, GEMM_THREADS, sizeof(struct gemm_shared<T, ROWS>), *p);
}

template <class T> static void launch_gemm(struct stream *s, struct gemm_problem *p)
{
    const struct cuda_stream *stream = cuda_stream_of(s);
    REQUIRE(p->n_out > 0 && p->n_in > 0 && p->ldx >= p->n_in && p->ldy >= p->n_out);
    p->workspace = stream->workspace;
    p->tickets = stream->tickets;
    p->n_k = ceil_div(p->n_in, GEMM_K);
    p->n_units = p->n_k * ceil_div(p->n_out, GEMM_OUT);
    if (p->max <= FEW_ROWS)
        launch_gemm_rows<T, FEW_ROWS>(s, p);
    else
        launch_gemm_rows<T, MANY_ROWS>(s, p);
}

template <class T> void cuda_gemm(struct stream *s, const struct gemm_args *a)
{
    struct gemm_problem p = {};
    p.w = a->w->w;
    p.ldw = a->w->ld;
    p.n_out = a->w->n_out;
    p.n_in = a->w->n_in;
    p.bias = a->bias;
    p.x = a->x;
    p.y = a->y;
    p.n = a->n;
    p.max = a->max;
    p.ldx = a->ldx;
    p.ldy = a->ldy;
    p.activation = a->activation;
    p.add = a->add;
    p.y_is_float = a->y_is_float;
    launch_gemm<T>(s, &p);
}

/* ---- weights -----------------------------------------------------------------------------------
 */

/* out [n_out][ld] T = w [n_out][n_in] of type t, zeros behind n_in. */
template <class T>
static __global__ void pack_kernel(T *out, const void *w, enum dtype t, int n_in, int ld)
{
    grid_wait();
    const size_t from = (size_t)blockIdx.x * n_in, to = (size_t)blockIdx.x * ld;
    for (int i = threadIdx.x; i < ld; i += ROW_THREADS) {
        float x = 0;
        if (i < n_in && t == DTYPE_F32) x = ((const float *)w)[from + i];
        if (i < n_in && t == DTYPE_F16) x = to_float(((const f16 *)w)[from + i]);
        if (i < n_in && t == DTYPE_BF16) x = to_float(((const bf16 *)w)[from + i]);
        from_float(&out[to + i], x);
    }
}

template <class T>
struct packed *cuda_pack(struct device *dev, const void *w, enum dtype t, int n_out, int n_in)
{
    REQUIRE(n_out > 0 && n_in > 0);
    struct packed *p = (struct packed *)calloc(1, sizeof(*p));
    REQUIRE(p != NULL);
    const size_t bytes = (size_t)n_out * n_in * (t == DTYPE_F32 ? 4 : 2);
    p->n_out = n_out;
    p->n_in = n_in;
    p->ld = ceil_div(n_in, 8) * 8;
    p->w = dev->type->alloc(dev, (size_t)n_out * p->ld * sizeof(T), "weights");
    void *staged = dev->type->alloc(dev, bytes, "a weight as it is in the file");
    dev->type->write(dev, staged, w, bytes);
    struct cuda_stream loading = {};
    loading.dev = (const struct cuda_device *)dev;
    loading.stream = loading.dev->loading;
    launch(&loading.base, pack_kernel<T>, n_out, ROW_THREADS, 0, (T *)p->w, (const void *)staged, t,
           n_in, p->ld);
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
