/* x W^T and what an epilogue makes of it, row-invariant: the bits of a row do not depend on the
 * rows beside it.
 *
 *   W  packed      x  [n][ldx] T
 *
 * The weights are nearly all of the bytes of a small pass, so they stream through shared memory
 * once, by N_WORKERS persistent blocks that share the work evenly whatever the shape:
 *
 *   unit    64 columns of k of a tile of 128 outputs, for all rows of a row tile.  W lies in memory
 *           unit after unit, each [128][64] as the matrix unit wants it: one bulk copy of 16 KB
 *   worker  a run of units, tile by tile along k: a contiguous piece of W; first and last tile may
 *           be cut
 *
 * Whoever computes a part of a cut tile leaves its sums in the workspace, and the worker that comes
 * last adds them in order.  How units are shared depends on the shape of W alone.
 *
 *   grid    (workers, row tiles)      block  2 warpgroups of 64 outputs
 *   shared  a ring of STAGES units: W [128][64], x [row tile][64] of T, in the swizzle of tiles
 *   sums    in registers, and in the workspace [worker][first or last tile] as threads hold them
 *
 * An epilogue is a struct with
 *
 *   struct shared  what it needs of shared memory
 *   template <int N>
 *   void take(struct shared *shared, float (&sum)[N][4], int tile, int row0, int n_rows) const
 *
 * the latter of which all threads of the block that has a tile's last part call for each 8 N rows:
 * sum[j][e] belongs to row row0 + gemm_row(j, e) and output gemm_out(tile) + 8 (e / 2), or in a
 * matrix of pairs to pair gemm_pair(tile), its first output for e < 2; rows from n_rows on and
 * outputs from n_out on are not there, their sums are anything.
 *
 * The weights do not depend on the kernel before, so the first of them are on their way before
 * grid_wait.
 *
 * Bound by memory up to about 180 rows, by the matrix units above. */
#ifndef KERNELS_CUDA_GEMM_CUH
#define KERNELS_CUDA_GEMM_CUH

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/cuda.cuh"

constexpr int N_WORKERS = 132; /* SMs of a Hopper; a constant, since the cut of k must be the same
                                * everywhere */
constexpr int GEMM_OUT = 128, GEMM_K = 64, GEMM_THREADS = 256;
constexpr int UNIT = GEMM_OUT * GEMM_K;       /* elements */
constexpr int MIN_UNITS = 4;                  /* of a worker: less would not fill the ring */
constexpr int FEW_ROWS = 64, MANY_ROWS = 256; /* row tiles; which, the host chooses by capacity */

struct packed {
    int n_out, n_in, pair;
    /* [tile][unit of k][128][64] of the device's type; zeros behind n_out and n_in.  Pairs lie by
     * eights: eight first outputs, then their second ones, so that a thread has the sums of both.
     */
    void *w;
};

struct gemm_problem {
    const void *w, *x;
    const int32_t *n;
    float *workspace; /* [row tile][worker][2][row tile][GEMM_OUT] */
    int32_t *tickets; /* [row tile][tile] */
    int max, n_in, ldx;
    int n_k, n_units; /* units of a tile, of all tiles */
    bool x_is_aligned;
};

/* As many as an A100's 163 KB hold beside an epilogue; two units of many rows on their way are more
 * than the memory's latency asks for. */
template <int ROWS> constexpr int STAGES = ROWS == FEW_ROWS ? 6 : 3;
/* Of rows that an epilogue takes at once: more would not fit beside the sums of many rows. */
template <int ROWS> constexpr int EIGHTS = ROWS == FEW_ROWS ? 8 : 4;

template <class T, int ROWS, class Epilogue> struct alignas(1024) gemm_shared {
    T w[STAGES<ROWS>][UNIT], x[STAGES<ROWS>][ROWS * GEMM_K];
    struct copy_barrier arrived[STAGES<ROWS>]; /* of w */
    typename Epilogue::shared epilogue;
    int is_last;
};

/* A worker's place in its run of units. */
struct gemm_place {
    int unit, tile, k, stage, parity; /* k: unit of its tile; place in the ring, and which round */
};

__device__ __forceinline__ void gemm_next(struct gemm_place *at, int n_k, int n_stages)
{
    at->unit++;
    if (++at->k == n_k) {
        at->k = 0;
        at->tile++;
    }
    if (++at->stage < n_stages) return;
    at->stage = 0;
    at->parity ^= 1;
}

/* The first warp begins to copy a unit of W. */
template <class T, int ROWS, class Epilogue>
__device__ __forceinline__ void gemm_load_w(struct gemm_shared<T, ROWS, Epilogue> *shared,
                                            const struct gemm_problem *p,
                                            const struct gemm_place *at)
{
    if (threadIdx.x < 32)
        copy_bulk(shared->w[at->stage], (const T *)p->w + (size_t)at->unit * UNIT, UNIT * sizeof(T),
                  &shared->arrived[at->stage]);
}

/* Begins to copy the unit's columns of n_rows rows of x; what lies behind n_in becomes 0.  Rows
 * that do not start on 16 bytes are copied by the thread itself. */
