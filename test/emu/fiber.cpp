/* Fibers, warps and blocks (emu.h). */
#include "test/emu/emu.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

enum {
    PAGE_BYTES = 4096,
    STACK_BYTES = 64 << 10,
};

emu_block *emu_this_block;
char *emu_shared;
size_t emu_shared_bytes;
emu_dim gridDim, blockDim;
emu_fiber *emu_this;

static void *scheduler_sp;
#ifdef __SANITIZE_ADDRESS__
static void *scheduler_fake_stack;
#endif

void emu_die(const char *message)
{
    fprintf(stderr, "emulator: %s", message);
    if (emu_this_block != NULL)
        fprintf(stderr, " (block %u,%u,%u)", emu_this_block->index.x, emu_this_block->index.y,
                emu_this_block->index.z);
    if (emu_this != NULL) fprintf(stderr, " (thread %u)", emu_this->index);
    fputc('\n', stderr);
    abort();
}

uint64_t emu_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state >> 20;
}

/* ---- stacks -----------------------------------------------------------------------------------
 */

/* Saves the callee's registers and the stack pointer, and goes on where `to` was saved. */
extern "C" void emu_switch(void **from, void *to);
asm(R"(
    .text
    .globl emu_switch
    .type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_switch, .-emu_switch
)");

/* Stacks that no fiber uses.  Their tops lie in different cache sets: with equal ones the emulator
 * was 1.45 times slower. */
static std::vector<char *> free_stacks;

static char *stack_new(void)
{
    if (free_stacks.empty()) {
        void *map = mmap(NULL, PAGE_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED || mprotect(map, PAGE_BYTES, PROT_NONE) != 0)
            emu_die("no memory for a stack");
        return (char *)map + PAGE_BYTES;
    }
    char *stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
}

static size_t stack_bytes(unsigned index)
{
    return STACK_BYTES - (index * 17 % 64 * 64 + index / 64 % 8 * 1088);
}

#ifdef __SANITIZE_ADDRESS__
static void before_switch(void **fake_stack, const char *stack, size_t bytes)
{
    static const void *bottom;
    static size_t size;
    if (stack == NULL && bottom == NULL) {
        pthread_attr_t attributes;
        void *start;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &start, &size);
        pthread_attr_destroy(&attributes);
        bottom = start;
    }
    __sanitizer_start_switch_fiber(fake_stack, stack ? stack : bottom, stack ? bytes : size);
}

static void after_switch(void *fake_stack)
{
    __sanitizer_finish_switch_fiber(fake_stack, NULL, NULL);
}
#endif

/* From this fiber to another of its block, or to the scheduler (NULL). */
static void go_to(emu_fiber *next)
{
    emu_fiber *me = emu_this;
    emu_this = next;
#ifdef __SANITIZE_ADDRESS__
    before_switch(me->state == EMU_DONE ? NULL : &me->fake_stack, next ? next->stack : NULL,
                  next ? stack_bytes(next->index) : 0);
#endif
    emu_switch(&me->sp, next ? next->sp : scheduler_sp);
#ifdef __SANITIZE_ADDRESS__
    after_switch(me->fake_stack);
#endif
}

static void resume(emu_fiber *fiber)
{
    emu_this = fiber;
#ifdef __SANITIZE_ADDRESS__
    before_switch(&scheduler_fake_stack, fiber->stack, stack_bytes(fiber->index));
#endif
    emu_switch(&scheduler_sp, fiber->sp);
#ifdef __SANITIZE_ADDRESS__
    after_switch(scheduler_fake_stack);
#endif
    emu_this = NULL;
}

