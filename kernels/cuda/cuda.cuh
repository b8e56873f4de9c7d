/* What all files of the CUDA device share: its structs, checks, and the one way to launch. */
#ifndef KERNELS_CUDA_CUDA_CUH
#define KERNELS_CUDA_CUDA_CUH

#include "kernels/cuda/ptx.cuh"

#include <cuda_runtime.h>

extern "C" {
#include "kernels/device_type.h"
#include "kernels/ops.h"
}

struct cuda_device {
    struct device base;
    int n_sms;
    bool has_programmatic; /* dependent launch: sm_90 and later */
    cudaStream_t loading;  /* what is done while the daemon starts */
    struct cublas *cublas;
};

/* cuBLASLt and what it chose for the shapes it has seen (matmul.cu). */
struct cublas *cublas_open(void);
void cublas_close(struct cublas *c);

/* Partial results live in the workspace from a kernel's split work to its merge; nothing in it
 * outlives the kernel.  Tickets are zero between kernels. */
struct cuda_stream {
    struct stream base;
    const struct cuda_device *dev; /* borrowed */
    cudaStream_t stream;
    float *workspace; /* [WORKSPACE_FLOATS] */
    int32_t *tickets; /* [N_TICKETS] */
    void *plan;       /* [PLAN_BYTES] attention's, from one ops->plan to the next */
    float *partials; /* [PARTIAL_FLOATS] of attention, topk and head, until they are put together */
};

enum {
    WORKSPACE_FLOATS = 48 << 20, /* gemm of MAX_GEMM_ROWS */
    PARTIAL_FLOATS = 64 << 20,   /* 512 rows, 28 heads of 128, 32 units */
    N_TICKETS = 1 << 16,
    PLAN_ROWS = 2048,
    PLAN_BYTES = 2 << 20,
    ROW_THREADS = 256, /* of a block that works on one row */
};

static inline struct cuda_stream *cuda_stream_of(struct stream *s)
{
    return (struct cuda_stream *)s;
}

/* ---- checks: a CUDA error or a wrong shape ends the process -------------------------------------
 */

[[noreturn]] void cuda_failed(const char *file, int line, const char *what, const char *why);

#define CUDA_CHECK(call)                                                                           \
    do {                                                                                           \
        cudaError_t error_ = (call);                                                               \
        if (error_ != cudaSuccess)                                                                 \
            cuda_failed(__FILE__, __LINE__, #call, cudaGetErrorString(error_));                    \
    } while (0)

/* For files that include cublasLt.h. */
#define CUBLAS_CHECK(call)                                                                         \
    do {                                                                                           \
        cublasStatus_t status_ = (call);                                                           \
        if (status_ != CUBLAS_STATUS_SUCCESS)                                                      \
            cuda_failed(__FILE__, __LINE__, #call, cublasLtGetStatusString(status_));              \
    } while (0)

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) cuda_failed(__FILE__, __LINE__, #condition, "not true");                 \
    } while (0)

/* The same inside a kernel; the host learns of it at the next CUDA_CHECK. */
#define DEVICE_REQUIRE(condition)                                                                  \
    do {                                                                                           \
        if (!(condition)) __trap();                                                                \
    } while (0)

/* Rows in use: *n, or max where n is NULL. */
__device__ __forceinline__ int n_rows(const int32_t *n, int max)
{
    if (n == NULL) return max;
    const int in_use = *n;
    DEVICE_REQUIRE(in_use >= 0 && in_use <= max);
    return in_use;
}

/* ---- launches
 * ------------------------------------------------------------------------------------ */

/* Queues a kernel that may begin before the one in front of it has ended (ptx.cuh, grid_wait).  An
 * empty grid is no launch. */
template <class... P, class... A>
static void launch(struct stream *s, void (*kernel)(P...), dim3 grid, int n_threads,
                   size_t shared_bytes, const A &...args)
{
    const struct cuda_stream *stream = cuda_stream_of(s);
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)n_threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream->stream;
    config.attrs = &attribute;
    config.numAttrs = stream->dev->has_programmatic ? 1 : 0;
    if (shared_bytes > 48 << 10) /* above that a kernel must ask */
        CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        (int)shared_bytes));
    CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args...));
}

static inline int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

#endif
