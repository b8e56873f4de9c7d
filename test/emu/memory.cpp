/* Memory with guards, and what the runtime's allocations are watched for. */
#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "test/runs.h"
}

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <vector>

enum {
    PAGE_BYTES = 4096,
    TAIL_ALIGNMENT = 256, /* of the start of guarded memory, as cudaMalloc promises */
    NAN_BYTES = 32 << 20, /* of a file full of NaN */
    N_RUNS = 2,           /* of every test */
    RUN_SCHEDULES = 3,    /* a launch's schedule in one run and in the next are that far apart */
};

char *emu_guarded(size_t bytes, char **map, size_t *map_bytes)
{
    size_t rounded = (bytes + TAIL_ALIGNMENT - 1) / TAIL_ALIGNMENT * TAIL_ALIGNMENT;
    size_t body = (rounded + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    *map_bytes = body + 2 * PAGE_BYTES;
    *map = (char *)mmap(NULL, *map_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*map == MAP_FAILED) return NULL;
    if (mprotect(*map, PAGE_BYTES, PROT_NONE) != 0 ||
        mprotect(*map + PAGE_BYTES + body, PAGE_BYTES, PROT_NONE) != 0)
        emu_die("no guard page");
    char *memory = *map + PAGE_BYTES + body - rounded;
    memset(memory + bytes, 0xff, rounded - bytes);
    return memory;
}

void emu_check_tail(const char *memory, size_t bytes, const char *what)
{
    for (size_t i = bytes; i % TAIL_ALIGNMENT != 0; i++)
        if ((unsigned char)memory[i] != 0xff) emu_die(what);
}

/* ---- large blocks, workspaces and tickets ------------------------------------------------------
 *
 * Large blocks, which the device does not fill, are private mappings of a file full of NaN.  A
 * stream takes its workspace and its tickets one after the other; they are known by their sizes
 * (kernels/cuda/device.cu).  What a kernel has left in a workspace is dropped by forgetting the
 * pages. */

constexpr size_t WORKSPACE_BYTES = WORKSPACE_FLOATS * sizeof(float);
static_assert(WORKSPACE_BYTES % NAN_BYTES == 0, "a workspace is a large block");

static std::vector<char *> workspaces, tickets;

static int make_nan_file(void)
{
    const std::vector<char> bytes(NAN_BYTES, (char)0xff);
    const int file = memfd_create("NaN", 0);
    if (file < 0 || write(file, bytes.data(), NAN_BYTES) != NAN_BYTES) emu_die("no file of NaN");
    return file;
}

static const int nan_file = make_nan_file(); /* before tests begin, since each is a child */

static void map_nan(char *memory, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += NAN_BYTES)
        if (mmap(memory + at, NAN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, nan_file,
                 0) == MAP_FAILED)
            emu_die("no large block");
}

void emu_spoil_workspaces(void)
{
    for (char *memory : workspaces)
        if (madvise(memory, WORKSPACE_BYTES, MADV_DONTNEED) != 0) emu_die("no new workspace");
}

void emu_check_tickets(void)
{
    for (const char *memory : tickets)
        for (int i = 0; i < N_TICKETS; i++)
            if (((const int32_t *)memory)[i] != 0) emu_die("a kernel left a ticket behind");
}

/* ---- the same bits under every schedule (test/test.h) ------------------------------------------
 */

static uint64_t digest = 1;

/* What memory holds when it is freed; large blocks are a stream's own. */
static void add_to_digest(const char *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t word = 0;
        memcpy(&word, memory + i, bytes - i < sizeof(word) ? bytes - i : sizeof(word));
        digest = (digest ^ word) * 0x9e3779b97f4a7c15ull;
        digest ^= digest >> 29;
    }
}

int test_n_runs(void)
{
    return N_RUNS;
}

void test_begin_run(int run)
{
    emu_set_schedule((uint64_t)run * RUN_SCHEDULES);
}

uint64_t test_digest(void)
{
    return digest;
}

/* ---- the runtime's allocations -----------------------------------------------------------------
 */

struct mapping {
    char *map;
    size_t map_bytes, bytes;
};
static std::map<void *, mapping> mappings;

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    mapping m = {NULL, 0, bytes};
    char *memory = emu_guarded(bytes, &m.map, &m.map_bytes);
    if (memory == NULL) return cudaErrorMemoryAllocation;
    mappings[memory] = m;
    if (bytes % NAN_BYTES == 0) map_nan(memory, bytes);
    if (bytes == WORKSPACE_BYTES)
        workspaces.push_back(memory);
    else if (bytes == N_TICKETS * sizeof(int32_t) && tickets.size() < workspaces.size())
        tickets.push_back(memory);
    *p = memory;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    if (p == NULL) return cudaSuccess;
    auto found = mappings.find(p);
    if (found == mappings.end()) emu_die("freed memory was never taken");
    emu_check_tail((char *)p, found->second.bytes, "a write behind global memory");
    if (found->second.bytes < NAN_BYTES) add_to_digest((const char *)p, found->second.bytes);
    std::erase(workspaces, (char *)p);
    std::erase(tickets, (char *)p);
    munmap(found->second.map, found->second.map_bytes);
    mappings.erase(found);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    return cudaMalloc(p, bytes);
}

cudaError_t cudaFreeHost(void *p)
{
    return cudaFree(p);
}
