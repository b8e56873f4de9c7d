/* Kernels with a planted bug each, and the same kernels without: what the emulator must catch
 * (emulator_test.c). */
#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "test/emu/planted.h"
}

enum { N = 128 };

/* out[i] = i of the next thread, by way of shared memory. */
static __global__ void neighbour_kernel(int32_t *out, bool has_barrier)
{
    int32_t *shared = (int32_t *)shared_memory();
    grid_wait();
    shared[threadIdx.x] = (int32_t)threadIdx.x;
    if (has_barrier) __syncthreads();
    out[threadIdx.x] = shared[(threadIdx.x + 1) % N];
}

/* out[i] = i of the lane beside, by way of shared memory. */
static __global__ void exchange_kernel(int32_t *out, bool has_syncwarp)
{
    int32_t *shared = (int32_t *)shared_memory();
    grid_wait();
    shared[threadIdx.x] = (int32_t)threadIdx.x;
    if (has_syncwarp) __syncwarp();
    out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

/* The next thread's number a second time, in the place of the first. */
static __global__ void reuse_kernel(int32_t *out, bool has_barrier)
{
    int32_t *shared = (int32_t *)shared_memory();
    const int next = (threadIdx.x + 1) % N;
    grid_wait();
    shared[threadIdx.x] = 0;
    __syncthreads();
    const int zero = shared[next];
    if (has_barrier) __syncthreads();
    shared[threadIdx.x] = (int32_t)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = shared[next] + zero;
}

/* out[i] = i; all threads write one number to one place, or one does. */
static __global__ void agree_kernel(int32_t *out, bool is_one)
{
    int32_t *shared = (int32_t *)shared_memory();
    grid_wait();
    if (threadIdx.x == 0 || !is_one) shared[0] = N;
    __syncthreads();
    out[threadIdx.x] = shared[0] - N + (int32_t)threadIdx.x;
}

/* out[i] = i; the threads count themselves. */
static __global__ void count_kernel(int32_t *out, bool has_barrier)
{
    int32_t *shared = (int32_t *)shared_memory();
    grid_wait();
    if (threadIdx.x == 0) shared[0] = 0;
    __syncthreads();
    atomicAdd(&shared[0], 1);
    if (has_barrier) __syncthreads();
    out[threadIdx.x] = (int32_t)threadIdx.x + (shared[0] > N ? 1 : 0);
}

/* out = in; each thread copies what another one reads. */
static __global__ void fetch_kernel(int32_t *out, const int32_t *in, bool has_barrier)
{
    int32_t *shared = (int32_t *)shared_memory();
    grid_wait();
    copy_async(shared + 4 * threadIdx.x, in + 4 * threadIdx.x, 16);
    copy_commit();
    copy_wait<0>();
    if (has_barrier) __syncthreads();
    for (int i = 0; i < 4; i++) {
        const int at = i * (int)blockDim.x + (int)threadIdx.x;
        out[at] = shared[at];
    }
}

/* out[i] = i; the lanes load matrices that they have written. */
static __global__ void matrix_kernel(int32_t *out, bool has_syncwarp)
{
    int32_t *shared = (int32_t *)shared_memory();
    uint32_t r[4];
    grid_wait();
    for (int i = 0; i < 4; i++) shared[32 * i + threadIdx.x] = 32 * i + (int32_t)threadIdx.x;
    if (has_syncwarp) __syncwarp();
    load_matrices(r, shared + 4 * threadIdx.x);
    for (int i = 0; i < 4; i++) out[32 * i + threadIdx.x] = (int32_t)r[i];
}

/* out = in, by way of a copy into shared memory. */
static __global__ void copy_kernel(int32_t *out, const int32_t *in, bool has_wait)
{
    int32_t *shared = (int32_t *)shared_memory() + 4 * threadIdx.x;
    grid_wait();
    copy_async(shared, in + 4 * threadIdx.x, 16);
    copy_commit();
    if (has_wait) copy_wait<0>();
    for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = shared[i];
    copy_wait<0>();
}

/* out[i] = i behind `distance` more values, in shared or global memory. */
static __global__ void write_kernel(int32_t *out, int distance, bool is_shared)
{
    int32_t *to = is_shared ? (int32_t *)shared_memory() : out;
    grid_wait();
    to[threadIdx.x + distance] = (int32_t)threadIdx.x;
}

/* out[lane] = sum over the lanes that are named by mask. */
static __global__ void vote_kernel(int32_t *out, uint32_t mask)
{
    grid_wait();
    if (threadIdx.x < 16) out[threadIdx.x] = __popc(__ballot_sync(mask, 1));
}

static __global__ void diverging_kernel(int32_t *out)
{
    grid_wait();
    if (threadIdx.x < N / 2)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = (int32_t)threadIdx.x;
}

/* out[i] = in[i] + 1; reads before or behind the wait for the kernel that writes in. */
static __global__ void add_one_kernel(int32_t *out, const int32_t *in, bool waits_first)
{
    int32_t early = waits_first ? 0 : in[threadIdx.x];
    grid_wait();
    out[threadIdx.x] = 1 + (waits_first ? in[threadIdx.x] : early);
}

/* out[i] = i, or the turn of block i. */
static __global__ void turn_kernel(int32_t *out, int32_t *turn, bool is_ordered)
{
    grid_wait();
    if (threadIdx.x == 0) out[blockIdx.x] = is_ordered ? (int32_t)blockIdx.x : atomicAdd(turn, 1);
}

/* workspace[i] = i and out = workspace, each if it is asked for. */
static __global__ void workspace_kernel(int32_t *out, int32_t *workspace, bool writes, bool reads)
{
    grid_wait();
    if (writes) workspace[threadIdx.x] = (int32_t)threadIdx.x;
    if (reads) out[threadIdx.x] = workspace[threadIdx.x];
}

static __global__ void ticket_kernel(int32_t *ticket, bool gives_back)
{
    grid_wait();
    *ticket += 1;
    if (gives_back) *ticket = 0;
}

static __global__ void impatient_kernel(int32_t *out)
{
    out[threadIdx.x] = (int32_t)threadIdx.x;
}

void planted_neighbour(struct stream *s, int32_t *out, bool has_barrier)
{
    launch(s, neighbour_kernel, 1, N, N * sizeof(int32_t), out, has_barrier);
}

void planted_exchange(struct stream *s, int32_t *out, bool has_syncwarp)
{
    launch(s, exchange_kernel, 1, N, N * sizeof(int32_t), out, has_syncwarp);
}

void planted_reuse(struct stream *s, int32_t *out, bool has_barrier)
{
    launch(s, reuse_kernel, 1, N, N * sizeof(int32_t), out, has_barrier);
}

void planted_agreement(struct stream *s, int32_t *out, bool is_one)
{
    launch(s, agree_kernel, 1, N, sizeof(int32_t), out, is_one);
}

void planted_count(struct stream *s, int32_t *out, bool has_barrier)
{
    launch(s, count_kernel, 1, N, sizeof(int32_t), out, has_barrier);
}

void planted_fetch(struct stream *s, int32_t *out, const int32_t *in, bool has_barrier)
{
    launch(s, fetch_kernel, 1, N / 4, N * sizeof(int32_t), out, in, has_barrier);
}

void planted_matrix(struct stream *s, int32_t *out, bool has_syncwarp)
{
    launch(s, matrix_kernel, 1, 32, N * sizeof(int32_t), out, has_syncwarp);
}

void planted_copy(struct stream *s, int32_t *out, const int32_t *in, bool has_wait)
{
    launch(s, copy_kernel, 1, N / 4, N * sizeof(int32_t), out, in, has_wait);
}

void planted_write(struct stream *s, int32_t *out, int distance, bool is_shared)
{
    launch(s, write_kernel, 1, N, (N + 1) * sizeof(int32_t), out, distance, is_shared);
}

void planted_vote(struct stream *s, int32_t *out, uint32_t mask)
{
    launch(s, vote_kernel, 1, 32, 0, out, mask);
}

void planted_divergence(struct stream *s, int32_t *out)
{
    launch(s, diverging_kernel, 1, N, 0, out);
}

void planted_chain(struct stream *s, int32_t *out, int n, bool waits_first)
{
    for (int i = 0; i < n; i++)
        launch(s, add_one_kernel, 1, N, 0, out + (i + 1) * N, (const int32_t *)out + i * N,
               waits_first);
}

void planted_impatience(struct stream *s, int32_t *out)
{
    launch(s, impatient_kernel, 1, N, 0, out);
}

void planted_turns(struct stream *s, int32_t *out, int32_t *turn, bool is_ordered)
{
    launch(s, turn_kernel, N, 32, 0, out, turn, is_ordered);
}

void planted_workspace(struct stream *s, int32_t *out, bool is_one_kernel)
{
    int32_t *workspace = (int32_t *)cuda_stream_of(s)->workspace;
    if (!is_one_kernel) launch(s, workspace_kernel, 1, N, 0, out, workspace, true, false);
    launch(s, workspace_kernel, 1, N, 0, out, workspace, is_one_kernel, true);
}

void planted_ticket(struct stream *s, bool gives_back)
{
    launch(s, ticket_kernel, 1, 1, 0, cuda_stream_of(s)->tickets, gives_back);
}
