#include "test/test.h"

#include "kernels/cpu/queue.h"
#include "test/kernels.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* An operation of this test: appends a number to a log. */
struct log {
    int n;
    int values[8192];
};

struct append_args {
    struct log *log;
    int value;
};

static void append_run(const void *args)
{
    const struct append_args *a = args;
    a->log->values[a->log->n++] = a->value;
}

static void append(struct stream *s, struct log *log, int value)
{
    queue_push(s, append_run, &(struct append_args){log, value}, sizeof(struct append_args));
}

/* Another, which stands still until the test opens it. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool is_open;
};

struct gate_args {
    struct gate *gate;
};

static void gate_run(const void *args)
{
    struct gate *g = ((const struct gate_args *)args)->gate;
    pthread_mutex_lock(&g->lock);
    while (!g->is_open) pthread_cond_wait(&g->opened, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void stop_at(struct stream *s, struct gate *g)
{
    queue_push(s, gate_run, &(struct gate_args){g}, sizeof(struct gate_args));
}

static void open_gate(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->is_open = true;
    pthread_cond_signal(&g->opened);
    pthread_mutex_unlock(&g->lock);
}

#define GATE                                                                                       \
    {                                                                                              \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false                                 \
    }

TEST(a_device_of_another_name_is_not_there)
{
    CHECK(device_open("tpu", 0) == NULL);
    struct device *dev = device_open("cpu", 1);
    CHECK_STR(device_name(dev), "cpu");
    CHECK(device_ops(dev) != NULL);
    device_close(dev);
    device_close(NULL);
}

TEST(device_memory_starts_as_nan_and_shared_memory_as_zero)
{
    struct device *dev = device_open("cpu", 1);
    const size_t sizes[] = {0, 1, 257, 5 << 20};
    for (int i = 0; i < 4; i++) {
        unsigned char *p = device_alloc(dev, sizes[i], "a test");
        unsigned char *q = device_alloc_shared(dev, sizes[i], "a test");
        CHECK(p != NULL && q != NULL);
        CHECK_INT((size_t)p % 256, ==, 0);
        CHECK_UNTOUCHED(p, sizes[i]);
        for (size_t j = 0; j < sizes[i]; j++) CHECK_INT(q[j], ==, 0);
        device_free(dev, p);
        device_free_shared(dev, q);
    }
    device_free(dev, NULL);
    device_free_shared(dev, NULL);
    device_close(dev);
}

TEST(memory_that_is_not_there_ends_the_process_and_is_named)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("a sanitizer's allocator ends the process itself");
#endif
    int out[2];
    CHECK_INT(pipe(out), ==, 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(out[1], STDERR_FILENO);
        device_alloc(device_open("cpu", 1), (size_t)1 << 60, "the elephant");
        _exit(0);
    }
    int status;
    CHECK_INT(waitpid(child, &status, 0), ==, child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    char text[512] = "";
    CHECK_INT(read(out[0], text, sizeof(text) - 1), >, 0);
    CHECK(strstr(text, "the elephant") != NULL);
}

TEST(commands_run_in_order_even_when_they_overfill_the_queue)
{
    static struct log log;
    struct kernels k;
    kernels_open(&k);
    for (int i = 0; i < 8000; i++) append(k.stream, &log, i);
    stream_wait(k.stream);
    CHECK_INT(log.n, ==, 8000);
    for (int i = 0; i < log.n; i++) CHECK_INT(log.values[i], ==, i);
    stream_wait(k.stream); /* with nothing queued it returns */
    kernels_close(&k);
}

TEST(the_host_runs_ahead_of_the_stream)
{
    static struct log log;
    static struct gate gate = GATE;
    struct kernels k;
    kernels_open(&k);
    struct event *e = event_open(k.dev);
    stop_at(k.stream, &gate);
    for (int i = 0; i < 500; i++) append(k.stream, &log, i); /* returns though nothing can run */
    event_record(e, k.stream);
    CHECK(!event_passed(e));
    CHECK_INT(log.n, ==, 0);
    open_gate(&gate);
    event_wait(e);
    CHECK(event_passed(e));
    CHECK_INT(log.n, ==, 500);
    event_close(e);
    kernels_close(&k);
}

TEST(closing_a_stream_runs_what_is_queued)
{
    static struct log log;
    struct device *dev = device_open("cpu", 1);
    struct stream *s = stream_open(dev);
    for (int i = 0; i < 300; i++) append(s, &log, i);
    stream_close(s);
    CHECK_INT(log.n, ==, 300);
    stream_close(NULL);
    device_close(dev);
}

