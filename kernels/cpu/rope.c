/* Rotary embedding:  (x[i], x[i + half])  ->  (x[i] cos - x[i + half] sin,  x[i + half] cos + x[i]
 * sin),  half = head_dim / 2. */
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

void rope_angles(const struct rope *rope, const int32_t pos[3], int half, float *cosines,
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

void rope_rotate(float *restrict head, int half, const float *restrict cosines,
                 const float *restrict sines)
{
    for (int i = 0; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosines[i] - b * sines[i];
        head[i + half] = b * cosines[i] + a * sines[i];
    }
}

int kv_page(const struct kv_pool *pool, const struct rows *rows, int r)
{
    const int slot = rows->slot[r];
    REQUIRE(slot >= 0 && slot / PAGE_LEN < pool->max_pages);
    const int page = pool->table[(size_t)rows->seat[r] * pool->max_pages + slot / PAGE_LEN];
    REQUIRE(page >= 0 && page < pool->n_pages);
    return page;
}

size_t kv_place(const struct kv_pool *pool, const struct rows *rows, int r, int layer, int kv_head)
{
    return layer * kv_layer_stride(pool) + kv_page(pool, rows, r) * kv_page_stride(pool) +
           kv_head * kv_head_stride(pool) + (size_t)(rows->slot[r] % PAGE_LEN) * pool->head_dim;
}

static void vision_rope_run(const struct vision_rope_args *a)
{
    const int half = a->head_dim / 2;
    const size_t width = (size_t)3 * a->n_heads * a->head_dim;
    REQUIRE(a->head_dim > 0 && a->head_dim % 2 == 0 && a->head_dim <= MAX_HEAD_DIM);
#pragma omp parallel for if (a->n * width > PARALLEL_WORK)
    for (int r = 0; r < a->n; r++) {
        float cosines[MAX_HEAD_DIM / 2], sines[MAX_HEAD_DIM / 2];
        rope_angles(&a->rope, a->pos + 3 * (size_t)r, half, cosines, sines);
        for (int h = 0; h < 2 * a->n_heads; h++) /* q heads, then k heads */
            rope_rotate((float *)a->qkv + r * width + (size_t)h * a->head_dim, half, cosines,
                        sines);
    }
}

CPU_OPERATION(vision_rope, vision_rope_args)
