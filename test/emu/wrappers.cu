/* See wrappers.h. */
#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "test/emu/wrappers.h"
}

enum { TILE = 64, N_STAGES = 4, STAGE_WORDS = WRAPPERS_IN_WORDS / N_STAGES };

/* Any number from another one. */
static __device__ uint32_t mix(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* A whole number from -4 to 4. */
template <class T> static __device__ T small(uint32_t seed)
{
    T value;
    from_float(&value, (float)(int)(mix(seed) % 9) - 4);
    return value;
}

template <class T> static __device__ uint32_t small_pair(uint32_t seed)
{
    return small<T>(2 * seed).bits | (uint32_t)small<T>(2 * seed + 1).bits << 16;
}

static __device__ uint32_t bits_of(float x)
{
    return x == x ? __float_as_uint(x) : 0;
}

static __device__ int global_thread(void)
{
    return (int)(blockIdx.x * blockDim.x + threadIdx.x);
}

/* ---- types ------------------------------------------------------------------------------------
 */

template <class T> static __global__ void to_float_kernel(uint32_t *out)
{
    grid_wait();
    const int i = global_thread();
    out[i] = bits_of(to_float(T{(uint16_t)i}));
}

/* All upper halves of a float's bits, with lower ones around the middles between two values. */
template <class T> static __global__ void from_float_kernel(uint32_t *out)
{
    const uint32_t low[8] = {0, 0x8000, 0x7fff, 0x8001, 0x1000, 0x1001, 0x0fff, 0x3000};
    grid_wait();
    const uint32_t i = (uint32_t)global_thread();
    const float x = __uint_as_float(i << 16 | low[mix(i) % 8]);
    T value;
    from_float(&value, x);
    out[i] = x == x ? value.bits : 0;
}

/* ---- copies -----------------------------------------------------------------------------------
 */

static __global__ void copies_kernel(const uint32_t *in, uint32_t *out)
{
    uint32_t *shared = (uint32_t *)shared_memory();
    const int lane = (int)threadIdx.x;
    grid_wait();
    for (int group = 0; group < 2; group++) {
        const int at = 4 * (32 * group + lane);
        copy_async(shared + at, in + at, (lane + 5 * group) % 17);
        copy_commit();
    }
    copy_wait<1>();
    for (int i = 4 * lane; i < 4 * lane + 4; i++) out[i] = shared[i];
    copy_wait<0>();
    for (int i = 128 + 4 * lane; i < 128 + 4 * lane + 4; i++) out[i] = shared[i];
}

static __global__ void bulk_kernel(const uint32_t *in, uint32_t *out)
{
    uint32_t *shared = (uint32_t *)shared_memory();
    struct copy_barrier *barriers = (struct copy_barrier *)(shared + 2 * STAGE_WORDS);
    grid_wait();
    if (threadIdx.x < 2) copy_barrier_init(&barriers[threadIdx.x]);
    __syncthreads();
    for (int stage = 0; stage < N_STAGES; stage++) {
        uint32_t *place = shared + stage % 2 * STAGE_WORDS;
        if (threadIdx.x < 32)
            copy_bulk(place, in + stage * STAGE_WORDS, STAGE_WORDS * 4, &barriers[stage % 2]);
        copy_commit();
        copy_wait<0>();
        copy_bulk_wait(&barriers[stage % 2], stage / 2 % 2);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < STAGE_WORDS; i += (int)blockDim.x)
            out[stage * STAGE_WORDS + i] = place[i];
        __syncthreads();
    }
}

/* ---- matrices ---------------------------------------------------------------------------------
 */

static __global__ void matrices_kernel(uint32_t *out)
{
    uint32_t *shared = (uint32_t *)shared_memory();
    const uint32_t lane = threadIdx.x;
    grid_wait();
    for (uint32_t i = lane; i < 128; i += 32) shared[i] = mix(i);
    __syncwarp();
    uint32_t r[4];
    load_matrices(r, shared + 4 * (lane * 13 % 32));
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = r[i];
    load_matrices_transposed(r, shared + 4 * (lane * 13 % 32));
    for (int i = 0; i < 4; i++) out[128 + lane * 4 + i] = r[i];
}

