/* The emulator's cuda_runtime.h: the part of CUDA's that kernels/cuda uses, under its names.
 *
 * Device code: dimensions, barriers, shuffles, votes, atomics.  Host code: the runtime's functions
 * (runtime.cpp).  A stream is a queue that runs when somebody waits for it, so that nothing is
 * computed before it must be; asking an event runs one piece of work. */
#ifndef TEST_EMU_CUDA_RUNTIME_H
#define TEST_EMU_CUDA_RUNTIME_H

#include "test/emu/emu.h"

#include <math.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __noinline__
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z)
    {
    }
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

#define threadIdx                 (emu_this->thread)
#define blockIdx                  (emu_this_block->index)
#define __syncthreads()           emu_barrier(__LINE__)
#define __syncthreads_count(vote) emu_barrier_count(__LINE__, (vote) != 0)
extern emu_dim gridDim,
    blockDim; /* of the block that runs; no macros, for a struct has such fields */

static inline int min(int a, int b)
{
    return a < b ? a : b;
}
static inline int max(int a, int b)
{
    return a > b ? a : b;
}

/* ---- operations of a warp ----------------------------------------------------------------------
 */

static inline __attribute__((always_inline)) void __syncwarp(uint32_t mask = ~0u)
{
    emu_meet(mask, EMU_SYNC, NULL, NULL);
}

struct emu_shuffle {
    uint64_t value, result;
    unsigned from;
};

static inline void emu_shuffle_all(emu_warp &warp)
{
    for (unsigned lane = 0; lane < 32; lane++) {
        if ((warp.expected >> lane & 1) == 0) continue;
        emu_shuffle *to = (emu_shuffle *)warp.slot[lane];
        if ((warp.expected >> to->from & 1) == 0)
            emu_die("a shuffle reads a lane outside its mask");
        to->result = ((emu_shuffle *)warp.slot[to->from])->value;
    }
}

template <class T>
static inline __attribute__((always_inline)) T emu_shuffle_value(uint32_t mask, T value,
                                                                 unsigned from)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves up to eight bytes");
    emu_shuffle s = {0, 0, from};
    memcpy(&s.value, &value, sizeof(value));
    emu_meet(mask, EMU_SHUFFLE, &s, emu_shuffle_all);
    memcpy(&value, &s.result, sizeof(value));
    return value;
}

template <class T>
static inline __attribute__((always_inline)) T __shfl_sync(uint32_t mask, T value, int from)
{
    return emu_shuffle_value(mask, value, (unsigned)from % 32);
}

template <class T>
static inline __attribute__((always_inline)) T __shfl_xor_sync(uint32_t mask, T value, int bits)
{
    return emu_shuffle_value(mask, value, emu_this->lane ^ (unsigned)bits);
}

template <class T>
static inline __attribute__((always_inline)) T __shfl_up_sync(uint32_t mask, T value,
                                                              unsigned distance)
{
    unsigned lane = emu_this->lane;
    return emu_shuffle_value(mask, value, lane >= distance ? lane - distance : lane);
}

struct emu_ballot {
    bool vote;
    uint32_t result;
};

static inline void emu_ballot_all(emu_warp &warp)
{
    uint32_t votes = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if ((warp.expected >> lane & 1) != 0 && ((emu_ballot *)warp.slot[lane])->vote)
            votes |= 1u << lane;
    for (unsigned lane = 0; lane < 32; lane++)
        if ((warp.expected >> lane & 1) != 0) ((emu_ballot *)warp.slot[lane])->result = votes;
}

static inline __attribute__((always_inline)) uint32_t __ballot_sync(uint32_t mask, int vote)
{
    emu_ballot b = {vote != 0, 0};
    emu_meet(mask, EMU_BALLOT, &b, emu_ballot_all);
    return b.result;
}

template <class T> struct emu_reduction {
    T value, result;
};

template <class T, bool IS_MAX> static inline void emu_reduce_all(emu_warp &warp)
{
    const int first = __builtin_ctz(warp.expected);
    T best = ((emu_reduction<T> *)warp.slot[first])->value;
    for (int lane = first; lane < 32; lane++) {
        if ((warp.expected >> lane & 1) == 0) continue;
        const T value = ((emu_reduction<T> *)warp.slot[lane])->value;
        if (IS_MAX ? value > best : value < best) best = value;
    }
    for (int lane = first; lane < 32; lane++)
        if ((warp.expected >> lane & 1) != 0) ((emu_reduction<T> *)warp.slot[lane])->result = best;
}

static inline __attribute__((always_inline)) uint32_t __reduce_max_sync(uint32_t mask,
                                                                        uint32_t value)
{
    emu_reduction<uint32_t> r = {value, 0};
    emu_meet(mask, EMU_REDUCE_MAX, &r, emu_reduce_all<uint32_t, true>);
    return r.result;
}

static inline __attribute__((always_inline)) int __reduce_min_sync(uint32_t mask, int value)
{
    emu_reduction<int> r = {value, 0};
    emu_meet(mask, EMU_REDUCE_MIN, &r, emu_reduce_all<int, false>);
    return r.result;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}
static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}

static inline uint32_t __float_as_uint(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static inline float __uint_as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}

/* ---- atomics: one thread runs at a time --------------------------------------------------------
 */

#define EMU_UNREPORTED __attribute__((noinline, no_sanitize("thread")))

template <class T, class V> static EMU_UNREPORTED T atomicAdd(T *p, V value)
{
    emu_access(emu_this, p, sizeof(T), EMU_ATOMIC, __builtin_return_address(0));
    T old = *p;
    *p = (T)(old + value);
    return old;
}
template <class T, class V> static EMU_UNREPORTED T atomicOr(T *p, V value)
{
    emu_access(emu_this, p, sizeof(T), EMU_ATOMIC, __builtin_return_address(0));
    T old = *p;
    *p = (T)(old | value);
    return old;
}
template <class T, class V> static EMU_UNREPORTED T atomicMax(T *p, V value)
{
    emu_access(emu_this, p, sizeof(T), EMU_ATOMIC, __builtin_return_address(0));
    T old = *p;
    if ((T)value > old) *p = (T)value;
    return old;
}
static inline void __threadfence(void)
{
}
static inline void __threadfence_system(void)
{
}
[[noreturn]] static inline void __trap(void)
{
    emu_die("trap");
}

/* ---- the runtime -------------------------------------------------------------------------------
 */

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75 };
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
enum {
    cudaStreamNonBlocking = 1,
    cudaEventDisableTiming = 2,
    cudaHostAllocDefault = 0,
};

typedef struct emu_stream *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t;
typedef struct emu_graph *cudaGraphExec_t;
typedef void *cudaGraphNode_t;

union cudaLaunchAttributeValue {
    int programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(size_t *n_free, size_t *total);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemset(void *p, int byte, size_t bytes);
cudaError_t cudaDeviceSynchronize(void);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t s);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventSynchronize(cudaEvent_t e);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t g);

template <class F> static inline cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int)
{
    return cudaSuccess;
}

void emu_launch(const cudaLaunchConfig_t *config, std::function<void()> body);
/* A library's kernel, as a function.  It waits for the kernel before; one behind it that is
 * programmatic may begin before it. */
void emu_library(cudaStream_t s, std::function<void()> run);

template <class... P, class... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...),
                                             A... args)
{
    emu_launch(config, [=] { kernel(args...); });
    return cudaSuccess;
}

#endif