template <class T, int ROWS, class Epilogue>
__device__ __forceinline__ void gemm_load_x(struct gemm_shared<T, ROWS, Epilogue> *shared,
                                            const struct gemm_problem *p,
                                            const struct gemm_place *at, const T *x, int n_rows)
{
    constexpr int STEP = GEMM_THREADS / 8;
    const int c = threadIdx.x % 8, first = threadIdx.x / 8, k = at->k * GEMM_K + 8 * c;
    const int n = max(0, min(8, p->n_in - k));
    const T *from = n > 0 ? x + (size_t)first * p->ldx + k : x;
    T *to = shared->x[at->stage] + first * GEMM_K + (c ^ first % 8) * 8;
    if (p->x_is_aligned) {
#pragma unroll
        for (int i = 0; i < ROWS / STEP; i++)
            if (first + i * STEP < n_rows)
                copy_async(to + i * STEP * GEMM_K, from + (size_t)i * STEP * p->ldx, 2 * n);
        return;
    }
    const T zero = {0};
    for (int i = 0; first + i * STEP < n_rows; i++)
        for (int j = 0; j < 8; j++)
            to[i * STEP * GEMM_K + j] = j < n ? from[(size_t)i * STEP * p->ldx + j] : zero;
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

/* Of what a thread holds of a tile: its first output, the other lies 8 behind; of a matrix of pairs
 * the pair; and the row of a sum, from the epilogue's first on. */
__device__ __forceinline__ int gemm_out(int tile)
{
    return tile * GEMM_OUT + (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
}
__device__ __forceinline__ int gemm_pair(int tile)
{
    return tile * (GEMM_OUT / 2) + (int)threadIdx.x / 32 * 8 + (int)threadIdx.x % 32 / 4;
}
__device__ __forceinline__ int gemm_row(int j, int e)
{
    return 8 * j + 2 * ((int)threadIdx.x % 4) + e % 2;
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

/* total, of eights of rows from j0 on: this worker's sums, or those of all workers in order.  All
 * loads of a round come before the first use, or each would wait for the one before. */
template <int ROWS, int N>
__device__ __forceinline__ void
gemm_gather(const struct gemm_problem *p, const float (&sum)[ROWS / N][N / 8][4],
            float (&total)[EIGHTS<ROWS>][4], int tile, int first, int end, int j0, int n_tile)
{
    if (end - first == 1) {
#pragma unroll
        for (int j = 0; j < EIGHTS<ROWS>; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                total[j][e] = sum[(j0 + j) / (N / 8)][(j0 + j) % (N / 8)][e];
        return;
    }
    for (int worker = first; worker < end; worker++) {
        const float *part = partial_of<ROWS>(p, worker, tile) + (size_t)4 * j0 * GEMM_THREADS;
#pragma unroll
        for (int j = 0; j < EIGHTS<ROWS>; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (8 * (j0 + j) < n_tile) total[j][e] += part[(4 * j + e) * GEMM_THREADS];
    }
}

/* Sums of a tile, or of this worker's part of it, to the epilogue. */
template <int N, class T, int ROWS, class Epilogue>
__device__ __forceinline__ void gemm_finish(const struct gemm_problem *p, const Epilogue &epilogue,
                                            struct gemm_shared<T, ROWS, Epilogue> *shared,
                                            const float (&sum)[ROWS / N][N / 8][4], int tile,
                                            int row0, int n_tile)
{
    const int first = worker_of(p, tile * p->n_k), end = worker_of(p, (tile + 1) * p->n_k - 1) + 1;
    if (end - first > 1 &&
        !gemm_leave<ROWS, N>(p, sum, &shared->is_last, tile, end - first, n_tile))
        return;
#pragma unroll
    for (int j0 = 0; j0 < ROWS / 8; j0 += EIGHTS<ROWS>) {
        if (8 * j0 >= n_tile) break;
        float total[EIGHTS<ROWS>][4] = {};
        gemm_gather<ROWS, N>(p, sum, total, tile, first, end, j0, n_tile);
        epilogue.take(&shared->epilogue, total, tile, row0 + 8 * j0, n_tile - 8 * j0);
    }
}

/* This worker's units up to `end`, for up to ROWS rows.  The weights of the first n_early units are
 * on their way. */
template <class T, int ROWS, class Epilogue>
__device__ __forceinline__ void gemm_work(const struct gemm_problem *p, const Epilogue &epilogue,
                                          struct gemm_shared<T, ROWS, Epilogue> *shared,
                                          struct gemm_place at, int end, int row0, int n_tile,
                                          int n_early)
{
    constexpr int N = ROWS < 128 ? ROWS : 128;
    const int first = at.unit, warpgroup = threadIdx.x / 128;
    const T *x = (const T *)p->x + (size_t)row0 * p->ldx;
    struct gemm_place ahead = at;
    float sum[ROWS / N][N / 8][4];
    for (int i = 0; i < STAGES<ROWS> - 1; i++) {
        if (ahead.unit < end) {
            if (i >= n_early) gemm_load_w(shared, p, &ahead);
            gemm_load_x(shared, p, &ahead, x, n_tile);
            gemm_next(&ahead, p->n_k, STAGES<ROWS>);
        }
        copy_commit();
    }
    while (at.unit < end) {
        const int tile = at.tile;
        copy_bulk_wait(&shared->arrived[at.stage], at.parity);
        copy_wait<STAGES<ROWS> - 2>();
        tiles_written();
        __syncthreads(); /* the unit is here, and nobody reads the one before any more */
#pragma unroll
        for (int i = 0; i < ROWS / N; i++)
            if (i * N < n_tile)
                tiles_multiply<N>(sum[i], shared->w[at.stage] + warpgroup * 64 * GEMM_K,
                                  shared->x[at.stage] + i * N * GEMM_K, n_tile - i * N,
                                  at.unit > first && at.k > 0);
        if (ahead.unit < end) {
            gemm_load_w(shared, p, &ahead);
            gemm_load_x(shared, p, &ahead, x, n_tile);
            gemm_next(&ahead, p->n_k, STAGES<ROWS>);
        }
        copy_commit();
#pragma unroll
        for (int i = 0; i < ROWS / N; i++) tiles_wait(sum[i]);
        gemm_next(&at, p->n_k, STAGES<ROWS>);
        if (at.unit == end || at.k == 0)
            gemm_finish<N>(p, epilogue, shared, sum, tile, row0, n_tile);
    }
}

template <class T, int ROWS, class Epilogue>
static __global__ void __launch_bounds__(GEMM_THREADS, 1) /* an SM has shared memory for one */
    gemm_kernel(const __grid_constant__ struct gemm_problem p,
                const __grid_constant__ Epilogue epilogue)
{
    struct gemm_shared<T, ROWS, Epilogue> *shared =
        (struct gemm_shared<T, ROWS, Epilogue> *)shared_memory();
    const int row0 = blockIdx.y * ROWS, first = first_unit(&p, blockIdx.x),
              end = first_unit(&p, blockIdx.x + 1);
    const struct gemm_place begin = {first, first / p.n_k, first % p.n_k, 0, 0};
    if (threadIdx.x == 0)
        for (int i = 0; i < STAGES<ROWS>; i++) copy_barrier_init(&shared->arrived[i]);
    __syncthreads();
    /* Later row tiles may be empty. */
    const int n_early = row0 == 0 ? min(STAGES<ROWS> - 1, end - first) : 0;
    struct gemm_place at = begin;
    for (int i = 0; i < n_early; i++, gemm_next(&at, p.n_k, STAGES<ROWS>))
        gemm_load_w(shared, &p, &at);
    grid_wait();
    const int n_tile = min(ROWS, n_rows(p.n, p.max) - row0);
    if (n_tile > 0)
        gemm_work<T, ROWS>(&p, epilogue, shared, begin, end, row0, n_tile, n_early);
    else /* a block may not end before what it has begun to copy */
        for (int i = 0; i < n_early; i++) copy_bulk_wait(&shared->arrived[i], 0);
    copy_commit();
    copy_wait<0>();
}

static_assert(MAX_GEMM_ROWS % MANY_ROWS == 0 &&
                  N_WORKERS * 2 * MAX_GEMM_ROWS * GEMM_OUT <= WORKSPACE_FLOATS &&
                  MAX_GEMM_ROWS / MANY_ROWS * (MAX_N_OUT / GEMM_OUT) <= N_TICKETS,
              "a problem fits the workspace");

template <class T, int ROWS, class Epilogue>
static void launch_gemm_rows(struct stream *s, const struct gemm_problem *p,
                             const Epilogue &epilogue)
{
    const int n_workers = min(N_WORKERS, max(1, p->n_units / MIN_UNITS));
    const dim3 grid(n_workers, ceil_div(p->max, ROWS));
    static_assert(sizeof(struct gemm_shared<T, ROWS, Epilogue>) <= 163 << 10);
    launch(s, gemm_kernel<T, ROWS, Epilogue>, grid, GEMM_THREADS,
           sizeof(struct gemm_shared<T, ROWS, Epilogue>), *p, epilogue);
}

/* Queues x W^T for *n (NULL: max) rows. */
template <class T, class Epilogue>
static void launch_gemm(struct stream *s, const struct packed *w, const void *x, int ldx,
                        const int32_t *n, int max, const Epilogue &epilogue)
{
    const struct cuda_stream *stream = cuda_stream_of(s);
    REQUIRE(ldx >= w->n_in && max <= MAX_GEMM_ROWS);
    struct gemm_problem p = {};
    p.w = w->w;
    p.n_in = w->n_in;
    p.n_k = ceil_div(p.n_in, GEMM_K);
    p.n_units = p.n_k * ceil_div(w->n_out, GEMM_OUT);
    p.x = x;
    p.x_is_aligned = ldx % 8 == 0 && (size_t)x % 16 == 0;
    p.n = n;
    p.max = max;
    p.ldx = ldx;
    p.workspace = stream->workspace;
    p.tickets = stream->tickets;
    if (max <= FEW_ROWS)
        launch_gemm_rows<T, FEW_ROWS>(s, &p, epilogue);
    else
        launch_gemm_rows<T, MANY_ROWS>(s, &p, epilogue);
}

#endif
