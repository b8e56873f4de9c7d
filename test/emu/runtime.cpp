/* The runtime's host side: streams, events, graphs (include/cuda_runtime.h). */
#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>

enum {
    N_SMS = 4,
    N_EARLY = 3,     /* blocks of a programmatic kernel that run before the kernel in front */
    EARLY_DEPTH = 2, /* and before the one in front of that, if it is programmatic too */
    N_SCHEDULES = 8, /* schedules that launches go through in turn, the ordered one included */
};

/* A piece of work: a kernel of ours, or anything else as a function. */
struct work {
    std::shared_ptr<emu_grid> grid;
    std::function<void()> run;
    std::vector<emu_block *> early; /* blocks 0.. that have begun */
    bool is_kernel;                 /* ours or a library's */
};

struct emu_stream {
    std::deque<work> queue;
    emu_graph *capture;
};

struct emu_event {
    emu_stream *stream; /* of the last record */
    uint64_t n_recorded, n_passed;
};

struct emu_graph {
    std::vector<work> nodes;
};

/* ---- kernels -----------------------------------------------------------------------------------
 */

static uint64_t next_schedule;

void emu_set_schedule(uint64_t schedule)
{
    next_schedule = schedule;
}

static emu_dim block_index(const emu_grid *grid, size_t i)
{
    return {(unsigned)(i % grid->blocks.x), (unsigned)(i / grid->blocks.x % grid->blocks.y),
            (unsigned)(i / grid->blocks.x / grid->blocks.y)};
}

static size_t n_blocks(const emu_grid *grid)
{
    return (size_t)grid->blocks.x * grid->blocks.y * grid->blocks.z;
}

/* Runs the first blocks of a programmatic kernel up to their wait. */
static void run_early(work *w)
{
    if (!w->early.empty()) return;
    for (size_t i = 0; i < std::min(n_blocks(w->grid.get()), (size_t)N_EARLY); i++) {
        w->early.push_back(emu_block_new(w->grid.get(), block_index(w->grid.get(), i)));
        emu_block_run(w->early.back());
    }
}

static void run_kernel(work *w)
{
    emu_grid *grid = w->grid.get();
    grid->is_released = true;
    for (emu_block *block : w->early) {
        if (block->n_done < block->fibers.size()) emu_block_run(block);
        emu_block_free(block);
    }
    std::vector<size_t> order;
    for (size_t i = w->early.size(); i < n_blocks(grid); i++) order.push_back(i);
    uint64_t random = grid->schedule * 0x9e3779b97f4a7c15ull + 1;
    for (size_t i = order.size(); grid->schedule != 0 && i > 1; i--)
        std::swap(order[i - 1], order[emu_random(&random) % i]);
    for (size_t i : order) {
        emu_block *block = emu_block_new(grid, block_index(grid, i));
        emu_block_run(block);
        emu_block_free(block);
    }
    w->early.clear();
}

static void run_first(emu_stream *s)
{
    for (size_t i = 1; i <= EARLY_DEPTH && i < s->queue.size(); i++) {
        work *next = &s->queue[i];
        if (!s->queue[i - 1].is_kernel || !next->grid || !next->grid->is_programmatic) break;
        run_early(next);
    }
    work w = std::move(s->queue.front());
    s->queue.pop_front();
    if (w.is_kernel) emu_spoil_workspaces();
    if (w.grid)
        run_kernel(&w);
    else
        w.run();
    if (w.is_kernel) emu_check_tickets();
}

static void enqueue(emu_stream *s, work w)
{
    if (s->capture != NULL) {
        s->capture->nodes.push_back(std::move(w));
        return;
    }
    if (w.grid) { /* a graph's kernels are launched again and again */
        w.grid = std::make_shared<emu_grid>(*w.grid);
        w.grid->schedule = next_schedule++ % N_SCHEDULES;
    }
    s->queue.push_back(std::move(w));
}