TEST(an_event_recorded_again_waits_for_its_last_record)
{
    static struct gate gate = GATE;
    struct kernels k;
    kernels_open(&k);
    struct event *e = event_open(k.dev);
    CHECK(event_passed(e)); /* never recorded */
    event_wait(e);
    event_record(e, k.stream);
    stream_wait(k.stream);
    CHECK(event_passed(e));
    stop_at(k.stream, &gate);
    event_record(e, k.stream);
    CHECK(!event_passed(e));
    open_gate(&gate);
    event_wait(e);
    CHECK(event_passed(e));
    event_record(e, k.stream);
    event_close(e); /* waits */
    event_close(NULL);
    kernels_close(&k);
}

TEST(the_first_of_two_records_does_not_pass_an_event)
{
    static struct gate first = GATE, second = GATE;
    struct kernels k;
    kernels_open(&k);
    struct event *e = event_open(k.dev), *between = event_open(k.dev);
    stop_at(k.stream, &first);
    event_record(e, k.stream);
    event_record(between, k.stream);
    stop_at(k.stream, &second);
    event_record(e, k.stream);
    open_gate(&first);
    event_wait(between);
    CHECK(!event_passed(e));
    open_gate(&second);
    event_wait(e);
    event_close(between);
    event_close(e);
    kernels_close(&k);
}

TEST(copies_and_fills_happen_in_the_streams_order)
{
    struct kernels k;
    kernels_open(&k);
    char in[1000], out[1000];
    for (int i = 0; i < 1000; i++) in[i] = (char)i;
    char *p = kernels_empty(&k, sizeof(in) + 1);
    stream_copy_in(k.stream, p, in, sizeof(in));
    stream_fill(k.stream, p + 10, 7, 20);
    stream_copy_out(k.stream, out, p, sizeof(out));
    stream_fill(k.stream, p, 0, sizeof(in));
    stream_copy_in(k.stream, NULL, NULL, 0);
    stream_wait(k.stream);
    memset(in + 10, 7, 20);
    CHECK_INT(memcmp(in, out, sizeof(in)), ==, 0);
    CHECK_UNTOUCHED(p + 1000, 1);
    kernels_close(&k);
}

TEST(a_graph_runs_when_launched_with_the_arguments_it_was_recorded_with)
{
    static struct log log;
    struct kernels k;
    kernels_open(&k);
    char source[4] = "abc", copy[4] = "";
    graph_begin(k.stream);
    for (int i = 0; i < 200; i++) append(k.stream, &log, i);
    stream_copy_in(k.stream, copy, source, sizeof(source));
    struct graph *g = graph_end(k.stream);
    CHECK_INT(graph_n_ops(g), ==, 201);
    stream_wait(k.stream);
    CHECK_INT(log.n, ==, 0);

    append(k.stream, &log, -1);
    graph_launch(k.stream, g);
    source[0] = 'A'; /* before or after the copy: the second launch decides */
    stream_wait(k.stream);
    source[0] = 'B';
    append(k.stream, &log, -2);
    graph_launch(k.stream, g);
    stream_wait(k.stream);
    CHECK_STR(copy, "Bbc");
    CHECK_INT(log.n, ==, 402);
    for (int i = 0; i < 402; i++) {
        int want = i % 201 == 0 ? -1 - i / 201 : i % 201 - 1;
        CHECK_INT(log.values[i], ==, want);
    }
    graph_free(g);
    graph_free(NULL);
    kernels_close(&k);
}

TEST(a_launch_is_one_piece_of_work_however_long_the_graph)
{
    static struct log log;
    static struct gate gate = GATE;
    struct kernels k;
    kernels_open(&k);
    graph_begin(k.stream);
    for (int i = 0; i < 100; i++) append(k.stream, &log, i);
    struct graph *g = graph_end(k.stream);
    stop_at(k.stream, &gate);
    for (int i = 0; i < 80; i++) graph_launch(k.stream, g); /* 8000 commands do not fit the queue */
    CHECK_INT(log.n, ==, 0);
    open_gate(&gate);
    stream_wait(k.stream);
    CHECK_INT(log.n, ==, 8000);
    graph_free(g);
    kernels_close(&k);
}

TEST(a_graph_that_is_never_ended_is_freed_with_its_stream)
{
    static struct log log;
    struct kernels k;
    kernels_open(&k);
    graph_begin(k.stream);
    append(k.stream, &log, 1);
    kernels_close(&k);
    CHECK_INT(log.n, ==, 0);
}

static int status_of_n_rows(int32_t n, int max)
{
    pid_t child = fork();
    if (child == 0) {
        fclose(stderr);
        _exit(cpu_n_rows(&n, max) == n ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    return status;
}

TEST(a_row_count_out_of_range_ends_the_process)
{
    CHECK_INT(cpu_n_rows(NULL, 5), ==, 5);
    CHECK_INT(status_of_n_rows(0, 4), ==, 0);
    CHECK_INT(status_of_n_rows(4, 4), ==, 0);
    CHECK(WIFSIGNALED(status_of_n_rows(5, 4)));
    CHECK(WIFSIGNALED(status_of_n_rows(-1, 4)));
}
