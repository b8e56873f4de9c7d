/* y = act(x W^T + bias) (+ y), row-invariant: the bits of a row do not depend on the rows beside
 * it.
 *
 *   W  [n_out][ldw] T      x  [n][ldx] T      y  [n][ldy] T or float      bias  [n_out] float
 *
 * For few rows, where the weights are nearly all of the bytes: they stream through shared memory
 * once, as the MMA's 16 rows, and the rows of x are its 8 columns.  A block computes GEMM_OUT
 * outputs of up to GEMM_ROWS rows over one part of k:
 *
 *   grid  (n_out / GEMM_OUT, parts of k, max rows / GEMM_ROWS)      block  4 warps of 16 outputs
 *   shared  a ring of STAGES tiles: W [64][64], x [64][64] of T, swizzled chunks of 16 bytes
 *
 * How k is cut depends on the shape of W alone.  More than one part: each leaves its sums in the
 * workspace, and the block that comes last adds them in order.  The weights do not depend on the
 * kernel before, so the first of them are on their way before grid_wait.
 *
 * Bound by memory up to about 180 rows.  Above GEMM_ROWS rows W is read once for each 64 rows. */
#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/ops.cuh"

#include <stdlib.h>

constexpr int GEMM_OUT = 64, GEMM_ROWS = 64, GEMM_K = 64, GEMM_THREADS = 128;
constexpr int STAGES = 4;     /* 24 KB of weights on their way in each of 3 blocks an SM */
constexpr int N_WANTED = 264; /* blocks that fill a GPU of 132 SMs; a constant, since the cut of k
                               * must be the same everywhere */
constexpr int MIN_PART = 4;   /* tiles of k in a part: less would not fill the ring */
constexpr int OUT_LD = GEMM_OUT + 4; /* floats: rows of the results in other banks */

struct packed {
    int n_out, n_in, ld; /* ld: rows start on 16 bytes */
    void *w;             /* [n_out][ld] of the device's type, zeros behind n_in */
};

struct gemm_problem {
    const void *w, *x;
    const float *bias;
    void *y;
    const int32_t *n;
    float *workspace; /* [part][row][n_out] */
    int32_t *tickets; /* [row tile][out tile] */
    int max, n_out, n_in, ldw, ldx, ldy, n_parts, part_tiles;
    enum activation activation;
    bool add, y_is_float;
};

template <class T> struct gemm_shared {
    T w[STAGES][GEMM_OUT * GEMM_K], x[STAGES][GEMM_ROWS * GEMM_K];
};

struct gemm_results {
    float sum[GEMM_ROWS][OUT_LD];
    int is_last;
};

template <class T> __device__ __forceinline__ T *gemm_chunk(T *tile, int r, int c)
{
    return tile + r * GEMM_K + (c ^ r % 8) * 8;
}

/* Begins to copy columns k .. k + 63 of n_rows rows; what lies behind n_in becomes 0.  Rows that do
 * not start on 16 bytes are copied by the thread itself. */
template <class T>
__device__ __forceinline__ void gemm_load(T *tile, const T *from, size_t ld, int n_rows, int k,
                                          int n_in)
{
    for (int i = threadIdx.x; i < GEMM_ROWS * (GEMM_K / 8); i += GEMM_THREADS) {
        const int r = i / (GEMM_K / 8), c = i % (GEMM_K / 8), left = n_in - k - 8 * c;
        if (r >= n_rows) break;
        const T *src = from + r * ld + k + 8 * c;
        T *dst = gemm_chunk(tile, r, c);
        if (left <= 0 || (size_t)src % 16 == 0) {
            copy_async(dst, left > 0 ? src : from, left > 0 ? 2 * min(left, 8) : 0);
        } else {
            const T zero = {0};
            for (int j = 0; j < 8; j++) dst[j] = j < left ? src[j] : zero;
        }
    }
}

/* One tile of k: 16 outputs of this warp, n_groups groups of eight rows. */
template <class T>
__device__ __forceinline__ void gemm_step(float (&sum)[GEMM_ROWS / 8][4], T *w, T *x, int n_groups)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < GEMM_K / 16; i++) {
        uint32_t a[4];
        load_matrices(a, gemm_chunk(w, warp * 16 + lane % 16, 2 * i + lane / 16));
#pragma unroll
        for (int j = 0; j < GEMM_ROWS / 8; j += 2) {
            if (j >= n_groups) break;
            uint32_t b[4];
            load_matrices(b, gemm_chunk(x, j * 8 + lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
            multiply_add(sum[j], a, b[0], b[1], T());
            multiply_add(sum[j + 1], a, b[2], b[3], T());
        }
    }
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

/* Whether this block is the last of the parts of its tile; all threads. */
__device__ static bool is_last_part(const struct gemm_problem *p, struct gemm_results *results)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int32_t *ticket = &p->tickets[blockIdx.z * gridDim.x + blockIdx.x];
        results->is_last = atomicAdd(ticket, 1) == p->n_parts - 1;
        if (results->is_last) *ticket = 0;
    }
    __syncthreads();
    __threadfence();
    return results->is_last != 0;
}

