/* The clock of the benches, and what they say of many times. */
#ifndef BENCH_SPREAD_H
#define BENCH_SPREAD_H

#include <stdlib.h>
#include <time.h>

static inline double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

struct spread {
    double least, p10, median, p90, most;
};

static inline int spread_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of n numbers, which it sorts. */
static inline struct spread spread_of(double *x, int n)
{
    qsort(x, (size_t)n, sizeof(*x), spread_order);
    return (struct spread){x[0], x[n / 10], x[n / 2], x[n - 1 - n / 10], x[n - 1]};
}

#endif