void emu_launch(const cudaLaunchConfig_t *config, std::function<void()> body)
{
    auto grid = std::make_shared<emu_grid>();
    grid->blocks = {config->gridDim.x, config->gridDim.y, config->gridDim.z};
    grid->threads = {config->blockDim.x, config->blockDim.y, config->blockDim.z};
    grid->shared_bytes = config->dynamicSmemBytes;
    grid->body = std::move(body);
    for (unsigned i = 0; i < config->numAttrs; i++)
        if (config->attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization)
            grid->is_programmatic =
                config->attrs[i].val.programmaticStreamSerializationAllowed != 0;
    if (n_blocks(grid.get()) == 0 || grid->blocks.y > 65535 || grid->blocks.z > 65535)
        emu_die("a grid of that size cannot be launched");
    if (grid->threads.x * grid->threads.y * grid->threads.z > 1024) emu_die("too many threads");
    if (grid->shared_bytes > EMU_MAX_SHARED) emu_die("too much shared memory");
    enqueue(config->stream, {grid, nullptr, {}, true});
}

void emu_library(cudaStream_t s, std::function<void()> run)
{
    enqueue(s, {nullptr, std::move(run), {}, true});
}

/* ---- device and memory -------------------------------------------------------------------------
 */

static emu_stream legacy; /* the default stream */

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "out of memory" : "an error";
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    *value = attribute == cudaDevAttrMultiProcessorCount ? N_SMS : 9;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *n_free, size_t *total)
{
    *n_free = *total = (size_t)8 << 30;
    return cudaSuccess;
}

/* Late, as on a GPU: in a stream that other streams don't wait for. */
cudaError_t cudaMemset(void *p, int byte, size_t bytes)
{
    enqueue(&legacy, {nullptr, [=] { memset(p, byte, bytes); }, {}});
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    while (!legacy.queue.empty()) run_first(&legacy);
    return cudaSuccess;
}

/* ---- streams and events ------------------------------------------------------------------------
 */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new emu_stream();
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (s->capture != NULL) emu_die("waiting for a stream that is captured");
    while (!s->queue.empty()) run_first(s);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    cudaStreamSynchronize(s);
    delete s;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind,
                            cudaStream_t s)
{
    enqueue(s, {nullptr, [=] { memcpy(dst, src, bytes); }, {}, false});
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t s)
{
    enqueue(s, {nullptr, [=] { memset(dst, byte, bytes); }, {}, false});
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new emu_event();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    e->stream = s;
    uint64_t record = ++e->n_recorded;
    enqueue(s, {nullptr, [=] { e->n_passed = record; }, {}, false});
    return cudaSuccess;
}

static bool is_pending(const emu_event *e)
{
    return e->n_passed < e->n_recorded;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    if (is_pending(e)) run_first(e->stream);
    return is_pending(e) ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    while (is_pending(e)) run_first(e->stream);
    return cudaSuccess;
}

/* ---- graphs ------------------------------------------------------------------------------------
 */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    s->capture = new emu_graph();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    *g = s->capture;
    s->capture = NULL;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long)
{
    *exec = new emu_graph(*g);
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *, size_t *n)
{
    *n = g->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    for (const work &node : exec->nodes) enqueue(s, node);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

/* ---- NVTX --------------------------------------------------------------------------------------
 */

/* Nobody takes them while a daemon runs, so they are kept up to a length. */
constexpr size_t MAX_RANGES_LEN = 1 << 16;
static std::string ranges, taken;

int nvtxRangePushA(const char *message)
{
    if (ranges.size() > MAX_RANGES_LEN) ranges.clear();
    ranges += std::string(message) + "(";
    return 0;
}

int nvtxRangePop(void)
{
    ranges += ")";
    return 0;
}

const char *emu_take_ranges(void)
{
    taken.swap(ranges);
    ranges.clear();
    return taken.c_str();
}
