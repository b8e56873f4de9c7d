/* The CUDA device: kernels/device.h on the CUDA runtime.
 *
 * One stream, no default stream.  Shared memory is pinned host memory, which the device reads and
 * writes through the same pointers.  A graph is what a stream captured. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/ops.cuh"

#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>

enum { UNTOUCHED = 16 << 20 }; /* larger blocks are caches: they come as they are (device.h) */

struct cuda_event {
    struct event base;
    cudaEvent_t event;
};

struct cuda_graph {
    struct graph base;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
};

void cuda_failed(const char *file, int line, const char *what, const char *why)
{
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, why);
    abort();
}

/* The device's own small objects, zeroed. */
static void *alloc_host(size_t bytes)
{
    void *p = calloc(1, bytes);
    REQUIRE(p != NULL);
    return p;
}

static struct device *open_device(int n_threads)
{
    (void)n_threads;
    int n_devices = 0, major = 0;
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        (void)cudaGetLastError(); /* no driver is no error */
        return NULL;
    }
    struct cuda_device *dev = (struct cuda_device *)alloc_host(sizeof(*dev));
    CUDA_CHECK(cudaSetDevice(0));
    CUDA_CHECK(cudaDeviceGetAttribute(&dev->n_sms, cudaDevAttrMultiProcessorCount, 0));
    CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    dev->has_programmatic = major >= 9;
    CUDA_CHECK(cudaStreamCreateWithFlags(&dev->loading, cudaStreamNonBlocking));
    dev->cublas = cublas_open();
    return &dev->base;
}

static void close_device(struct device *dev)
{
    cublas_close(((struct cuda_device *)dev)->cublas);
    CUDA_CHECK(cudaStreamDestroy(((struct cuda_device *)dev)->loading));
    free(dev);
}

static size_t memory_size(const struct device *dev)
{
    (void)dev;
    size_t n_free, total;
    CUDA_CHECK(cudaMemGetInfo(&n_free, &total));
    return total;
}

static void begin_range(const struct device *dev, const char *name)
{
    (void)dev;
    (void)nvtxRangePushA(name);
}

static void end_range(const struct device *dev)
{
    (void)dev;
    (void)nvtxRangePop();
}

/* ---- memory
 * -------------------------------------------------------------------------------------- */

static void require_memory(cudaError_t error, const char *what, size_t bytes)
{
    if (error == cudaSuccess) return;
    fprintf(stderr, "cuda device: no memory for %s (%zu bytes)\n", what, bytes);
    exit(1);
}

/* cudaMemset returns before it is done, and our streams don't wait for the one that it runs in. */
static void fill_now(void *p, int byte, size_t bytes)
{
    CUDA_CHECK(cudaMemset(p, byte, bytes));
    CUDA_CHECK(cudaDeviceSynchronize());
}

static void *alloc(struct device *dev, size_t bytes, const char *what)
{
    (void)dev;
    void *p = NULL;
    size_t taken = bytes > 0 ? bytes : 1;
    require_memory(cudaMalloc(&p, taken), what, bytes);
    if (bytes < UNTOUCHED) fill_now(p, 0xff, taken);
    return p;
}

static void free_memory(struct device *dev, void *p)
{
    (void)dev;
    CUDA_CHECK(cudaFree(p));
}

static void write_memory(struct device *dev, void *device_dst, const void *host_src, size_t bytes)
{
    const cudaStream_t loading = ((const struct cuda_device *)dev)->loading;
    CUDA_CHECK(cudaMemcpyAsync(device_dst, host_src, bytes, cudaMemcpyHostToDevice, loading));
    CUDA_CHECK(cudaStreamSynchronize(loading));
}

static void *alloc_shared(struct device *dev, size_t bytes, const char *what)
{
    (void)dev;
    void *p = NULL;
    size_t taken = bytes > 0 ? bytes : 1;
    require_memory(cudaHostAlloc(&p, taken, cudaHostAllocDefault), what, bytes);
    return memset(p, 0, taken);
}

static void free_shared(struct device *dev, void *p)
{
    (void)dev;
    CUDA_CHECK(cudaFreeHost(p));
}

/* ---- streams
 * ------------------------------------------------------------------------------------- */

