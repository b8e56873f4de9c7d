/* The C side of a comparison with a Python library in one run; the Python side is turns.py.
 *
 * For every line on standard input the work is done once, and one line comes out: the processor
 * seconds that it took, and a number that both sides must agree on. */
#ifndef BENCH_TURNS_H
#define BENCH_TURNS_H

#include <stdio.h>
#include <time.h>

static inline double turns_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline void turns_run(double (*work)(void *arg), void *arg)
{
    char line[16];
    while (fgets(line, sizeof(line), stdin)) {
        double start = turns_seconds();
        double result = work(arg);
        printf("%.9f %.9g\n", turns_seconds() - start, result);
        fflush(stdout);
    }
}

#endif
