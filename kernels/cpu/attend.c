#include "kernels/cpu/attend.h"

#include "kernels/cpu/queue.h"

enum { V_LANES = 8 }; /* vectors of the output in registers at a time: they hide fma's latency */

void attend_begin(struct attend *a, const float *q, int head_dim)
{
    const vec scale = vec_set(1 / sqrtf((float)head_dim));
    a->head_dim = head_dim;
    a->max = -INFINITY;
    a->sum = vec_set(0);
    for (int i = 0; i < head_dim; i += VEC) {
        vec_store(a->q + i, vec_load(q + i) * scale);
        vec_store(a->o + i, vec_set(0));
    }
}

/* Scores of eight keys. */
static vec dots(const struct attend *a, const float *k, const size_t offset[VEC])
{
    vec sum[VEC] = {{0}};
    for (int i = 0; i < a->head_dim; i += VEC) {
        vec q = vec_load(a->q + i);
#pragma GCC unroll 8
        for (int j = 0; j < VEC; j++) sum[j] = vec_fma(q, vec_load(k + offset[j] + i), sum[j]);
    }
    return vec_sum8(sum);
}

/* o = o * scale + sum over j of p[j] v[j], j in order, for n_vec vectors of the head. */
static inline __attribute__((always_inline)) void add_values(const int n_vec, float *o,
                                                             const float *v, const size_t *offset,
                                                             const float *p, int n, vec scale)
{
    vec sum[V_LANES];
#pragma GCC unroll 8
    for (int i = 0; i < n_vec; i++) sum[i] = vec_load(o + i * VEC) * scale;
    for (int j = 0; j < n; j++) {
        const float *value = v + offset[j];
#pragma GCC unroll 8
        for (int i = 0; i < n_vec; i++)
            sum[i] = vec_fma(vec_set(p[j]), vec_load(value + i * VEC), sum[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_vec; i++) vec_store(o + i * VEC, sum[i]);
}

void attend_tile(struct attend *a, const float *k, const float *v, size_t *offset, int n)
{
    if (n == 0) return;
    REQUIRE(n > 0 && n <= ATTEND_TILE);
    for (int j = n; j % VEC != 0; j++) offset[j] = offset[n - 1];

    float p[ATTEND_TILE];
    vec largest = vec_set(a->max);
    for (int j = 0; j < n; j += VEC) {
        vec_store(p + j, dots(a, k, offset + j));
        for (int i = n; i < j + VEC; i++) p[i] = -INFINITY;
        largest = vec_max(largest, vec_load(p + j));
    }
    const float max = vec_largest(largest);
    const vec scale = vec_exp(vec_set(a->max - max));
    a->max = max;
    a->sum *= scale;
    for (int j = 0; j < n; j += VEC) {
        vec weights = vec_exp(vec_load(p + j) - vec_set(max));
        vec_store(p + j, weights);
        a->sum += weights;
    }

    int i = 0;
    for (; i + V_LANES * VEC <= a->head_dim; i += V_LANES * VEC)
        add_values(V_LANES, a->o + i, v + i, offset, p, n, scale);
    for (; i + 4 * VEC <= a->head_dim; i += 4 * VEC)
        add_values(4, a->o + i, v + i, offset, p, n, scale);
    for (; i < a->head_dim; i += VEC) add_values(1, a->o + i, v + i, offset, p, n, scale);
}

void attend_end(const struct attend *a, float *out)
{
    const float sum = vec_sum(a->sum);
    const vec scale = vec_set(sum == 0 ? 0 : 1 / sum);
    for (int i = 0; i < a->head_dim; i += VEC) vec_store(out + i, vec_load(a->o + i) * scale);
}
