/* Passes over one row of logits that topk, logprobs, filter and pick share.
 *
 * All of them add and compare in an order that depends on the row's length only, so a row's result
 * does not depend on the rows beside it.  Any thread. */
#ifndef KERNELS_CPU_SCAN_H
#define KERNELS_CPU_SCAN_H

#include "kernels/cpu/vector.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    /* Logits below which a loop over rows stays on one thread: a parallel region costs about as
     * much as reading that many. */
    SCAN_SERIAL_MAX = 1 << 15,
};

/* A token and its score; `a` ranks before `b` if its score is higher, or equal and its id lower. */
struct scored {
    float score;
    int32_t id;
};

static inline bool scored_before(struct scored a, struct scored b)
{
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}

/* e^x by vec_exp, so that a single weight has the bits it has in scan_exp_sum. */
static inline float scan_exp(float x)
{
    return vec_exp(vec_set(x))[0];
}

/* The largest of x[0..n), -inf if there is none; NaNs do not count, *has_nan tells of them. */
float scan_max(const float *x, int n, bool *has_nan);

/* Sum of e^(x[i] - max), where max is finite and the largest. */
double scan_exp_sum(const float *x, int n, float max);

/* The first min(n, k) of x[0..n) in rank; NaN ranks as -inf.  Returns how many.  For small k: the
 * cost is a comparison a value, and k moves for each that enters. */
int scan_best(const float *x, int n, int k, struct scored *best);

#endif