template <class T> static __global__ void products_kernel(uint32_t *out)
{
    const uint32_t lane = threadIdx.x;
    float d[4];
    grid_wait();
    for (uint32_t i = 0; i < 4; i++) d[i] = (float)(lane * 4 + i);
    for (uint32_t step = 0; step < 2; step++) {
        uint32_t a[4];
        for (uint32_t i = 0; i < 4; i++) a[i] = small_pair<T>(1000 * step + lane * 4 + i);
        const uint32_t b0 = small_pair<T>(1000 * step + 200 + lane * 2),
                       b1 = small_pair<T>(1000 * step + 201 + lane * 2);
        multiply_add(d, a, b0, b1, T());
        for (uint32_t i = 0; i < 4; i++) out[step * 128 + lane * 4 + i] = bits_of(d[i]);
    }
}

template <class T, int N> static __global__ void __launch_bounds__(128) tiles_kernel(uint32_t *out)
{
    T *a = (T *)shared_memory(), *b = a + TILE * TILE;
    float d[N / 8][4];
    grid_wait();
    for (uint32_t i = threadIdx.x; i < (TILE + N) * TILE; i += blockDim.x) a[i] = small<T>(i);
    tiles_written();
    __syncthreads();
    for (int round = 0; round < 2; round++) {
        tiles_multiply<N>(d, a, b, N, round > 0);
        tiles_wait(d);
        for (int i = 0; i < N / 2; i++)
            out[(round * 128 + (int)threadIdx.x) * (N / 2) + i] = bits_of(d[i / 4][i % 4]);
    }
}

/* ---- threads ----------------------------------------------------------------------------------
 */

static __global__ void warps_kernel(uint32_t *out)
{
    const uint32_t i = threadIdx.x, lane = i % 32, x = mix(i);
    const uint64_t wide = (uint64_t)mix(x) << 32 | x;
    uint32_t *to = out + i * 16;
    grid_wait();
    to[0] = __shfl_sync(~0u, x, (int)(x % 32));
    to[1] = __shfl_xor_sync(~0u, x, 5);
    to[2] = __shfl_up_sync(~0u, x, 3);
    to[3] = (uint32_t)(__shfl_xor_sync(~0u, wide, 16) >> 32);
    to[4] = __float_as_uint(__shfl_sync(~0u, (float)(int)lane, 7));
    to[5] = __ballot_sync(~0u, (x & 4) != 0);
    to[6] = lane < 16 ? __ballot_sync(0xffff, (x & 1) != 0) : 0;
    to[7] = (uint32_t)__syncthreads_count((x & 2) != 0);
    to[8] = (uint32_t)__popc(x);
    to[9] = (uint32_t)__popcll(wide);
    to[10] = (uint32_t)__clz((int)(x >> lane));
    to[11] = (uint32_t)__ffsll((long long)(wide >> lane << lane));
    to[12] = __float_as_uint(__fmul_rn(1 + 0x1p-12f * (float)i, 1 + 0x1p-12f) - 1); /* not fused */
    to[13] = (uint32_t)min((int)x, (int)mix(x));
    to[14] = (uint32_t)max((int)x, (int)mix(x));
    to[15] = blockDim.x + gridDim.x;
}

