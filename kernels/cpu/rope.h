/* Rotation of one row, and its key and value into the cache; rope_append and draft_attention. */
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

/* Rotates the q and k heads of row r in place, and copies k and v to the row's slot.  Returns the
 * slot's page. */
int rope_append_row(float *qkv, const struct rope *rope, const struct rows *rows, int r,
                    const struct kv_pool *pool, int layer, int n_heads);

#endif
