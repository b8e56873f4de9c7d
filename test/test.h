/* The unit tests' framework: one file is one program, its tests register themselves, TAP comes out.
 *
 *   TEST(a_sentence_that_the_test_proves) { CHECK_INT(1 + 1, ==, 2); }
 *
 * A failed check prints both sides and ends its test; the others go on.  Each test runs in a child
 * process, so a crash or a hang (60 s) fails one test and not the file. */
#ifndef TEST_TEST_H
#define TEST_TEST_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

void test_register(const char *name, void (*run)(void));
_Noreturn void test_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
_Noreturn void test_skip(const char *why);

/* Fails unless |got[i] - want[i]| <= abs_tolerance + rel_tolerance * |want[i]| for all i; NaN
 * fails, and equal infinities pass. */
void test_close(const char *file, int line, const float *got, const float *want, size_t n,
                double abs_tolerance, double rel_tolerance);

/* "<directory of the project's test data>/relative"; the text lives until the test ends. */
const char *test_path(const char *relative);

#define TEST(name)                                                                                 \
    static void name(void);                                                                        \
    __attribute__((constructor)) static void name##_register(void)                                 \
    {                                                                                              \
        test_register(#name, name);                                                                \
    }                                                                                              \
    static void name(void)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) test_fail(__FILE__, __LINE__, "%s", #condition);                         \
    } while (0)

#define CHECK_INT(a, op, b)                                                                        \
    do {                                                                                           \
        long long a_ = (long long)(a), b_ = (long long)(b);                                        \
        if (!(a_ op b_))                                                                           \
            test_fail(__FILE__, __LINE__, "%s " #op " %s: %lld and %lld", #a, #b, a_, b_);         \
    } while (0)

#define CHECK_STR(a, b)                                                                            \
    do {                                                                                           \
        const char *a_ = (a), *b_ = (b);                                                           \
        if (strcmp(a_, b_) != 0)                                                                   \
            test_fail(__FILE__, __LINE__, "%s is \"%s\", not \"%s\"", #a, a_, b_);                 \
    } while (0)

#define CHECK_CLOSE(got, want, n, abs_tolerance, rel_tolerance)                                    \
    test_close(__FILE__, __LINE__, got, want, n, abs_tolerance, rel_tolerance)

#define SKIP(why) test_skip(why)

#endif