/* out[0..7] in global memory, through shared memory [8..15]; all 0 before. */
static __global__ void atomics_kernel(uint32_t *out)
{
    int32_t *shared = (int32_t *)shared_memory();
    const int i = global_thread();
    grid_wait();
    if (threadIdx.x < 4) shared[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t old = atomicAdd(&out[0], 1u);
    atomicAdd(&out[1], old); /* 0 + 1 + ... */
    atomicOr(&out[2], 1u << i % 32);
    atomicMax((int32_t *)&out[3], (int32_t)(mix((uint32_t)i) & 0xffff));
    atomicAdd(&shared[0], i);
    atomicOr((uint32_t *)&shared[1], 1u << i % 20);
    atomicMax(&shared[2], i);
    __syncthreads();
    if (threadIdx.x < 3) atomicAdd(&out[8 + threadIdx.x], (uint32_t)shared[threadIdx.x]);
}

static __global__ void chain_kernel(uint32_t *out)
{
    const uint32_t i = threadIdx.x;
    grid_wait();
    const uint32_t beside = out[(i + 1) % blockDim.x];
    __syncthreads();
    out[i] = mix(out[i] ^ beside) + i;
}

static __global__ void exp2_kernel(const float *x, float *y, int n)
{
    const int i = global_thread();
    grid_wait();
    if (i < n) y[i] = exp2_fast(x[i]);
}

static __global__ void clock_kernel(uint64_t *out)
{
    grid_wait();
    out[0] = clock_ns();
    __threadfence();
    out[1] = clock_ns();
}

/* ---- launches ---------------------------------------------------------------------------------
 */

#define TYPED(kernel, grid, threads, bytes)                                                        \
    do {                                                                                           \
        (void)in;                                                                                  \
        if (is_f16)                                                                                \
            launch(s, kernel<f16>, grid, threads, bytes, out);                                     \
        else                                                                                       \
            launch(s, kernel<bf16>, grid, threads, bytes, out);                                    \
    } while (0)

template <class T> constexpr auto tiles_64 = tiles_kernel<T, 64>;
template <class T> constexpr auto tiles_128 = tiles_kernel<T, 128>;

void wrappers_to_float(struct stream *s, const uint32_t *in, uint32_t *out, bool is_f16)
{
    TYPED(to_float_kernel, WRAPPERS_N_VALUES / 256, 256, 0);
}

void wrappers_from_float(struct stream *s, const uint32_t *in, uint32_t *out, bool is_f16)
{
    TYPED(from_float_kernel, WRAPPERS_N_VALUES / 256, 256, 0);
}

void wrappers_copies(struct stream *s, const uint32_t *in, uint32_t *out, bool)
{
    launch(s, copies_kernel, 1, 32, 1024, in, out);
}

void wrappers_bulk(struct stream *s, const uint32_t *in, uint32_t *out, bool)
{
    launch(s, bulk_kernel, 1, 128, 2 * STAGE_WORDS * 4 + 2 * sizeof(struct copy_barrier), in, out);
}

void wrappers_matrices(struct stream *s, const uint32_t *, uint32_t *out, bool)
{
    launch(s, matrices_kernel, 1, 32, 512, out);
}

void wrappers_products(struct stream *s, const uint32_t *in, uint32_t *out, bool is_f16)
{
    TYPED(products_kernel, 1, 32, 0);
}

void wrappers_tiles_64(struct stream *s, const uint32_t *in, uint32_t *out, bool is_f16)
{
    TYPED(tiles_64, 1, 128, (TILE + 64) * TILE * 2);
}

void wrappers_tiles_128(struct stream *s, const uint32_t *in, uint32_t *out, bool is_f16)
{
    TYPED(tiles_128, 1, 128, (TILE + 128) * TILE * 2);
}

void wrappers_warps(struct stream *s, const uint32_t *, uint32_t *out, bool)
{
    launch(s, warps_kernel, 1, 64, 0, out);
}

void wrappers_atomics(struct stream *s, const uint32_t *, uint32_t *out, bool)
{
    launch(s, atomics_kernel, 4, 96, 64, out);
}

void wrappers_chain(struct stream *s, const uint32_t *, uint32_t *out, bool)
{
    for (int i = 0; i < WRAPPERS_N_CHAINED; i++) launch(s, chain_kernel, 1, 128, 0, out);
}

void wrappers_exp2(struct stream *s, const float *x, float *y, int n)
{
    launch(s, exp2_kernel, ceil_div(n, 256), 256, 0, x, y, n);
}

void wrappers_clock(struct stream *s, uint64_t *out)
{
    launch(s, clock_kernel, 1, 1, 0, out);
}