/* Results in shared memory to y, or by way of the workspace. */
template <class T>
__device__ static void gemm_write(const struct gemm_problem *p, struct gemm_results *results,
                                  int row0, int n_tile)
{
    const int out0 = blockIdx.x * GEMM_OUT, n_values = n_tile * GEMM_OUT;
    for (int i = threadIdx.x; i < n_values; i += GEMM_THREADS) {
        const int r = i / GEMM_OUT, j = i % GEMM_OUT;
        if (out0 + j >= p->n_out) continue;
        if (p->n_parts == 1)
            gemm_finish<T>(p, row0 + r, out0 + j, results->sum[r][j]);
        else
            p->workspace[((size_t)blockIdx.y * p->max + row0 + r) * p->n_out + out0 + j] =
                results->sum[r][j];
    }
    if (p->n_parts == 1 || !is_last_part(p, results)) return;
    for (int i = threadIdx.x; i < n_values; i += GEMM_THREADS) {
        const int r = row0 + i / GEMM_OUT, out = out0 + i % GEMM_OUT;
        if (out >= p->n_out) continue;
        float sum = 0;
        for (int part = 0; part < p->n_parts; part++)
            sum += p->workspace[((size_t)part * p->max + r) * p->n_out + out];
        gemm_finish<T>(p, r, out, sum);
    }
}

template <class T>
static __global__ void __launch_bounds__(GEMM_THREADS, 3)
    gemm_kernel(const __grid_constant__ struct gemm_problem p)
{
    struct gemm_shared<T> *shared = (struct gemm_shared<T> *)shared_memory();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int out0 = blockIdx.x * GEMM_OUT, row0 = blockIdx.z * GEMM_ROWS;
    const int k0 = blockIdx.y * p.part_tiles * GEMM_K,
              k_end = min(k0 + p.part_tiles * GEMM_K, p.n_in);
    const int n_tiles = (k_end - k0 + GEMM_K - 1) / GEMM_K, n_outs = min(GEMM_OUT, p.n_out - out0);
    const T *w = (const T *)p.w + (size_t)out0 * p.ldw, *x = (const T *)p.x + (size_t)row0 * p.ldx;
    for (int i = 0; i < STAGES - 1 && i < n_tiles; i++)
        gemm_load(shared->w[i], w, p.ldw, n_outs, k0 + i * GEMM_K, p.n_in);
    grid_wait();
    const int n_tile = min(GEMM_ROWS, n_rows(p.n, p.max) - row0);
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < n_tiles) gemm_load(shared->x[i], x, p.ldx, n_tile, k0 + i * GEMM_K, p.n_in);
        copy_commit();
    }
    float sum[GEMM_ROWS / 8][4] = {};
    for (int i = 0; i < n_tiles; i++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); /* tile i is here, and nobody reads tile i - 1 any more */
        const int ahead = i + STAGES - 1;
        if (ahead < n_tiles) {
            gemm_load(shared->w[ahead % STAGES], w, p.ldw, n_outs, k0 + ahead * GEMM_K, p.n_in);
            gemm_load(shared->x[ahead % STAGES], x, p.ldx, n_tile, k0 + ahead * GEMM_K, p.n_in);
        }
        copy_commit();
        gemm_step(sum, shared->w[i % STAGES], shared->x[i % STAGES], (n_tile + 7) / 8);
    }
    copy_wait<0>();
    if (n_tile <= 0) return;
    __syncthreads(); /* the ring becomes the results' place */
    struct gemm_results *results = (struct gemm_results *)shared;
#pragma unroll
    for (int j = 0; j < GEMM_ROWS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            results->sum[8 * j + 2 * (lane % 4) + e % 2][warp * 16 + lane / 4 + e / 2 * 8] =
                sum[j][e];
    __syncthreads();
    gemm_write<T>(&p, results, row0, n_tile);
}

/* How k is cut: by the shape of W alone. */
static void cut_k(struct gemm_problem *p)
{
    const int n_tiles = ceil_div(p->n_in, GEMM_K), n_blocks = ceil_div(p->n_out, GEMM_OUT);
    int n_parts = min(ceil_div(N_WANTED, n_blocks), n_tiles / MIN_PART);
    p->part_tiles = ceil_div(n_tiles, max(n_parts, 1));
    p->n_parts = ceil_div(n_tiles, p->part_tiles);
}

template <class T> static void launch_gemm(struct stream *s, struct gemm_problem *p)
{
    const struct cuda_stream *stream = cuda_stream_of(s);
    REQUIRE(p->n_out > 0 && p->n_in > 0 && p->ldx >= p->n_in && p->ldy >= p->n_out);
    static_assert(sizeof(struct gemm_results) <= sizeof(struct gemm_shared<T>),
                  "reuse of the ring");
    p->workspace = stream->workspace;
    p->tickets = stream->tickets;
    const dim3 grid(ceil_div(p->n_out, GEMM_OUT), p->n_parts, ceil_div(p->max, GEMM_ROWS));
    REQUIRE((size_t)grid.x * grid.z <= N_TICKETS);
    REQUIRE(p->n_parts == 1 || (size_t)p->n_parts * p->max * p->n_out <= WORKSPACE_FLOATS);
    launch(s, gemm_kernel<T>, grid, GEMM_THREADS, sizeof(struct gemm_shared<T>), *p);
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
    cut_k(&p);
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
    CUDA_CHECK(cudaMemcpy(staged, w, bytes, cudaMemcpyHostToDevice));
    struct cuda_stream loading = {};
    loading.dev = (const struct cuda_device *)dev;
    CUDA_CHECK(cudaStreamCreateWithFlags(&loading.stream, cudaStreamNonBlocking));
    launch(&loading.base, pack_kernel<T>, n_out, ROW_THREADS, 0, (T *)p->w, (const void *)staged, t,
           n_in, p->ld);
    CUDA_CHECK(cudaStreamSynchronize(loading.stream));
    CUDA_CHECK(cudaStreamDestroy(loading.stream));
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
