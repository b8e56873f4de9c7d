/* Attention over rows that lie side by side: inside segments (vision tower), and of learned queries
 * over a whole image (adaptor). */
#include "kernels/cpu/attend.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"

/* One query over rows first .. end - 1 of k and v, `stride` elements apart. */
static void attend_rows(const float *q, const float *k, const float *v, size_t stride, int first,
                        int end, int head_dim, float *out)
{
    struct attend state;
    attend_begin(&state, q, head_dim);
    for (int row = first; row < end; row += ATTEND_TILE) {
        size_t offset[ATTEND_TILE];
        int n = end - row < ATTEND_TILE ? end - row : ATTEND_TILE;
        for (int j = 0; j < n; j++) offset[j] = (size_t)(row + j) * stride;
        attend_tile(&state, k, v, offset, n);
    }
    attend_end(&state, out);
}

/* The segment that holds a row. */
static int segment_of(const struct vision_attention_args *a, int row)
{
    int low = 0, high = a->n_segments - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (a->first[middle] <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static void require_head_dim(int head_dim)
{
    REQUIRE(head_dim > 0 && head_dim % VEC == 0 && head_dim <= MAX_HEAD_DIM);
}

static void vision_attention_run(const struct vision_attention_args *a)
{
    if (a->n == 0) return;
    require_head_dim(a->head_dim);
    REQUIRE(a->n_segments > 0 && a->first[0] == 0 && a->first[a->n_segments] == a->n);
    const size_t row_len = (size_t)a->n_heads * a->head_dim, stride = 3 * row_len;
    const size_t work = (size_t)a->n * (a->n / a->n_segments + 1) * row_len;
    /* Head by head: the keys and values of one stay in the cache. */
#pragma omp parallel for schedule(static) if (work > PARALLEL_WORK)
    for (int task = 0; task < a->n * a->n_heads; task++) {
        int row = task % a->n, segment = segment_of(a, row);
        size_t head = (size_t)(task / a->n) * a->head_dim;
        const float *q = (const float *)a->qkv + row * stride + head;
        const float *k = (const float *)a->qkv + row_len + head;
        attend_rows(q, k, k + row_len, stride, a->first[segment], a->first[segment + 1],
                    a->head_dim, (float *)a->out + row * row_len + head);
    }
}

static void pool_attention_run(const struct pool_attention_args *a)
{
    require_head_dim(a->head_dim);
    const size_t stride = (size_t)a->n_heads * a->head_dim;
#pragma omp parallel for schedule(static) if (a->n * a->n_query * stride > PARALLEL_WORK)
    for (int task = 0; task < a->n_query * a->n_heads; task++) {
        size_t head = (size_t)(task % a->n_heads) * a->head_dim, at = (size_t)task * a->head_dim;
        attend_rows(a->query + at, (const float *)a->k + head, (const float *)a->v + head, stride,
                    0, a->n, a->head_dim, (float *)a->out + at);
    }
}

CPU_OPERATION(vision_attention, vision_attention_args)
CPU_OPERATION(pool_attention, pool_attention_args)