static struct stream *open_stream(struct device *dev)
{
    struct cuda_stream *s = (struct cuda_stream *)alloc_host(sizeof(*s));
    s->dev = (const struct cuda_device *)dev;
    CUDA_CHECK(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
    s->workspace = (float *)alloc(dev, WORKSPACE_FLOATS * sizeof(float), "the workspace");
    s->tickets = (int32_t *)alloc(dev, N_TICKETS * sizeof(int32_t), "tickets");
    s->plan = alloc(dev, PLAN_BYTES, "attention's plan");
    s->partials = (float *)alloc(dev, PARTIAL_FLOATS * sizeof(float), "attention's sums");
    fill_now(s->tickets, 0, N_TICKETS * sizeof(int32_t));
    return &s->base;
}

static void close_stream(struct stream *stream)
{
    struct cuda_stream *s = cuda_stream_of(stream);
    CUDA_CHECK(cudaStreamSynchronize(s->stream));
    CUDA_CHECK(cudaStreamDestroy(s->stream));
    CUDA_CHECK(cudaFree(s->workspace));
    CUDA_CHECK(cudaFree(s->tickets));
    CUDA_CHECK(cudaFree(s->plan));
    CUDA_CHECK(cudaFree(s->partials));
    free(s);
}

static void copy_in(struct stream *s, void *device_dst, const void *host_src, size_t bytes)
{
    CUDA_CHECK(cudaMemcpyAsync(device_dst, host_src, bytes, cudaMemcpyHostToDevice,
                               cuda_stream_of(s)->stream));
}

static void copy_out(struct stream *s, void *host_dst, const void *device_src, size_t bytes)
{
    CUDA_CHECK(cudaMemcpyAsync(host_dst, device_src, bytes, cudaMemcpyDeviceToHost,
                               cuda_stream_of(s)->stream));
}

static void fill(struct stream *s, void *device_dst, int byte, size_t bytes)
{
    CUDA_CHECK(cudaMemsetAsync(device_dst, byte, bytes, cuda_stream_of(s)->stream));
}

static void wait_stream(struct stream *s)
{
    CUDA_CHECK(cudaStreamSynchronize(cuda_stream_of(s)->stream));
}

/* ---- events
 * -------------------------------------------------------------------------------------- */

static struct event *open_event(struct device *dev)
{
    (void)dev;
    struct cuda_event *e = (struct cuda_event *)alloc_host(sizeof(*e));
    CUDA_CHECK(cudaEventCreateWithFlags(&e->event, cudaEventDisableTiming));
    return &e->base;
}

static cudaEvent_t event_of(const struct event *e)
{
    return ((const struct cuda_event *)e)->event;
}

static void close_event(struct event *e)
{
    CUDA_CHECK(cudaEventSynchronize(event_of(e)));
    CUDA_CHECK(cudaEventDestroy(event_of(e)));
    free(e);
}

static void record_event(struct event *e, struct stream *s)
{
    CUDA_CHECK(cudaEventRecord(event_of(e), cuda_stream_of(s)->stream));
}

static bool has_passed(const struct event *e)
{
    cudaError_t error = cudaEventQuery(event_of(e));
    if (error == cudaErrorNotReady) return false;
    CUDA_CHECK(error);
    return true;
}

static void wait_event(struct event *e)
{
    CUDA_CHECK(cudaEventSynchronize(event_of(e)));
}

/* ---- graphs
 * -------------------------------------------------------------------------------------- */

static void begin_graph(struct stream *s)
{
    CUDA_CHECK(cudaStreamBeginCapture(cuda_stream_of(s)->stream, cudaStreamCaptureModeThreadLocal));
}

static struct graph *end_graph(struct stream *s)
{
    struct cuda_graph *g = (struct cuda_graph *)alloc_host(sizeof(*g));
    CUDA_CHECK(cudaStreamEndCapture(cuda_stream_of(s)->stream, &g->graph));
    CUDA_CHECK(cudaGraphInstantiate(&g->exec, g->graph, 0));
    return &g->base;
}

static void launch_graph(struct stream *s, const struct graph *g)
{
    CUDA_CHECK(cudaGraphLaunch(((const struct cuda_graph *)g)->exec, cuda_stream_of(s)->stream));
}

static int n_graph_ops(const struct graph *g)
{
    size_t n = 0;
    CUDA_CHECK(cudaGraphGetNodes(((const struct cuda_graph *)g)->graph, NULL, &n));
    return (int)n;
}

static void free_graph(struct graph *graph)
{
    struct cuda_graph *g = (struct cuda_graph *)graph;
    CUDA_CHECK(cudaGraphExecDestroy(g->exec));
    CUDA_CHECK(cudaGraphDestroy(g->graph));
    free(g);
}

static constexpr struct device_type device_of(const char *name, const struct ops *ops)
{
    return {
        .name = name,
        .ops = ops,
        .open = open_device,
        .close = close_device,
        .memory_size = memory_size,
        .range_begin = begin_range,
        .range_end = end_range,
        .alloc = alloc,
        .free = free_memory,
        .write = write_memory,
        .alloc_shared = alloc_shared,
        .free_shared = free_shared,
        .stream_open = open_stream,
        .stream_close = close_stream,
        .copy_in = copy_in,
        .copy_out = copy_out,
        .fill = fill,
        .stream_wait = wait_stream,
        .event_open = open_event,
        .event_close = close_event,
        .event_record = record_event,
        .event_passed = has_passed,
        .event_wait = wait_event,
        .graph_begin = begin_graph,
        .graph_end = end_graph,
        .graph_launch = launch_graph,
        .graph_n_ops = n_graph_ops,
        .graph_free = free_graph,
    };
}

extern "C" const struct device_type cuda_bf16_device = device_of("cuda-bf16", &cuda_bf16_ops);
extern "C" const struct device_type cuda_f16_device = device_of("cuda-f16", &cuda_f16_ops);
