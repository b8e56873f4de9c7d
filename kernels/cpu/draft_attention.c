/* The draft's attention: rotation and append of all rows, then attention over valid slots. */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/queue.h"
#include "kernels/cpu/rope.h"

static void draft_attention_run(const struct draft_attention_args *a)
{
    const int n = cpu_n_rows(a->rows.n, a->rows.max);
    const struct kv_pool *pool = &a->pool;
    const int n_heads = pool->n_kv_heads;
    const size_t width = (size_t)3 * n_heads * pool->head_dim;
    struct rope rope = a->rope;
    rope.section[0] = pool->head_dim / 2;
    rope.section[1] = 0;
    rope_require_shapes(pool, 0, n_heads);
    REQUIRE(pool->valid != NULL);

    /* On one thread: rows of one page share its word of valid bits, and there is little to do. */
    for (int r = 0; r < n; r++) {
        int page =
            rope_append_row((float *)a->qkv + r * width, &rope, &a->rows, r, pool, 0, n_heads);
        if (!a->is_scratch) pool->valid[page] |= 1ull << (a->rows.slot[r] % PAGE_LEN);
    }
    attention_rows(&(struct attention_args){.qkv = a->qkv,
                                            .out = a->out,
                                            .rows = a->rows,
                                            .pool = *pool,
                                            .layer = 0,
                                            .n_heads = n_heads},
                   n);
}

CPU_OPERATION(draft_attention, draft_attention_args)
