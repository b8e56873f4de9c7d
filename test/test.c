#include "test/test.h"

#include "test/runs.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_TESTS 256
#ifdef __SANITIZE_ADDRESS__
#define TIMEOUT_S 240 /* an emulated device with a sanitizer is slow */
#else
#define TIMEOUT_S 60
#endif
#define EXIT_FAILED  1
#define EXIT_SKIPPED 77
#ifndef TEST_DATA
#define TEST_DATA "test"
#endif

static struct {
    const char *name;
    void (*run)(void);
} tests[MAX_TESTS];
static int n_tests;

void test_register(const char *name, void (*run)(void))
{
    if (n_tests == MAX_TESTS) abort();
    tests[n_tests].name = name;
    tests[n_tests++].run = run;
}

void test_fail(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("# %s:%d: ", file, line);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
    fflush(stdout);
    _exit(EXIT_FAILED);
}

void test_skip(const char *why)
{
    printf("# skipped: %s\n", why);
    fflush(stdout);
    _exit(EXIT_SKIPPED);
}

void test_close(const char *file, int line, const float *got, const float *want, size_t n,
                double abs_tolerance, double rel_tolerance)
{
    for (size_t i = 0; i < n; i++) {
        if (got[i] == want[i]) continue;
        double limit = abs_tolerance + rel_tolerance * fabs((double)want[i]);
        double error = fabs((double)got[i] - (double)want[i]);
        if (!(error <= limit))
            test_fail(file, line, "element %zu of %zu is %.9g, not %.9g (error %.3g, limit %.3g)",
                      i, n, (double)got[i], (double)want[i], error, limit);
    }
}

const char *test_path(const char *relative)
{
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", TEST_DATA, relative);
    return path;
}

__attribute__((weak)) int test_n_runs(void)
{
    return 1;
}

__attribute__((weak)) void test_begin_run(int run)
{
    (void)run;
}

__attribute__((weak)) uint64_t test_digest(void)
{
    return 0;
}

/* Runs one test in a child, which leaves its digest, and returns its exit status, or 128 + signal.
 */
static int run_once(int i, int run, uint64_t *digest)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(TIMEOUT_S);
        test_begin_run(run);
        tests[i].run();
        *digest = test_digest();
        fflush(stdout);
        exit(0); /* not _exit: a leak checker reports here */
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child) return EXIT_FAILED;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Runs one test as often as is wanted; the first status that is not 0. */
static int run_one(int i)
{
    static uint64_t *digest; /* shared with the children */
    uint64_t first = 0;
    if (digest == NULL)
        digest =
            mmap(NULL, sizeof(*digest), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (digest == MAP_FAILED) abort();
    for (int run = 0; run < test_n_runs(); run++) {
        int status = run_once(i, run, digest);
        if (status != 0) return status;
        if (run == 0) first = *digest;
        if (*digest == first) continue;
        printf("# run %d of this test has other results than the first one\n", run + 1);
        return EXIT_FAILED;
    }
    return 0;
}

/* With arguments, runs only the tests whose names contain one of them. */
static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strstr(name, argv[i])) return true;
    return argc == 1;
}

int main(int argc, char **argv)
{
    int n_failed = 0, n_run = 0;
    for (int i = 0; i < n_tests; i++) {
        if (!wanted(tests[i].name, argc, argv)) continue;
        int status = run_one(i);
        bool is_ok = status == 0 || status == EXIT_SKIPPED;
        if (status > 128) printf("# ended by signal %d\n", status - 128);
        printf("%s %d - %s%s\n", is_ok ? "ok" : "not ok", ++n_run, tests[i].name,
               status == EXIT_SKIPPED ? " # SKIP" : "");
        n_failed += !is_ok;
    }
    printf("1..%d\n", n_run);
    return n_failed != 0;
}
