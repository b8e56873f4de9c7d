/* The draft's attention: rotation and append of all rows, then attention over valid slots. */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/rope.h"

#include <string.h>

/* Rotates q and k of row r in place, and copies k and v to the row's slot. */
static void append_row(const struct draft_attention_args *a, const struct rope *rope, int r)
{
    const int head_dim = a->pool.head_dim, half = head_dim / 2, n_heads = a->pool.n_kv_heads;
    float *q = (float *)a->qkv + (size_t)r * 3 * n_heads * head_dim, *k = q + n_heads * head_dim;
    float cosines[MAX_HEAD_DIM / 2], sines[MAX_HEAD_DIM / 2];
    rope_angles(rope, a->rows.pos + 3 * (size_t)r, half, cosines, sines);
    for (int h = 0; h < n_heads; h++, q += head_dim, k += head_dim) {
        rope_rotate(q, half, cosines, sines);
        rope_rotate(k, half, cosines, sines);
        const size_t to = kv_place(&a->pool, &a->rows, r, 0, h);
        memcpy((float *)a->pool.k + to, k, head_dim * sizeof(float));
        memcpy((float *)a->pool.v + to, k + n_heads * head_dim, head_dim * sizeof(float));
    }
}

static void draft_attention_run(const struct draft_attention_args *a)
{
    const int n = cpu_n_rows(a->rows.n, a->rows.max);
    const struct kv_pool *pool = &a->pool;
    const int n_heads = pool->n_kv_heads;
    struct rope rope = a->rope;
    rope.section[0] = pool->head_dim / 2;
    rope.section[1] = 0;
    rope_require_shapes(pool, 0, n_heads);
    REQUIRE(pool->valid != NULL);

    /* On one thread: rows of one page share its word of valid bits, and there is little to do. */
    for (int r = 0; r < n; r++) {
        append_row(a, &rope, r);
        if (!a->is_scratch)
            pool->valid[kv_page(pool, &a->rows, r)] |= 1ull << (a->rows.slot[r] % PAGE_LEN);
    }
    attention_rows(&(struct attention_args){.q = a->qkv,
                                            .out = a->out,
                                            .rows = a->rows,
                                            .pool = *pool,
                                            .layer = 0,
                                            .n_heads = n_heads},
                   n, (size_t)3 * n_heads * pool->head_dim);
}

CPU_OPERATION(draft_attention, draft_attention_args)
