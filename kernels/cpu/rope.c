/* Rotary embedding, and for the language model new keys and values into the cache.
 *
 *   (x[i], x[i + half])  ->  (x[i] cos - x[i + half] sin,  x[i + half] cos + x[i] sin),  half =
 * head_dim / 2 */
#include "kernels/cpu/rope.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/vector.h"

void rope_require_shapes(const struct kv_pool *pool, int layer, int n_heads)
{
    REQUIRE(layer >= 0 && layer < pool->n_layers);
    REQUIRE(pool->head_dim > 0 && pool->head_dim % VEC == 0 && pool->head_dim <= MAX_HEAD_DIM);
    REQUIRE(pool->n_kv_heads > 0 && n_heads % pool->n_kv_heads == 0);
}

/* cos and sin of a row's positions, each pair from its axis. */
static void angles(const struct rope *rope, const int32_t pos[3], int half, float *cosines,
                   float *sines)
{
    int i = 0;
    for (int axis = 0; axis < 3; axis++) {
        int end = axis < 2 ? i + rope->section[axis] : half;
        if (end == i) continue;
        REQUIRE(end <= half && pos[axis] >= 0 && pos[axis] < rope->n_pos);
        const float *table = rope->table + (size_t)pos[axis] * half * 2;
        for (; i < end; i++) {
            cosines[i] = table[2 * i];
            sines[i] = table[2 * i + 1];
        }
    }
}

static void rotate(float *restrict head, int half, const float *restrict cosines,
                   const float *restrict sines)
{
    for (int i = 0; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosines[i] - b * sines[i];
        head[i + half] = b * cosines[i] + a * sines[i];
    }
}

int rope_append_row(float *qkv, const struct rope *rope, const struct rows *rows, int r,
                    const struct kv_pool *pool, int layer, int n_heads)
{
    const int head_dim = pool->head_dim, half = head_dim / 2, n_kv = pool->n_kv_heads;
    const int slot = rows->slot[r];
    REQUIRE(slot >= 0 && slot / PAGE_LEN < pool->max_pages);
    const int page = pool->table[(size_t)rows->seat[r] * pool->max_pages + slot / PAGE_LEN];
    REQUIRE(page >= 0 && page < pool->n_pages);

    float cosines[MAX_HEAD_DIM / 2], sines[MAX_HEAD_DIM / 2];
    angles(rope, rows->pos + 3 * (size_t)r, half, cosines, sines);
    for (int h = 0; h < n_heads + n_kv; h++) rotate(qkv + h * head_dim, half, cosines, sines);

    const float *k = qkv + n_heads * head_dim, *v = k + n_kv * head_dim;
    size_t to = layer * kv_layer_stride(pool) + page * kv_page_stride(pool) +
                (size_t)(slot % PAGE_LEN) * head_dim;
    for (int h = 0; h < n_kv; h++, to += kv_head_stride(pool)) {
        memcpy((float *)pool->k + to, k + h * head_dim, head_dim * sizeof(float));
        memcpy((float *)pool->v + to, v + h * head_dim, head_dim * sizeof(float));
    }
    return page;
}

static void rope_append_run(const struct rope_append_args *a)
{
    const int n = cpu_n_rows(a->rows.n, a->rows.max);
    rope_require_shapes(&a->pool, a->layer, a->n_heads);
    const size_t width = (size_t)(a->n_heads + 2 * a->pool.n_kv_heads) * a->pool.head_dim;
#pragma omp parallel for if (n * width > PARALLEL_WORK)
    for (int r = 0; r < n; r++)
        rope_append_row((float *)a->qkv + r * width, &a->rope, &a->rows, r, &a->pool, a->layer,
                        a->n_heads);
}

static void vision_rope_run(const struct vision_rope_args *a)
{
    const int half = a->head_dim / 2;
    const size_t width = (size_t)3 * a->n_heads * a->head_dim;
    REQUIRE(a->head_dim > 0 && a->head_dim % 2 == 0 && a->head_dim <= MAX_HEAD_DIM);
#pragma omp parallel for if (a->n * width > PARALLEL_WORK)
    for (int r = 0; r < a->n; r++) {
        float cosines[MAX_HEAD_DIM / 2], sines[MAX_HEAD_DIM / 2];
        angles(&a->rope, a->pos + 3 * (size_t)r, half, cosines, sines);
        for (int h = 0; h < 2 * a->n_heads; h++) /* q heads, then k heads */
            rotate((float *)a->qkv + r * width + (size_t)h * a->head_dim, half, cosines, sines);
    }
}

CPU_OPERATION(rope_append, rope_append_args)
CPU_OPERATION(vision_rope, vision_rope_args)