/* Gives way, straight to a lane of the same warp if one is ready: the cheapest switch. */
static void give_way(enum emu_state state)
{
    emu_block *block = emu_this_block;
    emu_warp *warp = &block->warps[emu_this->warp];
    emu_this->state = state;
    warp->ready &= ~(1u << emu_this->lane);
    emu_fiber *next = NULL;
    const bool is_ordered = block->grid->schedule == 0;
    if (warp->ready != 0 && (is_ordered || emu_random(&block->random) % 64 != 0)) {
        unsigned first = is_ordered ? emu_this->lane : emu_random(&block->random) % 32;
        while ((warp->ready >> first & 1) == 0) first = (first + 1) % 32;
        next = &block->fibers[emu_this->warp * 32 + first];
    }
    go_to(next);
}

static void set_ready(emu_block *block, emu_fiber *fiber)
{
    fiber->state = EMU_READY;
    block->warps[fiber->warp].ready |= 1u << fiber->lane;
}

static void fiber_main(void)
{
#ifdef __SANITIZE_ADDRESS__
    after_switch(NULL);
#endif
    emu_block *block = emu_this_block;
    block->grid->body();
    emu_warp *warp = &block->warps[emu_this->warp];
    if (block->grid->is_programmatic && !emu_this->has_waited)
        emu_die("a programmatic kernel ended without waiting for the one before");
    if (warp->arrived != 0 && (warp->expected >> emu_this->lane & 1) != 0)
        emu_die("a thread ended while its warp waits for it");
    if (block->n_at_barrier > 0) emu_die("a thread ended while others wait at a barrier");
    if (!emu_this->open.empty() || !emu_this->groups.empty())
        emu_die("a thread ended with copies that it never waited for");
    warp->exited |= 1u << emu_this->lane;
    block->n_done++;
    give_way(EMU_DONE);
    abort(); /* nobody resumes it */
}

/* ---- waiting for others ------------------------------------------------------------------------
 */

void emu_barrier(int line)
{
    emu_block *block = emu_this_block;
    if (block->n_done > 0) emu_die("a barrier behind the end of other threads");
    if (block->n_at_barrier > 0 && block->barrier_line != line)
        emu_die("threads wait at different barriers");
    block->barrier_line = line;
    if (++block->n_at_barrier < block->fibers.size()) {
        give_way(EMU_AT_BARRIER);
        return;
    }
    block->n_at_barrier = 0;
    block->n_votes = block->n_voted;
    block->n_voted = 0;
    block->epoch = emu_next_epoch();
    for (emu_fiber &fiber : block->fibers)
        if (fiber.state == EMU_AT_BARRIER) set_ready(block, &fiber);
}

int emu_barrier_count(int line, bool vote)
{
    emu_this_block->n_voted += vote ? 1 : 0;
    emu_barrier(line);
    return emu_this_block->n_votes;
}

void emu_await_copy(void)
{
    give_way(EMU_AT_COPY);
}

void emu_copy_begins(void)
{
    for (emu_fiber &fiber : emu_this_block->fibers)
        if (fiber.state == EMU_AT_COPY) set_ready(emu_this_block, &fiber);
}

void emu_grid_wait(void)
{
    emu_this->has_waited = true;
    if (!emu_this_block->grid->is_released) give_way(EMU_AT_GRID_WAIT);
}

void emu_meet(uint32_t mask, int operation, void *mine, void (*all)(emu_warp &))
{
    emu_block *block = emu_this_block;
    emu_warp *warp = &block->warps[emu_this->warp];
    if ((mask >> emu_this->lane & 1) == 0) emu_die("a lane is not in its own mask");
    if ((mask & warp->exited) != 0) emu_die("a mask names a lane that has ended");
    if (warp->arrived == 0) {
        warp->expected = mask;
        warp->operation = operation;
    } else if (warp->expected != mask || warp->operation != operation) {
        emu_die("lanes of a warp meet in different operations");
    }
    warp->slot[emu_this->lane] = mine;
    warp->arrived |= 1u << emu_this->lane;
    if (warp->arrived != warp->expected) {
        give_way(EMU_IN_WARP);
        return;
    }
    if (all != NULL) all(*warp);
    if (operation == EMU_SYNC && (mask | warp->exited) == ~0u) warp->n_syncs++;
    warp->arrived = 0;
    for (uint32_t left = warp->expected; left != 0; left &= left - 1)
        set_ready(block, &block->fibers[emu_this->warp * 32 + __builtin_ctz(left)]);
}

