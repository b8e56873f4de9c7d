/* CUDA on the CPU: runs the project's .cu files, compiled by the host compiler, without a GPU.
 *
 * A CUDA thread is a fiber with a stack of its own; a fiber runs until it must wait for others: at
 * a barrier, at an operation of its warp, or for the kernel before (programmatic launch).  Blocks
 * run one after another, in an order that the schedule chooses, so a block must not wait for
 * another. Warps, and lanes inside a warp, take turns as the schedule chooses; every launch has the
 * next schedule, always the same ones in one process, so a test meets many and is repeatable. Every
 * test runs twice, with other schedules (memory.cpp), and must leave the same bits.
 *
 * What it catches, by ending the process with a message, or by wrong numbers:
 *   - a missing barrier or wait: shared memory is 0xff at first (NaN, -1), and so is the target of
 *     a cp.async until it is waited for;
 *   - a read before the kernel that writes has run: a programmatic kernel's first blocks run up to
 *     its wait before the kernel in front of it;
 *   - a race of two threads on shared memory (race.cpp), whatever the schedule makes of it;
 *   - results that depend on the schedule, such as sums in the order of arrival;
 *   - what a kernel leaves in the stream's workspace for another one, and tickets not given back;
 *   - divergent barriers and warp operations, lanes missing from a mask, a deadlock;
 *   - an access behind shared or global memory: the next page is not there, and bytes between the
 *     end and the page are checked when the block ends or the memory is freed.
 *
 * What it cannot show: the PTX in kernels/cuda/ptx.cuh (the file of that name here replaces it),
 * the memory model between blocks, the exact rounding of mma, time, registers.
 *
 * x86-64 Linux.  One thread at a time calls the runtime and runs the kernels. */
#ifndef TEST_EMU_EMU_H
#define TEST_EMU_EMU_H

#ifndef __x86_64__
#error "the emulator runs on x86-64 only: fiber.cpp switches stacks in its code"
#endif

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <vector>

constexpr size_t EMU_MAX_SHARED = 227 << 10; /* bytes of a block on sm_90 */

struct emu_dim {
    unsigned x, y, z;
};

/* A cp.async on its way. */
struct emu_copy {
    char *dst;
    const char *src;
    int n_bytes; /* of 16; zeros behind them */
};

enum emu_state { EMU_READY, EMU_AT_BARRIER, EMU_IN_WARP, EMU_AT_GRID_WAIT, EMU_AT_COPY, EMU_DONE };

struct emu_fiber {
    void *sp;
    char *stack;
    void *fake_stack; /* AddressSanitizer's */
    emu_dim thread;
    unsigned index, lane, warp;
    enum emu_state state;
    bool has_waited;                             /* for the kernel before */
    std::vector<emu_copy> open;                  /* copies since the last commit */
    std::vector<std::vector<emu_copy>> groups;   /* committed, oldest first */
    std::vector<std::function<void()>> products; /* of tiles, begun and not waited for */
};

struct emu_warp {
    uint32_t ready, arrived, expected, exited; /* a bit each lane */
    int operation;
    void *slot[32];   /* what each lane brought to the operation */
    uint32_t n_syncs; /* __syncwarp of all lanes */
};

struct emu_grid {
    emu_dim blocks, threads;
    size_t shared_bytes;
    std::function<void()> body;
    bool is_programmatic, is_released; /* released: the kernel before has ended */
    uint64_t schedule;                 /* 0: everything in order */
};

struct emu_block {
    emu_grid *grid;
    emu_dim index;
    std::vector<emu_fiber> fibers;
    std::vector<emu_warp> warps;
    unsigned n_done, n_at_barrier;
    int n_voted, n_votes; /* at the barrier that fills, and at the last one that was full */
    int barrier_line;     /* of the source, where the waiting threads stand */
    char *shared;
    uint64_t random;
    struct emu_cell *cells; /* who used which place in shared memory (race.cpp) */
    uint64_t epoch;         /* another number behind each barrier, of each block */
};

extern emu_block *emu_this_block;
extern char *emu_shared; /* of the block that runs, and its size; 0 while none runs */
extern size_t emu_shared_bytes;
extern emu_dim gridDim, blockDim;
extern emu_fiber *emu_this;

/* Ends the process, naming block and thread. */
[[noreturn]] void emu_die(const char *message);

/* ---- for one thread of a kernel ---------------------------------------------------------------
 */

void emu_barrier(int line);
int emu_barrier_count(int line, bool vote); /* how many of the block vote yes */
void emu_grid_wait(void);
/* Until some thread of the block begins a bulk copy, which it tells by the second. */
void emu_await_copy(void);
void emu_copy_begins(void);

/* All lanes of mask meet here; the last one runs `all` for everybody, then they go on.  `mine` is
 * what this lane brings, slot[lane] of the warp. */
void emu_meet(uint32_t mask, int operation, void *mine, void (*all)(emu_warp &));
enum { EMU_SYNC, EMU_SHUFFLE, EMU_BALLOT, EMU_REDUCE_MAX, EMU_REDUCE_MIN, EMU_LDMATRIX, EMU_MMA };

/* A thread's use of memory; of shared memory it is compared with those of the other threads. */
enum emu_access { EMU_READ, EMU_WRITE, EMU_ATOMIC };
void emu_access(const emu_fiber *by, const void *p, size_t bytes, enum emu_access access,
                const void *where);
const void *emu_here(void); /* the caller's place in the program */

/* ---- for the runtime --------------------------------------------------------------------------
 */

/* A block of a grid, and running it until it ends or can only go on behind emu_grid_wait. */
emu_block *emu_block_new(emu_grid *grid, emu_dim index);
bool emu_block_run(emu_block *block); /* true: it has ended */
void emu_block_free(emu_block *block);

struct emu_cell *emu_cells_new(void);
void emu_cells_free(struct emu_cell *cells);
uint64_t emu_next_epoch(void);

/* Memory with a page behind it that is not there, full of 0xff.  map_bytes is what unmaps it. */
char *emu_guarded(size_t bytes, char **map, size_t *map_bytes);
/* Ends the process if something was written between the end and the page. */
void emu_check_tail(const char *memory, size_t bytes, const char *what);

uint64_t emu_random(uint64_t *state);

/* Launches from now on have this schedule, the next one and so on. */
void emu_set_schedule(uint64_t schedule);

/* Fills the workspaces of all streams with NaN; ends the process if a ticket is not zero. */
void emu_spoil_workspaces(void);
void emu_check_tickets(void);

#endif
