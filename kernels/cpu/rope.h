/* Rotation of pairs, and places in the cache; qkv, draft_attention and vision_rope. */
#ifndef KERNELS_CPU_ROPE_H
#define KERNELS_CPU_ROPE_H

#include "kernels/ops.h"

/* Where pages of a layer lie.  A slot's row of head h starts at page * page_stride + h *
 * head_stride + (slot % PAGE_LEN) * head_dim behind the layer's first element. */
static inline size_t kv_head_stride(const struct kv_pool *pool)
{
    return (size_t)PAGE_LEN * pool->head_dim;
}

static inline size_t kv_page_stride(const struct kv_pool *pool)
{
    return pool->n_kv_heads * kv_head_stride(pool);
}

static inline size_t kv_layer_stride(const struct kv_pool *pool)
{
    return pool->n_pages * kv_page_stride(pool);
}

/* Ends the process unless a pool's sizes are ones that attention can take. */
void rope_require_shapes(const struct kv_pool *pool, int layer, int n_heads);

/* cos and sin of a head's pairs, each from its axis of a row's positions; and a head by them. */
void rope_angles(const struct rope *rope, const int32_t pos[3], int half, float *cosines,
                 float *sines);
void rope_rotate(float *restrict head, int half, const float *restrict cosines,
                 const float *restrict sines);

/* Page of row r's slot, which must be there; and where the slot's row of a kv head lies, in
 * elements from the pool's first. */
int kv_page(const struct kv_pool *pool, const struct rows *rows, int r);
size_t kv_place(const struct kv_pool *pool, const struct rows *rows, int r, int layer, int kv_head);

#endif