/* ---- blocks ------------------------------------------------------------------------------------
 */

/* Shared memory that no block uses, by its size. */
static std::map<size_t, std::vector<char *>> free_shared;

static char *shared_new(size_t bytes)
{
    std::vector<char *> *free = &free_shared[bytes];
    char *shared, *map;
    size_t map_bytes;
    if (free->empty()) {
        shared = emu_guarded(bytes, &map, &map_bytes);
        if (shared == NULL) emu_die("no shared memory");
        return shared;
    }
    shared = free->back();
    free->pop_back();
    return shared;
}

emu_block *emu_block_new(emu_grid *grid, emu_dim index)
{
    emu_block *block = new emu_block();
    const unsigned n = grid->threads.x * grid->threads.y * grid->threads.z;
    block->grid = grid;
    block->index = index;
    block->fibers.resize(n);
    block->warps.resize((n + 31) / 32);
    block->random = (grid->schedule + 1) * 0x9e3779b97f4a7c15ull ^ (index.x * 7919 + index.y + 1);
    block->shared = shared_new(grid->shared_bytes);
    block->cells = emu_cells_new();
    block->epoch = emu_next_epoch();
    memset(block->shared, 0xff, grid->shared_bytes);
    for (unsigned i = 0; i < n; i++) {
        emu_fiber *fiber = &block->fibers[i];
        fiber->index = i;
        fiber->lane = i % 32;
        fiber->warp = i / 32;
        fiber->thread = {i % grid->threads.x, i / grid->threads.x % grid->threads.y,
                         i / (grid->threads.x * grid->threads.y)};
        fiber->stack = stack_new();
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
#endif
        void **top = (void **)(fiber->stack + stack_bytes(i));
        *--top = NULL; /* keeps the stack aligned as at a call */
        *--top = (void *)fiber_main;
        for (int saved = 0; saved < 6; saved++) *--top = NULL;
        fiber->sp = top;
        set_ready(block, fiber);
    }
    return block;
}

bool emu_block_run(emu_block *block)
{
    const bool is_ordered = block->grid->schedule == 0;
    const unsigned n_warps = (unsigned)block->warps.size();
    emu_this_block = block;
    emu_shared = block->shared;
    emu_shared_bytes = block->grid->shared_bytes;
    gridDim = block->grid->blocks;
    blockDim = block->grid->threads;
    if (block->grid->is_released)
        for (emu_fiber &fiber : block->fibers)
            if (fiber.state == EMU_AT_GRID_WAIT) set_ready(block, &fiber);
    for (bool has_run = true; has_run && block->n_done < block->fibers.size();) {
        unsigned first = is_ordered ? 0 : (unsigned)emu_random(&block->random) % n_warps;
        has_run = false;
        for (unsigned i = 0; i < n_warps; i++) {
            unsigned w = (first + i) % n_warps;
            /* In order, a warp runs until it waits; else it may be interrupted. */
            uint64_t turns = is_ordered ? ~0ull : 1 + emu_random(&block->random) % 4;
            for (; block->warps[w].ready != 0 && turns > 0; turns--) {
                resume(&block->fibers[w * 32 + __builtin_ctz(block->warps[w].ready)]);
                has_run = true;
            }
        }
    }
    const bool is_done = block->n_done == block->fibers.size();
    if (!is_done && block->grid->is_released) emu_die("deadlock: no thread can go on");
    emu_this_block = NULL;
    emu_shared_bytes = 0;
    return is_done;
}

void emu_block_free(emu_block *block)
{
    emu_check_tail(block->shared, block->grid->shared_bytes, "a write behind shared memory");
    free_shared[block->grid->shared_bytes].push_back(block->shared);
    emu_cells_free(block->cells);
    for (emu_fiber &fiber : block->fibers) free_stacks.push_back(fiber.stack);
    delete block;
}
