#include "kernels/cpu/scan.h"

#include <math.h>

enum {
    BLOCK = 32,       /* values that scan_best passes over at once */
    SUM_BLOCK = 1024, /* values added in float before they go into the double */
};

float scan_max(const float *x, int n, bool *has_nan)
{
    vec max = vec_set(-INFINITY);
    veci nan = {0};
    int i = 0;
    for (; i + VEC <= n; i += VEC) {
        vec v = vec_load(x + i);
        max = vec_max(v, max); /* keeps max where v is NaN */
        nan |= ~(v <= vec_set(INFINITY));
    }
    float best = -INFINITY;
    int32_t is_nan = 0;
    for (int j = 0; j < VEC; j++) {
        best = max[j] > best ? max[j] : best;
        is_nan |= nan[j];
    }
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
        is_nan |= x[i] != x[i];
    }
    *has_nan = is_nan != 0;
    return best;
}

double scan_exp_sum(const float *x, int n, float max)
{
    double sum = 0;
    for (int begin = 0; begin < n; begin += SUM_BLOCK) {
        int end = begin + SUM_BLOCK < n ? begin + SUM_BLOCK : n, i = begin;
        vec lanes = {0};
        for (; i + VEC <= end; i += VEC) lanes += vec_exp(vec_load(x + i) - vec_set(max));
        float tail = 0;
        for (; i < end; i++) tail += scan_exp(x[i] - max);
        sum += (double)vec_sum(lanes) + tail;
    }
    return sum;
}

static bool block_has_above(const float *x, float limit)
{
    int32_t above = 0;
    for (int j = 0; j < BLOCK; j++) above |= x[j] > limit;
    return above != 0;
}

int scan_best(const float *x, int n, int k, struct scored *best)
{
    int n_best = 0;
    if (k < 1) return 0;
    for (int i = 0; i < n; i++) {
        if (n_best == k && i % BLOCK == 0) {
            while (i + BLOCK <= n && !block_has_above(x + i, best[k - 1].score)) i += BLOCK;
            if (i == n) break;
        }
        float score = x[i] == x[i] ? x[i] : -INFINITY;
        if (n_best == k && !(score > best[k - 1].score)) continue;
        int place = n_best < k ? n_best++ : k - 1;
        for (; place > 0 && best[place - 1].score < score; place--) best[place] = best[place - 1];
        best[place] = (struct scored){score, i};
    }
    return n_best;
}
