/* The emulator catches what it says (emu.h): each bug is planted, and the same kernel without it
 * runs. */
#include "test/emu/planted.h"
#include "test/kernels.h"
#include "test/runs.h"
#include "test/test.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 128, N_RUNS = 8 }; /* a run of each schedule */

struct bed {
    struct kernels k;
    int32_t *in, *out; /* [N], [N + 1] */
};

static struct bed open_bed(void)
{
    struct bed b;
    kernels_open(&b.k);
    int32_t in[N];
    for (int i = 0; i < N; i++) in[i] = 3 * i;
    b.in = kernels_upload(&b.k, in, sizeof(in));
    b.out = kernels_empty(&b.k, sizeof(in) + sizeof(*in));
    return b;
}

typedef void (*launch_fn)(struct bed *b, bool is_right);

/* What out[i] must be for i < n: scale * ((i + shift) % N). */
struct wanted {
    int n, scale, shift;
};

static void run_all(launch_fn launch, bool is_right, const struct wanted *w)
{
    struct bed b = open_bed();
    for (int run = 0; run < N_RUNS; run++) {
        stream_fill(b.k.stream, b.out, 0xff, N * sizeof(int32_t));
        launch(&b, is_right);
        const int32_t *out = kernels_download(&b.k, b.out, N * sizeof(int32_t));
        for (int i = 0; i < w->n; i++)
            if (out[i] != w->scale * ((i + w->shift) % N)) {
                fprintf(stderr, "wrong numbers");
                _exit(1);
            }
    }
    kernels_close(&b.k);
}

/* Makes the runs in a process of their own and returns its status and what it said last. */
static int run_apart(launch_fn launch, bool is_right, const struct wanted *w, char *said,
                     size_t size)
{
    int ends[2], status = -1;
    CHECK_INT(pipe(ends), ==, 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[1]);
        run_all(launch, is_right, w);
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], said + n, size - 1 - n)) > 0; n += (size_t)got) {}
    said[n] = '\0';
    close(ends[0]);
    waitpid(child, &status, 0);
    return status;
}

/* All runs are right without the bug; with it the process ends and says `message`. */
static void check_caught(launch_fn launch, const struct wanted *w, const char *message)
{
    char said[1024];
    CHECK_INT(run_apart(launch, true, w, said, sizeof(said)), ==, 0);
    CHECK_INT(run_apart(launch, false, w, said, sizeof(said)), !=, 0);
    if (strstr(said, message) == NULL)
        test_fail(__FILE__, __LINE__, "\"%s\" is not in: %s", message, said);
}

static const struct wanted anything = {0, 0, 0}, own = {N, 1, 0}, next = {N, 1, 1}, in = {N, 3, 0};
static const char *const race = "a race on shared memory";

/* ---- races -------------------------------------------------------------------------------------
 */

static void neighbour(struct bed *b, bool is_right)
{
    planted_neighbour(b->k.stream, b->out, is_right);
}

TEST(a_missing_barrier_is_caught)
{
    check_caught(neighbour, &next, race);
}

static void exchange(struct bed *b, bool is_right)
{
    planted_exchange(b->k.stream, b->out, is_right);
}

TEST(a_missing_syncwarp_is_caught)
{
    check_caught(exchange, &anything, race);
}

static void reuse(struct bed *b, bool is_right)
{
    planted_reuse(b->k.stream, b->out, is_right);
}

TEST(a_write_before_all_have_read_is_caught)
{
    check_caught(reuse, &next, race);
}

static void agree(struct bed *b, bool is_right)
{
    planted_agreement(b->k.stream, b->out, is_right);
}

TEST(two_writes_to_one_place_are_caught_even_if_they_agree)
{
    check_caught(agree, &own, race);
}

static void count(struct bed *b, bool is_right)
{
    planted_count(b->k.stream, b->out, is_right);
}

TEST(atomics_may_meet_each_other_but_no_plain_read)
{
    check_caught(count, &own, race);
}

static void fetch(struct bed *b, bool is_right)
{
    planted_fetch(b->k.stream, b->out, b->in, is_right);
}

TEST(a_copy_that_another_thread_reads_without_a_barrier_is_caught)
{
    check_caught(fetch, &in, race);
}

static void load_matrix(struct bed *b, bool is_right)
{
    planted_matrix(b->k.stream, b->out, is_right);
}

TEST(matrices_loaded_before_the_lanes_that_write_them_have_met_are_caught)
{
    check_caught(load_matrix, &own, race);
}

/* ---- the rest ----------------------------------------------------------------------------------
 */

static void copy(struct bed *b, bool is_right)
{
    planted_copy(b->k.stream, b->out, b->in, is_right);
}

TEST(a_copy_read_before_its_wait_is_caught)
{
    check_caught(copy, &in, "wrong numbers");
}

static void write_shared(struct bed *b, bool is_right)
{
    planted_write(b->k.stream, b->out, is_right ? 1 : 2, true);
}

static void write_global(struct bed *b, bool is_right)
{
    planted_write(b->k.stream, b->out, is_right ? 1 : 2, false);
}

static void write_far(struct bed *b, bool is_right)
{
    planted_write(b->k.stream, b->out, is_right ? 1 : 4096, false);
}

TEST(a_write_behind_shared_memory_is_caught)
{
    check_caught(write_shared, &anything, "a write behind shared memory");
}

TEST(a_write_behind_global_memory_is_caught_near_and_far)
{
    check_caught(write_global, &anything, "a write behind global memory");
    check_caught(write_far, &anything, ""); /* the page is not there */
}

static void vote(struct bed *b, bool is_right)
{
    planted_vote(b->k.stream, b->out, is_right ? 0xffff : ~0u);
}

TEST(a_mask_that_names_lanes_which_do_not_come_is_caught)
{
    check_caught(vote, &anything, "its warp waits for it");
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
    check_caught(diverge, &anything, "different barriers");
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
    check_caught(be_impatient, &anything, "without waiting");
}

static void keep_in_workspace(struct bed *b, bool is_right)
{
    planted_workspace(b->k.stream, b->out, is_right);
}

TEST(what_a_kernel_leaves_in_the_workspace_is_gone_behind_it)
{
    check_caught(keep_in_workspace, &own, "wrong numbers");
}

static void take_ticket(struct bed *b, bool is_right)
{
    planted_ticket(b->k.stream, is_right);
}

TEST(a_ticket_that_is_not_given_back_is_caught)
{
    check_caught(take_ticket, &anything, "left a ticket");
}

/* The digest (test/runs.h) of blocks that write their numbers, or their turns. */
static uint64_t digest_of_turns(bool is_ordered, int run)
{
    int ends[2];
    uint64_t digest = 0;
    CHECK_INT(pipe(ends), ==, 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        test_begin_run(run);
        struct bed b = open_bed();
        stream_fill(b.k.stream, b.in, 0, sizeof(int32_t));
        planted_turns(b.k.stream, b.out, b.in, is_ordered);
        stream_wait(b.k.stream);
        kernels_close(&b.k);
        digest = test_digest();
        _exit(write(ends[1], &digest, sizeof(digest)) != sizeof(digest));
    }
    waitpid(child, NULL, 0);
    CHECK_INT(read(ends[0], &digest, sizeof(digest)), ==, (int)sizeof(digest));
    close(ends[0]);
    close(ends[1]);
    return digest;
}

TEST(runs_with_other_schedules_have_other_digests_where_the_schedule_matters)
{
    CHECK(digest_of_turns(true, 0) == digest_of_turns(true, 1));
    CHECK(digest_of_turns(false, 0) != digest_of_turns(false, 1));
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
