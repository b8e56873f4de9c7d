/* The emulator catches what it says (emu.h): each bug is planted, and the same kernel without it
 * runs. */
#include "test/emu/planted.h"
#include "test/kernels.h"
#include "test/test.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 128, N_RUNS = 8 }; /* a run of each schedule */

struct bed {
    struct kernels k;
    int32_t *out, *in; /* [N] */
};

static struct bed open_bed(void)
{
    struct bed b;
    kernels_open(&b.k);
    int32_t in[N];
    for (int i = 0; i < N; i++) in[i] = 3 * i;
    b.in = kernels_upload(&b.k, in, sizeof(in));
    b.out = kernels_empty(&b.k, sizeof(in));
    return b;
}

typedef void (*launch_fn)(struct bed *b, bool is_right);

/* Whether N_RUNS runs all end with out[i] = scale * ((i + shift) % N) for i < n; the process may
 * also be ended by the emulator. */
static bool all_right(launch_fn launch, bool is_right, int n, int scale, int shift)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        fclose(stderr);
        struct bed b = open_bed();
        for (int run = 0; run < N_RUNS; run++) {
            stream_fill(b.k.stream, b.out, 0xff, N * sizeof(int32_t));
            launch(&b, is_right);
            const int32_t *out = kernels_download(&b.k, b.out, N * sizeof(int32_t));
            for (int i = 0; i < n; i++)
                if (out[i] != scale * ((i + shift) % N)) _exit(1);
        }
        kernels_close(&b.k);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    return status == 0;
}

static void check_caught(launch_fn launch, int n, int scale, int shift)
{
    CHECK(all_right(launch, true, n, scale, shift));
    CHECK(!all_right(launch, false, n, scale, shift));
}

static void neighbour(struct bed *b, bool is_right)
{
    planted_neighbour(b->k.stream, b->out, is_right);
}

TEST(a_missing_barrier_is_caught)
{
    check_caught(neighbour, N, 1, 1);
}

static void copy(struct bed *b, bool is_right)
{
    planted_copy(b->k.stream, b->out, b->in, is_right);
}

TEST(a_copy_read_before_its_wait_is_caught)
{
    check_caught(copy, N, 3, 0);
}

static void write_shared(struct bed *b, bool is_right)
{
    planted_write(b->k.stream, b->out, is_right ? 0 : 1, true);
}

static void write_global(struct bed *b, bool is_right)
{
    planted_write(b->k.stream, b->out, is_right ? 0 : 1, false);
}

static void write_far(struct bed *b, bool is_right)
{
    planted_write(b->k.stream, b->out, is_right ? 0 : 4096, false);
}

TEST(a_write_behind_shared_memory_is_caught)
{
    check_caught(write_shared, 0, 0, 0);
}

TEST(a_write_behind_global_memory_is_caught_near_and_far)
{
    check_caught(write_global, N, 1, 0);
    check_caught(write_far, N, 1, 0);
}

static void vote(struct bed *b, bool is_right)
{
    planted_vote(b->k.stream, b->out, is_right ? 0xffff : ~0u);
}

TEST(a_mask_that_names_lanes_which_do_not_come_is_caught)
{
    check_caught(vote, 0, 0, 0);
}

static void diverge(struct bed *b, bool is_right)
{
    if (is_right)
        planted_neighbour(b->k.stream, b->out, true);
    else
        planted_divergence(b->k.stream, b->out);
}

TEST(threads_at_different_barriers_are_caught)
{
    check_caught(diverge, 0, 0, 0);
}

static void be_impatient(struct bed *b, bool is_right)
{
    if (is_right)
        planted_neighbour(b->k.stream, b->out, true);
    else
        planted_impatience(b->k.stream, b->out);
}

TEST(a_programmatic_kernel_that_never_waits_is_caught)
{
    check_caught(be_impatient, 0, 0, 0);
}

/* Kernels that add 1 to what the one before has written, as a graph or one by one. */
static bool chain_is_right(bool waits_first, bool is_graph)
{
    enum { LENGTH = 5 };
    struct kernels k;
    kernels_open(&k);
    int32_t first[N], *out = kernels_empty(&k, sizeof(first) * (LENGTH + 1));
    for (int i = 0; i < N; i++) first[i] = i;
    kernels_write(&k, out, first, sizeof(first));
    if (is_graph) {
        graph_begin(k.stream);
        planted_chain(k.stream, out, LENGTH, waits_first);
        struct graph *g = graph_end(k.stream);
        CHECK_INT(graph_n_ops(g), ==, LENGTH);
        graph_launch(k.stream, g);
        stream_wait(k.stream);
        graph_free(g);
    } else {
        planted_chain(k.stream, out, LENGTH, waits_first);
    }
    const int32_t *got = kernels_download(&k, out, sizeof(first) * (LENGTH + 1));
    bool is_right = true;
    for (int i = 0; i < N; i++) is_right &= got[LENGTH * N + i] == i + LENGTH;
    kernels_close(&k);
    return is_right;
}

TEST(a_read_before_the_wait_for_the_kernel_in_front_is_caught_in_streams_and_graphs)
{
    for (int is_graph = 0; is_graph < 2; is_graph++) {
        CHECK(chain_is_right(true, is_graph));
        CHECK(!chain_is_right(false, is_graph));
    }
}

TEST(nothing_runs_before_somebody_waits_and_events_pass_in_order)
{
    struct bed b = open_bed();
    struct event *before = event_open(b.k.dev), *behind = event_open(b.k.dev);
    CHECK(event_passed(before));
    event_record(before, b.k.stream);
    planted_neighbour(b.k.stream, b.out, true);
    event_record(behind, b.k.stream);
    CHECK_UNTOUCHED(b.out, N * sizeof(int32_t));
    event_wait(before);
    CHECK_UNTOUCHED(b.out, N * sizeof(int32_t));
    CHECK(!event_passed(behind)); /* asking runs one piece of work, the kernel */
    CHECK_INT(b.out[N - 1], ==, 0);
    CHECK(event_passed(behind));
    event_close(before);
    event_close(behind);
    kernels_close(&b.k);
}
