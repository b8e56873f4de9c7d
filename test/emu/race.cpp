/* Races on shared memory: two threads of a block use the same place, one of them writes, and
 * between them stands no barrier or, inside a warp, no __syncwarp of all its lanes.  Shuffles,
 * votes and matrix operations do not order memory, and atomics are ordered among themselves only.
 *
 * The kernels are compiled with -fsanitize=thread: the compiler then calls a function beside every
 * access.  Its own library, which knows pthreads but not fibers, is not linked; those functions are
 * below.  What one instruction does inside the emulator (cp.async, ldmatrix, atomics) is reported
 * where it is emulated.
 *
 * A cell is two bytes of shared memory, so two threads may not share a 16-bit word. */
#include "test/emu/emu.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CELL_BYTES = 2, NOBODY = -1, SEVERAL = -2 };

/* What happened to a cell since the last barrier.  A writer is one thread, since a second one is a
 * race or stands behind the first; SEVERAL wrote by atomics.  Lanes are kept of the warp that read
 * last: when another warp has read too, only a barrier can make a write right. */
struct emu_cell {
    uint64_t epoch; /* of the block, older: nothing */
    int writer;
    uint32_t writer_syncs; /* of the writer's warp then */
    uint32_t reader_warps, reader_lanes, reader_syncs;
    bool is_atomic;
    const void *written_at, *read_at;
};

static struct cell_arrays : std::vector<emu_cell *> { /* for the largest block each */
    ~cell_arrays()
    {
        for (emu_cell *cells : *this) free(cells);
    }
} free_cells;

emu_cell *emu_cells_new(void)
{
    if (free_cells.empty()) /* 16 bytes more, for an access that ends behind the last */
        return (emu_cell *)calloc(EMU_MAX_SHARED / CELL_BYTES + 8, sizeof(emu_cell));
    emu_cell *cells = free_cells.back();
    free_cells.pop_back();
    return cells;
}

void emu_cells_free(emu_cell *cells)
{
    free_cells.push_back(cells);
}

uint64_t emu_next_epoch(void)
{
    static uint64_t epoch;
    return ++epoch;
}

__attribute__((noinline)) const void *emu_here(void)
{
    return __builtin_return_address(0);
}

/* ---- reports -----------------------------------------------------------------------------------
 */

/* Prints the source lines of an address in the program. */
static void print_source(const void *address)
{
    extern const char __executable_start;
    char command[160];
    snprintf(command, sizeof(command), "addr2line -i -s -e /proc/%d/exe 0x%zx | head -3 >&2",
             (int)getpid(), (size_t)((const char *)address - &__executable_start) - 1);
    if (system(command) != 0) fprintf(stderr, "(no addr2line)\n");
}

[[noreturn]] static void report(const emu_cell *cell, size_t at, const void *before,
                                const void *now)
{
    fprintf(stderr, "emulator: byte %zu of shared memory, last written by thread %d\n", at,
            cell->writer);
    print_source(before);
    print_source(now);
    emu_die("a race on shared memory");
}

/* ---- accesses ----------------------------------------------------------------------------------
 */

static bool is_behind_writer(const emu_cell *cell, const emu_fiber *by, uint32_t syncs)
{
    if (cell->writer == NOBODY || cell->writer == (int)by->index) return true;
    return cell->writer != SEVERAL && cell->writer / 32 == (int)by->warp &&
           cell->writer_syncs < syncs;
}

static bool is_behind_readers(const emu_cell *cell, const emu_fiber *by, uint32_t syncs)
{
    if ((cell->reader_warps & ~(1u << by->warp)) != 0) return false;
    return cell->reader_warps == 0 || cell->reader_syncs < syncs ||
           (cell->reader_lanes & ~(1u << by->lane)) == 0;
}

static void note_read(emu_cell *cell, const emu_fiber *by, uint32_t syncs, const void *where)
{
    if (cell->reader_warps != 1u << by->warp || cell->reader_syncs != syncs) cell->reader_lanes = 0;
    cell->reader_warps |= 1u << by->warp;
    cell->reader_lanes |= 1u << by->lane;
    cell->reader_syncs = syncs;
    cell->read_at = where;
}

/* Most accesses are of other memory: they shall cost little. */
static inline bool is_shared(const void *p)
{
    return (size_t)((const char *)p - emu_shared) < emu_shared_bytes;
}

void emu_access(const emu_fiber *by, const void *p, size_t bytes, enum emu_access access,
                const void *where)
{
    if (!is_shared(p)) return;
    const emu_block *block = emu_this_block;
    const size_t first = (size_t)((const char *)p - emu_shared);
    const uint32_t syncs = block->warps[by->warp].n_syncs;
    for (size_t i = first / CELL_BYTES; i <= (first + bytes - 1) / CELL_BYTES; i++) {
        emu_cell *cell = &block->cells[i];
        if (cell->epoch != block->epoch) {
            *cell = {};
            cell->epoch = block->epoch;
            cell->writer = NOBODY;
        }
        const bool are_atomic = access == EMU_ATOMIC && cell->is_atomic;
        const bool is_behind = is_behind_writer(cell, by, syncs);
        if (!is_behind && !are_atomic) report(cell, i * CELL_BYTES, cell->written_at, where);
        if (access == EMU_READ) {
            note_read(cell, by, syncs, where);
            continue;
        }
        if (!is_behind_readers(cell, by, syncs)) report(cell, i * CELL_BYTES, cell->read_at, where);
        cell->writer = is_behind ? (int)by->index : SEVERAL;
        cell->writer_syncs = syncs;
        cell->is_atomic = access == EMU_ATOMIC;
        cell->written_at = where;
        cell->reader_warps = 0;
    }
}

/* ---- what the compiler calls -------------------------------------------------------------------
 */

#define HOOK(name, bytes, access)                                                                  \
    extern "C" void name(void *p)                                                                  \
    {                                                                                              \
        if (is_shared(p)) emu_access(emu_this, p, bytes, access, __builtin_return_address(0));     \
    }
#define HOOKS(bytes)                                                                               \
    HOOK(__tsan_read##bytes, bytes, EMU_READ)                                                      \
    HOOK(__tsan_write##bytes, bytes, EMU_WRITE)                                                    \
    HOOK(__tsan_unaligned_read##bytes, bytes, EMU_READ)                                            \
    HOOK(__tsan_unaligned_write##bytes, bytes, EMU_WRITE)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
HOOK(__tsan_vptr_read, sizeof(void *), EMU_READ)

extern "C" void __tsan_read_range(void *p, size_t bytes)
{
    if (is_shared(p)) emu_access(emu_this, p, bytes, EMU_READ, __builtin_return_address(0));
}

extern "C" void __tsan_write_range(void *p, size_t bytes)
{
    if (is_shared(p)) emu_access(emu_this, p, bytes, EMU_WRITE, __builtin_return_address(0));
}

extern "C" void __tsan_vptr_update(void **, void *)
{
}
extern "C" void __tsan_init(void)
{
}
extern "C" void __tsan_func_entry(void *)
{
}
extern "C" void __tsan_func_exit(void)
{
}
